/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A virtio device for tests of what stands around devices: it answers each chain by its readable
 * bytes copied to its writable ones, and has a config space of 12 bytes that can be written. It
 * counts what the core does to it.
 */
#include <stdatomic.h>

#include "devices/virtio.h"

#define DUMMY_CONFIG_BYTES 12
#define DUMMY_FEATURE      5 /* the one feature bit it offers */
#define DUMMY_REFUSED      6 /* offered, and refused by set_features */

struct dummy_device {
	struct virtio_device virtio;
	uint8_t config[DUMMY_CONFIG_BYTES];
	_Atomic unsigned starts, stops, resets, kicks, answered;
	_Atomic bool hold; /* keeps the next chain of queue 0 in flight until stop */
	_Atomic bool fail_start;
	bool holding;
	struct virtq_chain held;
	struct iovec iov[VIRTQUEUE_MAX_IOV];
	void (*on_answer)(struct dummy_device *d); /* after each answer; in the loop; may be NULL */
	bool *freed;                               /* set by free, may be NULL */
};

struct dummy_device *dummy_device_new(const char *id, const struct guestmem *mem,
                                      struct ioloop *loop, unsigned n_queues, uint16_t queue_max);
