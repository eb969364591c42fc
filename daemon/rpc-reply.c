/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Replies as text. A reply's result is never parsed again, and when long never copied. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "daemon/rpc-private.h"
#include "daemon/vmd.h"

#define TEXT(s) (s), sizeof(s) - 1

struct exchange *exchange_new(struct peer *p, bool batch, int *fds, size_t *n_fds)
{
	struct exchange *ex = calloc(1, sizeof(*ex));

	if (!ex)
		return NULL;
	ex->refs = 1;
	ex->peer = p;
	ex->batch = batch;
	ex->n_fds = *n_fds;
	memcpy(ex->fds, fds, *n_fds * sizeof(fds[0]));
	*n_fds = 0;
	return ex;
}

static void send_batch(struct exchange *ex)
{
	size_t len = ex->replies.len + 1;
	struct peer *p = ex->peer;

	if (strbuf_failed(&ex->replies)) {
		p->out.failed = true;
		peer_touch(p);
		return;
	}
	if (!ex->replies.len) {
		if (peer_is_http(p))
			peer_no_content(p);
		peer_touch(p);
		return;
	}
	peer_message_head(p, len, 200);
	outq_append_take(&p->out, TAKE_PTR(ex->replies.data), ex->replies.len);
	outq_append(&p->out, "]", 1);
	peer_message_tail(p);
}

void exchange_unref(struct exchange *ex)
{
	if (!ex || --ex->refs)
		return;
	if (ex->batch && ex->peer && !ex->peer->closed)
		send_batch(ex);
	strbuf_deinit(&ex->replies);
	fd_close_many(ex->fds, ex->n_fds);
	free(ex);
}

int rpc_http_status(enum error_kind kind)
{
	static const int status[_ERROR_KIND_MAX] = {
		[ERROR_NOT_FOUND] = 404,
		[ERROR_EXISTS] = 409,
		[ERROR_WRONG_STATE] = 409,
		[ERROR_INVALID] = 400,
		[ERROR_BUSY] = 409,
		[ERROR_DENIED] = 403,
		[ERROR_CONFLICT] = 409,
		[ERROR_TIMEOUT] = 408,
		[ERROR_PARSE] = 400,
		[ERROR_INVALID_REQUEST] = 400,
		[ERROR_METHOD_NOT_FOUND] = 404,
	};

	return status[kind] ? status[kind] : 200;
}

/* The part of a reply before its value. */
static void format_head(struct strbuf *out, const char *id, const char *member)
{
	strbuf_append(out, TEXT("{\"jsonrpc\":\"2.0\",\"id\":"));
	strbuf_append_str(out, id);
	strbuf_append(out, TEXT(",\""));
	strbuf_append_str(out, member);
	strbuf_append(out, TEXT("\":"));
}

static void member(struct strbuf *out, const char *name, const char *value)
{
	if (!value || !value[0])
		return;
	strbuf_printf(out, ",\"%s\":", name);
	strbuf_append_json(out, value);
}

void rpc_format_error(struct strbuf *out, const struct vmd_error *err, const char *vm)
{
	strbuf_printf(out, "{\"code\":%d,\"message\":", error_kind_code(err->kind));
	strbuf_append_json(out, err->message);
	strbuf_printf(out, ",\"data\":{\"kind\":\"%s\"", error_kind_name(err->kind));
	member(out, "hint", err->hint);
	member(out, "field", err->field);
	member(out, "vm", vm);
	member(out, "job", err->job);
	strbuf_append(out, TEXT("}}"));
}

/* Where a finished text (head, value, brace) goes. */
static void deliver(struct peer *p, struct exchange *ex, const struct strbuf *text, int status)
{
	if (!p || p->closed)
		return;
	if (strbuf_failed(text)) {
		p->out.failed = true;
		peer_touch(p);
		return;
	}
	if (ex && ex->batch) {
		strbuf_append_char(&ex->replies, ex->replies.len ? ',' : '[');
		strbuf_append(&ex->replies, text->data, text->len);
		return;
	}
	peer_message_head(p, text->len, status);
	outq_append(&p->out, text->data, text->len);
	peer_message_tail(p);
}

void rpc_reply_error(struct peer *p, struct exchange *ex, const char *id,
                     const struct vmd_error *err, const char *vm)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	if (!p)
		return;
	format_head(&out, id, "error");
	rpc_format_error(&out, err, vm);
	strbuf_append_char(&out, '}');
	deliver(p, ex, &out, rpc_http_status(err->kind));
}

void rpc_send_error(struct peer *p, const struct vmd_error *err, int http_status)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	format_head(&out, "null", "error");
	rpc_format_error(&out, err, NULL);
	strbuf_append_char(&out, '}');
	deliver(p, NULL, &out, http_status);
}

static int append_dump(const char *data, size_t len, void *out)
{
	strbuf_append(out, data, len);
	return 0;
}

void rpc_reply_json(struct peer *p, struct exchange *ex, const char *id, const json_t *result)
{
	struct strbuf *out;

	if (!p)
		return;
	out = &p->vmd->rpc->text;
	out->len = 0;
	format_head(out, id, "result");
	if (!result)
		strbuf_append(out, TEXT("{}"));
	else if (json_dump_callback(result, append_dump, out, JSON_COMPACT | JSON_ENCODE_ANY) < 0)
		out->failed = true;
	strbuf_append_char(out, '}');
	deliver(p, ex, out, 200);
	if (out->failed || out->cap > 65536)
		strbuf_deinit(out); /* one big reply must not be remembered for ever */
}

/* A ready text goes out as it is, between the head and the closing brace. */
static void send_text(struct peer *p, const char *id, struct call *call)
{
	struct strbuf *head = &p->vmd->rpc->text;
	size_t len = call->result_shared ? call->result_shared->len : call->result_len;

	head->len = 0;
	format_head(head, id, "result");
	if (strbuf_failed(head)) {
		strbuf_deinit(head);
		p->out.failed = true;
		peer_touch(p);
		return;
	}
	peer_message_head(p, head->len + len + 1, 200);
	outq_append(&p->out, head->data, head->len);
	if (call->result_shared)
		outq_append_shared(&p->out, call->result_shared);
	else
		outq_append_take(&p->out, TAKE_PTR(call->result_text), len);
	outq_append(&p->out, "}", 1);
	peer_message_tail(p);
}

/* Descriptors don't go with a batch or over HTTP. */
static bool attach_fds(struct peer *p, struct exchange *ex, const char *id, struct call *call)
{
	struct vmd_error err = VMD_ERROR_INIT;

	if (!call->n_reply_fds)
		return true;
	if (peer_is_http(p) || (ex && ex->batch)) {
		(void)error_set(&err, ERROR_UNSUPPORTED,
		                "'%s' answers with a descriptor, which needs a call of its own on "
		                "a plain connection",
		                call->method);
		rpc_reply_error(p, ex, id, &err, NULL);
		return false;
	}
	outq_attach_fds(&p->out, call->reply_fds, call->n_reply_fds);
	call->n_reply_fds = 0;
	return true;
}

void rpc_reply_result(struct peer *p, struct exchange *ex, const char *id, struct call *call)
{
	if (!p || p->closed || !attach_fds(p, ex, id, call))
		return;
	if (!call->result_text && !call->result_shared) {
		rpc_reply_json(p, ex, id, call->result);
	} else if (ex && ex->batch) {
		strbuf_append_char(&ex->replies, ex->replies.len ? ',' : '[');
		format_head(&ex->replies, id, "result");
		if (call->result_shared)
			strbuf_append(&ex->replies, call->result_shared->data,
			              call->result_shared->len);
		else
			strbuf_append(&ex->replies, call->result_text, call->result_len);
		strbuf_append_char(&ex->replies, '}');
	} else {
		send_text(p, id, call);
	}
}
