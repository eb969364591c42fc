/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A driver for the virtio 1.x PCI transport and split queues, with doors for those who want to do
 * it wrong: every address and register is public. */
#include <stdbool.h>
#include <stdint.h>

#include "pci.h"

#define VIRTIO_NET     1
#define VIRTIO_BLOCK   2
#define VIRTIO_CONSOLE 3
#define VIRTIO_RNG     4
#define VIRTIO_BALLOON 5

#define VIRTIO_F_INDIRECT  28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32

#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER      2
#define VIRTIO_DRIVER_OK   4
#define VIRTIO_FEATURES_OK 8
#define VIRTIO_NEEDS_RESET 64
#define VIRTIO_FAILED      128

/* Offsets in the common configuration. */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE        0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE        0x0C
#define COMMON_MSIX_CONFIG           0x10
#define COMMON_NUM_QUEUES            0x12
#define COMMON_STATUS                0x14
#define COMMON_GENERATION            0x15
#define COMMON_QUEUE_SELECT          0x16
#define COMMON_QUEUE_SIZE            0x18
#define COMMON_QUEUE_VECTOR          0x1A
#define COMMON_QUEUE_ENABLE          0x1C
#define COMMON_QUEUE_NOTIFY_OFF      0x1E
#define COMMON_QUEUE_DESC            0x20
#define COMMON_QUEUE_DRIVER          0x28
#define COMMON_QUEUE_DEVICE          0x30
#define COMMON_BYTES                 0x38

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct virtq_desc {
	uint64_t address;
	uint32_t len;
	uint16_t flags, next;
};

#define VIRTQ_MAX 256

struct virtq {
	unsigned index;
	uint16_t size, n_free, free_head, last_used, next_avail;
	volatile struct virtq_desc *desc;
	volatile uint16_t *avail;  /* flags, idx, ring[size], used_event */
	volatile uint16_t *used;   /* flags, idx, {id, len}[size] as 32-bit numbers, avail_event */
	struct virtq_desc *tables; /* size tables of VIRTQ_TABLE entries, with indirect */
	uint64_t notify;           /* address of its doorbell */
	uint8_t vector;
	uint64_t seen_interrupts;
};

#define VIRTIO_QUEUES 32
#define VIRTQ_TABLE   16

struct virtio {
	pci_fn fn;
	uint16_t type;
	uint64_t common, notify, isr, config; /* addresses */
	uint32_t notify_multiplier, notify_len, config_len;
	uint64_t msix;
	unsigned n_vectors, n_queues;
	uint8_t config_vector;
	uint64_t features; /* agreed on */
	bool indirect;     /* use it when it was agreed on */
	struct virtq queues[VIRTIO_QUEUES];
};

struct vbuf {
	const void *data;
	uint32_t len;
};

/* The nth device of the type; false with a reason when there is none or it is malformed. A device
 * without MSI-X is malformed unless the option "poll" is given: QEMU's balloon has none. */
bool virtio_find(uint16_t type, unsigned nth, struct virtio *v);
/* As virtio_find(), without a reason to tell when it is not there. */
bool virtio_exists(uint16_t type, unsigned nth);
uint64_t virtio_offered(struct virtio *v);
uint8_t virtio_status(const struct virtio *v);
/* Writes 0 and waits until the device says 0. */
bool virtio_reset(struct virtio *v);
/* Reset up to FEATURES_OK, with those of the wanted features that are offered and VERSION_1. */
bool virtio_begin(struct virtio *v, uint64_t wanted);
/* Allocates and enables a queue of at most max entries. Rings of an earlier one are used again. */
bool virtio_queue(struct virtio *v, unsigned index, uint16_t max);
void virtio_go(struct virtio *v);
static inline bool virtio_has(const struct virtio *v, unsigned bit)
{
	return v->features >> bit & 1;
}

/* Adds a chain: n_out buffers that the device reads, then n_in that it writes. Its head, or -1
 * when the ring is full. */
int virtq_add(struct virtio *v, struct virtq *q, const struct vbuf *bufs, unsigned n_out,
              unsigned n_in);
/* Makes what was added visible, and rings if the device wants it. */
void virtq_kick(struct virtio *v, struct virtq *q);
/* Takes one used chain back; does not wait. */
bool virtq_take(struct virtio *v, struct virtq *q, uint16_t *ret_head, uint32_t *ret_len);
/* As virtq_take, but waits; false with a reason when none comes in time. */
bool virtq_wait(struct virtio *v, struct virtq *q, uint16_t *ret_head, uint32_t *ret_len);
/* Add, kick, wait, for one chain of an otherwise idle queue; its interrupt must come too. */
bool virtq_request(struct virtio *v, struct virtq *q, const struct vbuf *bufs, unsigned n_out,
                   unsigned n_in, uint32_t *ret_len);
/* For abuse: the ring is written as it is. */
void virtq_publish(struct virtq *q, uint16_t head);
void virtq_ring(const struct virtq *q);
