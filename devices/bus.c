/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/bus.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * The lock is held for the search only, not while a handler runs: a handler may add and remove
 * regions, and may wait. What keeps a region alive meanwhile is its count of users, for which
 * bus_remove() waits. A handler must therefore not wait for a thread that is inside bus_remove() of
 * its own region.
 */

/* The handlers that this thread is inside of, innermost first. */
struct call {
	const struct bus_region *region;
	const struct call *outer;
};
static _Thread_local const struct call *calls;

static uint64_t all_ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
}

void bus_init(struct bus *b)
{
	*b = (struct bus){ 0 };
	pthread_rwlock_init(&b->lock, NULL);
	pthread_mutex_init(&b->idle_lock, NULL);
	pthread_cond_init(&b->idle, NULL);
}

void bus_deinit(struct bus *b)
{
	free(b->regions);
	b->regions = NULL;
	b->n = 0;
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->idle_lock);
	pthread_rwlock_destroy(&b->lock);
}

/* The first region whose last byte is at or after address; n when there is none. */
static size_t position(const struct bus *b, uint64_t address)
{
	size_t low = 0, high = b->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct bus_region *r = b->regions[middle];

		if (r->base + (r->bytes - 1) < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int insert_locked(struct bus *b, struct bus_region *r)
{
	size_t i = position(b, r->base);
	struct bus_region **regions;

	if (i < b->n && b->regions[i]->base <= r->base + (r->bytes - 1))
		return -EEXIST;
	regions = reallocarray(b->regions, b->n + 1, sizeof(struct bus_region *));
	if (!regions)
		return -ENOMEM;
	memmove(regions + i + 1, regions + i, (b->n - i) * sizeof(struct bus_region *));
	regions[i] = r;
	b->regions = regions;
	b->n++;
	return 0;
}

int bus_add(struct bus *b, struct bus_region *r)
{
	int ret;

	if (!r->bytes || r->base + (r->bytes - 1) < r->base)
		return -EINVAL;
	pthread_rwlock_wrlock(&b->lock);
	ret = insert_locked(b, r);
	pthread_rwlock_unlock(&b->lock);
	return ret;
}

static unsigned own_calls(const struct bus_region *r)
{
	unsigned n = 0;

	for (const struct call *c = calls; c; c = c->outer)
		n += c->region == r;
	return n;
}

void bus_remove(struct bus *b, struct bus_region *r)
{
	unsigned own = own_calls(r);
	size_t i;

	pthread_rwlock_wrlock(&b->lock);
	for (i = 0; i < b->n && b->regions[i] != r; i++)
		;
	if (i < b->n) {
		b->n--;
		memmove(b->regions + i, b->regions + i + 1,
		        (b->n - i) * sizeof(struct bus_region *));
	}
	pthread_rwlock_unlock(&b->lock);

	/* Sequentially consistent with leave(): either it sees the waiter, or this sees its count.
	 */
	b->waiters++;
	pthread_mutex_lock(&b->idle_lock);
	while (r->users > own)
		pthread_cond_wait(&b->idle, &b->idle_lock);
	pthread_mutex_unlock(&b->idle_lock);
	b->waiters--;
}

/* The region that holds all of the access, with its user counted, or NULL. */
static struct bus_region *enter(struct bus *b, uint64_t address, unsigned size)
{
	struct bus_region *r = NULL;
	size_t i;

	pthread_rwlock_rdlock(&b->lock);
	i = position(b, address);
	if (i < b->n && b->regions[i]->base <= address &&
	    size <= b->regions[i]->bytes - (address - b->regions[i]->base)) {
		r = b->regions[i];
		r->users++;
	}
	pthread_rwlock_unlock(&b->lock);
	if (!r)
		__atomic_fetch_add(&b->misses, 1, __ATOMIC_RELAXED);
	return r;
}

/* r may be gone as soon as its user is no longer counted. */
static void leave(struct bus *b, struct bus_region *r)
{
	r->users--;
	if (!b->waiters)
		return;
	pthread_mutex_lock(&b->idle_lock);
	pthread_cond_broadcast(&b->idle);
	pthread_mutex_unlock(&b->idle_lock);
}

static bool size_is_valid(unsigned size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

uint64_t bus_read(struct bus *b, uint64_t address, unsigned size)
{
	struct bus_region *r = size_is_valid(size) ? enter(b, address, size) : NULL;
	struct call call = { .region = r, .outer = calls };
	uint64_t value;

	if (!r)
		return all_ones(size);
	calls = &call;
	value = r->ops->read(r, address - r->base, size);
	calls = call.outer;
	leave(b, r);
	return value & all_ones(size);
}

void bus_write(struct bus *b, uint64_t address, unsigned size, uint64_t value)
{
	struct bus_region *r = size_is_valid(size) ? enter(b, address, size) : NULL;
	struct call call = { .region = r, .outer = calls };

	if (!r)
		return;
	calls = &call;
	r->ops->write(r, address - r->base, size, value & all_ones(size));
	calls = call.outer;
	leave(b, r);
}
