/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Clocks. Deadlines use the monotonic clock only; the wall clock is for what people read. */
#include <stdint.h>
#include <time.h>

static inline uint64_t clock_us(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* Microseconds since an arbitrary point; never jumps. */
static inline uint64_t now_monotonic_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

/* As now_monotonic_us(), in nanoseconds. */
static inline uint64_t now_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Microseconds since 1970-01-01 UTC. */
static inline uint64_t now_wall_us(void)
{
	return clock_us(CLOCK_REALTIME);
}
