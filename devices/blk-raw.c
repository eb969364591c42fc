/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "devices/blk-backend.h"
#include "devices/virtqueue.h"

#define BOUNCE_BYTES (256u << 10)
#define ZERO_BYTES   (64u << 10)
#define MAX_PIECE    (1u << 30) /* one call's worth: below what read(2) takes at once */

/* Ways to go on when an operation has more than one. */
enum {
	METHOD_FALLOCATE, /* as wished */
	METHOD_WRITE,     /* zeroes as data */
	METHOD_SYNC,      /* done, but for the sync */
};

static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

/* What one system call does of an operation. */
struct piece {
	uint8_t opcode; /* IORING_OP_* */
	struct iovec *iov;
	unsigned n_iov;
	void *buf; /* instead of iov */
	uint64_t offset, len;
	int flags; /* RWF_*, or the mode of fallocate */
};

struct blk_op_list {
	struct blk_op *first, *last;
};

struct blk_raw {
	struct blk_backend b;
	int fd; /* owned */
	bool is_block, direct, uring;
	uint32_t memory_align;
	struct io_uring ring;
	struct ioloop *loop;
	struct io_watch watch;
	unsigned in_flight, unsubmitted;
	uint32_t finished;
	struct blk_op_list queued; /* no ring: to be done in run */
	uint8_t *bounce;           /* for O_DIRECT and memory that is not aligned for it */
	struct blk_op *bouncing;
	struct blk_op_list bounce_wait;
};

static struct blk_raw *of(struct blk_backend *b)
{
	return container_of(b, struct blk_raw, b);
}

static void list_add(struct blk_op_list *l, struct blk_op *op)
{
	op->next = NULL;
	if (l->first)
		l->last->next = op;
	else
		l->first = op;
	l->last = op;
}

static struct blk_op *list_take(struct blk_op_list *l)
{
	struct blk_op *op = l->first;

	if (op)
		l->first = op->next;
	return op;
}

static bool needs_bounce(const struct blk_raw *r, const struct blk_op *op)
{
	uintptr_t bits = 0;

	if (!r->direct)
		return false;
	for (unsigned i = 0; i < op->n_iov; i++)
		bits |= (uintptr_t)op->iov[i].iov_base | op->iov[i].iov_len;
	return bits & (r->memory_align - 1);
}

static void plan_data(struct blk_raw *r, struct blk_op *op, struct piece *p)
{
	bool write = op->kind == BLK_OP_WRITE;

	p->len = MIN_OF(op->len, MAX_PIECE);
	p->flags = write && op->durable ? RWF_DSYNC : 0;
	if (r->bouncing == op) {
		p->buf = r->bounce;
		p->len = MIN_OF(op->len, BOUNCE_BYTES);
		if (write)
			iov_to_buf(op->iov, op->n_iov, 0, r->bounce, p->len);
	} else if (op->n_iov == 1) {
		p->buf = op->iov[0].iov_base;
	} else {
		p->iov = op->iov;
		p->n_iov = op->n_iov;
	}
	if (p->buf)
		p->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
	else
		p->opcode = write ? IORING_OP_WRITEV : IORING_OP_READV;
}

static void plan_range(struct blk_op *op, struct piece *p)
{
	p->len = op->len;
	if (op->method == METHOD_WRITE) {
		p->opcode = IORING_OP_WRITE;
		p->buf = (void *)(uintptr_t)zeroes;
		p->len = MIN_OF(op->len, ZERO_BYTES);
		return;
	}
	p->opcode = IORING_OP_FALLOCATE;
	p->flags = FALLOC_FL_KEEP_SIZE;
	if (op->kind == BLK_OP_ZERO && !op->unmap)
		p->flags |= FALLOC_FL_ZERO_RANGE;
	else
		p->flags |= FALLOC_FL_PUNCH_HOLE;
}

static struct piece plan(struct blk_raw *r, struct blk_op *op)
{
	struct piece p = { .offset = op->offset };

	if (op->kind == BLK_OP_FLUSH || op->method == METHOD_SYNC)
		p.opcode = IORING_OP_FSYNC;
	else if (op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE)
		plan_data(r, op, &p);
	else
		plan_range(op, &p);
	return p;
}

/* The piece by a plain call; the result as a completion would have it. */
static int do_piece(const struct blk_raw *r, const struct piece *p)
{
	struct iovec one = { p->buf, p->len };
	const struct iovec *iov = p->buf ? &one : p->iov;
	int n = p->buf ? 1 : (int)p->n_iov;
	ssize_t res;

	if (p->opcode == IORING_OP_FSYNC)
		res = fdatasync(r->fd);
	else if (p->opcode == IORING_OP_FALLOCATE)
		res = fallocate(r->fd, p->flags, (off_t)p->offset, (off_t)p->len);
	else if (p->opcode == IORING_OP_READ || p->opcode == IORING_OP_READV)
		res = preadv2(r->fd, iov, n, (off_t)p->offset, 0);
	else
		res = pwritev2(r->fd, iov, n, (off_t)p->offset, p->flags);
	return res < 0 ? -errno : (int)res;
}

static void push_piece(struct blk_raw *r, struct blk_op *op, const struct piece *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	assert(sqe); /* depth bounds the operations, and each has one piece under way */
	if (p->opcode == IORING_OP_FSYNC)
		io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
	else if (p->opcode == IORING_OP_FALLOCATE)
		io_uring_prep_fallocate(sqe, r->fd, p->flags, (off_t)p->offset, (off_t)p->len);
	else if (p->buf)
		io_uring_prep_rw(p->opcode, sqe, r->fd, p->buf, (unsigned)p->len, p->offset);
	else
		io_uring_prep_rw(p->opcode, sqe, r->fd, p->iov, p->n_iov, p->offset);
	if (p->opcode == IORING_OP_WRITE || p->opcode == IORING_OP_WRITEV)
		sqe->rw_flags = p->flags;
	io_uring_sqe_set_data(sqe, op);
	r->unsubmitted++;
}

static void step(struct blk_raw *r, struct blk_op *op)
{
	struct piece p;

	if (!r->uring) {
		list_add(&r->queued, op);
		return;
	}
	p = plan(r, op);
	op->piece = (uint32_t)p.len;
	push_piece(r, op, &p);
}

static void next_bounce(struct blk_raw *r)
{
	r->bouncing = list_take(&r->bounce_wait);
	if (r->bouncing)
		step(r, r->bouncing);
}

static void finish(struct blk_raw *r, struct blk_op *op, int error)
{
	r->in_flight--;
	r->finished++;
	if (r->bouncing == op)
		next_bounce(r);
	r->b.done(r->b.arg, op, error);
}

/* The range is done; a durable one still needs a sync. */
static void range_done(struct blk_raw *r, struct blk_op *op)
{
	if (!op->durable) {
		finish(r, op, 0);
		return;
	}
	op->method = METHOD_SYNC;
	step(r, op);
}

static void data_result(struct blk_raw *r, struct blk_op *op, int res)
{
	if (res == 0 || (uint64_t)res > op->len) {
		/* The file has become shorter than it was. */
		finish(r, op, -EIO);
		return;
	}
	if (op->kind == BLK_OP_READ && r->bouncing == op)
		iov_from_buf(op->iov, op->n_iov, 0, r->bounce, (size_t)res);
	op->offset += (uint64_t)res;
	op->len -= (uint64_t)res;
	if (op->len && (op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE))
		op->n_iov = iov_skip(&op->iov, op->n_iov, (size_t)res);
	if (op->len)
		step(r, op);
	else if (op->kind == BLK_OP_ZERO)
		range_done(r, op);
	else
		finish(r, op, 0);
}

/* A range that the file system cannot do as asked: the next way, if there is one. */
static void range_unsupported(struct blk_raw *r, struct blk_op *op)
{
	uint64_t range[2] = { op->offset, op->len };

	if (op->kind == BLK_OP_ZERO) {
		op->method = METHOD_WRITE;
		step(r, op);
	} else if (!r->is_block) {
		finish(r, op, -EOPNOTSUPP);
	} else if (ioctl(r->fd, BLKDISCARD, range) < 0) {
		finish(r, op, -errno);
	} else {
		range_done(r, op);
	}
}

static void result(struct blk_raw *r, struct blk_op *op, int res)
{
	bool range = op->kind == BLK_OP_DISCARD || op->kind == BLK_OP_ZERO;

	if (res == -EINTR || res == -EAGAIN)
		step(r, op);
	else if (op->kind == BLK_OP_FLUSH || op->method == METHOD_SYNC)
		finish(r, op, res < 0 ? res : 0);
	else if (res == -EOPNOTSUPP && range && op->method != METHOD_WRITE)
		range_unsupported(r, op);
	else if (res < 0)
		finish(r, op, res);
	else if (range && op->method != METHOD_WRITE)
		range_done(r, op);
	else
		data_result(r, op, res);
}

static void raw_submit(struct blk_backend *b, struct blk_op *op)
{
	struct blk_raw *r = of(b);
	uint64_t align = op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE ? r->b.block_bytes : 1;

	assert(op->offset <= r->b.bytes && op->len <= r->b.bytes - op->offset);
	r->in_flight++;
	op->method = METHOD_FALLOCATE;
	if ((op->kind != BLK_OP_FLUSH && !op->len) ||
	    (r->direct && ((op->offset | op->len) & (align - 1)))) {
		/* Nothing to do, or what O_DIRECT cannot do: the block size was told. */
		finish(r, op, op->len ? -EINVAL : 0);
		return;
	}
	if ((op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE) && needs_bounce(r, op)) {
		if (!r->bounce && posix_memalign((void **)&r->bounce, 4096, BOUNCE_BYTES)) {
			finish(r, op, -ENOMEM);
			return;
		}
		if (r->bouncing) {
			list_add(&r->bounce_wait, op);
			return;
		}
		r->bouncing = op;
	}
	step(r, op);
}

static unsigned reap(struct blk_raw *r)
{
	struct io_uring_cqe *cqes[32];
	unsigned n, total = 0;

	while ((n = io_uring_peek_batch_cqe(&r->ring, cqes, ARRAY_SIZE(cqes)))) {
		for (unsigned i = 0; i < n; i++) {
			struct blk_op *op = io_uring_cqe_get_data(cqes[i]);
			int res = cqes[i]->res;

			result(r, op, res);
		}
		io_uring_cq_advance(&r->ring, n);
		total += n;
	}
	return total;
}

static void run_plain(struct blk_raw *r)
{
	struct blk_op *op;

	while ((op = list_take(&r->queued))) {
		struct piece p = plan(r, op);

		result(r, op, do_piece(r, &p));
	}
}

static bool raw_run(struct blk_backend *b)
{
	struct blk_raw *r = of(b);
	unsigned refused = 0;

	if (!r->uring) {
		run_plain(r);
		return true;
	}
	do {
		int n = r->unsubmitted ? io_uring_submit(&r->ring) : 0;

		if (n > 0)
			r->unsubmitted -= (unsigned)n;
		if (reap(r))
			refused = 0;
		else if (n < 0 && n != -EINTR && ++refused > 1)
			return false; /* the kernel is short of memory */
	} while (r->unsubmitted);
	return true;
}

static void on_ring(struct io_watch *w, uint32_t events UNUSED)
{
	struct blk_raw *r = container_of(w, struct blk_raw, watch);

	r->b.wake(r->b.arg);
}

static int raw_start(struct blk_backend *b, struct ioloop *loop)
{
	struct blk_raw *r = of(b);

	r->loop = loop;
	if (!r->uring)
		return 0;
	/* The ring's own descriptor is readable while completions wait: no eventfd to write and
	 * read for each of them. */
	r->watch = (struct io_watch){ .fd = r->ring.ring_fd, .ready = on_ring };
	return ioloop_watch(loop, &r->watch, EPOLLIN);
}

/* What was written is in the file, by the kernel's word, before it is durable. */
static int raw_stop(struct blk_backend *b)
{
	struct blk_raw *r = of(b);

	while (r->in_flight) {
		if (raw_run(b) && r->in_flight) {
			io_uring_submit_and_wait(&r->ring, 1);
			reap(r);
		}
	}
	if (r->loop && r->uring)
		ioloop_unwatch(r->loop, &r->watch);
	r->loop = NULL;
	return 0;
}

static bool raw_settle(struct blk_backend *b, uint32_t *ret_progress)
{
	*ret_progress = of(b)->finished;
	return !of(b)->in_flight;
}

static bool raw_is_idle(const struct blk_backend *b)
{
	const struct blk_raw *r = container_of(b, struct blk_raw, b);

	return !r->unsubmitted && !r->queued.first;
}

/* liburing 2.3 declares functions for these two and does not export them. */
static int ring_register(struct io_uring *ring, unsigned opcode, void *arg, unsigned n)
{
	return syscall(__NR_io_uring_register, ring->ring_fd, opcode, arg, n) < 0 ? -errno : 0;
}

/*
 * Only what this file uses. The disk is not registered with the ring: the kernel lets go of
 * registered files some time after the process has ended, and until then the disk's lock would
 * stay.
 */
static int restrict_ring(struct io_uring *ring)
{
	static const uint8_t opcodes[] = { IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
		                           IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	struct io_uring_restriction res[ARRAY_SIZE(opcodes) + 1] = { 0 };
	unsigned n = 0;

	for (; n < ARRAY_SIZE(opcodes); n++) {
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n].sqe_op = opcodes[n];
	}
	res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
	res[n++].register_op = IORING_REGISTER_ENABLE_RINGS;
	return ring_register(ring, IORING_REGISTER_RESTRICTIONS, res, n);
}

static bool init_ring(struct blk_raw *r, unsigned depth)
{
	struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED |
		                                   IORING_SETUP_COOP_TASKRUN };

	if (io_uring_queue_init_params(depth, &r->ring, &params) < 0) {
		/* Before Linux 5.19 completions interrupt the thread. */
		params = (struct io_uring_params){ .flags = IORING_SETUP_R_DISABLED };
		if (io_uring_queue_init_params(depth, &r->ring, &params) < 0)
			return false;
	}
	if (restrict_ring(&r->ring) < 0 ||
	    ring_register(&r->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
		io_uring_queue_exit(&r->ring);
		return false;
	}
	return true;
}

/* What O_DIRECT wants of this file; told by the kernel since Linux 6.1. */
static void direct_alignment(struct blk_raw *r)
{
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!r->is_block && !statx(r->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) &&
	    stx.stx_mask & STATX_DIOALIGN && stx.stx_dio_offset_align) {
		r->b.block_bytes = MAX_OF(stx.stx_dio_offset_align, 512u);
		r->memory_align = MAX_OF(stx.stx_dio_mem_align, 1u);
		return;
	}
#endif
	r->memory_align = r->b.block_bytes;
}

static int measure(struct blk_raw *r)
{
	struct stat st;
	int flags = fcntl(r->fd, F_GETFL), size = 512;
	unsigned physical = 0;

	if (flags < 0 || fstat(r->fd, &st) < 0)
		return -errno;
	r->is_block = S_ISBLK(st.st_mode);
	r->direct = flags & O_DIRECT;
	if (r->is_block) {
		if (ioctl(r->fd, BLKGETSIZE64, &r->b.bytes) < 0 ||
		    ioctl(r->fd, BLKSSZGET, &size) < 0)
			return -errno;
		ioctl(r->fd, BLKPBSZGET, &physical);
	} else if (S_ISREG(st.st_mode)) {
		r->b.bytes = (uint64_t)st.st_size;
		physical = (unsigned)st.st_blksize;
	} else {
		return -EINVAL;
	}
	r->b.block_bytes = (uint32_t)size;
	if (r->direct)
		direct_alignment(r);
	if (r->b.block_bytes & (r->b.block_bytes - 1) || r->memory_align & (r->memory_align - 1))
		return -EINVAL;
	r->b.physical_bytes = MAX_OF(physical, r->b.block_bytes);
	return 0;
}

static void raw_free(struct blk_backend *b)
{
	struct blk_raw *r = of(b);

	if (r->uring)
		io_uring_queue_exit(&r->ring);
	free(r->bounce);
	cleanup_close_p(&r->fd);
	free(r);
}

static const struct blk_backend_ops raw_ops = {
	.start = raw_start,
	.stop = raw_stop,
	.settle = raw_settle,
	.submit = raw_submit,
	.run = raw_run,
	.is_idle = raw_is_idle,
	.free = raw_free,
};

int blk_raw_new(int fd, unsigned depth, bool allow_uring, struct blk_backend **ret)
{
	struct blk_raw *r = calloc(1, sizeof(*r));
	int result;

	if (!r)
		return -ENOMEM;
	r->b.ops = &raw_ops;
	r->fd = fd;
	result = measure(r);
	if (result < 0) {
		free(r);
		return result;
	}
	r->uring = allow_uring && init_ring(r, depth);
	*ret = &r->b;
	return 0;
}
