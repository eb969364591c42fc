/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/outq.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/fdio.h"

#define CHUNK_BYTES 16384 /* small pieces are gathered in chunks of this size */
#define SMALL_BYTES 4096  /* shorter texts are copied */
#define OUT_FDS     4
#define MAX_IOV     64

struct chunk {
	struct list link;
	const char *data; /* own, owned or shared->data */
	size_t len, off;
	struct shared_text *shared;
	char *owned;
	int fds[OUT_FDS];
	size_t n_fds;
	size_t cap; /* of own */
	char own[];
};

struct shared_text *shared_text_new(char *data, size_t len)
{
	struct shared_text *t = malloc(sizeof(*t));

	if (!t) {
		free(data);
		return NULL;
	}
	*t = (struct shared_text){ .refs = 1, .len = len, .data = data };
	return t;
}

struct shared_text *shared_text_ref(struct shared_text *t)
{
	t->refs++;
	return t;
}

void shared_text_unref(struct shared_text *t)
{
	if (!t || --t->refs)
		return;
	free(t->data);
	free(t);
}

void outq_init(struct outq *q)
{
	list_init(&q->chunks);
	q->bytes = 0;
	q->failed = false;
}

static void chunk_free(struct chunk *c)
{
	list_del(&c->link);
	shared_text_unref(c->shared);
	free(c->owned);
	fd_close_many(c->fds, c->n_fds);
	free(c);
}

void outq_deinit(struct outq *q)
{
	while (!list_is_empty(&q->chunks))
		chunk_free(list_entry(q->chunks.next, struct chunk, link));
	q->bytes = 0;
}

static struct chunk *chunk_add(struct outq *q, size_t cap)
{
	struct chunk *c = malloc(sizeof(*c) + cap);

	if (!c) {
		q->failed = true;
		return NULL;
	}
	*c = (struct chunk){ .cap = cap };
	c->data = c->own;
	list_add_tail(&q->chunks, &c->link);
	return c;
}

void outq_append(struct outq *q, const void *data, size_t len)
{
	struct chunk *c = NULL;

	if (q->failed || !len)
		return;
	if (!list_is_empty(&q->chunks))
		c = list_entry(q->chunks.prev, struct chunk, link);
	if (!c || c->data != c->own || c->cap - c->len < len) {
		/* A lone short reply gets what it needs, a stream of them gets whole chunks. */
		size_t cap = c ? CHUNK_BYTES : SMALL_BYTES;

		c = chunk_add(q, MAX_OF(len, cap));
		if (!c)
			return;
	}
	memcpy(c->own + c->len, data, len);
	c->len += len;
	q->bytes += len;
}

void outq_append_take(struct outq *q, char *data, size_t len)
{
	struct chunk *c;

	if (len <= SMALL_BYTES) {
		outq_append(q, data, len);
		free(data);
		return;
	}
	c = q->failed ? NULL : chunk_add(q, 0);
	if (!c) {
		free(data);
		return;
	}
	c->data = c->owned = data;
	c->len = len;
	q->bytes += len;
}

void outq_append_shared(struct outq *q, struct shared_text *t)
{
	struct chunk *c;

	if (t->len <= SMALL_BYTES) {
		outq_append(q, t->data, t->len);
		return;
	}
	c = q->failed ? NULL : chunk_add(q, 0);
	if (!c)
		return;
	c->shared = shared_text_ref(t);
	c->data = t->data;
	c->len = t->len;
	q->bytes += t->len;
}

void outq_attach_fds(struct outq *q, const int *fds, size_t n)
{
	struct chunk *c = q->failed ? NULL : chunk_add(q, SMALL_BYTES);

	for (size_t i = 0; i < n; i++) {
		int fd = fds[i];

		if (c && c->n_fds < OUT_FDS)
			c->fds[c->n_fds++] = fd;
		else
			fd_close_many(&fd, 1);
	}
}

/* Drops n written bytes from the front. */
static void consume(struct outq *q, size_t n)
{
	q->bytes -= n;
	while (!list_is_empty(&q->chunks)) {
		struct chunk *c = list_entry(q->chunks.next, struct chunk, link);
		size_t part = MIN_OF(n, c->len - c->off);

		c->off += part;
		n -= part;
		if (c->off < c->len)
			break;
		chunk_free(c);
	}
}

/* The chunks that can go in one call: those up to the next one with descriptors. */
static int gather(struct outq *q, struct iovec *iov)
{
	struct chunk *c;
	int n = 0;

	list_for_each(c, &q->chunks, link) {
		if (n == MAX_IOV || (n && c->n_fds))
			break;
		iov[n].iov_base = (char *)(uintptr_t)c->data + c->off;
		iov[n++].iov_len = c->len - c->off;
	}
	return n;
}

static ssize_t send_some(struct outq *q, int sock)
{
	struct chunk *first = list_entry(q->chunks.next, struct chunk, link);
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * OUT_FDS)];
	} control = { 0 };
	struct iovec iov[MAX_IOV];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	msg.msg_iovlen = (size_t)gather(q, iov);
	if (first->n_fds) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * first->n_fds);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * first->n_fds);
		memcpy(CMSG_DATA(c), first->fds, sizeof(int) * first->n_fds);
	}
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		fd_close_many(first->fds, first->n_fds);
		first->n_fds = 0;
	}
	return n < 0 ? -errno : n;
}

int outq_write(struct outq *q, int sock)
{
	while (q->bytes) {
		ssize_t n = send_some(q, sock);

		if (n == -EAGAIN || n == -ENOBUFS)
			return 0;
		if (n < 0)
			return (int)n;
		consume(q, (size_t)n);
	}
	return q->failed ? -ENOMEM : 1;
}
