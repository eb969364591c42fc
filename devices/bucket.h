/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A token bucket that may go into debt: whoever finds it above zero takes what he needs, however
 * much, and the next one waits until it is above zero again. So a request larger than the burst
 * passes too, and the rate holds over time. No clock of its own, no locks: one thread.
 */
#include <stdbool.h>
#include <stdint.h>

struct bucket {
	uint64_t rate; /* units per second; 0: no limit */
	int64_t level; /* units; never above one second's worth, never below -INT64_MAX */
	uint64_t at_ns;
};

/* Full, at time now_ns (any monotonic clock, the same one in each call). */
void bucket_init(struct bucket *b, uint64_t rate, uint64_t now_ns);
/* 0 when it is above zero, else the nanoseconds until it will be. */
uint64_t bucket_wait(struct bucket *b, uint64_t now_ns);
void bucket_take(struct bucket *b, uint64_t units);
