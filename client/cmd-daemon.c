/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/cmd.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/tasks.h"
#include "common/jsonx.h"
#include "common/timeutil.h"

static void put_limits(const json_t *limits)
{
	static const struct column rows[] = {
		{ "message_bytes", "Message", COL_SIZE },
		{ "batch", "Batch", COL_NUMBER },
		{ "connections", "Connections", COL_NUMBER },
		{ "subscriptions", "Subscriptions", COL_NUMBER },
		{ "event_ring_bytes", "Event ring", COL_SIZE },
		{ 0 },
	};

	puts("Limits");
	for (const struct column *r = rows; r->field; r++)
		out_pair(r->title, json_object_get(limits, r->field), r->kind);
}

int cmd_daemon_info(struct ctx *ctx)
{
	static const struct column rows[] = {
		{ "version", "Version", COL_TEXT },
		{ "pid", "Process", COL_NUMBER },
		{ "mode", "Mode", COL_TEXT },
		{ "started_us", "Started", COL_TIME },
		{ "socket", "Socket", COL_TEXT },
		{ "state_dir", "State", COL_TEXT },
		{ "runtime_dir", "Runtime", COL_TEXT },
		{ "guests", "VMs", COL_NUMBER },
		{ "last_event", "Newest event", COL_NUMBER },
		{ "role", "Your role", COL_TEXT },
		{ "degraded", "Degraded", COL_TEXT },
		{ 0 },
	};
	cleanup_json json_t *info = NULL;
	int r = ctx_call(ctx, "daemon.info", NULL, &info);

	if (r < 0)
		return ctx_fail(ctx, r, "daemon");
	if (ctx->format == FORMAT_JSON || args_has(&ctx->args, "fields"))
		return out_object(ctx, info);
	puts("vmd");
	for (const struct column *row = rows; row->field; row++)
		out_pair(row->title, json_object_get(info, row->field), row->kind);
	put_limits(json_object_get(info, "limits"));
	return EXIT_DONE;
}

int cmd_daemon_ping(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	uint64_t start;
	int r = ctx_connect(ctx);

	start = now_monotonic_us();
	if (r == 0)
		r = ctx_call(ctx, "daemon.ping", NULL, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "ping");
	return ctx_done(ctx, result, "vmd answers after %.2f ms",
	                (double)(now_monotonic_us() - start) / 1000);
}

int cmd_daemon_reload(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	json_t *params = json_object();
	int r;

	add_change_params(ctx, params);
	r = ctx_call(ctx, "daemon.reload", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "reload");
	return ctx_done(ctx, result, "vmd.conf: %s",
	                args_has(&ctx->args, "dry-run") ? "valid" : "read again");
}
