/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Port and memory-mapped I/O: two buses of non-overlapping regions. An access that hits no region,
 * or leaves the one it began in, reads as all ones and writes nothing. Sizes are 1, 2, 4 or 8.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct bus_region;

/* Called in a vCPU thread; a region with state of several threads locks it itself. offset + size is
 * inside the region. */
struct bus_region_ops {
	const char *name;
	uint64_t (*read)(struct bus_region *r, uint64_t offset, unsigned size);
	void (*write)(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_region {
	const struct bus_region_ops *ops;
	uint64_t base, bytes;   /* constant while it is on a bus */
	_Atomic unsigned users; /* handlers at work; kept by the bus */
};

struct bus {
	pthread_rwlock_t lock;
	struct bus_region **regions; /* sorted by base; borrowed regions */
	size_t n;
	uint64_t misses;           /* accesses that hit nothing; atomic */
	pthread_mutex_t idle_lock; /* for bus_remove(), which waits for handlers */
	pthread_cond_t idle;
	_Atomic unsigned waiters;
};

void bus_init(struct bus *b);
void bus_deinit(struct bus *b);
/* -EEXIST when it overlaps another one, -EINVAL when it is empty or wraps around, -ENOMEM. The
 * region stays its owner's. Any thread. */
int bus_add(struct bus *b, struct bus_region *r);
/* No handler of r runs after this returns, except the caller's own. Any thread, but one that holds
 * no lock that r's handlers take. Nothing happens when r is on no bus. */
void bus_remove(struct bus *b, struct bus_region *r);
uint64_t bus_read(struct bus *b, uint64_t address, unsigned size);
void bus_write(struct bus *b, uint64_t address, unsigned size, uint64_t value);

/*
 * Doorbells: a guest's write of any value and size at address becomes one count on eventfd, without
 * leaving the kernel (KVM_IOEVENTFD). vmm/ implements them. Any thread; 0 or negative errno.
 */
struct doorbells;
struct doorbell_ops {
	int (*bind)(struct doorbells *d, uint64_t address, int eventfd);
	void (*unbind)(struct doorbells *d, uint64_t address, int eventfd);
};
struct doorbells {
	const struct doorbell_ops *ops;
};
