/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A raw image or block device, served by io_uring, or by plain calls in the loop's thread where the
 * kernel does not let us have a ring with restrictions. The file's size never changes: nothing is
 * written at or past bytes. One thread.
 *
 * System calls in that thread: io_uring_enter; preadv2, pwritev2, fdatasync, fallocate (no ring);
 * ioctl BLKDISCARD (block devices without fallocate).
 */
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "devices/ioloop.h"

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
	/* blk-raw.c's own: */
	uint8_t method; /* which way of zeroing, and whether only the sync is left */
	uint32_t piece;
	struct blk_op *next;
};

struct blk_op_list {
	struct blk_op *first, *last;
};

struct blk_raw {
	/* Told of every operation once; error is 0 or a negative errno. -EOPNOTSUPP: the file
	 * cannot do it at all. Called from blk_raw_submit() (there is nothing to do), blk_raw_run()
	 * and blk_raw_stop(). */
	void (*done)(struct blk_raw *r, struct blk_op *op, int error);
	/* Completions wait: call blk_raw_run(). */
	void (*wake)(struct blk_raw *r);

	int fd; /* owned */
	bool is_block, direct, uring;
	uint32_t block_bytes, physical_bytes, memory_align;
	uint64_t bytes;
	struct io_uring ring;
	struct ioloop *loop;
	struct io_watch watch;
	unsigned in_flight, unsubmitted;
	struct blk_op_list queued; /* no ring: to be done in blk_raw_run() */
	uint8_t *bounce;           /* for O_DIRECT and memory that is not aligned for it */
	struct blk_op *bouncing;
	struct blk_op_list bounce_wait;
};

/* Takes fd on success. depth: most operations at a time. allow_uring false: plain calls. Negative
 * errno: not a file or block device, or no memory. */
int blk_raw_init(struct blk_raw *r, int fd, unsigned depth, bool allow_uring);
void blk_raw_deinit(struct blk_raw *r);
int blk_raw_start(struct blk_raw *r, struct ioloop *loop);
/* Waits for all operations, calls done() for each; no watch is left. */
void blk_raw_stop(struct blk_raw *r);
/* Queues op; blk_raw_run() begins it. At most depth at a time. */
void blk_raw_submit(struct blk_raw *r, struct blk_op *op);
/* Begins what is queued with one system call and hands out what is complete. False when the kernel
 * could not take all of it: call again a little later. */
bool blk_raw_run(struct blk_raw *r);
