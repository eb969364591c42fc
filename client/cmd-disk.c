/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/cmd.h"
#include "client/confirm.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/results.h"
#include "client/tasks.h"
#include "common/jsonx.h"

static const struct column columns[] = {
	{ "name", "NAME", COL_TEXT },       { "format", "FORMAT", COL_TEXT },
	{ "size_bytes", "SIZE", COL_SIZE }, { "used_by", "USED BY", COL_LONG },
	{ "path", "PATH", COL_LONG },       { 0 },
};

int cmd_disk_create(struct ctx *ctx)
{
	const char *name = ctx->args.names[0], *format = args_str(&ctx->args, "format");
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:s, s:s}", "name", name, "size", ctx->args.names[1]);
	const char *job;
	int r;

	if (format)
		xset(params, "format", xstring(format));
	r = ctx_call_job(ctx, "disk.create", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "cannot make disk '%s'", name);
	job = jsonx_str(json_object_get(result, "job"), "id", NULL);
	if (job)
		return ctx_done(ctx, result, "%s: job %s", name, job);
	return ctx_done(ctx, result, "%s: %s", name,
	                args_has(&ctx->args, "dry-run") ? "would be created" : "created");
}

int cmd_disk_list(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	int r = ctx_call(ctx, "disk.list", NULL, &result);

	if (r < 0)
		return ctx_fail(ctx, r, "disks");
	return out_list(ctx, result, json_object_get(result, "disks"), columns);
}

static void delete_one(struct ctx *ctx, const char *disk, struct results *rs)
{
	cleanup_json json_t *result = NULL;
	cleanup_free char *what = xasprintf("cannot delete disk '%s'", disk);
	json_t *params = xpack("{s:s}", "disk", disk);
	int r;

	add_change_params(ctx, params);
	r = ctx_call(ctx, "disk.delete", params, &result);
	if (r < 0) {
		results_call_failed(rs, disk, r, what);
		return;
	}
	results_done(rs, disk, result);
	if (ctx->format == FORMAT_TABLE)
		(void)ctx_done(ctx, result, "%s: %s", disk,
		               args_has(&ctx->args, "dry-run") ? "would be deleted" : "deleted");
}

int cmd_disk_delete(struct ctx *ctx)
{
	size_t n = ctx->args.n_names;
	cleanup_free char *question = xasprintf("Delete %zu disk%s and all on %s for good?", n,
	                                        n > 1 ? "s" : "", n > 1 ? "them" : "it");
	cleanup_results struct results rs;

	results_init(&rs, ctx, "disk", n > 1);
	if (!args_has(&ctx->args, "yes") && !args_has(&ctx->args, "dry-run") && !confirm(question))
		return EXIT_FAILED;
	for (size_t i = 0; i < n; i++)
		delete_one(ctx, ctx->args.names[i], &rs);
	return results_end(&rs);
}
