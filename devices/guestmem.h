/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The guest's RAM as devices see it. A guest address is a type of its own and only ever resolved
 * together with a length, by guestmem_at() and nothing else; what it does not resolve (holes, MMIO,
 * wrap-around, a range that leaves its region) cannot be reached by any device. A pointer got from
 * here must not outlive the request it was got for.
 */
#include <stddef.h>
#include <stdint.h>

/* A guest physical address; not a number, so that it is never used as a pointer or a length. */
typedef struct {
	uint64_t v;
} gpa_t;

#define GPA(n) ((gpa_t){ (n) })

#define GUESTMEM_MAX_REGIONS 2 /* below and above the hole under 4 GiB */

struct guestmem_region {
	uint64_t gpa, bytes;
	uint8_t *host;
};

/* Filled by the owner before the first device runs, constant from then on: any thread may read. */
struct guestmem {
	struct guestmem_region regions[GUESTMEM_MAX_REGIONS];
	size_t n;
};

/*
 * The host address of len bytes at gpa when all of them are RAM of one region, else NULL. A length
 * of 0 resolves when gpa itself is RAM. Any thread; does not wait.
 */
static inline void *guestmem_at(const struct guestmem *m, gpa_t gpa, uint64_t len)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct guestmem_region *r = &m->regions[i];
		uint64_t offset = gpa.v - r->gpa; /* wraps to a huge number below the region */

		if (offset < r->bytes && len <= r->bytes - offset)
			return r->host + offset;
	}
	return NULL;
}
