/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/blk-limits.h"

#include "common/macros.h"

/* The buckets that count reads, and those that count writes. */
static const enum blk_limit counted[2][4] = {
	{ BLK_LIMIT_BYTES, BLK_LIMIT_READ_BYTES, BLK_LIMIT_OPS, BLK_LIMIT_READ_OPS },
	{ BLK_LIMIT_BYTES, BLK_LIMIT_WRITE_BYTES, BLK_LIMIT_OPS, BLK_LIMIT_WRITE_OPS },
};

void blk_limiter_init(struct blk_limiter *l, const struct io_limits *limits, uint64_t now_ns)
{
	const uint64_t rates[_BLK_LIMIT_MAX] = {
		[BLK_LIMIT_BYTES] = limits->bytes_per_s,
		[BLK_LIMIT_OPS] = limits->ops_per_s,
		[BLK_LIMIT_READ_BYTES] = limits->read_bytes_per_s,
		[BLK_LIMIT_READ_OPS] = limits->read_ops_per_s,
		[BLK_LIMIT_WRITE_BYTES] = limits->write_bytes_per_s,
		[BLK_LIMIT_WRITE_OPS] = limits->write_ops_per_s,
	};

	l->any = false;
	for (unsigned i = 0; i < _BLK_LIMIT_MAX; i++) {
		bucket_init(&l->buckets[i], rates[i], now_ns);
		l->any = l->any || rates[i];
	}
}

uint64_t blk_limiter_wait(struct blk_limiter *l, bool write, uint64_t now_ns)
{
	uint64_t longest = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(counted[0]); i++) {
		uint64_t ns = bucket_wait(&l->buckets[counted[write][i]], now_ns);

		longest = MAX_OF(longest, ns);
	}
	return longest;
}

void blk_limiter_take(struct blk_limiter *l, bool write, uint64_t bytes)
{
	for (unsigned i = 0; i < ARRAY_SIZE(counted[0]); i++)
		bucket_take(&l->buckets[counted[write][i]], i < 2 ? bytes : 1);
}
