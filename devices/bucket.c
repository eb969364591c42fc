/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/bucket.h"

#define NS_PER_S 1000000000u

/* 128 bits: a rate of 2^63 over years does not overflow. */
__extension__ typedef unsigned __int128 wide_t;

static int64_t burst(const struct bucket *b)
{
	return b->rate > INT64_MAX ? INT64_MAX : (int64_t)b->rate;
}

void bucket_init(struct bucket *b, uint64_t rate, uint64_t now_ns)
{
	b->rate = rate;
	b->at_ns = now_ns;
	b->level = burst(b);
}

static void refill(struct bucket *b, uint64_t now_ns)
{
	uint64_t room = (uint64_t)burst(b) - (uint64_t)b->level; /* wraps right when in debt */
	wide_t units;

	if (now_ns <= b->at_ns)
		return;
	units = (wide_t)(now_ns - b->at_ns) * b->rate / NS_PER_S;
	if (units >= room) {
		b->level = burst(b);
		b->at_ns = now_ns;
		return;
	}
	b->level += (int64_t)units;
	/* Only the time that became whole units is used up, so that slow rates are exact. */
	b->at_ns += (uint64_t)((units * NS_PER_S + b->rate - 1) / b->rate);
}

uint64_t bucket_wait(struct bucket *b, uint64_t now_ns)
{
	wide_t missing;

	if (!b->rate)
		return 0;
	refill(b, now_ns);
	if (b->level > 0)
		return 0;
	missing = (wide_t)((uint64_t)1 - (uint64_t)b->level) * NS_PER_S;
	missing = (missing + b->rate - 1) / b->rate;
	/* Some of that time has passed already. */
	if (now_ns > b->at_ns)
		missing -= now_ns - b->at_ns;
	return missing > UINT64_MAX ? UINT64_MAX : (uint64_t)missing;
}

void bucket_take(struct bucket *b, uint64_t units)
{
	if (!b->rate)
		return;
	if (units > INT64_MAX || b->level < -INT64_MAX + (int64_t)units)
		b->level = -INT64_MAX;
	else
		b->level -= (int64_t)units;
}
