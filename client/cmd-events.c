/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "common/jsonx.h"

struct stream {
	struct ctx *ctx;
	uint64_t left;  /* events still to print; UINT64_MAX: no end */
	uint64_t until; /* with --no-follow: number of the last one to print */
	bool bounded, done;
};

static void put_word(struct strbuf *s, const char *text)
{
	if (!text || !*text)
		return;
	strbuf_append_char(s, ' ');
	clean_word(s, text);
}

/* "vm.start failed: why", "snapshot.create ram 45%". The data is a job, or has one. */
static void put_job(struct strbuf *s, const json_t *data)
{
	const json_t *job = json_object_get(data, "job");
	const char *state, *error;

	if (!json_is_object(job))
		job = data;
	state = jsonx_str(job, "state", "running");
	error = jsonx_str(json_object_get(job, "error"), "message", NULL);
	put_word(s, jsonx_str(job, "method", jsonx_str(data, "job", NULL)));
	if (strcmp(state, "running") == 0) {
		put_word(s, jsonx_str(job, "stage", NULL));
		strbuf_printf(s, " %d%%", (int)jsonx_int(job, "percent", 0));
		return;
	}
	put_word(s, state);
	if (error) {
		strbuf_append_char(s, ':');
		put_word(s, error);
	}
}

/* "running -> stopped (poweroff)" */
static void put_state(struct strbuf *s, const json_t *data)
{
	const char *cause = jsonx_str(data, "cause", NULL);

	put_word(s, jsonx_str(data, "from", NULL));
	strbuf_append_str(s, " ->");
	put_word(s, jsonx_str(data, "state", "?"));
	if (cause) {
		strbuf_append_str(s, " (");
		clean_word(s, cause);
		strbuf_append_char(s, ')');
	}
}

/* "login after 3.3s" */
static void put_ready(struct strbuf *s, const json_t *data)
{
	char buf[32];

	put_word(s, jsonx_str(data, "level", "?"));
	strbuf_printf(s, " after %s",
	              format_duration(buf, sizeof(buf),
	                              (uint64_t)MAX_OF(jsonx_int(data, "since_start_us", 0), 0)));
}

/* "data, qcow2, 10 GiB" */
static void put_disk(struct strbuf *s, const json_t *data)
{
	put_word(s, jsonx_str(data, "name", "?"));
	if (!json_object_get(data, "size_bytes"))
		return;
	strbuf_append_char(s, ',');
	put_word(s, jsonx_str(data, "format", ""));
	strbuf_append_str(s, ", ");
	format_value(s, json_object_get(data, "size_bytes"), COL_SIZE);
}

static void put_data(struct strbuf *s, const char *type, const json_t *data)
{
	if (json_object_size(data) == 0)
		return;
	if (strncmp(type, "job.", 4) == 0) {
		put_job(s, data);
	} else if (strcmp(type, "vm.state") == 0) {
		put_state(s, data);
	} else if (strcmp(type, "vm.ready") == 0) {
		put_ready(s, data);
	} else if (strncmp(type, "disk.", 5) == 0) {
		put_disk(s, data);
	} else {
		strbuf_append_char(s, ' ');
		format_value(s, data, COL_TEXT);
	}
}

static void print_event(const json_t *event)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	const char *type = jsonx_str(event, "type", "?");
	char when[32];

	format_time(when, sizeof(when), (uint64_t)jsonx_int(event, "time_us", 0));
	strbuf_printf(&s, "%" JSON_INTEGER_FORMAT " %s", (json_int_t)jsonx_int(event, "seq", 0),
	              when);
	put_word(&s, type);
	put_word(&s, jsonx_str(event, "vm", NULL));
	put_data(&s, type, json_object_get(event, "data"));
	if (jsonx_str(event, "actor", NULL)) {
		strbuf_append_str(&s, " by");
		put_word(&s, jsonx_str(event, "actor", NULL));
	}
	puts(s.data ? s.data : "");
}

static void on_event(void *userdata, const char *method, const json_t *params)
{
	struct stream *s = userdata;

	if (strcmp(method, "event") != 0 || s->done)
		return;
	if (s->bounded && (uint64_t)jsonx_int(params, "seq", 0) > s->until) {
		s->done = true;
		return;
	}
	if (s->ctx->format == FORMAT_JSON)
		out_json_line(params);
	else
		print_event(params);
	if (--s->left == 0 || (s->bounded && (uint64_t)jsonx_int(params, "seq", 0) == s->until))
		s->done = true;
}

static int read_params(struct ctx *ctx, struct stream *s, json_t **ret)
{
	cleanup_json json_t *params = xpack("{}");
	json_t *filter = xpack("{}"), *types = NULL;
	const char *text;
	uint64_t v;
	size_t pos = 0;

	xset(params, "filter", filter);
	while ((text = args_next(&ctx->args, "type", &pos))) {
		if (!types) {
			types = xpack("[]");
			xset(filter, "types", types);
		}
		if (json_array_append_new(types, xstring(text)) < 0)
			die_no_memory();
	}
	if (ctx->args.n_names)
		xset(filter, "vm", xstring(ctx->args.names[0]));
	if (args_number(&ctx->args, "since", &v, &ctx->err) > 0)
		xset(params, "since", json_integer((json_int_t)v));
	if (args_number(&ctx->args, "count", &v, &ctx->err) > 0)
		s->left = v;
	if (ctx->err.kind != ERROR_NONE)
		return usage_error(ctx, "%s", ctx->err.message);
	*ret = TAKE_PTR(params);
	return 0;
}

/* A barrier: when its reply is here, so is every event that was replayed. */
static int drain(struct ctx *ctx, struct stream *s)
{
	cleanup_json json_t *result = NULL;
	int r = ctx_call(ctx, "daemon.ping", NULL, &result);

	s->done = true;
	return r;
}

int cmd_events(struct ctx *ctx)
{
	struct stream s = { .ctx = ctx, .left = UINT64_MAX };
	cleanup_json json_t *result = NULL;
	json_t *params = NULL;
	int r = read_params(ctx, &s, &params);

	if (r)
		return r;
	r = ctx_connect(ctx);
	if (r < 0) {
		json_decref(params);
		return ctx_fail(ctx, r, "events");
	}
	rpc_on_notify(ctx->rpc, on_event, &s);
	r = ctx_call(ctx, "events.subscribe", params, &result);
	if (r == 0 && args_has(&ctx->args, "no-follow")) {
		s.bounded = true;
		s.until = (uint64_t)jsonx_int(result, "seq", 0);
		r = drain(ctx, &s);
	}
	rpc_watch_stdout = true;
	while (r == 0 && !s.done && s.left) {
		if (!rpc_pending(ctx->rpc) && fflush(stdout) != 0)
			break;
		r = rpc_next(ctx->rpc, &ctx->err);
	}
	rpc_watch_stdout = false;
	if (r == -EPIPE)
		return EXIT_FAILED; /* the reader has gone, and knows */
	return r < 0 ? ctx_fail(ctx, r, "events") : EXIT_DONE;
}
