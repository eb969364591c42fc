/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/confirm.h"
#include "client/definition.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/tasks.h"
#include "client/term.h"
#include "common/jsonx.h"

static const char *operand(const struct ctx *ctx)
{
	return ctx->args.n_names ? ctx->args.names[0] : NULL;
}

/* vm.create; the definition is stolen. */
static int create(struct ctx *ctx, json_t *definition, json_t **ret_result)
{
	json_t *params = xpack("{s:o}", "definition", definition);

	add_change_params(ctx, params);
	return ctx_call(ctx, "vm.create", params, ret_result);
}

int cmd_create(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	json_t *definition;
	cleanup_free char *name = NULL;
	int r = definition_build(ctx, operand(ctx), &definition);

	if (r)
		return r;
	name = xstrdup(jsonx_str(definition, "name", "the VM"));
	r = create(ctx, definition, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "cannot create '%s'", name);
	if (args_has(&ctx->args, "dry-run"))
		return ctx_done(ctx, result, "%s: would be created", name);
	return ctx_done(ctx, result, "%s: created", name);
}

static int start_created(struct ctx *ctx, char *name)
{
	static const struct step steps[] = { { .method = "vm.start", .job = true }, { 0 } };
	static const struct action action = { steps, "started", "starting" };

	return action_run_names(ctx, &action, &name, 1, false);
}

/* Ends and deletes it once. A job that is still at work on it (its start, after ^C) is in *job. */
static int try_remove(struct ctx *ctx, const char *name, char **job)
{
	cleanup_json json_t *killed = NULL, *deleted = NULL;
	int r;

	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	r = ctx_call(ctx, "vm.kill", xpack("{s:s}", "vm", name), &killed);
	if (r < 0 && ctx->err.kind != ERROR_WRONG_STATE)
		return r;
	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	r = ctx_call(ctx, "vm.delete", xpack("{s:s}", "vm", name), &deleted);
	*job = r < 0 && ctx->err.job[0] ? xstrdup(ctx->err.job) : NULL;
	return r;
}

/* --rm: nothing stays behind once the console is left. */
static int remove_run(struct ctx *ctx, const char *name)
{
	cleanup_free char *job = NULL;
	int r;

	rpc_interrupted = 0;
	r = try_remove(ctx, name, &job);
	if (r < 0 && job) {
		cleanup_json json_t *cancelled = NULL, *ended = NULL;
		cleanup_free char *again = NULL;

		r = ctx_call(ctx, "job.cancel", xpack("{s:s}", "job", job), &cancelled);
		if (r == 0 || ctx->err.kind == ERROR_WRONG_STATE) /* it ended by itself */
			r = ctx_call(ctx, "job.wait", xpack("{s:s}", "job", job), &ended);
		if (r == 0)
			r = try_remove(ctx, name, &again);
	}
	if (r < 0)
		return ctx_fail(ctx, r, "'%s' is left", name);
	if (!ctx->quiet && ctx->format == FORMAT_TABLE)
		printf("%s: deleted\n", name);
	return EXIT_DONE;
}

/* Starts what was created and attaches; with --rm nothing is left of it afterwards. */
static int run_created(struct ctx *ctx, char *name)
{
	bool rm = args_has(&ctx->args, "rm");
	int code, removed;

	code = start_created(ctx, name);
	if (code && !rm && code != EXIT_INTERRUPT)
		print_hint("'%s' is defined; `vmctl start %s` tries again", name, name);
	if (!code && !args_has(&ctx->args, "detach"))
		code = console_attach(ctx, name);
	if (!rm)
		return code;
	removed = remove_run(ctx, name);
	if (term_ended() && (!code || code == EXIT_INTERRUPT))
		code = 128 + term_ended();
	return code ? code : removed;
}

int cmd_run(struct ctx *ctx)
{
	bool dry_run = args_has(&ctx->args, "dry-run"), detach = args_has(&ctx->args, "detach");
	cleanup_json json_t *result = NULL;
	cleanup_free char *name = NULL;
	json_t *definition;
	int r;

	if (detach && args_has(&ctx->args, "rm"))
		return usage_error(ctx, "--detach and --rm exclude each other");
	r = detach || dry_run ? 0 : console_check_options(ctx);
	if (r == 0)
		r = definition_build(ctx, operand(ctx), &definition);
	if (r)
		return r;
	name = xstrdup(jsonx_str(definition, "name", "the VM"));
	/* From here on there may be something to remove. The create itself is not broken off:
	 * whether the VM is ours would not be known. */
	if (args_has(&ctx->args, "rm"))
		term_catch_end();
	r = create(ctx, definition, &result);
	rpc_wait_mask = term_wait_mask();
	if (r < 0)
		return ctx_fail(ctx, r, "cannot create '%s'", name);
	if (dry_run)
		return ctx_done(ctx, result, "%s: would be created and started", name);
	return run_created(ctx, name);
}

/* A definition whose name is taken is checked as a change of that VM. */
static int validate_update(struct ctx *ctx, const json_t *definition, json_t **ret_result)
{
	cleanup_json json_t *set = json_deep_copy(definition);
	const char *name = jsonx_str(definition, "name", "");

	if (!set)
		die_no_memory();
	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	(void)json_object_del(set, "name");
	(void)json_object_del(set, "uuid");
	return ctx_call(ctx, "vm.update",
	                xpack("{s:s, s:O, s:b}", "vm", name, "set", set, "dry_run", 1), ret_result);
}

int cmd_validate(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL, *definition = NULL;
	int r = definition_build(ctx, operand(ctx), &definition);

	if (r)
		return r;
	r = ctx_call(ctx, "vm.create", xpack("{s:O, s:b}", "definition", definition, "dry_run", 1),
	             &result);
	if (r < 0 && ctx->err.kind == ERROR_EXISTS)
		r = validate_update(ctx, definition, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "not valid");
	return ctx_done(ctx, result, "%s: valid", jsonx_str(definition, "name", "definition"));
}

int cmd_rename(struct ctx *ctx)
{
	const char *old = ctx->args.names[0], *new = ctx->args.names[1];
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:s, s:s}", "vm", old, "name", new);
	int r;

	add_change_params(ctx, params);
	r = ctx_call(ctx, "vm.rename", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "cannot rename '%s'", old);
	return ctx_done(ctx, result, "%s: renamed to %s", old, new);
}

static bool confirm_delete(struct ctx *ctx, char *const *names, size_t n)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	if (args_has(&ctx->args, "yes") || args_has(&ctx->args, "dry-run"))
		return true;
	strbuf_append_str(&s, "Delete ");
	for (size_t i = 0; i < n && i < 10; i++)
		strbuf_printf(&s, "%s'%s'", i ? ", " : "", names[i]);
	if (n > 10)
		strbuf_printf(&s, " and %zu more", n - 10);
	strbuf_append_str(&s, "? Snapshots and logs go with it, disks stay.");
	return confirm(s.data ? s.data : "Delete?");
}

int cmd_delete(struct ctx *ctx)
{
	static const struct step plain[] = { { .method = "vm.delete" }, { 0 } };
	static const struct step forced[] = {
		{ .method = "vm.kill", .forgive = ERROR_WRONG_STATE },
		{ .method = "vm.delete" },
		{ 0 },
	};
	struct action action = { args_has(&ctx->args, "force") ? forced : plain, "deleted",
		                 "deleting" };
	char **names;
	size_t n;
	bool many;
	int code = targets_resolve(ctx, &names, &n, &many);

	if (code)
		return code;
	if (n && !confirm_delete(ctx, names, n))
		code = EXIT_FAILED;
	else if (n)
		code = action_run_names(ctx, &action, names, n, many);
	targets_free(names, n);
	return code;
}
