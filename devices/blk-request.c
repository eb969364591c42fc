/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/virtio-blk-priv.h"

/*
 * From chain to request to chain. A chain that was taken lives in one of the requests of a fixed
 * pool; no chain is taken without one, so what a guest can have in flight is bounded. A request is
 * with the back-end, or held back by a limit; either way request_end() is where each ends, once.
 */

/* virtio 1.2, 5.2.6 */
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};
enum {
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2
};

#define RANGE_UNMAP 1u

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

static void arm_timer(struct virtio_blk *b, uint64_t ns)
{
	struct itimerspec at = { .it_value = { (time_t)(ns / 1000000000u),
		                               (long)(ns % 1000000000u) } };

	if (!ns)
		at.it_value.tv_nsec = 1;
	timerfd_settime(b->timer.fd, 0, &at, NULL);
}

static void request_free(struct virtio_blk *b, struct blk_request *r)
{
	r->next = b->free;
	b->free = r;
}

static void request_end(struct virtio_blk *b, struct blk_request *r, uint8_t status)
{
	struct iostats *s = &b->stats[r->stat];

	if (r->status)
		*r->status = status;
	if (status == S_OK)
		iostats_add(s, r->bytes, now_monotonic_ns() - r->start_ns);
	else
		iostats_add_error(s);
	/* A failed read has written its last byte only, and nothing from the start on. */
	virtqueue_push(&b->d.queues[r->queue], r->head,
	               status == S_OK || r->in_bytes == 1 ? r->in_bytes : 0);
	b->dirty |= 1u << r->queue;
	request_free(b, r);
}

static void request_failed(struct virtio_blk *b, struct blk_request *r, int error)
{
	bool write = r->stat != BLK_STAT_READ;

	if (b->on_error && error != -EOPNOTSUPP)
		b->on_error(b->on_error_arg, write, -error);
	request_end(b, r, error == -EOPNOTSUPP ? S_UNSUPP : S_IOERR);
}

static void submit(struct virtio_blk *b, struct blk_request *r)
{
	bool is_write = r->stat != BLK_STAT_READ;

	if (r->n_ranges) {
		r->op.offset = r->ranges[r->at_range].sector * BLK_SECTOR_BYTES;
		r->op.len = (uint64_t)r->ranges[r->at_range].sectors * BLK_SECTOR_BYTES;
		r->op.unmap = r->ranges[r->at_range].flags & RANGE_UNMAP && b->discard;
	}
	r->op.durable = is_write && b->cache != BLK_CACHE_UNSAFE &&
	                (b->cache == BLK_CACHE_WRITETHROUGH || !atomic_load(&b->writeback));
	blk_backend_submit(b->backend, &r->op);
}

void blk_done(void *arg, struct blk_op *op, int error)
{
	struct virtio_blk *b = arg;
	struct blk_request *r = container_of(op, struct blk_request, op);

	if (error)
		request_failed(b, r, error);
	else if (r->n_ranges && ++r->at_range < r->n_ranges)
		submit(b, r);
	else
		request_end(b, r, S_OK);
}

static void hold(struct virtio_blk *b, struct blk_request *r)
{
	struct blk_held *h = &b->held[r->stat != BLK_STAT_READ];

	r->next = NULL;
	if (h->first)
		h->last->next = r;
	else
		h->first = r;
	h->last = r;
}

/* Limits are for what moves data. */
static void begin(struct virtio_blk *b, struct blk_request *r)
{
	bool write = r->stat != BLK_STAT_READ;
	bool counts = b->limiter.any && r->stat != BLK_STAT_FLUSH;

	if (counts && (b->held[write].first || blk_limiter_wait(&b->limiter, write, r->start_ns))) {
		hold(b, r);
		return;
	}
	if (counts)
		blk_limiter_take(&b->limiter, write, r->bytes);
	submit(b, r);
}

/* Begins what limits allow by now; all of it when the device stops: the debt stays. */
static void release_held(struct virtio_blk *b)
{
	uint64_t now, wait, soonest = UINT64_MAX;

	if (!b->held[0].first && !b->held[1].first)
		return;
	now = now_monotonic_ns();
	for (unsigned write = 0; write < 2; write++) {
		struct blk_held *h = &b->held[write];

		while (h->first) {
			struct blk_request *r = h->first;

			wait = b->stopping ? 0 : blk_limiter_wait(&b->limiter, write, now);
			if (wait) {
				soonest = MIN_OF(soonest, wait);
				break;
			}
			h->first = r->next;
			blk_limiter_take(&b->limiter, write, r->bytes);
			submit(b, r);
		}
	}
	if (soonest != UINT64_MAX)
		arm_timer(b, soonest);
}

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t sectors)
{
	return sector <= b->sectors && sectors <= b->sectors - sector;
}

/* The last writable byte becomes r->status; the data before it stays in iov. */
static unsigned split_status(struct blk_request *r, struct iovec *iov, unsigned n)
{
	while (n && !iov[n - 1].iov_len)
		n--;
	if (!n)
		return 0;
	r->status = (uint8_t *)iov[n - 1].iov_base + --iov[n - 1].iov_len;
	return iov[n - 1].iov_len ? n : n - 1;
}

static void start_data(struct virtio_blk *b, struct blk_request *r, uint64_t sector,
                       struct iovec *iov, unsigned n, uint32_t bytes)
{
	bool write = r->stat == BLK_STAT_WRITE;

	if (bytes % BLK_SECTOR_BYTES || !in_disk(b, sector, bytes / BLK_SECTOR_BYTES) ||
	    (write && b->readonly)) {
		request_end(b, r, S_IOERR);
		return;
	}
	r->op.kind = write ? BLK_OP_WRITE : BLK_OP_READ;
	r->op.offset = sector * BLK_SECTOR_BYTES;
	r->op.len = r->bytes = bytes;
	r->op.iov = iov;
	r->op.n_iov = n;
	begin(b, r);
}

static void start_flush(struct virtio_blk *b, struct blk_request *r)
{
	r->op.kind = BLK_OP_FLUSH;
	r->op.offset = r->op.len = 0;
	if (b->cache == BLK_CACHE_UNSAFE || b->readonly)
		request_end(b, r, S_OK);
	else
		begin(b, r);
}

static void answer_id(struct virtio_blk *b, struct blk_request *r, struct iovec *iov, unsigned n)
{
	iov_from_buf(iov, n, 0, b->serial, BLK_SERIAL_BYTES);
	request_end(b, r, S_OK);
}

/* All ranges are right, or none is touched. The status of the request, S_OK: go on. */
static uint8_t check_ranges(struct virtio_blk *b, struct blk_request *r, bool zeroes)
{
	uint32_t most = zeroes ? BLK_MAX_ZEROES_SECTORS : BLK_MAX_RANGE_SECTORS;

	for (unsigned i = 0; i < r->n_ranges; i++) {
		struct blk_range *g = &r->ranges[i];

		g->sector = le64toh(g->sector);
		g->sectors = le32toh(g->sectors);
		g->flags = le32toh(g->flags);
		if (g->flags & ~(zeroes ? RANGE_UNMAP : 0u))
			return S_UNSUPP;
		if (g->sectors > most || !in_disk(b, g->sector, g->sectors))
			return S_IOERR;
		if (zeroes)
			r->bytes += (uint64_t)g->sectors * BLK_SECTOR_BYTES;
	}
	return S_OK;
}

static void start_ranges(struct virtio_blk *b, struct blk_request *r, bool zeroes,
                         const struct iovec *iov, unsigned n, uint32_t bytes)
{
	uint8_t status;

	r->op.kind = zeroes ? BLK_OP_ZERO : BLK_OP_DISCARD;
	r->stat = zeroes ? BLK_STAT_WRITE : BLK_STAT_DISCARD;
	if (!virtio_has(&b->d, zeroes ? BLK_F_WRITE_ZEROES : BLK_F_DISCARD)) {
		request_end(b, r, S_UNSUPP);
		return;
	}
	if (b->readonly || !bytes || bytes % sizeof(r->ranges[0]) || bytes > sizeof(r->ranges)) {
		request_end(b, r, S_IOERR);
		return;
	}
	r->n_ranges = bytes / sizeof(r->ranges[0]);
	iov_to_buf(iov, n, 0, r->ranges, bytes);
	status = check_ranges(b, r, zeroes);
	if (status == S_OK)
		begin(b, r);
	else
		request_end(b, r, status);
}

/* The header is copied once; after it and the status byte, the rest is data. */
static void start(struct virtio_blk *b, struct blk_request *r, const struct virtq_chain *chain)
{
	struct iovec *out = r->iov, *in = r->iov + chain->n_out;
	unsigned n_out, n_in = split_status(r, in, chain->n_in);
	uint32_t out_bytes = chain->out_bytes - (uint32_t)sizeof(struct header);
	struct header h;

	if (!r->status || iov_to_buf(out, chain->n_out, 0, &h, sizeof(h)) != sizeof(h)) {
		request_end(b, r, S_IOERR);
		return;
	}
	n_out = iov_skip(&out, chain->n_out, sizeof(h));
	switch (le32toh(h.type)) {
	case T_IN:
		start_data(b, r, le64toh(h.sector), in, n_in, chain->in_bytes - 1);
		return;
	case T_OUT:
		r->stat = BLK_STAT_WRITE;
		start_data(b, r, le64toh(h.sector), out, n_out, out_bytes);
		return;
	case T_FLUSH:
		r->stat = BLK_STAT_FLUSH;
		start_flush(b, r);
		return;
	case T_GET_ID:
		answer_id(b, r, in, n_in);
		return;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		start_ranges(b, r, le32toh(h.type) == T_WRITE_ZEROES, out, n_out, out_bytes);
		return;
	default:
		request_end(b, r, S_UNSUPP);
		return;
	}
}

/* Takes chains until there are none, or no free request, or the turn is used up. 0, 1: the queue
 * is to be looked at again, -EBADMSG. */
static int take_chains(struct virtio_blk *b, unsigned q, unsigned *budget)
{
	struct virtqueue *vq = &b->d.queues[q];
	uint64_t now = now_monotonic_ns();

	for (;;) {
		struct blk_request *r = b->free;
		struct virtq_chain chain;
		int ret;

		if (!r || !*budget)
			return 1;
		ret = virtqueue_pop(vq, &chain, r->iov, BLK_MAX_IOV);
		if (ret <= 0)
			return ret;
		b->free = r->next;
		--*budget;
		r->head = chain.head;
		r->queue = (uint8_t)q;
		r->stat = BLK_STAT_READ;
		r->in_bytes = chain.in_bytes;
		r->status = NULL;
		r->bytes = 0;
		r->start_ns = now;
		r->n_ranges = r->at_range = 0;
		start(b, r, &chain);
	}
}

static void serve(struct virtio_blk *b, unsigned q)
{
	struct virtqueue *vq = &b->d.queues[q];
	unsigned budget = 2 * BLK_QUEUE_SIZE;
	int ret;

	if (!b->d.started || !vq->enabled || vq->broken)
		return;
	do {
		virtqueue_disable_kicks(vq);
		ret = take_chains(b, q, &budget);
		if (ret > 0) {
			b->starved |= 1u << q; /* kicks stay off until we look again */
			return;
		}
		if (ret < 0) {
			virtio_needs_reset(&b->d, vq->why_broken);
			return;
		}
	} while (virtqueue_enable_kicks(vq));
}

static void interrupt(struct virtio_blk *b)
{
	uint32_t dirty = b->dirty;

	b->dirty = 0;
	for (; dirty; dirty &= dirty - 1)
		virtqueue_flush(&b->d.queues[__builtin_ctz(dirty)]);
}

/* Begins what was queued, tells the guest what is complete, and looks at queues that waited for a
 * free request; not for ever: other devices of the loop want their turn. */
static void turn(struct virtio_blk *b)
{
	for (unsigned round = 0;; round++) {
		bool taken = blk_backend_run(b->backend);
		uint32_t starved = b->starved;

		release_held(b);
		interrupt(b);
		if (!taken)
			arm_timer(b, 1000000);
		if (!b->d.started)
			return;
		if (starved && b->free && round < 2) {
			b->starved = 0;
			for (; starved; starved &= starved - 1)
				serve(b, (unsigned)__builtin_ctz(starved));
		} else if (blk_backend_is_idle(b->backend)) {
			break;
		}
		if (!b->d.started)
			return;
	}
	if (b->starved && b->free)
		arm_timer(b, 0);
}

void blk_kick(struct virtio_device *d, unsigned queue)
{
	struct virtio_blk *b = container_of(d, struct virtio_blk, d);

	serve(b, queue);
	if (d->started)
		turn(b);
}

void blk_wake(void *arg)
{
	turn(arg);
}

void blk_timer(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_blk *b = container_of(w, struct virtio_blk, timer);
	uint64_t count;

	if (read(w->fd, &count, sizeof(count)) == sizeof(count))
		turn(b);
}

int blk_drain(struct virtio_blk *b)
{
	int r;

	b->stopping = true;
	release_held(b);
	r = blk_backend_stop(b->backend);
	interrupt(b);
	b->stopping = false;
	b->starved = 0;
	return r;
}
