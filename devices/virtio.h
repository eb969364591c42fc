/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The virtio device core (virtio 1.2, chapter 2): status, features, reset, queues, one shared state
 * machine for every transport and every device. Registers belong to vCPU threads under the device's
 * lock; queues belong to the device's loop from DRIVER_OK to reset.
 */
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/ioloop.h"
#include "devices/iostats.h"
#include "devices/virtqueue.h"

#define VIRTIO_MAX_QUEUES 32

/* Device ids, virtio 1.2, 5. */
enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5
};

struct virtio_device;

/* What a device model is. All but name, id and features may be NULL where there is nothing to do.
 */
struct virtio_device_ops {
	const char *name;
	uint16_t id;
	/* Device features offered; the core adds VERSION_1, EVENT_IDX, INDIRECT_DESC. */
	uint64_t (*features)(struct virtio_device *d);
	/* The driver's choice, before FEATURES_OK is confirmed; false refuses it. */
	bool (*set_features)(struct virtio_device *d, uint64_t features);
	/* Device config space; the core has checked offset + len ≤ config_len. vCPU thread, locked.
	 */
	void (*config_read)(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len);
	void (*config_write)(struct virtio_device *d, uint32_t offset, const void *buf,
	                     uint32_t len);
	/* DRIVER_OK: queues are frozen; add watches (each queue's kick_fd) to d->loop. In the loop.
	 */
	int (*start)(struct virtio_device *d);
	/* Before reset, pause or removal: no watch is left, every popped chain is completed or
	 * given back, nothing touches guest memory when it returns. In the loop. */
	void (*stop)(struct virtio_device *d);
	/* A kick of a queue. In the loop. When NULL the device watches kick_fd itself. */
	void (*kick)(struct virtio_device *d, unsigned queue);
	/* Back to power-on, after stop. In the loop. */
	void (*reset)(struct virtio_device *d);
	/* Only what the device adds; status, features and queues are the core's. Device stopped. */
	void (*save)(struct virtio_device *d, struct state_out *o);
	/* As save; version is the section's. -EINVAL refuses. */
	int (*load)(struct virtio_device *d, struct state_section *s);
	/* Members of the statistics of one device ("operations", ...). Any thread. */
	json_t *(*stats)(struct virtio_device *d);
	/* Closes and frees everything of the device, d itself too. Loop gone. */
	void (*free)(struct virtio_device *d);
	uint32_t state_version;
};

struct virtio_device {
	const struct virtio_device_ops *ops;
	char id[32]; /* "disk0" */
	const struct guestmem *mem;
	struct ioloop *loop; /* borrowed: shared by small devices, its own for a busy one */
	uint32_t config_len;
	unsigned n_queues;
	uint16_t queue_max; /* power of two */
	struct virtqueue queues[VIRTIO_MAX_QUEUES];
	struct io_watch kicks[VIRTIO_MAX_QUEUES]; /* used by the core when ops->kick is set */

	pthread_mutex_t lock; /* registers below */
	uint8_t status, config_generation;
	uint64_t driver_features;
	bool started; /* owned by the loop */
	/* Transport: tells the guest that the config space (or status) changed. Any thread. */
	void (*config_interrupt)(struct virtio_device *d);
	void *transport; /* borrowed by the transport */
	uint64_t needs_reset_count;
};

/* Fills the common part. queue_max and n_queues are checked by assertion. */
void virtio_device_init(struct virtio_device *d, const struct virtio_device_ops *ops,
                        const char *id, const struct guestmem *mem, struct ioloop *loop,
                        unsigned n_queues, uint16_t queue_max, uint32_t config_len);
/* Stops it and calls ops->free. NULL is fine. */
struct virtio_device *virtio_device_free(struct virtio_device *d);

static inline bool virtio_has(const struct virtio_device *d, unsigned feature_bit)
{
	return d->driver_features >> feature_bit & 1;
}

/* For transports, in a vCPU thread. A write that the state does not allow has no effect. */
uint64_t virtio_device_features(struct virtio_device *d);
void virtio_write_driver_features(struct virtio_device *d, unsigned half, uint32_t value);
void virtio_write_status(struct virtio_device *d, uint8_t value); /* 0 resets, and waits for it */
void virtio_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len);
void virtio_config_write(struct virtio_device *d, uint32_t offset, const void *buf, uint32_t len);

/* For devices. Sets DEVICE_NEEDS_RESET, stops serving, tells the guest, counts. In the loop. */
void virtio_needs_reset(struct virtio_device *d, const char *why);
/* config space changed by the host side. Any thread. */
void virtio_config_changed(struct virtio_device *d);

/* Control thread, vCPUs stopped: quiesces, or goes on where it was. */
void virtio_device_pause(struct virtio_device *d);
void virtio_device_resume(struct virtio_device *d);
void virtio_device_save(struct virtio_device *d, struct state_out *o);
int virtio_device_load(struct virtio_device *d, struct state_in *in, struct vmd_error *err);
json_t *virtio_device_stats(struct virtio_device *d);
