/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Plays a guest to devices: RAM and the driver's side of split rings. The RAM begins at guest
 * address 0 and stands between two pages that cannot be touched. Addresses are given out from the
 * bottom and never taken back. Failures are assertions.
 */
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/guestmem.h"

struct guest_ram {
	struct guestmem mem;
	int memory_fd; /* of a memfd, mapped shared: others may serve in it */
	uint8_t *host;
	size_t bytes;
	uint64_t next; /* address 0 is never given out */
};

void guest_ram_init(struct guest_ram *ram, size_t bytes);
void guest_ram_deinit(struct guest_ram *ram);
/* Zeroed as long as nothing else wrote there. */
gpa_t guest_ram_alloc(struct guest_ram *ram, size_t bytes, size_t align);
void *guest_ram_at(struct guest_ram *ram, gpa_t gpa);
/* A buffer of len bytes in the RAM, filled from data unless that is NULL. */
gpa_t guest_ram_put(struct guest_ram *ram, const void *data, size_t len);

struct driver_buffer {
	gpa_t gpa;
	uint32_t len;
	bool write; /* the device writes to it */
};

struct driver_queue {
	struct guest_ram *ram;
	uint16_t size;
	gpa_t desc, avail, used;
	uint16_t next_desc; /* descriptors are taken in a circle; the caller does not exceed size */
	uint16_t avail_idx; /* what the next publish makes visible */
	uint16_t last_used; /* next used entry to look at */
	uint16_t kicked_idx; /* available index at the last look whether to kick */
	bool event_idx;
};

/* Lays out an empty ring of size entries. */
void driver_queue_init(struct driver_queue *q, struct guest_ram *ram, uint16_t size);
struct vring_desc *driver_desc(struct driver_queue *q, uint16_t i);
uint16_t *driver_avail_entry(struct driver_queue *q, uint16_t i);
/* Writes a chain of n descriptors; its head. Not yet visible to the device. */
uint16_t driver_chain(struct driver_queue *q, const struct driver_buffer *b, unsigned n);
/* The same by an indirect table. */
uint16_t driver_chain_indirect(struct driver_queue *q, const struct driver_buffer *b, unsigned n);
/* Puts head on the available ring and stores the index with release. */
void driver_publish(struct driver_queue *q, uint16_t head);
/* driver_chain and driver_publish. */
uint16_t driver_add(struct driver_queue *q, const struct driver_buffer *b, unsigned n);
/* Sets the available index to anything. */
void driver_set_avail_idx(struct driver_queue *q, uint16_t idx);
uint16_t driver_used_idx(struct driver_queue *q);
/* The next used entry, or false when there is none. */
bool driver_take_used(struct driver_queue *q, uint32_t *id, uint32_t *len);
/* Does the device want to be kicked for what was published since the last call? */
bool driver_should_kick(struct driver_queue *q);
/* Asks (not) to be interrupted; with event index for the next used entry, or far away. */
void driver_want_interrupts(struct driver_queue *q, bool on);
