/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The virtio device core (virtio 1.2, chapter 2): status, features, reset, queues, one shared state
 * machine for every transport and every device. Registers belong to vCPU threads under the device's
 * lock; queues belong to the device's loop from DRIVER_OK to reset.
 *
 * A device is *started* while the driver has set DRIVER_OK, no reset is needed and nothing holds it
 * (enum virtio_hold). All its ring and I/O work happens between ops->start and ops->stop.
 *
 * Lock order: pci_bus.lock, then virtio_device.lock, then waiting for the loop (ioloop_call). So
 * nothing that runs in a loop takes either lock: what both sides change is atomic (status,
 * config_generation), and what a loop needs of the registers was handed over by ioloop_call.
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
	/* DRIVER_OK, or going on after a pause: queues are frozen; add watches (each queue's
	 * kick_fd) to d->loop. Each enabled queue gets one kick right after. On an error
	 * (NEEDS_RESET) it leaves nothing behind; stop is not called. In the loop. */
	int (*start)(struct virtio_device *d);
	/* Before reset, pause or removal: no watch is left, every popped chain is completed or
	 * given back (asserted), nothing touches guest memory when it returns. The core flushes the
	 * queues after it. In the loop; also from inside of virtio_needs_reset(). */
	void (*stop)(struct virtio_device *d);
	/* A kick of an enabled queue; it finds at most a ring's worth of chains at a time. When the
	 * queue is broken afterwards, the core sets NEEDS_RESET. In the loop. When NULL the device
	 * watches kick_fd itself. */
	void (*kick)(struct virtio_device *d, unsigned queue);
	/* Back to power-on, after stop. In the loop. */
	void (*reset)(struct virtio_device *d);
	/* Only what the device adds; status, features and queues are the core's. Device stopped. */
	void (*save)(struct virtio_device *d, struct state_out *o);
	/* As save; version is the section's. -EINVAL refuses. */
	int (*load)(struct virtio_device *d, struct state_section *s);
	/* In the loop, while started: works towards the rest that stop waits for, and does not
	 * wait. True when it is there; *ret_progress changes as it goes on. NULL: stop never waits
	 * long. */
	bool (*settle)(struct virtio_device *d, uint32_t *ret_progress);
	/* Members of the statistics of one device ("operations", ...). Any thread. */
	json_t *(*stats)(struct virtio_device *d);
	/* Closes and frees everything of the device, d itself too. It is stopped, and the loop is
	 * still there: what the device watches outside of start and stop is unwatched here, by
	 * ioloop_call(). */
	void (*free)(struct virtio_device *d);
	uint32_t state_version; /* of save, from 1 on */
};

/* Why a device that the driver set going is not started. */
enum virtio_hold {
	VIRTIO_HOLD_PAUSED = 1,
	VIRTIO_HOLD_NO_DMA = 2 /* PCI bus mastering is off */
};

/* A queue's registers, as far as transports share them. */
enum virtio_queue_field {
	VIRTIO_QUEUE_SIZE,
	VIRTIO_QUEUE_DESC,
	VIRTIO_QUEUE_DRIVER,
	VIRTIO_QUEUE_DEVICE,
	_VIRTIO_QUEUE_FIELD_MAX
};

struct virtio_kick {
	struct io_watch watch;
	struct virtqueue *queue;
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
	struct virtio_kick kicks[VIRTIO_MAX_QUEUES]; /* used by the core when ops->kick is set */

	pthread_mutex_t lock; /* registers: driver_features, holds, the transport's own */
	_Atomic uint8_t status, config_generation;
	uint64_t driver_features; /* constant from FEATURES_OK on */
	unsigned holds;           /* enum virtio_hold */
	bool loaded;              /* from a saved state: the next start interrupts once */
	bool started;             /* owned by the loop */
	/* Transport: tells the guest that the config space (or status) changed. Any thread. */
	void (*config_interrupt)(struct virtio_device *d);
	void *transport; /* borrowed by the transport */
	/* The owner's, or NULL: the device set NEEDS_RESET. In the loop or a vCPU thread; returns
	 * soon and calls nothing of the device. */
	void (*on_needs_reset)(struct virtio_device *d, const char *why);
	void *owner; /* for on_needs_reset */
	_Atomic uint64_t needs_reset_count;
	/* A disk, paused: what the guest wrote is perhaps not in the file yet, and could not be
	 * brought there. */
	_Atomic bool unsaved;
};

/* Fills the common part. queue_max and n_queues are checked by assertion. */
void virtio_device_init(struct virtio_device *d, const struct virtio_device_ops *ops,
                        const char *id, const struct guestmem *mem, struct ioloop *loop,
                        unsigned n_queues, uint16_t queue_max, uint32_t config_len);
/* Stops it and calls ops->free; before its loop is freed. NULL is fine. */
struct virtio_device *virtio_device_free(struct virtio_device *d);

static inline bool virtio_has(const struct virtio_device *d, unsigned feature_bit)
{
	return d->driver_features >> feature_bit & 1;
}

/* For transports, in a vCPU thread, with d->lock held. A write that the state does not allow has no
 * effect. */
uint64_t virtio_device_features(struct virtio_device *d);
void virtio_write_driver_features(struct virtio_device *d, unsigned half, uint32_t value);
void virtio_write_status(struct virtio_device *d, uint8_t value); /* 0 resets, and waits for it */
/* Bytes past the end of the config space read as 0xff; a write that goes past it is dropped. */
void virtio_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len);
void virtio_config_write(struct virtio_device *d, uint32_t offset, const void *buf, uint32_t len);
/* Of a queue that is not there: 0, and nothing. Only before it is enabled and before DRIVER_OK. */
uint64_t virtio_queue_read(struct virtio_device *d, unsigned queue, enum virtio_queue_field field);
void virtio_queue_write(struct virtio_device *d, unsigned queue, enum virtio_queue_field field,
                        uint64_t value);
bool virtio_queue_is_enabled(const struct virtio_device *d, unsigned queue);
/* Checks and freezes what was written. A queue that makes no sense is NEEDS_RESET. */
void virtio_queue_enable(struct virtio_device *d, unsigned queue);
/* A doorbell that came by an exit. Any thread, no lock needed. */
void virtio_queue_notify(struct virtio_device *d, unsigned queue);
/* Back to power-on, as status 0; also without the lock when no vCPU runs. Waits. */
void virtio_device_reset(struct virtio_device *d);
/* Holds the device (it has stopped when this returns), or lets it go on. */
void virtio_device_hold(struct virtio_device *d, enum virtio_hold hold, bool on);

/* For devices. Sets DEVICE_NEEDS_RESET, stops serving (ops->stop), tells the guest, counts. why is
 * static text. In the loop; the caller returns to it without touching a queue. */
void virtio_needs_reset(struct virtio_device *d, const char *why);
/* config space changed by the host side. Any thread. */
void virtio_config_changed(struct virtio_device *d);

/* Control thread, vCPUs stopped, takes the lock: quiesces, or goes on where it was. */
void virtio_device_pause(struct virtio_device *d);
/* Before pause, where a device that hangs must not be waited for: ops->settle. */
bool virtio_device_settle(struct virtio_device *d, uint32_t *ret_progress);
void virtio_device_resume(struct virtio_device *d);
/* Paused. Sections "virtio" and, where ops->save is set, ops->name; the instance is d->id. */
void virtio_device_save(struct virtio_device *d, struct state_out *o);
/* Into a device as it was made. It is paused afterwards, whatever happens. -EINVAL, -ENOENT. */
int virtio_device_load(struct virtio_device *d, struct state_in *in, struct vmd_error *err);
/* A new object: what ops->stats tells, and "needs_reset". NULL: no memory. Any thread. */
json_t *virtio_device_stats(struct virtio_device *d);
