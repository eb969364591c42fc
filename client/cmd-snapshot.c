/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <time.h>

#include "client/cmd.h"
#include "client/confirm.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/results.h"
#include "client/tasks.h"
#include "common/jsonx.h"

static const struct column columns[] = {
	{ "name", "NAME", COL_TEXT },
	{ "created_us", "CREATED", COL_TIME },
	{ "state", "STATE", COL_TEXT },
	{ "ram_bytes", "RAM", COL_SIZE },
	{ "bytes", "ON DISK", COL_SIZE },
	{ "description", "DESCRIPTION", COL_LONG },
	{ 0 },
};

static void default_name(char *buf, size_t len)
{
	time_t now = time(NULL);
	struct tm tm;

	if (!localtime_r(&now, &tm) || strftime(buf, len, "%Y%m%d-%H%M%S", &tm) == 0)
		snprintf(buf, len, "%lld", (long long)now);
}

/* A job with the VM and snapshot of the command line. */
static int run_job(struct ctx *ctx, const char *method, const char *snapshot, json_t **ret_result)
{
	json_t *params = xpack("{s:s, s:s}", "vm", ctx->args.names[0], "snapshot", snapshot);
	const char *description = args_str(&ctx->args, "description");

	if (description)
		xset(params, "description", xstring(description));
	return ctx_call_job(ctx, method, params, ret_result);
}

/* "web: snapshot a DONE", or the job's id with --no-wait. */
static int done(struct ctx *ctx, const json_t *result, const char *snapshot, const char *what)
{
	const char *job = jsonx_str(json_object_get(result, "job"), "id", NULL);
	const char *would = args_has(&ctx->args, "dry-run") ? "would be " : "";

	if (job)
		return ctx_done(ctx, result, "%s: job %s", ctx->args.names[0], job);
	return ctx_done(ctx, result, "%s: snapshot %s %s%s", ctx->args.names[0], snapshot, would,
	                what);
}

int cmd_snapshot_create(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	char name[32];
	const char *snapshot = name;
	int r;

	default_name(name, sizeof(name));
	if (ctx->args.n_names > 1)
		snapshot = ctx->args.names[1];
	r = run_job(ctx, "snapshot.create", snapshot, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "cannot take a snapshot of '%s'", ctx->args.names[0]);
	return done(ctx, result, snapshot, "taken");
}

int cmd_snapshot_list(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	int r = ctx_call(ctx, "snapshot.list", xpack("{s:s}", "vm", ctx->args.names[0]), &result);

	if (r < 0)
		return ctx_fail(ctx, r, "'%s'", ctx->args.names[0]);
	return out_list(ctx, result, json_object_get(result, "snapshots"), columns);
}

int cmd_snapshot_get(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	int r = ctx_call(
		ctx, "snapshot.get",
		xpack("{s:s, s:s}", "vm", ctx->args.names[0], "snapshot", ctx->args.names[1]),
		&result);

	if (r < 0)
		return ctx_fail(ctx, r, "'%s'", ctx->args.names[0]);
	return out_object(ctx, result);
}

int cmd_snapshot_restore(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0], *snapshot = ctx->args.names[1];
	cleanup_json json_t *result = NULL;
	cleanup_free char *question =
		xasprintf("Bring '%s' back to '%s'? What it runs and wrote since then is lost.", vm,
	                  snapshot);
	int r;

	if (!args_has(&ctx->args, "yes") && !args_has(&ctx->args, "dry-run") && !confirm(question))
		return EXIT_FAILED;
	r = run_job(ctx, "snapshot.restore", snapshot, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "cannot restore '%s'", vm);
	return done(ctx, result, snapshot, "restored");
}

int cmd_snapshot_delete(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0];
	size_t n = ctx->args.n_names - 1;
	cleanup_free char *question =
		xasprintf("Delete %zu snapshot%s of '%s'?", n, n > 1 ? "s" : "", vm);
	cleanup_results struct results rs;

	results_init(&rs, ctx, "snapshot", n > 1);
	if (!args_has(&ctx->args, "yes") && !args_has(&ctx->args, "dry-run") && !confirm(question))
		return EXIT_FAILED;
	for (size_t i = 1; i <= n; i++) {
		const char *snapshot = ctx->args.names[i];
		cleanup_free char *what = xasprintf("cannot delete snapshot '%s'", snapshot);
		cleanup_json json_t *result = NULL;
		int r = run_job(ctx, "snapshot.delete", snapshot, &result);

		if (r < 0) {
			results_call_failed(&rs, snapshot, r, what);
			if (r == -EINTR)
				break;
			continue;
		}
		results_done(&rs, snapshot, result);
		if (ctx->format == FORMAT_TABLE)
			(void)done(ctx, result, snapshot, "deleted");
	}
	return results_end(&rs);
}
