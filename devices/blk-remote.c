/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/blk-remote-priv.h"
#include "devices/virtqueue.h"

/*
 * Why a ring of our own, and not the guest's: what the guest sees is the same device as of a raw
 * disk, with its serial number, limits and statistics; requests reach the other process checked,
 * and only well-formed; and when that process is gone, each request gets its error, while a ring
 * that nobody serves any more would leave the guest waiting for ever. It costs one more wake-up of
 * a thread for each batch.
 *
 * Every operation has a slot of the shared area, with the same number as its descriptor in the
 * ring: there lie the request's header, its status byte, and the table of its parts. The parts
 * themselves are in the guest's memory. All that the other process can write to is in the shared
 * area and in the guest's memory, so nothing is taken from there but the used ring and the status
 * byte, each read once and checked.
 */

#define MAX_PIECE   (1u << 30) /* bytes of one request */
#define PATIENCE_MS 30000u
#define LOST        (-ENOTCONN) /* the error of all operations then */
#define RANGE_UNMAP 1u

/* virtio 1.2, 5.2.6 */
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};
enum {
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
	S_NONE = 0xff,
};

enum {
	METHOD_ALL, /* as asked */
	METHOD_SYNC /* done, but for the flush */
};

static struct blk_remote *of(struct blk_backend *b)
{
	return container_of(b, struct blk_remote, b);
}

static void finish(struct blk_remote *r, struct blk_op *op, int error)
{
	if (op != &r->settle) {
		r->b.done(r->b.arg, op, error);
		return;
	}
	r->settling = false;
	r->settle_failed = error != 0;
}

/* ---- a request ---- */

static void put_part(struct slot *s, unsigned *n, const void *at, uint32_t len, bool write)
{
	if (*n)
		s->table[*n - 1].flags |= VRING_DESC_F_NEXT;
	s->table[*n] = (struct vring_desc){ .addr = (uintptr_t)at,
		                            .len = len,
		                            .flags = write ? VRING_DESC_F_WRITE : 0,
		                            .next = (uint16_t)(*n + 1) };
	++*n;
}

/* As much of the data as one request takes; its bytes. */
static uint32_t put_data(struct slot *s, unsigned *n, const struct blk_op *op)
{
	uint32_t left = (uint32_t)MIN_OF(op->len, (uint64_t)MAX_PIECE), total = left;

	for (unsigned i = 0; i < op->n_iov && left; i++) {
		uint32_t len = (uint32_t)MIN_OF(op->iov[i].iov_len, (size_t)left);

		if (len)
			put_part(s, n, op->iov[i].iov_base, len, op->kind == BLK_OP_READ);
		left -= len;
	}
	return total - left;
}

static uint32_t put_range(struct blk_remote *r, struct slot *s, unsigned *n,
                          const struct blk_op *op)
{
	uint32_t most = op->kind == BLK_OP_ZERO ? r->most_zeroes : r->most_discard;
	uint32_t sectors = (uint32_t)MIN_OF(op->len / SECTOR, (uint64_t)most);

	s->range.sector = op->offset / SECTOR;
	s->range.sectors = sectors;
	s->range.flags = op->kind == BLK_OP_ZERO && op->unmap ? RANGE_UNMAP : 0;
	put_part(s, n, &s->range, sizeof(s->range), false);
	return sectors * SECTOR;
}

static uint32_t request_type(const struct blk_op *op)
{
	static const uint32_t types[] = { [BLK_OP_READ] = T_IN,
		                          [BLK_OP_WRITE] = T_OUT,
		                          [BLK_OP_FLUSH] = T_FLUSH,
		                          [BLK_OP_DISCARD] = T_DISCARD,
		                          [BLK_OP_ZERO] = T_WRITE_ZEROES };

	return op->method == METHOD_SYNC ? T_FLUSH : types[op->kind];
}

/* Puts the next request of an operation into the ring; run shows it to the other process. */
static void step(struct blk_remote *r, struct blk_op *op)
{
	uint32_t type = request_type(op);
	uint16_t id = r->free[--r->n_free];
	struct slot *s = &r->area->slots[id];
	unsigned n = 0;

	s->header.type = type;
	s->header.reserved = 0;
	s->header.sector = type == T_IN || type == T_OUT ? op->offset / SECTOR : 0;
	s->status = S_NONE;
	put_part(s, &n, &s->header, sizeof(s->header), false);
	if (type == T_FLUSH)
		op->piece = r->writes;
	else if (type == T_IN || type == T_OUT)
		op->piece = put_data(s, &n, op);
	else
		op->piece = put_range(r, s, &n, op);
	put_part(s, &n, &s->status, 1, true);
	r->area->desc[id] = (struct vring_desc){ .addr = (uintptr_t)s->table,
		                                 .len = n * (uint32_t)sizeof(s->table[0]),
		                                 .flags = VRING_DESC_F_INDIRECT };
	r->area->avail.ring[r->avail++ % r->depth] = id;
	r->ops[id] = op;
	r->in_ring++;
}

static void step_or_fail(struct blk_remote *r, struct blk_op *op)
{
	if (r->peer.dead)
		finish(r, op, LOST);
	else
		step(r, op);
}

/* A request is done; the operation perhaps not. */
static void go_on(struct blk_remote *r, struct blk_op *op)
{
	bool flush = op->kind == BLK_OP_FLUSH || op->method == METHOD_SYNC;

	if (flush) {
		r->flushed = op->piece;
		finish(r, op, 0);
		return;
	}
	op->offset += op->piece;
	op->len -= op->piece;
	if (op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE)
		op->n_iov = iov_skip(&op->iov, op->n_iov, op->piece);
	if (op->kind != BLK_OP_READ)
		r->writes++;
	if (!op->len && op->durable)
		op->method = METHOD_SYNC;
	if (op->len || op->durable)
		step_or_fail(r, op);
	else
		finish(r, op, 0);
}

static void remote_submit(struct blk_backend *b, struct blk_op *op)
{
	struct blk_remote *r = of(b);

	assert(op->offset <= b->bytes && op->len <= b->bytes - op->offset);
	assert(op->n_iov <= r->most_iov || op->kind > BLK_OP_WRITE);
	op->method = METHOD_ALL;
	if (op->kind != BLK_OP_FLUSH && !op->len)
		finish(r, op, 0);
	else if ((op->kind == BLK_OP_DISCARD && !r->most_discard) ||
	         (op->kind == BLK_OP_ZERO && !r->most_zeroes))
		finish(r, op, -EOPNOTSUPP);
	else
		step_or_fail(r, op);
}

/* ---- the ring ---- */

/* The disk is lost. Whatever comes back from the other process now is not looked at. */
static void give_up(struct blk_remote *r)
{
	vhost_user_kill(&r->peer);
	for (unsigned id = 0; id < r->depth; id++) {
		struct blk_op *op = r->ops[id];

		if (!op)
			continue;
		r->ops[id] = NULL;
		r->in_ring--;
		finish(r, op, LOST);
	}
}

static void take_back(struct blk_remote *r, uint32_t id)
{
	struct blk_op *op = r->ops[id];
	uint8_t status = *(volatile uint8_t *)&r->area->slots[id].status;

	r->ops[id] = NULL;
	r->in_ring--;
	r->free[r->n_free++] = (uint16_t)id;
	if (status == S_OK)
		go_on(r, op);
	else
		finish(r, op, status == S_UNSUPP ? -EOPNOTSUPP : -EIO);
}

static void reap(struct blk_remote *r)
{
	/* Pairs with the other process's release: data and status are written. */
	uint16_t idx = atomic_load_explicit(&r->area->used.idx, memory_order_acquire);

	if (r->peer.dead)
		return;
	if ((uint16_t)(idx - r->used) > r->in_ring) {
		give_up(r);
		return;
	}
	while (r->used != idx) {
		uint32_t id = *(volatile uint32_t *)&r->area->used.ring[r->used++ % r->depth].id;

		if (id >= r->depth || !r->ops[id]) {
			give_up(r);
			return;
		}
		take_back(r, id);
	}
}

static void publish(struct blk_remote *r)
{
	if (r->published == r->avail)
		return;
	r->published = r->avail;
	atomic_store_explicit(&r->area->avail.idx, r->avail, memory_order_release);
	/* The index before the look at the flags, as the other side has it (2.7.13.4.1). */
	atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load_explicit(&r->area->used.flags, memory_order_relaxed) &
	      VRING_USED_F_NO_NOTIFY))
		(void)eventfd_write(r->kick_fd, 1);
}

static bool remote_run(struct blk_backend *b)
{
	struct blk_remote *r = of(b);

	do {
		publish(r);
		reap(r);
	} while (!r->peer.dead && r->published != r->avail);
	return true;
}

static bool remote_is_idle(const struct blk_backend *b)
{
	const struct blk_remote *r = container_of(b, struct blk_remote, b);

	return r->peer.dead || r->published == r->avail;
}

/* ---- the loop ---- */

void blk_remote_on_call(struct io_watch *w, uint32_t events UNUSED)
{
	struct blk_remote *r = container_of(w, struct blk_remote, call);
	eventfd_t count;

	(void)eventfd_read(w->fd, &count);
	r->b.wake(r->b.arg);
}

static void unwatch_connection(struct blk_remote *r)
{
	if (r->connection.fd >= 0)
		ioloop_unwatch(r->loop, &r->connection);
	r->connection.fd = -EBADF;
}

/* Nothing is asked any more, so what comes is its end, or no answer to anything. What it completed
 * before it ended is taken first. */
void blk_remote_on_connection(struct io_watch *w, uint32_t events UNUSED)
{
	struct blk_remote *r = container_of(w, struct blk_remote, connection);

	unwatch_connection(r);
	reap(r);
	give_up(r);
	r->b.wake(r->b.arg);
}

static int remote_start(struct blk_backend *b, struct ioloop *loop)
{
	struct blk_remote *r = of(b);
	int ret = ioloop_watch(loop, &r->call, EPOLLIN);

	if (ret < 0)
		return ret;
	r->loop = loop;
	if (r->peer.dead)
		return 0;
	r->connection.fd = r->peer.fd;
	ret = ioloop_watch(loop, &r->connection, EPOLLIN | EPOLLRDHUP);
	if (ret < 0) {
		r->connection.fd = -EBADF;
		ioloop_unwatch(loop, &r->call);
		r->loop = NULL;
	}
	return ret;
}

/* Until something happened, or patience is at its end: then the disk is lost. */
static void wait_for(struct blk_remote *r, uint64_t deadline)
{
	struct pollfd p[2] = { { .fd = r->call.fd, .events = POLLIN },
		               { .fd = r->peer.fd, .events = POLLIN | POLLRDHUP } };
	uint64_t now = now_monotonic_us();
	eventfd_t count;
	int n = 0;

	if (now < deadline)
		n = poll(p, 2, (int)((deadline - now) / 1000) + 1);
	if (n < 0 && errno == EINTR)
		return;
	(void)eventfd_read(r->call.fd, &count);
	reap(r);
	if (n <= 0 || p[1].revents)
		give_up(r);
}

/* As long as requests are answered, it goes on. */
static void drain(struct blk_remote *r)
{
	uint64_t patience = (r->patience_ms ? r->patience_ms : PATIENCE_MS) * (uint64_t)1000;
	uint64_t deadline = now_monotonic_us() + patience;

	while (r->in_ring) {
		uint16_t used = r->used;

		(void)remote_run(&r->b);
		if (r->in_ring && r->used == used)
			wait_for(r, deadline);
		if (r->used != used)
			deadline = now_monotonic_us() + patience;
	}
}

/*
 * The other process keeps tables of the image in its memory. A flush brings them to the file, so
 * that the file can be copied now, and nothing is lost should that process end; as QEMU does when
 * it stops its guest.
 */
static void begin_settling(struct blk_remote *r)
{
	r->settle = (struct blk_op){ .kind = BLK_OP_FLUSH };
	r->settling = true;
	step_or_fail(r, &r->settle);
}

static bool remote_settle(struct blk_backend *b, uint32_t *ret_progress)
{
	struct blk_remote *r = of(b);

	*ret_progress = r->used;
	if (r->peer.dead)
		return true;
	if (r->in_ring)
		return false;
	/* What failed is told by the stop, which tries once more. */
	if (r->writes == r->flushed || r->settle_failed) {
		r->settle_failed = false;
		return true;
	}
	begin_settling(r);
	(void)remote_run(b);
	return false;
}

static int remote_stop(struct blk_backend *b)
{
	struct blk_remote *r = of(b);
	int ret;

	drain(r);
	if (r->writes != r->flushed) {
		begin_settling(r);
		drain(r);
		assert(!r->settling);
	}
	ret = r->writes == r->flushed ? 0 : -EIO;
	r->settle_failed = false;
	if (r->loop) {
		unwatch_connection(r);
		ioloop_unwatch(r->loop, &r->call);
	}
	r->loop = NULL;
	return ret;
}

static void remote_free(struct blk_backend *b)
{
	struct blk_remote *r = of(b);

	vhost_user_deinit(&r->peer);
	if (r->area)
		(void)munmap(r->area, sizeof(*r->area));
	cleanup_close_p(&r->area_fd);
	cleanup_close_p(&r->kick_fd);
	cleanup_close_p(&r->call.fd);
	free(r);
}

const struct blk_backend_ops blk_remote_ops = {
	.start = remote_start,
	.stop = remote_stop,
	.settle = remote_settle,
	.submit = remote_submit,
	.run = remote_run,
	.is_idle = remote_is_idle,
	.free = remote_free,
};
