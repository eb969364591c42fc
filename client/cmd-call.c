/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/cmd.h"
#include "client/contractview.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/spec.h"
#include "client/tasks.h"
#include "common/jsonx.h"

enum {
	PARAMS_DEPTH = 32
};

/* Operands from index on: one JSON object, or key=value words (dotted keys; values are JSON where
 * they can be, else text). 0 or an exit code. */
static int read_object(struct ctx *ctx, size_t index, const char *method, json_t **ret)
{
	cleanup_json json_t *object = xpack("{}");

	for (size_t i = index; i < ctx->args.n_names; i++) {
		const char *text = ctx->args.names[i], *equals = strchr(text, '=');
		cleanup_free char *key = NULL;

		if (text[0] == '{' && ctx->args.n_names == index + 1) {
			json_decref(object);
			object = jsonx_parse(text, strlen(text), PARAMS_DEPTH, &ctx->err);
			if (!object)
				return usage_error(ctx, "%s", ctx->err.message);
			break;
		}
		if (!equals || equals == text) {
			return usage_error(ctx, "'%s' is neither a JSON object nor KEY=VALUE",
			                   text);
		}
		key = strndup(text, (size_t)(equals - text));
		if (!key)
			die_no_memory();
		json_put(object, key, contract_value(method, key, equals + 1));
	}
	*ret = TAKE_PTR(object);
	return 0;
}

/* Names the method that was meant when vmd does not know this one. */
static void hint_method(struct ctx *ctx, const char *method)
{
	cleanup_free char *near = NULL;

	if (ctx->err.kind != ERROR_METHOD_NOT_FOUND || ctx->err.hint[0])
		return;
	near = contract_nearest_method(method);
	if (near)
		error_hint(&ctx->err, "did you mean '%s'?", near);
}

int cmd_call(struct ctx *ctx)
{
	const char *method = ctx->args.names[0];
	cleanup_json json_t *result = NULL;
	json_t *params;
	int r = read_object(ctx, 1, method, &params);

	if (r)
		return r;
	ctx->format = FORMAT_JSON;
	r = ctx_call(ctx, method, params, &result);
	if (r < 0) {
		hint_method(ctx, method);
		return ctx_fail(ctx, r, "%s", method);
	}
	return out_object(ctx, result);
}

int cmd_qmp(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0], *command = ctx->args.names[1];
	cleanup_json json_t *result = NULL;
	json_t *params, *arguments;
	int r = read_object(ctx, 2, NULL, &arguments);

	if (r)
		return r;
	params = xpack("{s:s, s:s}", "vm", vm, "command", command);
	if (json_object_size(arguments))
		xset(params, "arguments", json_incref(arguments));
	json_decref(arguments);
	add_change_params(ctx, params);
	r = ctx_call(ctx, "vm.qmp", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "'%s'", vm);
	return out_json(ctx,
	                ctx->format == FORMAT_JSON ? result : json_object_get(result, "return"));
}
