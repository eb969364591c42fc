/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading goes through one scratch buffer of the set: whole messages are handled where they lie,
 * only a begun one is copied to its connection. Each connection gets its turn (peer_turn) after it
 * was read from or touched: output is written by one call, then, when that made room, messages that
 * had to wait are handled.
 *
 * A connection is paused (not read from) while its reader is behind, too many calls are in flight,
 * or, on HTTP, one call is. Descriptors belong to the last message that begins in the bytes they
 * came with: the kernel never delivers bytes sent after them in the same read.
 */
#include "config.h"

#include "daemon/peer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/peer-private.h"
#include "daemon/rpc-private.h"
#include "daemon/vmd.h"

#define OUT_HIGH      (256u * 1024u) /* paused above */
#define OUT_FULL      (128u * 1024u) /* no more events above */
#define HALF_PERIOD_S 5.
#define DROP_LOG_US   1000000u

static const struct config *limits(const struct peer *p)
{
	return &p->vmd->config;
}

bool peer_is_http(const struct peer *p)
{
	return p->framer.mode == FRAME_HTTP;
}

bool peer_is_full(const struct peer *p)
{
	return p->out.bytes > OUT_FULL;
}

static bool is_paused(const struct peer *p)
{
	return p->out.bytes > OUT_HIGH || p->n_calls >= PEER_MAX_CALLS || p->last_words ||
	       (p->n_calls && peer_is_http(p));
}

void peer_touch(struct peer *p)
{
	if (!p->closed && list_is_empty(&p->dirty))
		list_add_tail(&p->set->dirty, &p->dirty);
}

void peer_call_begin(struct peer *p)
{
	p->n_calls++;
}

void peer_call_end(struct peer *p)
{
	p->n_calls--;
	peer_touch(p);
}

/* --- messages out --- */

static const char *http_reason(int status)
{
	static const struct {
		int status;
		const char *reason;
	} reasons[] = {
		{ 200, "OK" },
		{ 204, "No Content" },
		{ 400, "Bad Request" },
		{ 403, "Forbidden" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 411, "Length Required" },
		{ 413, "Content Too Large" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Error";
}

static void http_head(struct peer *p, int status, size_t len)
{
	char head[192];
	int n;

	n = snprintf(head, sizeof(head),
	             "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
	             "%s%s\r\n",
	             status, http_reason(status), len, status == 405 ? "Allow: POST\r\n" : "",
	             p->http_close ? "Connection: close\r\n" : "");
	outq_append(&p->out, head, (size_t)n);
	if (p->http_close)
		p->last_words = true;
}

void peer_message_head(struct peer *p, size_t len, int http_status)
{
	char head[48];
	int n;

	if (p->framer.mode == FRAME_HTTP) {
		http_head(p, http_status, len + 1);
	} else if (p->framer.mode == FRAME_HEADERS) {
		n = snprintf(head, sizeof(head), "Content-Length: %zu\r\n\r\n", len);
		outq_append(&p->out, head, (size_t)n);
	}
}

void peer_message_tail(struct peer *p)
{
	if (p->framer.mode != FRAME_HEADERS)
		outq_append(&p->out, "\n", 1);
	peer_touch(p);
}

void peer_no_content(struct peer *p)
{
	static const char go_on[] = "HTTP/1.1 204 No Content\r\n\r\n";
	static const char close_it[] = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

	if (p->http_close) {
		outq_append(&p->out, close_it, sizeof(close_it) - 1);
		p->last_words = true;
	} else {
		outq_append(&p->out, go_on, sizeof(go_on) - 1);
	}
	peer_touch(p);
}

/* --- life --- */

static void stop_timer(struct peer *p)
{
	ev_timer_stop(p->vmd->loop, &p->timer);
	p->timer_use = PEER_TIMER_NONE;
}

static void start_timer(struct peer *p, int use, double seconds, double repeat)
{
	stop_timer(p);
	p->timer_use = use;
	ev_now_update(p->vmd->loop);
	ev_timer_set(&p->timer, seconds, repeat);
	ev_timer_start(p->vmd->loop, &p->timer);
}

void peer_close(struct peer *p)
{
	if (p->closed)
		return;
	p->closed = true;
	ev_io_stop(p->vmd->loop, &p->io);
	stop_timer(p);
	rpc_peer_gone(p);
	peers_uncount(p->set, p->who.uid);
	cleanup_close_p(&p->fd);
	fd_close_many(p->fds, p->n_fds);
	p->n_fds = 0;
	list_del(&p->dirty);
	list_del(&p->link);
	list_add_tail(&p->set->dead, &p->link);
}

void peer_free(struct peer *p)
{
	list_del(&p->link);
	outq_deinit(&p->out);
	strbuf_deinit(&p->in);
	free(p);
}

static void drop(struct peer *p, const char *why)
{
	uint64_t now = now_monotonic_us();

	if (now - p->set->last_drop_us > DROP_LOG_US) {
		p->set->last_drop_us = now;
		log_warning("Dropped a connection of process %d, user %u: %s", p->who.pid,
		            p->who.uid, why);
	}
	peer_close(p);
}

/* Sends an error that belongs to no call and ends the connection once it is read. */
static void end_with_error(struct peer *p, enum error_kind kind, int http_status,
                           const char *message)
{
	struct vmd_error err = VMD_ERROR_INIT;

	(void)error_set(&err, kind, "%s", message);
	p->http_close = true;
	rpc_send_error(p, &err, http_status);
	p->last_words = true;
	start_timer(p, PEER_TIMER_CLOSE, limits(p)->message_timeout_ms / 1e3, 0.);
}

/* --- messages in --- */

static void bad_frame(struct peer *p, enum frame_result r)
{
	char text[96];

	switch (r) {
	case FRAME_TOO_LONG:
		snprintf(text, sizeof(text), "a message may have %llu bytes at most",
		         (unsigned long long)limits(p)->max_message_bytes);
		end_with_error(p, ERROR_INVALID_REQUEST, 413, text);
		break;
	case FRAME_NO_LENGTH:
		end_with_error(p, ERROR_INVALID_REQUEST, 411,
		               "a Content-Length or a chunked body is needed");
		break;
	case FRAME_BAD_METHOD:
		end_with_error(p, ERROR_INVALID_REQUEST, 405, "only POST is understood");
		break;
	default:
		end_with_error(p, ERROR_INVALID_REQUEST, 400, "malformed header");
		break;
	}
}

/* Hands one message to rpc.c; its descriptors go along and are closed if nobody took them. */
static void handle_message(struct peer *p, const struct frame *f, bool with_fds)
{
	int fds[PEER_MAX_FDS];
	size_t n = 0;

	if (with_fds && p->too_many_fds) {
		char text[64];

		snprintf(text, sizeof(text), "a message may carry %d descriptors at most",
		         PEER_MAX_FDS);
		end_with_error(p, ERROR_INVALID_REQUEST, 400, text);
		return;
	}
	if (with_fds) {
		n = p->n_fds;
		memcpy(fds, p->fds, n * sizeof(fds[0]));
		p->n_fds = 0;
	}
	p->http_close = !p->framer.keep_alive;
	rpc_message(p, f->body, f->len, fds, &n);
	fd_close_many(fds, n);
}

/* Handles whole messages in data until it is used up or the peer is paused. Bytes done with. */
static size_t handle_data(struct peer *p, char *data, size_t len)
{
	struct frame f;
	size_t off = 0;

	while (!p->closed && !is_paused(p)) {
		enum frame_result r = framer_next(&p->framer, data + off, len - off, &f);

		if (r == FRAME_MESSAGE) {
			size_t end = off + f.consumed;

			handle_message(p, &f, p->n_fds && end >= p->fd_mark);
			off = end;
			continue;
		}
		off += f.consumed;
		if (r != FRAME_MORE) {
			bad_frame(p, r);
			return len;
		}
		if (p->framer.wants_100) {
			static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

			p->framer.wants_100 = false;
			outq_append(&p->out, go_on, sizeof(go_on) - 1);
		}
		break;
	}
	return off;
}

/* Clients may end without a last newline. */
static void handle_rest(struct peer *p)
{
	struct frame f = { .body = p->in.data, .len = p->in.len };

	if (!p->in.len || p->framer.mode != FRAME_LINES || p->last_words)
		return;
	handle_message(p, &f, p->n_fds > 0);
	strbuf_deinit(&p->in);
}

static void used(struct peer *p, size_t n)
{
	if (p->fd_mark <= n) { /* what their message would have been is gone */
		fd_close_many(p->fds, p->n_fds);
		p->n_fds = 0;
		p->too_many_fds = false;
	}
	p->fd_mark -= MIN_OF(n, p->fd_mark);
}

/* The time of a begun message runs from its first bytes on. */
static void watch_message(struct peer *p, bool new_message)
{
	if (p->timer_use > PEER_TIMER_MESSAGE)
		return;
	if (!p->in.len || p->held)
		stop_timer(p);
	else if (new_message || p->timer_use == PEER_TIMER_NONE)
		start_timer(p, PEER_TIMER_MESSAGE, limits(p)->message_timeout_ms / 1e3, 0.);
}

static void handle_buffered(struct peer *p)
{
	size_t n;

	if (!p->in.len)
		return;
	n = handle_data(p, p->in.data, p->in.len);
	if (p->closed)
		return;
	used(p, n);
	if (n == p->in.len)
		strbuf_deinit(&p->in);
	else
		strbuf_consume(&p->in, n);
	p->held = p->in.len && is_paused(p);
	if (p->eof && !p->held)
		handle_rest(p);
	if (!p->closed)
		watch_message(p, n > 0);
}

static void on_eof(struct peer *p)
{
	struct pollfd gone = { .fd = p->fd };

	p->eof = true;
	if (poll(&gone, 1, 0) == 1 && (gone.revents & POLLHUP)) {
		peer_close(p);
		return;
	}
	stop_timer(p);
	if (!p->held)
		handle_rest(p);
	if (!p->closed && !p->last_words)
		start_timer(p, PEER_TIMER_HALF, HALF_PERIOD_S, HALF_PERIOD_S);
}

static void take_scratch(struct peer *p, size_t len)
{
	size_t n = handle_data(p, p->set->scratch, len);

	if (p->closed)
		return;
	used(p, n);
	if (n < len && !p->last_words)
		strbuf_append(&p->in, p->set->scratch + n, len - n);
	p->held = p->in.len && is_paused(p);
	watch_message(p, true);
}

static void peer_read(struct peer *p)
{
	bool direct = p->in.len > 0;
	char *buf = direct ? strbuf_reserve(&p->in, PEER_READ_BYTES) : p->set->scratch;
	int fds[PEER_MAX_FDS + 1]; /* one more, to see that there are too many */
	size_t n_fds = 0;
	ssize_t n;

	if (!buf) {
		drop(p, "out of memory");
		return;
	}
	n = fd_recv(p->fd, buf, PEER_READ_BYTES, fds, ARRAY_SIZE(fds), &n_fds);
	if (n == -EAGAIN)
		return;
	if (n < 0) {
		peer_close(p);
		return;
	}
	if (direct && n > 0)
		strbuf_grew(&p->in, (size_t)n);
	for (size_t i = 0; i < n_fds; i++) {
		if (p->n_fds < PEER_MAX_FDS) {
			p->fds[p->n_fds++] = fds[i];
		} else {
			fd_close_many(&fds[i], 1);
			p->too_many_fds = true;
		}
	}
	if (n_fds)
		p->fd_mark = direct ? p->in.len : (size_t)n;
	if (n == 0)
		on_eof(p);
	else if (direct)
		handle_buffered(p);
	else
		take_scratch(p, (size_t)n);
	if (!p->closed && strbuf_failed(&p->in))
		drop(p, "out of memory");
}

/* --- turns --- */

static void watch_fd(struct peer *p)
{
	int events = 0;

	if (!p->eof && !is_paused(p))
		events |= EV_READ;
	if (p->out.bytes)
		events |= EV_WRITE;
	if (events == (p->io.events & (EV_READ | EV_WRITE)) && ev_is_active(&p->io) == !!events)
		return;
	ev_io_stop(p->vmd->loop, &p->io);
	ev_io_set(&p->io, p->fd, events);
	if (events)
		ev_io_start(p->vmd->loop, &p->io);
}

bool peer_flush(struct peer *p)
{
	int r;

	if (!p->out.bytes && !p->out.failed)
		return true;
	r = outq_write(&p->out, p->fd);
	if (r == -ENOMEM)
		drop(p, "out of memory");
	else if (r < 0)
		peer_close(p);
	else if (p->out.bytes > limits(p)->max_output_bytes)
		drop(p, "it does not read what it asked for");
	return !p->closed;
}

void peer_turn(struct peer *p)
{
	if (!peer_flush(p))
		return;
	if (p->held && !is_paused(p)) {
		handle_buffered(p);
		if (p->closed || !peer_flush(p))
			return;
	}
	if (p->n_subs && !peer_is_full(p)) {
		rpc_resume_events(p);
		if (p->closed || !peer_flush(p))
			return;
	}
	if (!p->out.bytes && (p->last_words || (p->eof && !p->n_calls && !p->n_subs))) {
		peer_close(p);
		return;
	}
	watch_fd(p);
}

static void on_io(struct ev_loop *loop, ev_io *w, int revents)
{
	struct peer *p = container_of(w, struct peer, io);

	(void)loop;
	if (revents & EV_READ)
		peer_read(p);
	if (p->closed)
		return;
	list_del(&p->dirty);
	peer_turn(p);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct peer *p = container_of(w, struct peer, timer);
	struct pollfd gone = { .fd = p->fd };

	(void)loop;
	(void)revents;
	switch (p->timer_use) {
	case PEER_TIMER_MESSAGE:
		end_with_error(p, ERROR_TIMEOUT, 408, "the message did not end in time");
		peer_touch(p);
		break;
	case PEER_TIMER_CLOSE:
		peer_close(p);
		break;
	case PEER_TIMER_HALF:
		if (poll(&gone, 1, 0) == 1 && (gone.revents & POLLHUP))
			peer_close(p);
		break;
	case PEER_TIMER_NONE:
		break;
	}
}

void peer_watch(struct peer *p)
{
	ev_init(&p->timer, on_timer);
	ev_io_init(&p->io, on_io, p->fd, EV_READ);
	ev_io_start(p->vmd->loop, &p->io);
}
