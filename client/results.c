/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/results.h"

#include "client/cmd.h"
#include "client/die.h"
#include "client/output.h"
#include "common/jsonx.h"

void results_init(struct results *rs, struct ctx *ctx, const char *key, bool many)
{
	*rs = (struct results){ .ctx = ctx, .key = key, .many = many, .all = xpack("[]") };
}

void results_deinit(struct results *rs)
{
	json_decref(rs->all);
	rs->all = NULL;
}

static void add(struct results *rs, const char *name, const char *member, json_t *value)
{
	rs->n++;
	if (rs->ctx->format != FORMAT_JSON) {
		json_decref(value);
		return;
	}
	if (json_array_append_new(rs->all, xpack("{s:s, s:o}", rs->key, name, member, value)) < 0)
		die_no_memory();
}

void results_done(struct results *rs, const char *name, const json_t *result)
{
	add(rs, name, "result", result ? json_incref((json_t *)(uintptr_t)result) : json_null());
}

void results_failed(struct results *rs, const char *name, int r, const struct vmd_error *err,
                    const json_t *error)
{
	int code = exit_code_of(r, err);

	rs->code = rs->failed && code != rs->code ? EXIT_FAILED : code;
	rs->failed++;
	add(rs, name, "error",
	    error ? json_incref((json_t *)(uintptr_t)error) : error_to_json(err));
}

void results_call_failed(struct results *rs, const char *name, int r, const char *what)
{
	struct ctx *ctx = rs->ctx;

	if (r != -EINTR)
		print_error(&ctx->err, what);
	results_failed(rs, name, r, &ctx->err, ctx_api_error(ctx));
	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
}

int results_end(struct results *rs)
{
	struct ctx *ctx = rs->ctx;
	json_t *one = json_array_get(rs->all, 0), *error;

	if (ctx->format == FORMAT_JSON && rs->many) {
		(void)out_json(ctx, rs->all);
	} else if (ctx->format == FORMAT_JSON && one) {
		cleanup_json json_t *alone = NULL;

		error = json_object_get(one, "error");
		alone = error ? xpack("{s:O}", "error", error) : NULL;
		(void)out_json(ctx, alone ? alone : json_object_get(one, "result"));
	}
	return rs->failed && rs->failed < rs->n ? EXIT_PARTIAL : rs->code;
}
