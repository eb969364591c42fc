/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What blk-remote.c (the driver's work) and blk-remote-new.c (its making) share. */
#include <linux/virtio_ring.h>
#include <stdatomic.h>

#include "devices/blk-backend.h"
#include "devices/vhost-user.h"

#define MAX_DEPTH 512u /* of the ring */
#define MAX_PARTS 128u /* of an operation's data */
#define SECTOR    512u

struct slot {
	struct vring_desc table[MAX_PARTS + 2];
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range;
	uint8_t status;
} __attribute__((aligned(64)));

/* What is shared with the other process. */
struct area {
	struct vring_desc desc[MAX_DEPTH];
	struct {
		uint16_t flags;
		_Atomic uint16_t idx;
		uint16_t ring[MAX_DEPTH], used_event;
	} avail;
	struct {
		_Atomic uint16_t flags, idx;
		struct vring_used_elem ring[MAX_DEPTH];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
	struct slot slots[MAX_DEPTH];
};

struct blk_remote {
	struct blk_backend b;
	struct vhost_user peer;
	struct area *area;
	int area_fd, kick_fd;
	struct ioloop *loop; /* while started */
	struct io_watch call, connection;
	uint32_t most_discard, most_zeroes; /* sectors of one request; 0: cannot */
	unsigned depth, most_iov, patience_ms;
	uint16_t avail, published, used; /* our indexes */
	unsigned in_ring, n_free;
	uint16_t free[MAX_DEPTH];      /* slots: the last is the next */
	struct blk_op *ops[MAX_DEPTH]; /* by slot, while it is in the ring */
	/* Writes that are done, and how many of them the last flush made durable. */
	uint32_t writes, flushed;
	struct blk_op settle; /* a flush of our own */
	bool settling, settle_failed;
};

extern const struct blk_backend_ops blk_remote_ops;
/* What the loop calls, of call and connection. */
void blk_remote_on_call(struct io_watch *w, uint32_t events);
void blk_remote_on_connection(struct io_watch *w, uint32_t events);
