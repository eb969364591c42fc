/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What serves the operations of a disk: a raw file (blk-raw.c), or another process (blk-remote.c).
 * The disk's size never changes, and no operation leaves it. One thread, the device's loop, or
 * whoever has it while the loop stands.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "devices/ioloop.h"

struct guestmem;

enum blk_op_kind {
	BLK_OP_READ,
	BLK_OP_WRITE,
	BLK_OP_FLUSH,
	BLK_OP_DISCARD, /* contents become undefined */
	BLK_OP_ZERO,    /* contents become zeroes */
};

/* One operation; the caller's memory until done() is called for it. */
struct blk_op {
	enum blk_op_kind kind;
	bool durable; /* done() only after the data is on stable storage */
	bool unmap;   /* BLK_OP_ZERO may give the blocks back */
	uint64_t offset, len;
	struct iovec *iov; /* used up while it proceeds */
	unsigned n_iov;
	/* The back-end's own: */
	uint8_t method; /* which way of zeroing, and whether only the sync is left */
	uint32_t piece;
	struct blk_op *next;
};

struct blk_backend;

struct blk_backend_ops {
	int (*start)(struct blk_backend *b, struct ioloop *loop);
	int (*stop)(struct blk_backend *b);
	bool (*settle)(struct blk_backend *b, uint32_t *ret_progress);
	void (*submit)(struct blk_backend *b, struct blk_op *op);
	bool (*run)(struct blk_backend *b);
	bool (*is_idle)(const struct blk_backend *b);
	void (*free)(struct blk_backend *b);
};

struct blk_backend {
	const struct blk_backend_ops *ops;
	uint64_t bytes;
	uint32_t block_bytes, physical_bytes; /* powers of two */
	/* The owner's, set before start. Told of every operation once; error is 0 or a negative
	 * errno. -EOPNOTSUPP: it cannot be done at all. Called from submit (there is nothing to
	 * do), run and stop, and from the loop when the back-end is lost. */
	void (*done)(void *arg, struct blk_op *op, int error);
	/* Completions wait: call run. */
	void (*wake)(void *arg);
	void *arg;
};

static inline int blk_backend_start(struct blk_backend *b, struct ioloop *loop)
{
	return b->ops->start(b, loop);
}

/* Waits for all operations, calls done() for each; no watch is left. 0, or negative errno: what was
 * written before is perhaps not in the disk's file, where a copy of the file would find it. */
static inline int blk_backend_stop(struct blk_backend *b)
{
	return b->ops->stop(b);
}

/*
 * Works towards what stop waits for, without waiting: true when stop has nothing to wait for.
 * *ret_progress changes when operations end. Between start and stop.
 */
static inline bool blk_backend_settle(struct blk_backend *b, uint32_t *ret_progress)
{
	return b->ops->settle(b, ret_progress);
}

/* Queues op; run begins it. At most as many at a time as was told when it was made. */
static inline void blk_backend_submit(struct blk_backend *b, struct blk_op *op)
{
	b->ops->submit(b, op);
}

/* Begins what is queued, at one go, and hands out what is complete. False when the kernel could not
 * take all of it: call again a little later. */
static inline bool blk_backend_run(struct blk_backend *b)
{
	return b->ops->run(b);
}

/* Nothing is queued that run would begin. */
static inline bool blk_backend_is_idle(const struct blk_backend *b)
{
	return b->ops->is_idle(b);
}

/* Stopped, or never started. Returns NULL; NULL is fine. */
static inline struct blk_backend *blk_backend_free(struct blk_backend *b)
{
	if (b)
		b->ops->free(b);
	return NULL;
}

/*
 * A raw image or block device, served by io_uring, or by plain calls in the loop's thread where
 * allow_uring is false or the kernel does not let us have a ring with restrictions. Takes fd on
 * success. depth: most operations at a time. Negative errno: not a file or block device, or no
 * memory.
 *
 * System calls in that thread: io_uring_enter; preadv2, pwritev2, fdatasync, fallocate (no ring);
 * ioctl BLKDISCARD (block devices without fallocate).
 */
int blk_raw_new(int fd, unsigned depth, bool allow_uring, struct blk_backend **ret);

struct blk_remote_config {
	int fd;                     /* connected to the other process; taken on success */
	const struct guestmem *mem; /* where the data of operations is, and nowhere else */
	int memory_fd;        /* all of it, mapped shared, one region after the other (borrowed) */
	unsigned depth;       /* most operations at a time: a power of two, at most 256 */
	unsigned most_iov;    /* most parts of an operation, at most 128 */
	unsigned patience_ms; /* for an operation, when the device stops; 0: 30 s */
};
/*
 * A disk that another process serves by the vhost-user protocol (qemu-storage-daemon). We are the
 * driver of its virtio-blk device, with a ring of our own, which the guest cannot see. When the
 * other process is gone, answers what makes no sense, or does not answer while the device stops,
 * the disk is lost: all its operations fail with -ENOTCONN, from then on at once.
 * Waits for it, up to 5 s for each answer: -EIO. -ENOTSUP when it cannot do what is needed.
 *
 * System calls in the loop's thread: read, write (eventfds); poll (stop); shutdown (lost).
 */
int blk_remote_new(const struct blk_remote_config *c, struct blk_backend **ret);
