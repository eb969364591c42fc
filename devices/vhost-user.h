/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The front-end of the vhost-user protocol: has another process serve a device's queues in the
 * guest's memory. The back-end is not trusted: every reply must come before a deadline, for the
 * request that was sent, in exactly the length it has to have; else the connection is *dead*, and
 * every call from then on fails at once with -EIO. All calls wait for the back-end and belong to
 * one thread, the device's loop.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/virtqueue.h"

#define VHOST_USER_MAX_CONFIG 256

struct vhost_user {
	int fd;            /* owned */
	uint64_t features; /* what the back-end offers, without the bit for protocol features */
	unsigned max_queues;
	bool dead;
};

/*
 * Takes fd over when it succeeds and learns what the back-end can do. -ENOTSUP when it lacks what
 * is needed: acknowledged requests and a config space. -EIO: dead.
 */
int vhost_user_init(struct vhost_user *v, int fd);
void vhost_user_deinit(struct vhost_user *v);
/* Makes it dead, and lets the back-end know: it ends what it does when its connection ends. */
void vhost_user_kill(struct vhost_user *v);

int vhost_user_get_config(struct vhost_user *v, void *buf, uint32_t len);
int vhost_user_set_config(struct vhost_user *v, uint32_t offset, const void *buf, uint32_t len);
/* All of the guest's RAM: its regions follow each other in memory_fd, from offset 0. */
int vhost_user_set_memory(struct vhost_user *v, const struct guestmem *mem, int memory_fd);
/* features: the driver's, of those that the back-end offers. */
int vhost_user_set_features(struct vhost_user *v, uint64_t features);
/* Gives an enabled queue to the back-end, from vq->last_avail on. call_fd: what it interrupts by.
 */
int vhost_user_start_queue(struct vhost_user *v, const struct virtqueue *vq, int call_fd);
/* Takes it back: nothing is taken from the ring any more. Chains may still be in flight. *ret: the
 * available index it came to. */
int vhost_user_stop_queue(struct vhost_user *v, const struct virtqueue *vq, uint16_t *ret);
