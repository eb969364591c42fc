/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/results.h"
#include "common/jsonx.h"

static const struct column columns[] = {
	{ "id", "JOB", COL_TEXT },
	{ "method", "METHOD", COL_TEXT },
	{ "vm", "VM", COL_TEXT },
	{ "state", "STATE", COL_TEXT },
	{ "stage", "STAGE", COL_LONG },
	{ "percent", "DONE", COL_PERCENT },
	{ "started_us", "STARTED", COL_TIME },
	{ 0 },
};

int cmd_job_list(struct ctx *ctx)
{
	const char *vm = args_str(&ctx->args, "vm"), *state = args_str(&ctx->args, "state");
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{}");
	int r;

	if (vm)
		xset(params, "vm", xstring(vm));
	if (state)
		xset(params, "state", xstring(state));
	r = ctx_call(ctx, "job.list", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "jobs");
	return out_list(ctx, result, json_object_get(result, "jobs"), columns);
}

static void put_job(const json_t *job)
{
	out_pair("Job", json_object_get(job, "id"), COL_TEXT);
	out_pair("Method", json_object_get(job, "method"), COL_TEXT);
	out_pair("VM", json_object_get(job, "vm"), COL_TEXT);
	out_pair("State", json_object_get(job, "state"), COL_TEXT);
	out_pair("Stage", json_object_get(job, "stage"), COL_TEXT);
	out_pair("Done", json_object_get(job, "percent"), COL_PERCENT);
	out_pair("Error", json_path(job, "error.message"), COL_TEXT);
	out_pair("Started", json_object_get(job, "started_us"), COL_TIME);
	out_pair("Ended", json_object_get(job, "ended_us"), COL_TIME);
	out_pair("By", json_object_get(job, "actor"), COL_TEXT);
}

int cmd_job_get(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	int r = ctx_call(ctx, "job.get", xpack("{s:s}", "job", ctx->args.names[0]), &result);

	if (r < 0)
		return ctx_fail(ctx, r, "job '%s'", ctx->args.names[0]);
	if (ctx->format == FORMAT_JSON || args_has(&ctx->args, "fields"))
		return out_object(ctx, result);
	put_job(result);
	return EXIT_DONE;
}

int cmd_job_wait(struct ctx *ctx)
{
	const char *id = ctx->args.names[0];
	cleanup_json json_t *job = NULL;
	const json_t *error;
	int r = ctx_wait_job(ctx, id, &job);

	if (r < 0)
		return ctx_fail(ctx, r, "job '%s'", id);
	error = json_object_get(job, "error");
	if (ctx->format == FORMAT_JSON)
		(void)out_json(ctx, job);
	else if (!json_is_object(error) && !ctx->quiet)
		printf("%s: %s\n", id, jsonx_str(job, "state", "?"));
	if (json_is_object(error)) {
		r = rpc_error_read(error, &ctx->err);
		print_error(&ctx->err, id);
		return exit_code_of(r, &ctx->err);
	}
	return strcmp(jsonx_str(job, "state", ""), "done") == 0 ? EXIT_DONE : EXIT_FAILED;
}

int cmd_job_cancel(struct ctx *ctx)
{
	cleanup_results struct results rs;

	results_init(&rs, ctx, "job", ctx->args.n_names > 1);
	for (size_t i = 0; i < ctx->args.n_names; i++) {
		const char *id = ctx->args.names[i];
		cleanup_free char *what = xasprintf("job '%s'", id);
		cleanup_json json_t *result = NULL;
		int r = ctx_call(ctx, "job.cancel", xpack("{s:s}", "job", id), &result);

		if (r < 0) {
			results_call_failed(&rs, id, r, what);
			continue;
		}
		results_done(&rs, id, result);
		if (ctx->format == FORMAT_TABLE)
			(void)ctx_done(ctx, result, "%s: asked to stop", id);
	}
	return results_end(&rs);
}
