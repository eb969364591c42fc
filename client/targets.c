/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/tasks.h"
#include "common/jsonx.h"

struct names {
	char **items;
	size_t n;
};

void targets_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

static void add(struct names *list, const char *name)
{
	for (size_t i = 0; i < list->n; i++)
		if (strcmp(list->items[i], name) == 0)
			return;
	list->items = xrealloc(list->items, (list->n + 1) * sizeof(*list->items));
	list->items[list->n++] = xstrdup(name);
}

static bool is_glob(const char *name)
{
	return strpbrk(name, "*?[") != NULL;
}

int labels_read(struct ctx *ctx, json_t **ret)
{
	const char *text;
	size_t pos = 0;

	*ret = NULL;
	while ((text = args_next(&ctx->args, "label", &pos))) {
		const char *equals = strchr(text, '=');
		cleanup_free char *key = NULL;

		if (!equals || equals == text) {
			json_decref(*ret);
			*ret = NULL;
			return usage_error(ctx, "--label: '%s' is not KEY=VALUE", text);
		}
		key = strndup(text, (size_t)(equals - text));
		if (!key)
			die_no_memory();
		if (!*ret)
			*ret = xpack("{}");
		xset(*ret, key, xstring(equals + 1));
	}
	return 0;
}

/* All VMs that match a pattern (NULL: any) and the labels (NULL: any). Returns an exit code. */
static int add_matches(struct ctx *ctx, struct names *list, const char *glob, json_t *labels)
{
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:[s]}", "fields", "name"), *vm;
	size_t i;
	int r;

	if (glob)
		xset(params, "name", xstring(glob));
	if (labels)
		xset(params, "labels", json_incref(labels));
	r = ctx_call(ctx, "vm.list", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, NULL);
	json_array_foreach(json_object_get(result, "vms"), i, vm)
		add(list, jsonx_str(vm, "name", ""));
	return EXIT_DONE;
}

static int no_match(struct ctx *ctx, const char *glob)
{
	int r = glob ? error_set(&ctx->err, ERROR_NOT_FOUND, "no VM matches '%s'", glob)
	             : error_set(&ctx->err, ERROR_NOT_FOUND, "no VM has these labels");

	return ctx_fail(ctx, r, NULL);
}

static int resolve(struct ctx *ctx, struct names *list, json_t *labels, bool *many)
{
	struct args *a = &ctx->args;
	int code;

	if (a->n_names == 0) {
		*many = true;
		code = add_matches(ctx, list, NULL, labels);
		return code == EXIT_DONE && !list->n && labels ? no_match(ctx, NULL) : code;
	}
	*many = a->n_names > 1 || labels;
	for (size_t i = 0; i < a->n_names; i++) {
		size_t before = list->n;

		if (!is_glob(a->names[i]) && !labels) {
			add(list, a->names[i]);
			continue;
		}
		*many = true;
		code = add_matches(ctx, list, a->names[i], labels);
		if (code)
			return code;
		if (list->n == before)
			return no_match(ctx, a->names[i]);
	}
	return EXIT_DONE;
}

int targets_resolve(struct ctx *ctx, char ***ret, size_t *ret_n, bool *ret_many)
{
	cleanup_json json_t *labels = NULL;
	struct names list = { 0 };
	bool all = args_has(&ctx->args, "all");
	int code = labels_read(ctx, &labels);

	if (code)
		return code;
	if (all && ctx->args.n_names)
		return usage_error(ctx, "--all and names exclude each other");
	if (!all && !labels && !ctx->args.n_names) {
		error_hint(&ctx->err,
		           "name one or more, or use a pattern, --label KEY=VALUE or --all");
		return usage_error(ctx, "which VM?");
	}
	code = resolve(ctx, &list, labels, ret_many);
	if (code) {
		targets_free(list.items, list.n);
		return code;
	}
	*ret = list.items;
	*ret_n = list.n;
	return 0;
}
