/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A guest's driver for one virtio device, without a guest: RAM in a shared memfd, rings that are
 * filled as a driver fills them (or as a hostile one does), the device in a loop of its own. A wait
 * that lasts too long fails the test.
 */
#include "devices/virtio.h"

#define VGUEST_RAM (64u << 20)
#define VGUEST_GPA 0x100000u /* where RAM begins: address 0 is none */

struct vguest_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* the device writes to it */
};

struct vguest_ring {
	uint16_t size, next_desc, avail, used;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	int call_fd; /* interrupts */
	_Atomic unsigned interrupts;
};

struct vguest {
	struct guestmem mem;
	uint8_t *ram;
	int memfd;
	uint64_t next;
	struct ioloop *loop;
	struct virtio_device *d;
	struct vguest_ring rings[VIRTIO_MAX_QUEUES];
	int kick_fds[VIRTIO_MAX_QUEUES];
	int config_fd; /* config space interrupts */
};

/* RAM and a running loop. */
void vguest_init(struct vguest *g);
/* Frees the device, too. */
void vguest_deinit(struct vguest *g);
/* The driver's initialisation: reset, the wanted ones of the offered features, the first n_queues
 * queues of size (0: the device's), DRIVER_OK. Returns the features that both have. */
uint64_t vguest_start(struct vguest *g, struct virtio_device *d, uint64_t wanted, unsigned n_queues,
                      uint16_t size);
/* In steps, for tests that want something else in between. */
uint64_t vguest_negotiate(struct vguest *g, struct virtio_device *d, uint64_t wanted);
void vguest_add_queue(struct vguest *g, unsigned q, uint16_t size);
void vguest_driver_ok(struct vguest *g);
/* Doorbell and interrupt of a queue, for a device that was loaded. */
void vguest_connect(struct vguest *g, unsigned q);
void vguest_reset(struct vguest *g);

/* Guest memory that nothing else uses, zeroed. */
uint64_t vguest_alloc(struct vguest *g, size_t bytes);
void *vguest_at(struct vguest *g, uint64_t gpa);

/* Makes a chain available, without a kick; its head. */
uint16_t vguest_add(struct vguest *g, unsigned q, const struct vguest_buf *bufs, unsigned n);
/* The same behind one indirect descriptor. */
uint16_t vguest_add_indirect(struct vguest *g, unsigned q, const struct vguest_buf *bufs,
                             unsigned n);
/* Writes a descriptor of a queue's table by hand. */
void vguest_desc(struct vguest *g, unsigned q, uint16_t i, uint64_t gpa, uint32_t len,
                 uint16_t flags, uint16_t next);
/* Puts a head into the available ring by hand. */
void vguest_offer(struct vguest *g, unsigned q, uint16_t head);
void vguest_kick(struct vguest *g, unsigned q);
/* Waits for the next used chain, with interrupts as a driver does: its head and length. */
uint16_t vguest_wait(struct vguest *g, unsigned q, uint32_t *ret_len);
/* The next used chain if there is one by now. */
bool vguest_poll(struct vguest *g, unsigned q, uint16_t *ret_head, uint32_t *ret_len);
/* add, kick, wait; the used length. */
uint32_t vguest_do(struct vguest *g, unsigned q, const struct vguest_buf *bufs, unsigned n);
/* Waits until what is under way in the loop is done: two empty turns. */
void vguest_settle(struct vguest *g);
/* Waits for a config space interrupt. */
void vguest_wait_config(struct vguest *g);
bool vguest_needs_reset(struct vguest *g);
/* Waits for it. */
void vguest_expect_needs_reset(struct vguest *g);
/* A number of the device's statistics: "read", "operations". */
long long vguest_stat(struct vguest *g, const char *direction, const char *name);
