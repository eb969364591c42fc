/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Split virtqueues (virtio 1.2, 2.7) with indirect descriptors and event index: the only code that
 * touches ring memory. The guest is hostile: every ring field is read once into private memory,
 * each (address, length) is resolved together, steps are bounded by the ring, and what is not right
 * makes the queue *broken*, which the device core turns into DEVICE_NEEDS_RESET.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "devices/guestmem.h"
#include "devices/state.h"

#define VIRTQUEUE_MAX_SIZE 1024
#define VIRTQUEUE_MAX_IOV  VIRTQUEUE_MAX_SIZE

/* A chain of descriptors, resolved: first the readable part, then the writable one. */
struct virtq_chain {
	uint16_t head;
	uint16_t n_out, n_in;         /* in iov[]: out = device reads, in = device writes */
	uint32_t out_bytes, in_bytes; /* sums; a chain of more than 4 GiB - 1 is refused */
	struct iovec *iov;            /* n_out + n_in entries; the caller's array */
};

struct virtio_device;
struct virtq_slot;

struct virtqueue {
	struct virtio_device *device; /* whose it is, and which of its queues; constant */
	uint16_t index;
	/* Frozen by the transport at queue_enable; owned by the device's thread from then on. */
	const struct guestmem *mem;
	uint16_t size;
	gpa_t desc, avail, used;
	bool enabled, event_idx, indirect, broken;
	uint16_t last_avail, next_used, signalled; /* our indexes */
	bool signalled_valid, pushed;              /* pushed: since the last flush */
	uint32_t in_flight;                        /* popped and not yet pushed; never above size */
	int kick_fd; /* eventfd of the doorbell, or -EBADF; owned by the transport */
	/* Tells the guest; set by the transport. Any thread. */
	void (*interrupt)(struct virtqueue *vq);
	const char *why_broken; /* static text */
	/* While the core runs ops->kick: how many chains it may still pop, and whether it stopped
	 * for that. Then pop finds none, and the core kicks again after others had their turn. */
	uint32_t budget;
	bool budget_hit;
	uint16_t last_head; /* of the last pop, for unpop */
	bool can_unpop;
	struct virtq_slot *slots; /* owned, one per head: is it in flight, with how many bytes in */
};

/* Checks size (power of two, ≤ max) and that the three areas are aligned RAM and apart from each
 * other; makes it ready from index 0. -EINVAL otherwise, -ENOMEM. event_idx and indirect may be set
 * until the first pop. */
int virtqueue_enable(struct virtqueue *vq, const struct guestmem *mem, uint16_t max_size);
void virtqueue_disable(struct virtqueue *vq);
/* Chains in flight are never completed, nothing more is popped: for a device that needs a reset. */
void virtqueue_abandon(struct virtqueue *vq);
/*
 * Takes the next chain: 1 and *chain (chain->iov points to room for max_iov), 0 when there is none,
 * -EBADMSG when the ring makes no sense (vq->broken is set and stays): the device returns to its
 * loop, and calls virtio_needs_reset() unless ops->kick brought it here. Empty buffers are legal
 * and left out of iov[]. A chain of more than max_iov buffers is one that makes no sense, so
 * devices give room for all that they told the driver of, or VIRTQUEUE_MAX_IOV.
 */
int virtqueue_pop(struct virtqueue *vq, struct virtq_chain *chain, struct iovec *iov,
                  unsigned max_iov);
/* Completes a popped chain, exactly once: written bytes (≤ in_bytes) at the start of its writable
 * part; both are asserted. Ordered with a release store; does not interrupt. */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written);
/* As push for the n ≥ 1 chains of one packet: the guest sees all of them, or none. */
struct virtq_used {
	uint16_t head;
	uint32_t written;
};
void virtqueue_push_many(struct virtqueue *vq, const struct virtq_used *chains, unsigned n);
/* Gives back the last popped chain, as if it had not been taken (no room for a packet). */
void virtqueue_unpop(struct virtqueue *vq);
/* As unpop for several, the last popped first. What was popped after it has been given back too. */
void virtqueue_unpop_head(struct virtqueue *vq, uint16_t head);
/* Interrupts the guest if it wants to know of what was pushed since the last call. Nothing pushed:
 * no interrupt. */
void virtqueue_flush(struct virtqueue *vq);
/* Tells the guest (not) to kick; enabling returns true when chains came meanwhile: look again. A
 * device that found its queue empty must enable kicks before it waits: with event index, a guest
 * kicks once per enabling. */
bool virtqueue_enable_kicks(struct virtqueue *vq);
void virtqueue_disable_kicks(struct virtqueue *vq);

void virtqueue_save(const struct virtqueue *vq, struct state_out *o);
/* Registers and indexes; the same checks as virtqueue_enable(). -EINVAL. */
int virtqueue_load(struct virtqueue *vq, struct state_section *s, const struct guestmem *mem,
                   uint16_t max_size);

/* Copies between a chain's part and a buffer, from byte offset on; the count of copied bytes. */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
                    size_t len);
/* Cuts the first len bytes off; returns how many entries are left, *iov moves on. */
unsigned iov_skip(struct iovec **iov, unsigned n, size_t len);
