/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The front-end of the vhost-user protocol: another process serves a device's queue, in memory that
 * it is given. The back-end is not trusted: every reply must come before a deadline, for the
 * request that was sent, in exactly the length it has to have; else the connection is *dead*, and
 * every call from then on fails at once with -EIO. All calls wait for the back-end, and belong to
 * one thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VHOST_USER_MAX_CONFIG  256
#define VHOST_USER_MAX_REGIONS 8

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

/* Memory that the back-end may map and use. */
struct vhost_user_region {
	void *host;
	uint64_t bytes;
	int fd; /* (borrowed) */
	uint64_t offset;
};
/* All that there is. Addresses in the ring's descriptors are ours: what is a guest's physical
 * address to the back-end is where the memory lies in this process. */
int vhost_user_set_memory(struct vhost_user *v, const struct vhost_user_region *regions,
                          unsigned n);
/* features: the driver's, of those that the back-end offers. */
int vhost_user_set_features(struct vhost_user *v, uint64_t features);

/* A split ring from index 0 on, in memory that was told. */
struct vhost_user_queue {
	const void *desc, *avail, *used;
	uint16_t size;
	int call_fd, kick_fd; /* eventfds: it interrupts, is kicked (borrowed) */
};
/* Gives queue 0 to the back-end. */
int vhost_user_start_queue(struct vhost_user *v, const struct vhost_user_queue *q);
