/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The limits of a disk: which requests may go now. One thread; times are monotonic nanoseconds. */
#include "devices/bucket.h"
#include "devices/models.h"

enum blk_limit {
	BLK_LIMIT_BYTES,
	BLK_LIMIT_OPS,
	BLK_LIMIT_READ_BYTES,
	BLK_LIMIT_READ_OPS,
	BLK_LIMIT_WRITE_BYTES,
	BLK_LIMIT_WRITE_OPS,
	_BLK_LIMIT_MAX
};

struct blk_limiter {
	bool any;
	struct bucket buckets[_BLK_LIMIT_MAX];
};

void blk_limiter_init(struct blk_limiter *l, const struct io_limits *limits, uint64_t now_ns);
/* 0 when a read (or write) may go now, else the nanoseconds to wait. */
uint64_t blk_limiter_wait(struct blk_limiter *l, bool write, uint64_t now_ns);
void blk_limiter_take(struct blk_limiter *l, bool write, uint64_t bytes);
