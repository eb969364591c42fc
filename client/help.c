/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/help.h"

#include <stdio.h>
#include <string.h>

#include "client/contractview.h"
#include "client/die.h"
#include "client/output.h"
#include "common/jsonx.h"

enum {
	WIDTH = 90,
	VERSION_WAIT_MS = 500
};

/* Words from column indent on, broken at WIDTH; the first line is already at column `at`. */
static void put_wrapped(const char *text, size_t indent, size_t at)
{
	bool blank = false; /* before the next word, unless a line begins with it */
	bool list = false;  /* in a long list of "[,key=value]", which is broken before a bracket */

	while (*text) {
		size_t len = strcspn(text, " ");

		list |= len > WIDTH / 2;
		if (list)
			len = 1 + strcspn(text + 1, "[ ");
		if (at + blank + len > WIDTH && at > indent) {
			printf("\n%*s", (int)indent, "");
			at = indent;
			blank = false;
		}
		printf("%s%.*s", blank ? " " : "", (int)len, text);
		at += len + blank;
		text += len;
		blank = *text == ' ';
		list &= !blank;
		text += blank;
	}
	putchar('\n');
}

static void put_options(const char *title, const struct option_def *options)
{
	if (!options || !options->name)
		return;
	printf("\n%s:\n", title);
	for (const struct option_def *o = options; o->name; o++) {
		char left[64];
		int n = snprintf(left, sizeof(left), "  %c%c%c --%s%s%s", o->letter ? '-' : ' ',
		                 o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
		                 o->arg ? " " : "", o->arg ? o->arg : "");

		printf("%-30s", left);
		if (n > 29)
			printf("\n%30s", "");
		put_wrapped(o->help, 30, 30);
	}
}

static void put_command_line(const struct command *noun, const struct command *c)
{
	char left[64];

	snprintf(left, sizeof(left), "  %s%s%s %s", noun ? noun->name : "", noun ? " " : "",
	         c->name, c->sub ? "..." : "");
	printf("%-22s%s", left, c->summary);
	if (c->aliases)
		printf(" (%s)", c->aliases);
	putchar('\n');
}

static void print_overview(void)
{
	puts("Usage: vmctl [OPTION...] COMMAND [ARGUMENT...]\n\nVirtual machines of vmd.");
	for (const struct command *c = commands; c->name; c++) {
		if (c->flags & CMD_HIDDEN)
			continue;
		if (!c->run && !c->sub)
			printf("\n%s:\n", c->summary);
		else
			put_command_line(NULL, c);
	}
	put_options("Options of every command", global_options);
	puts("\n`vmctl help COMMAND` tells more, `vmctl help METHOD` explains the API; see vmctl(1).");
}

static void print_noun(const struct command *noun)
{
	printf("Usage: vmctl %s COMMAND [ARGUMENT...]\n\n", noun->name);
	for (const struct command *c = noun->sub; c->name; c++)
		put_command_line(noun, c);
}

static void print_command(const struct command *noun, const struct command *c)
{
	printf("Usage: vmctl %s%s%s [OPTION...]%s%s\n\n", noun ? noun->name : "", noun ? " " : "",
	       c->name, *c->operands ? " " : "", c->operands);
	put_wrapped(c->summary, 0, 0);
	if (c->details) {
		putchar('\n');
		put_wrapped(c->details, 0, 0);
	}
	if (c->aliases)
		printf("\nAlso called: %s\n", c->aliases);
	put_options("Options", c->options);
	if (c->flags & CMD_MANY)
		put_options("Which VMs", many_options);
	put_options("Options of every command", global_options);
}

static json_t *options_json(const struct option_def *options)
{
	json_t *list = xpack("[]");

	for (const struct option_def *o = options; o && o->name; o++) {
		char letter[2] = { o->letter, '\0' };

		if (json_array_append_new(list, xpack("{s:s, s:s?, s:s?, s:s}", "name", o->name,
		                                      "letter", o->letter ? letter : NULL, "value",
		                                      o->arg, "help", o->help)) < 0)
			die_no_memory();
	}
	return list;
}

static json_t *command_json(const struct command *c);

static json_t *table_json(const struct command *table)
{
	json_t *list = xpack("[]");

	for (const struct command *c = table; c && c->name; c++)
		if ((c->run || c->sub) && !(c->flags & CMD_HIDDEN) &&
		    json_array_append_new(list, command_json(c)) < 0)
			die_no_memory();
	return list;
}

static json_t *command_json(const struct command *c)
{
	json_t *object = xpack("{s:s, s:s?, s:s, s:s}", "name", c->name, "aliases", c->aliases,
	                       "operands", c->operands, "summary", c->summary);

	if (c->sub)
		xset(object, "commands", table_json(c->sub));
	else
		xset(object, "options", options_json(c->options));
	return object;
}

static int print_json(struct ctx *ctx, const struct command *noun, const struct command *cmd)
{
	cleanup_json json_t *value = cmd || noun
	                                     ? command_json(cmd ? cmd : noun)
	                                     : xpack("{s:o, s:o}", "commands", table_json(commands),
	                                             "options", options_json(global_options));

	return out_json(ctx, value);
}

int help_print(struct ctx *ctx, const struct command *noun, const struct command *cmd)
{
	if (ctx->format == FORMAT_JSON)
		return print_json(ctx, noun, cmd);
	if (cmd)
		print_command(noun, cmd);
	else if (noun)
		print_noun(noun);
	else
		print_overview();
	return EXIT_DONE;
}

int help_missing_verb(struct ctx *ctx)
{
	fprintf(stderr, "vmctl: %s needs one of:", ctx->noun->name);
	for (const struct command *c = ctx->noun->sub; c->name; c++)
		fprintf(stderr, " %s", c->name);
	fputc('\n', stderr);
	print_hint("see `vmctl help %s`", ctx->noun->name);
	return EXIT_USAGE;
}

/* "string", "integer", "Name", "string or integer": a schema's type in few words. */
static void put_type(const json_t *schema)
{
	const char *ref = jsonx_str(schema, "$ref", NULL);
	const json_t *type = json_object_get(schema, "type"), *choice;
	const char *sep = "";
	json_t *one;
	size_t i;

	if (ref) {
		const char *slash = strrchr(ref, '/');

		fputs(slash ? slash + 1 : ref, stdout);
		return;
	}
	if (json_is_string(type))
		fputs(json_string_value(type), stdout);
	json_array_foreach(type, i, one) {
		printf("%s%s", sep, json_string_value(one));
		sep = " or ";
	}
	choice = json_object_get(schema, "oneOf");
	json_array_foreach(choice ? choice : json_object_get(schema, "anyOf"), i, one) {
		fputs(sep, stdout);
		put_type(one);
		sep = " or ";
	}
	sep = ": ";
	json_array_foreach(json_object_get(schema, "enum"), i, one) {
		printf("%s%s", sep, json_is_string(one) ? json_string_value(one) : "?");
		sep = ", ";
	}
	if (json_object_get(schema, "items")) {
		fputs(" of ", stdout);
		put_type(json_object_get(schema, "items"));
	}
}

static void put_member(const char *name, const json_t *schema, const char *text, bool required)
{
	const json_t *fallback = json_object_get(schema, "default");

	printf("  %s (", name);
	put_type(schema);
	if (required)
		fputs("; required", stdout);
	if (fallback) {
		cleanup_free char *value = json_dumps(fallback, JSON_ENCODE_ANY | JSON_COMPACT);

		printf("; default %s", value ? value : "?");
	}
	fputs(")\n      ", stdout);
	put_wrapped(text ? text : "", 6, 6);
}

static void put_params(const json_t *params)
{
	json_t *param;
	size_t i;

	if (json_array_size(params))
		puts("\nParameters:");
	json_array_foreach(params, i, param) {
		const json_t *p = contract_resolve(param), *schema = json_object_get(p, "schema");

		put_member(jsonx_str(p, "name", "?"), schema,
		           jsonx_str(p, "description", jsonx_str(schema, "description", NULL)),
		           jsonx_bool(p, "required", false));
	}
}

static bool is_required(const json_t *schema, const char *name)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(schema, "required"), i, one)
		if (strcmp(json_string_value(one), name) == 0)
			return true;
	return false;
}

static void put_properties(const json_t *schema)
{
	json_t *member;
	const char *key;

	schema = contract_resolve(schema);
	json_object_foreach(json_object_get(schema, "properties"), key, member) {
		const json_t *target = contract_resolve(member);

		put_member(key, member,
		           jsonx_str(member, "description", jsonx_str(target, "description", NULL)),
		           is_required(schema, key));
	}
}

static void put_method(const json_t *method)
{
	const json_t *result = json_object_get(json_object_get(method, "result"), "schema");
	const char *text = jsonx_str(method, "description", NULL);

	printf("%s: %s\n", jsonx_str(method, "name", "?"), jsonx_str(method, "summary", ""));
	if (text) {
		putchar('\n');
		put_wrapped(text, 0, 0);
	}
	printf("\nRole: %s%s%s\n", jsonx_str(method, "x-role", "viewer"),
	       jsonx_bool(method, "x-job", false) ? "; a job" : "",
	       jsonx_bool(method, "x-change", false) ? "; a change" : "");
	put_params(json_object_get(method, "params"));
	fputs("\nResult: ", stdout);
	put_type(result);
	putchar('\n');
	put_properties(result);
}

/* A type of the contract, such as VmDefinition. */
static bool help_schema(const char *name)
{
	const json_t *schemas =
		json_object_get(json_object_get(contract_document(), "components"), "schemas");
	const json_t *schema = json_object_get(schemas, name);

	if (!schema)
		return false;
	printf("%s: ", name);
	put_type(schema);
	fputs("\n", stdout);
	put_wrapped(jsonx_str(schema, "description", ""), 0, 0);
	putchar('\n');
	put_properties(schema);
	return true;
}

bool help_method(struct ctx *ctx, const char *name)
{
	const json_t *method = contract_method_find(name);

	if (!method)
		return help_schema(name);
	if (ctx->format == FORMAT_JSON)
		(void)out_json(ctx, method);
	else
		put_method(method);
	return true;
}

static int unknown_topic(const char *word)
{
	cleanup_free char *method = strchr(word, '.') ? contract_nearest_method(word) : NULL;
	const char *near = method ? method : command_nearest(commands, word);

	fprintf(stderr, "vmctl: no command, method or type '%s'\n", word);
	if (near)
		print_hint("did you mean '%s'?", near);
	return EXIT_USAGE;
}

int cmd_help(struct ctx *ctx)
{
	const char *word = ctx->args.n_names ? ctx->args.names[0] : NULL;
	const struct command *c, *verb = NULL;

	if (!word)
		return help_print(ctx, NULL, NULL);
	c = command_find(commands, word, ctx->prefixes);
	if (c && c->flags & CMD_ADVICE) {
		ctx->cmd = c;
		ctx->args.n_names = 0;
		return c->run(ctx);
	}
	if (!c || (c->flags & CMD_HIDDEN))
		return help_method(ctx, word) ? EXIT_DONE : unknown_topic(word);
	if (ctx->args.n_names == 1)
		return help_print(ctx, c->sub ? c : NULL, c->sub ? NULL : c);
	if (c->sub)
		verb = command_find(c->sub, ctx->args.names[1], ctx->prefixes);
	return verb ? help_print(ctx, c, verb) : unknown_topic(ctx->args.names[1]);
}

/* The daemon's version if it answers at once; nothing is started for it. */
static json_t *daemon_version(struct ctx *ctx)
{
	json_t *result = NULL;

	if (ctx_connect_running(ctx) < 0 ||
	    rpc_call(ctx->rpc, "daemon.info", NULL, VERSION_WAIT_MS, &result, &ctx->err) < 0)
		return NULL;
	return result;
}

int help_version(struct ctx *ctx)
{
	cleanup_json json_t *info = daemon_version(ctx);
	const char *version = jsonx_str(info, "version", NULL);

	if (ctx->format == FORMAT_JSON) {
		cleanup_json json_t *both =
			xpack("{s:s, s:s?}", "vmctl", PACKAGE_VERSION, "vmd", version);

		return out_json(ctx, both);
	}
	puts("vmctl " PACKAGE_VERSION);
	if (version)
		printf("vmd %s\n", version);
	return EXIT_DONE;
}

int cmd_version(struct ctx *ctx)
{
	return help_version(ctx);
}
