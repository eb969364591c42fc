/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/qmp.h"

#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/list.h"
#include "common/strbuf.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"

/*
 * Messages come as lines (QEMU and vmd-vmm end each with CR LF). Commands wait in `out` until the
 * capabilities are negotiated; each holds its text and, on its caller's stack, its descriptors. A
 * call belongs to the fiber that waits for it and is unlinked before that fiber goes on, so a reply
 * that comes too late finds no call and is dropped. Nothing is called back from inside qmp_call():
 * the end of the connection is told by a zero timer.
 */
#define MESSAGE_MAX (4u << 20)
#define DEPTH_MAX   64
#define READ_CHUNK  65536
/* What a peer may send in one second; more waits in the socket until the second is over. */
#define RATE_BYTES    (32u << 20)
#define RATE_MESSAGES 4000
#define QUEUE_MAX     256

enum qmp_state {
	QMP_GREETING,    /* nothing was received yet; nothing may be sent */
	QMP_NEGOTIATING, /* qmp_capabilities was sent */
	QMP_READY,
	QMP_CLOSED, /* the descriptor is closed, no watcher runs but perhaps closed_timer */
};

struct call_state {
	struct list link; /* in qmp.calls */
	struct waitq wait;
	char id[40];
	char *text; /* not yet sent completely, else NULL */
	size_t len;
	size_t sent;
	const int *fds;
	size_t n_fds;
	bool done;
	bool closed;
	json_t *reply; /* the whole reply object */
};

struct qmp {
	int fd;
	enum qmp_state state;
	const struct qmp_ops *ops;
	void *userdata;
	struct ev_io readable, writable;
	struct ev_timer rate_timer, closed_timer;
	struct strbuf in;
	size_t scanned;     /* bytes of `in` known to hold no line end */
	struct strbuf head; /* the negotiation, before any call */
	struct list calls;
	size_t n_calls;
	unsigned next_id;
	char id_prefix[24];
	bool adopted; /* until negotiated, what cannot be read is left over from a former reader */
	bool deaf;    /* writing failed */
	bool dispatching, freed;
	uint64_t window_us;
	size_t window_bytes, window_messages;
	char reason[160];
};

static void free_now(struct qmp *q)
{
	strbuf_deinit(&q->in);
	strbuf_deinit(&q->head);
	free(q);
}

static void end_call(struct qmp *q, struct call_state *c)
{
	list_del(&c->link);
	q->n_calls--;
	free(c->text);
	c->text = NULL;
	c->done = true;
	waitq_wake_all(&c->wait);
}

/* Closes the connection and fails every call; on_closed follows from the loop. */
static void fail(struct qmp *q, const char *format, ...) PRINTF_LIKE(2, 3);
static void fail(struct qmp *q, const char *format, ...)
{
	struct call_state *c, *tmp;
	va_list ap;

	if (q->state == QMP_CLOSED)
		return;
	va_start(ap, format);
	vsnprintf(q->reason, sizeof(q->reason), format, ap);
	va_end(ap);
	q->state = QMP_CLOSED;
	ev_io_stop(fiber_loop(), &q->readable);
	ev_io_stop(fiber_loop(), &q->writable);
	ev_timer_stop(fiber_loop(), &q->rate_timer);
	cleanup_close_p(&q->fd);
	list_for_each_safe(c, tmp, &q->calls, link) {
		c->closed = true;
		end_call(q, c);
	}
	if (!q->freed)
		ev_timer_start(fiber_loop(), &q->closed_timer);
}

static void on_closed_timer(struct ev_loop *loop UNUSED, struct ev_timer *w, int revents UNUSED)
{
	struct qmp *q = container_of(w, struct qmp, closed_timer);

	/* The owner may free q in there. */
	if (q->ops && q->ops->on_closed)
		q->ops->on_closed(q->userdata, q->reason);
}

/* Sends up to len - *sent bytes. 1 when all is sent, 0 when the socket is full, or -errno. */
static int send_part(struct qmp *q, const char *text, size_t len, size_t *sent, const int *fds,
                     size_t n_fds)
{
	while (*sent < len) {
		ssize_t n = fd_send(q->fd, text + *sent, len - *sent, fds, *sent ? 0 : n_fds);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		*sent += (size_t)n;
	}
	return 1;
}

static int flush_calls(struct qmp *q)
{
	struct call_state *c;

	list_for_each(c, &q->calls, link) {
		int r;

		if (!c->text)
			continue;
		r = send_part(q, c->text, c->len, &c->sent, c->fds, c->n_fds);
		if (r <= 0)
			return r;
		free(c->text);
		c->text = NULL;
	}
	return 1;
}

static void flush(struct qmp *q)
{
	size_t sent = 0;
	int r = 1;

	if (q->state == QMP_CLOSED || q->state == QMP_GREETING || q->deaf)
		return;
	if (q->head.len) {
		r = send_part(q, q->head.data, q->head.len, &sent, NULL, 0);
		strbuf_consume(&q->head, sent);
	}
	if (r > 0 && q->state == QMP_READY)
		r = flush_calls(q);
	/* What the peer said before it closed (SHUTDOWN with its reason) is still to be read; the
	 * end of file after it ends the connection. */
	q->deaf = r < 0;
	if (r == 0)
		ev_io_start(fiber_loop(), &q->writable);
	else
		ev_io_stop(fiber_loop(), &q->writable);
}

static void negotiate(struct qmp *q)
{
	q->state = QMP_NEGOTIATING;
	strbuf_printf(&q->head, "{\"execute\":\"qmp_capabilities\",\"id\":\"%s-hello\"}\r\n",
	              q->id_prefix);
	if (strbuf_failed(&q->head))
		fail(q, "out of memory");
	else
		flush(q);
}

static uint64_t event_time_us(const json_t *message)
{
	const json_t *t = json_object_get(message, "timestamp");
	json_int_t sec = jsonx_int(t, "seconds", -1), us = jsonx_int(t, "microseconds", -1);

	/* -1 and -1 is QEMU's own way to say that it could not tell. */
	if (sec < 0 || us < 0 || us > 999999 || sec > INT64_MAX / 2000000)
		return now_wall_us();
	return (uint64_t)sec * 1000000u + (uint64_t)us;
}

static void handle_reply(struct qmp *q, json_t *message, const char *id)
{
	struct call_state *c;
	char hello[40];

	snprintf(hello, sizeof(hello), "%s-hello", q->id_prefix);
	if (q->state == QMP_NEGOTIATING && strcmp(id, hello) == 0) {
		/* An error here means: negotiated before, by who had this connection earlier. */
		if (!q->adopted && !json_object_get(message, "return")) {
			fail(q, "the engine refused the capabilities negotiation");
			return;
		}
		q->adopted = false;
		q->state = QMP_READY;
		flush(q);
		return;
	}
	list_for_each(c, &q->calls, link) {
		if (c->text || strcmp(c->id, id) != 0)
			continue;
		c->reply = json_incref(message);
		end_call(q, c);
		return;
	}
}

static void handle_message(struct qmp *q, json_t *message)
{
	const char *event = jsonx_str(message, "event", NULL);
	const char *id = jsonx_str(message, "id", NULL);

	if (event) {
		const json_t *data = json_object_get(message, "data");

		if (q->ops && q->ops->on_event && strlen(event) < 64)
			q->ops->on_event(q->userdata, event, json_is_object(data) ? data : NULL,
			                 event_time_us(message));
	} else if (json_is_object(json_object_get(message, "QMP"))) {
		if (q->state == QMP_GREETING)
			negotiate(q);
	} else if (json_object_get(message, "return") ||
	           json_is_object(json_object_get(message, "error"))) {
		if (id)
			handle_reply(q, message, id);
	} else if (!q->adopted) {
		fail(q, "the engine sent a message that is not QMP");
	}
}

static void handle_line(struct qmp *q, const char *line, size_t len)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *message = NULL;

	while (len && (line[len - 1] == '\r' || line[len - 1] == ' '))
		len--;
	if (!len)
		return;
	/* QMP's integers may have 64 bits and no sign. */
	message = jsonx_parse_wide(line, len, DEPTH_MAX, &err);
	if (!message && q->adopted)
		return;
	if (!message)
		fail(q, "the engine sent rubbish: %s", err.message);
	else
		handle_message(q, message);
}

/* Handles every complete line in q->in. */
static void dispatch(struct qmp *q)
{
	size_t from = 0;

	q->dispatching = true;
	while (q->state != QMP_CLOSED && !q->freed) {
		char *start = q->in.data + from;
		size_t skip = q->scanned > from ? q->scanned - from : 0;
		char *end = q->in.len - from > skip
		                    ? memchr(start + skip, '\n', q->in.len - from - skip)
		                    : NULL;

		if (!end)
			break;
		q->window_messages++;
		handle_line(q, start, (size_t)(end - start));
		from = (size_t)(end - q->in.data) + 1;
	}
	strbuf_consume(&q->in, from);
	q->scanned = q->in.len;
	if (!q->in.len)
		strbuf_deinit(&q->in); /* an idle guest costs no buffer */
	if (q->in.len > MESSAGE_MAX)
		fail(q, "the engine sent a message of more than %u MiB", MESSAGE_MAX >> 20);
	q->dispatching = false;
	if (q->freed)
		free_now(q);
}

/* True when the peer has used up this second; reading goes on when it is over. */
static bool rate_exceeded(struct qmp *q)
{
	uint64_t now = now_monotonic_us();

	if (now - q->window_us >= 1000000) {
		q->window_us = now;
		q->window_bytes = q->window_messages = 0;
	}
	if (q->window_bytes < RATE_BYTES && q->window_messages < RATE_MESSAGES)
		return false;
	ev_io_stop(fiber_loop(), &q->readable);
	ev_timer_set(&q->rate_timer, (double)(q->window_us + 1000000 - now) / 1e6, 0.);
	ev_timer_start(fiber_loop(), &q->rate_timer);
	return true;
}

static void on_rate_timer(struct ev_loop *loop, struct ev_timer *w, int revents UNUSED)
{
	struct qmp *q = container_of(w, struct qmp, rate_timer);

	ev_io_start(loop, &q->readable);
}

static void on_readable(struct ev_loop *loop UNUSED, struct ev_io *w, int revents UNUSED)
{
	struct qmp *q = container_of(w, struct qmp, readable);
	char *room;
	ssize_t n;

	if (rate_exceeded(q))
		return;
	room = strbuf_reserve(&q->in, READ_CHUNK);
	if (!room) {
		fail(q, "out of memory");
		return;
	}
	/* Without a control buffer the kernel drops descriptors that a peer may send. */
	n = recv(q->fd, room, READ_CHUNK, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		fail(q,
		     n ? "the control socket failed: %s" : "the engine closed its control socket%s",
		     n ? strerror(errno) : "");
		return;
	}
	strbuf_grew(&q->in, (size_t)n);
	q->window_bytes += (size_t)n;
	dispatch(q);
}

static void on_writable(struct ev_loop *loop UNUSED, struct ev_io *w, int revents UNUSED)
{
	flush(container_of(w, struct qmp, writable));
}

int qmp_new(int fd, bool fresh, const struct qmp_ops *ops, void *userdata, struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));

	if (!q) {
		close(fd);
		return -ENOMEM;
	}
	q->fd = fd;
	q->ops = ops;
	q->userdata = userdata;
	q->adopted = !fresh;
	list_init(&q->calls);
	/* Differs from the ids of whoever spoke on this connection before. */
	snprintf(q->id_prefix, sizeof(q->id_prefix), "%llx",
	         (unsigned long long)now_monotonic_us());
	ev_io_init(&q->readable, on_readable, fd, EV_READ);
	ev_io_init(&q->writable, on_writable, fd, EV_WRITE);
	ev_timer_init(&q->rate_timer, on_rate_timer, 0., 0.);
	ev_timer_init(&q->closed_timer, on_closed_timer, 0., 0.);
	(void)fd_set_nonblock(fd, 1);
	ev_io_start(fiber_loop(), &q->readable);
	*ret = q;
	if (!fresh) {
		strbuf_append_char(&q->head, (char)0xFF);
		negotiate(q);
	}
	return 0;
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	q->freed = true;
	fail(q, "the connection was given up");
	ev_timer_stop(fiber_loop(), &q->closed_timer);
	if (!q->dispatching)
		free_now(q);
}

static int make_text(struct qmp *q, struct call_state *c, const char *command, const json_t *args)
{
	cleanup_json json_t *message = NULL;
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	cleanup_free char *json = NULL;

	snprintf(c->id, sizeof(c->id), "%s-%u", q->id_prefix, q->next_id++);
	message = json_pack("{s:s, s:s}", "execute", command, "id", c->id);
	if (!message || (args && json_object_set(message, "arguments", (json_t *)args) < 0))
		return -ENOMEM;
	json = jsonx_dump(message);
	if (!json)
		return -ENOMEM;
	strbuf_append_str(&text, json);
	strbuf_append_str(&text, "\r\n");
	c->len = text.len;
	c->text = strbuf_steal(&text);
	return c->text ? 0 : -ENOMEM;
}

/* Takes a call whose fiber gives up out of the list. A command that was sent in part must be sent
 * whole, or the peer would lose its place: the rest goes to the head of the queue. */
static void abandon(struct qmp *q, struct call_state *c)
{
	if (c->text && c->sent) {
		strbuf_append(&q->head, c->text + c->sent, c->len - c->sent);
		if (strbuf_failed(&q->head))
			fail(q, "out of memory");
	}
	if (!c->done)
		end_call(q, c);
}

/* The engine's own words, shortened and without control characters, which may be hostile. */
static void copy_words(char *to, size_t size, const char *from)
{
	size_t n = strnlen(from, size - 1);

	while (n && n == size - 1 && ((unsigned char)from[n] & 0xC0) == 0x80)
		n--; /* not in the middle of a character */
	for (size_t i = 0; i < n; i++)
		to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7F ? ' ' : from[i];
	to[n] = '\0';
}

static int call_result(struct call_state *c, const char *command, json_t **ret_return,
                       struct vmd_error *err)
{
	cleanup_json json_t *reply = TAKE_PTR(c->reply);
	json_t *value = json_object_get(reply, "return");
	char words[256];

	if (value) {
		if (ret_return)
			*ret_return = json_incref(value);
		return 0;
	}
	copy_words(words, sizeof(words),
	           jsonx_str(json_object_get(reply, "error"), "desc", "no reason given"));
	return error_set(err, ERROR_ENGINE_FAILED, "'%s' failed: %s", command, words);
}

static int wait_failed(int r, const char *command, struct vmd_error *err)
{
	if (r == -ETIMEDOUT)
		return error_set(err, ERROR_TIMEOUT, "the engine did not answer '%s' in time",
		                 command);
	if (r == -ECANCELED)
		return error_set(err, ERROR_CANCELLED, "'%s' was cancelled", command);
	return error_set_errno(err, -r, "cannot wait for '%s'", command);
}

static int not_connected(const char *command, struct vmd_error *err)
{
	(void)error_set(err, ERROR_ENGINE_FAILED,
	                "the control connection ended before '%s' was answered", command);
	return -EPIPE;
}

int qmp_call(struct qmp *q, const char *command, const json_t *args, const int *fds, size_t n_fds,
             int64_t timeout_ms, json_t **ret_return, struct vmd_error *err)
{
	struct call_state c = { .fds = fds, .n_fds = n_fds };
	uint64_t limit = now_monotonic_us() + (uint64_t)MAX_OF(timeout_ms, 0) * 1000u;
	int r = 0;

	if (q->state == QMP_CLOSED)
		return not_connected(command, err);
	if (q->n_calls >= QUEUE_MAX)
		return error_set(err, ERROR_BUSY, "too many commands wait for the engine");
	r = make_text(q, &c, command, args);
	if (r < 0)
		return error_set_errno(err, -r, "cannot send '%s'", command);
	waitq_init(&c.wait);
	list_add_tail(&q->calls, &c.link);
	q->n_calls++;
	flush(q);
	while (!c.done && r == 0) {
		uint64_t now = now_monotonic_us();
		int64_t left = timeout_ms < 0 ? -1
		               : now >= limit ? 0
		                              : (int64_t)((limit - now) / 1000u) + 1;

		r = waitq_wait(&c.wait, left);
	}
	if (!c.done) {
		abandon(q, &c);
		return wait_failed(r, command, err);
	}
	/* From here on q may be gone. */
	if (c.closed)
		return not_connected(command, err);
	return call_result(&c, command, ret_return, err);
}
