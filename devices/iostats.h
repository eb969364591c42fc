/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Counters of one direction of a device. Written by one thread, read by any: relaxed atomics. */
#include <stdint.h>

#define IOSTATS_BUCKETS 24 /* bucket i counts latencies below 2^i µs, the last one the rest */

struct iostats {
	_Atomic uint64_t operations, bytes, errors, total_ns;
	_Atomic uint64_t latency[IOSTATS_BUCKETS];
};

void iostats_add(struct iostats *s, uint64_t bytes, uint64_t ns);
void iostats_add_error(struct iostats *s);
