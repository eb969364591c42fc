/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>

#include "devices/bucket.h"

TestSuite(bucket, .timeout = 10);

Test(bucket, rate)
{
	struct bucket b;

	bucket_init(&b, 10, 1000);
	cr_assert_eq(bucket_wait(&b, 1000), 0);
	bucket_take(&b, 25);
	/* 15 in debt at 10 a second: 1.6 s until it is above zero. */
	cr_assert_eq(bucket_wait(&b, 1000), 1600000000);
	cr_assert_eq(bucket_wait(&b, 1000 + 1599999999), 1);
	cr_assert_eq(bucket_wait(&b, 1000 + 1600000000), 0);
	/* Asking often does not lose time. */
	bucket_take(&b, 1);
	for (uint64_t t = 0; t < 100000000; t += 999983)
		cr_assert_gt(bucket_wait(&b, 1600001000 + t), 0);
	cr_assert_eq(bucket_wait(&b, 1700001000), 0);
	/* Never more than a second's worth. */
	cr_assert_eq(bucket_wait(&b, 1ull << 60), 0);
	cr_assert_eq(b.level, 10);
}

Test(bucket, extremes)
{
	struct bucket b;

	bucket_init(&b, UINT64_MAX, 0);
	bucket_take(&b, UINT64_MAX);
	bucket_take(&b, UINT64_MAX);
	cr_assert_eq(b.level, -INT64_MAX);
	cr_assert_gt(bucket_wait(&b, 0), 0);
	cr_assert_eq(bucket_wait(&b, UINT64_MAX), 0);
	bucket_init(&b, 1, 0);
	bucket_take(&b, INT64_MAX);
	cr_assert_gt(bucket_wait(&b, 1), 1ull << 62);
	bucket_init(&b, 0, 0);
	bucket_take(&b, 5);
	cr_assert_eq(bucket_wait(&b, 0), 0);
}
