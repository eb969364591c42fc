/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <string.h>

#include "common/timeutil.h"
#include "devices/models.h"
#include "tests/lib/vguest.h"

static struct vguest g;

static void setup(void)
{
	struct virtio_device *d;

	vguest_init(&g);
	cr_assert_eq(virtio_rng_new("rng0", &g.mem, g.loop, &d), 0);
	vguest_start(&g, d, ~0ull, 1, 0);
}

static void teardown(void)
{
	vguest_deinit(&g);
}

TestSuite(virtio_rng, .init = setup, .fini = teardown, .timeout = 60);

Test(virtio_rng, bytes)
{
	struct vguest_buf bufs[2] = { { vguest_alloc(&g, 64), 13, true },
		                      { vguest_alloc(&g, 64), 51, true } };
	uint8_t *a = vguest_at(&g, bufs[0].gpa), *b = vguest_at(&g, bufs[1].gpa), first[13];
	unsigned zeroes = 0;

	cr_assert_eq(vguest_do(&g, 0, bufs, 2), 64);
	memcpy(first, a, sizeof(first));
	for (unsigned i = 0; i < 51; i++)
		zeroes += b[i] == 0;
	cr_assert_lt(zeroes, 10);
	cr_assert_eq(a[13], 0); /* not beyond the buffer */
	vguest_do(&g, 0, bufs, 2);
	cr_assert(memcmp(first, a, sizeof(first)));
}

/* Buffers of any size: never more than a page for one request; none for one without room. */
Test(virtio_rng, sizes)
{
	uint64_t gpa = vguest_alloc(&g, 1u << 20);
	struct vguest_buf big = { gpa, 1u << 20, true }, none = { gpa, 0, true };
	struct vguest_buf readable = { gpa, 64, false };

	cr_assert_eq(vguest_do(&g, 0, &big, 1), 4096);
	cr_assert_eq(vguest_do(&g, 0, &none, 1), 0);
	cr_assert_eq(vguest_do(&g, 0, &readable, 1), 0);
	cr_assert_not(vguest_needs_reset(&g));
}

/* A guest that reads for ever gets a mebibyte a second, and every request is answered. */
Test(virtio_rng, rate)
{
	struct vguest_buf b = { vguest_alloc(&g, 4096), 4096, true };
	uint64_t begin = now_monotonic_us();

	/* One second's worth at once, half of one more. */
	for (unsigned i = 0; i < 384; i++) {
		vguest_add(&g, 0, &b, 1);
		vguest_kick(&g, 0);
		if (i >= 32)
			vguest_wait(&g, 0, NULL);
	}
	for (unsigned i = 0; i < 32; i++)
		vguest_wait(&g, 0, NULL);
	cr_assert_geq(now_monotonic_us() - begin, 450000);
	cr_assert_eq(vguest_stat(&g, "read", "bytes"), 384 * 4096);
}

/* A reset while requests wait for their rate. */
Test(virtio_rng, reset_while_waiting)
{
	for (unsigned round = 0; round < 10; round++) {
		struct vguest_buf b = { vguest_alloc(&g, 4096), 4096, true };

		for (unsigned i = 0; i < 64; i++)
			vguest_add(&g, 0, &b, 1);
		vguest_kick(&g, 0);
		vguest_settle(&g);
		vguest_reset(&g);
		vguest_start(&g, g.d, ~0ull, 1, 0);
	}
	cr_assert_leq(vguest_stat(&g, "read", "bytes"), 2u << 20);
}

Test(virtio_rng, broken_ring)
{
	struct vguest_buf b = { vguest_alloc(&g, 64), 64, true };

	vguest_desc(&g, 0, 3, UINT64_MAX, 64, 2, 0);
	vguest_offer(&g, 0, 3);
	vguest_kick(&g, 0);
	vguest_expect_needs_reset(&g);
	vguest_reset(&g);
	vguest_start(&g, g.d, ~0ull, 1, 0);
	cr_assert_eq(vguest_do(&g, 0, &b, 1), 64);
}
