/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/iostats.h"

#include <stdatomic.h>

/* One writer, so a load and a store are enough: no locked instruction on the I/O path. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
	                      memory_order_relaxed);
}

static unsigned bucket_of(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned i = us ? 64u - (unsigned)__builtin_clzll(us) : 0;

	return i < IOSTATS_BUCKETS ? i : IOSTATS_BUCKETS - 1;
}

void iostats_add(struct iostats *s, uint64_t bytes, uint64_t ns)
{
	add(&s->operations, 1);
	add(&s->bytes, bytes);
	add(&s->total_ns, ns);
	add(&s->latency[bucket_of(ns)], 1);
}

void iostats_add_error(struct iostats *s)
{
	add(&s->errors, 1);
}
