/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/*
 * Readers of the console. Each has a place of its own in the ring (or in the log files), so the
 * slowest one delays nobody: when the ring has overtaken it, it is set forward and told how much
 * is missing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "shim/shim.h"

#define TURN_BYTES 262144 /* most bytes one reader gets before the others have their turn */

static void close_stream(struct stream *t)
{
	cleanup_close_p(&t->fd);
	if (t->logs)
		conlog_close(&t->log);
	t->used = false;
}

/* A free slot, else one whose client is gone. */
static struct stream *find_slot(struct shim *s)
{
	struct stream *hung = NULL;

	for (size_t i = 0; i < MAX_STREAMS; i++) {
		if (!s->streams[i].used)
			return &s->streams[i];
		if (s->streams[i].hung)
			hung = &s->streams[i];
	}
	if (hung)
		close_stream(hung);
	return hung;
}

static int new_stream(struct shim *s, struct stream **ret, int *ret_fd)
{
	struct stream *t = find_slot(s);
	int pair[2];

	if (!t)
		return -EUSERS;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	/* The flag belongs to one end of the pair: the client gets a blocking one. */
	(void)fcntl(pair[1], F_SETFL, 0);
	t->used = true;
	t->input = t->logs = t->follow = t->hung = false;
	t->out_pos = t->out_len = 0;
	t->log_seen = UINT64_MAX;
	t->fd = pair[0];
	*ret = t;
	*ret_fd = pair[1];
	return 0;
}

static uint64_t ring_tail(const struct console *c)
{
	return c->head > c->ring_bytes ? c->head - c->ring_bytes : 0;
}

/* First byte that is in the ring and did not come before since_us. */
static uint64_t ring_since(const struct console *c, uint64_t since_us)
{
	size_t size = ARRAY_SIZE(c->marks);
	uint64_t first = c->n_marks > size ? c->n_marks - size : 0, start = ring_tail(c);

	for (uint64_t i = first; i < c->n_marks; i++)
		if (c->marks[i % size].time_us + MARK_US >= since_us)
			return MAX_OF(start, c->marks[i % size].offset);
	return c->head;
}

int stream_open_console(struct shim *s, bool readonly, bool replay, uint64_t since_us, int *ret_fd)
{
	const struct console *c = &s->console;
	struct stream *t;
	int r;

	if (!c->ring)
		return -ENODEV;
	r = new_stream(s, &t, ret_fd);
	if (r < 0)
		return r;
	t->input = !readonly && c->fd >= 0;
	if (readonly)
		(void)shutdown(t->fd, SHUT_RD);
	t->cursor = !replay ? c->head : since_us ? ring_since(c, since_us) : ring_tail(c);
	return 0;
}

int stream_open_logs(struct shim *s, int64_t tail, uint64_t since_us, bool timestamps, bool follow,
                     int *ret_fd)
{
	cleanup_close int dir = open(s->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stream *t;
	int r;

	if (dir < 0)
		return -errno;
	r = new_stream(s, &t, ret_fd);
	if (r < 0)
		return r;
	r = conlog_open(&t->log, dir, tail, since_us, timestamps);
	if (r < 0) {
		close_stream(t);
		close(*ret_fd);
		return r;
	}
	(void)shutdown(t->fd, SHUT_RD);
	t->logs = true;
	t->follow = follow;
	return 0;
}

bool stream_has_output(const struct shim *s, const struct stream *t)
{
	if (t->out_pos < t->out_len)
		return true;
	return t->logs ? t->log_seen != s->console.log.written : t->cursor < s->console.head;
}

int stream_poll_events(const struct shim *s, const struct stream *t)
{
	const struct console *c = &s->console;
	int events = stream_has_output(s, t) && !t->hung ? POLLOUT : 0;

	if (t->input && c->fd >= 0 && c->input_len < sizeof(c->input))
		events |= POLLIN;
	return events == 0 && t->hung ? -1 : events;
}

static void read_input(struct shim *s, struct stream *t)
{
	struct console *c = &s->console;
	ssize_t n;

	/* What does not fit stays in the client's socket until the guest has read. */
	if (c->fd < 0 || c->input_len == sizeof(c->input))
		return;
	n = read(t->fd, c->input + c->input_len, sizeof(c->input) - c->input_len);
	if (n > 0)
		c->input_len += (size_t)n;
	else if (n == 0 || errno != EAGAIN)
		t->input = false; /* it only listens from now on */
}

/* 1: all gone, 0: the socket is full, negative: the reader is gone. */
static int write_bytes(struct stream *t, const char *data, size_t len, size_t *ret_written)
{
	ssize_t n = send(t->fd, data, len, MSG_NOSIGNAL);

	*ret_written = 0;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	*ret_written = (size_t)n;
	return (size_t)n == len;
}

static void skip_ahead(const struct console *c, struct stream *t)
{
	uint64_t to = c->head - c->ring_bytes / 2;

	/* From the start of a line, when there is one near. */
	for (uint64_t i = to; i < to + 1024 && i < c->head; i++) {
		if (c->ring[i % c->ring_bytes] == '\n') {
			to = i + 1;
			break;
		}
	}
	/* A notice that did not get out yet grows instead of being followed by another. */
	t->skipped = (t->out_len ? t->skipped : 0) + to - t->cursor;
	t->out_len = (size_t)snprintf(t->out, sizeof(t->out), "\r\n[vmd: %llu bytes lost]\r\n",
	                              (unsigned long long)t->skipped);
	t->cursor = to;
}

static int next_piece(struct shim *s, struct stream *t, const char **ret_data, size_t *ret_len)
{
	const struct console *c = &s->console;
	size_t at;

	if (t->out_pos == t->out_len)
		t->out_pos = t->out_len = 0;
	if (t->out_pos == 0 && !t->logs && t->cursor < ring_tail(c))
		skip_ahead(c, t);
	if (t->out_len == 0 && t->logs) {
		uint64_t seen = c->log.written;
		ssize_t n = conlog_read(&t->log, t->out, sizeof(t->out));

		if (n <= 0) {
			t->log_seen = seen;
			return (int)n;
		}
		t->out_len = (size_t)n;
	}
	if (t->out_pos < t->out_len) {
		*ret_data = t->out + t->out_pos;
		*ret_len = t->out_len - t->out_pos;
		return 1;
	}
	if (t->cursor == c->head)
		return 0;
	at = (size_t)(t->cursor % c->ring_bytes);
	*ret_data = c->ring + at;
	*ret_len = (size_t)MIN_OF(c->head - t->cursor, (uint64_t)(c->ring_bytes - at));
	return 1;
}

static int write_output(struct shim *s, struct stream *t)
{
	size_t sent = 0;

	while (sent < TURN_BYTES) {
		const char *data = NULL;
		size_t len = 0, n;
		int r = next_piece(s, t, &data, &len);

		if (r <= 0)
			return r;
		r = write_bytes(t, data, len, &n);
		sent += n;
		if (t->out_pos < t->out_len)
			t->out_pos += n;
		else
			t->cursor += n;
		if (r <= 0)
			return r;
	}
	return 0;
}

static bool is_over(const struct shim *s, const struct stream *t)
{
	if (stream_has_output(s, t))
		return false;
	return s->state >= SHIM_EXITED || (t->logs && !t->follow);
}

void stream_service(struct shim *s, struct stream *t, short revents)
{
	if (revents & (POLLIN | POLLHUP) && t->input)
		read_input(s, t);
	if (revents & (POLLHUP | POLLERR) || (!t->hung && write_output(s, t) < 0))
		t->hung = true;
	if (t->hung ? !t->input || s->console.fd < 0 : is_over(s, t))
		close_stream(t);
}
