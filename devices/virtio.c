/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/virtio.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/macros.h"

#define CORE_FEATURES                                                   \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | \
	 1ull << VIRTIO_RING_F_INDIRECT_DESC)

#define BIT_ACK         VIRTIO_CONFIG_S_ACKNOWLEDGE
#define BIT_DRIVER      VIRTIO_CONFIG_S_DRIVER
#define BIT_FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define BIT_DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define BIT_NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define BIT_FAILED      VIRTIO_CONFIG_S_FAILED

static void on_kick(struct io_watch *w, uint32_t epoll_events);

void virtio_device_init(struct virtio_device *d, const struct virtio_device_ops *ops,
                        const char *id, const struct guestmem *mem, struct ioloop *loop,
                        unsigned n_queues, uint16_t queue_max, uint32_t config_len)
{
	assert(n_queues <= VIRTIO_MAX_QUEUES);
	assert(!ops->save == !ops->load && (!ops->save || ops->state_version));
	assert(queue_max && queue_max <= VIRTQUEUE_MAX_SIZE && !(queue_max & (queue_max - 1)));
	d->ops = ops;
	snprintf(d->id, sizeof(d->id), "%s", id);
	d->mem = mem;
	d->loop = loop;
	d->config_len = config_len;
	d->n_queues = n_queues;
	d->queue_max = queue_max;
	pthread_mutex_init(&d->lock, NULL);
	for (unsigned i = 0; i < n_queues; i++) {
		d->queues[i] = (struct virtqueue){
			.device = d, .index = (uint16_t)i, .size = queue_max, .kick_fd = -EBADF
		};
		d->kicks[i] = (struct virtio_kick){ .watch = { .fd = -EBADF, .ready = on_kick },
			                            .queue = &d->queues[i] };
	}
}

/* Is it to be started? In the loop, or with the lock held. */
static bool should_run(const struct virtio_device *d)
{
	return (d->status & (BIT_DRIVER_OK | BIT_NEEDS_RESET)) == BIT_DRIVER_OK && !d->holds;
}

/* Any thread. */
static void mark_needs_reset(struct virtio_device *d, const char *why)
{
	if (atomic_fetch_or(&d->status, BIT_NEEDS_RESET) & BIT_NEEDS_RESET)
		return;
	d->needs_reset_count++;
	if (d->on_needs_reset)
		d->on_needs_reset(d, why);
	/* virtio 1.2, 2.1.2: told only to a driver that set DRIVER_OK. */
	if (d->status & BIT_DRIVER_OK)
		virtio_config_changed(d);
}

/* In the loop. */
static void unwatch_kicks(struct virtio_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (d->kicks[i].watch.fd < 0)
			continue;
		ioloop_unwatch(d->loop, &d->kicks[i].watch);
		d->kicks[i].watch.fd = -EBADF;
	}
}

/* In the loop. */
static int watch_kicks(struct virtio_device *d)
{
	for (unsigned i = 0; d->ops->kick && i < d->n_queues; i++) {
		int r;

		if (!d->queues[i].enabled || d->queues[i].kick_fd < 0)
			continue;
		d->kicks[i].watch.fd = d->queues[i].kick_fd;
		r = ioloop_watch(d->loop, &d->kicks[i].watch, EPOLLIN);
		if (r < 0) {
			d->kicks[i].watch.fd = -EBADF;
			return r;
		}
	}
	return 0;
}

/* In the loop. What completed while stopping is told to the guest. */
static void stop(struct virtio_device *d)
{
	if (!d->started)
		return;
	d->started = false;
	unwatch_kicks(d);
	if (d->ops->stop)
		d->ops->stop(d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		assert(d->queues[i].in_flight == 0);
		virtqueue_flush(&d->queues[i]);
	}
}

/* In the loop. Kicks from before may be lost (a restored guest's are), so each queue gets one. */
static void start(struct virtio_device *d)
{
	int r;

	for (unsigned i = 0; i < d->n_queues; i++) {
		d->queues[i].event_idx = virtio_has(d, VIRTIO_RING_F_EVENT_IDX);
		d->queues[i].indirect = virtio_has(d, VIRTIO_RING_F_INDIRECT_DESC);
	}
	d->started = true;
	r = watch_kicks(d);
	if (r == 0 && d->ops->start)
		r = d->ops->start(d);
	if (r < 0 && d->started) {
		d->started = false;
		unwatch_kicks(d);
		mark_needs_reset(d, "the device could not start");
	}
	for (unsigned i = 0; d->started && i < d->n_queues; i++) {
		virtio_queue_notify(d, i);
		if (d->loaded && d->queues[i].enabled && d->queues[i].interrupt)
			d->queues[i].interrupt(&d->queues[i]);
	}
	d->loaded = false;
}

static void update_in_loop(void *arg)
{
	struct virtio_device *d = arg;

	if (should_run(d) && !d->started)
		start(d);
	else if (!should_run(d))
		stop(d);
}

static void reset_in_loop(void *arg)
{
	struct virtio_device *d = arg;

	stop(d);
	if (d->ops->reset)
		d->ops->reset(d);
}

static void stop_in_loop(void *arg)
{
	stop(arg);
}

struct virtio_device *virtio_device_free(struct virtio_device *d)
{
	if (!d)
		return NULL;
	ioloop_call(d->loop, stop_in_loop, d);
	for (unsigned i = 0; i < d->n_queues; i++)
		virtqueue_disable(&d->queues[i]);
	pthread_mutex_destroy(&d->lock);
	d->ops->free(d);
	return NULL;
}

static void on_kick(struct io_watch *w, uint32_t epoll_events UNUSED)
{
	struct virtqueue *vq = container_of(w, struct virtio_kick, watch)->queue;
	struct virtio_device *d = vq->device;
	eventfd_t count;

	(void)eventfd_read(w->fd, &count);
	/* A ring's worth at a time: a guest that never stops adding must not keep the loop. */
	vq->budget = vq->size;
	vq->budget_hit = false;
	d->ops->kick(d, vq->index);
	vq->budget = UINT32_MAX;
	if (vq->budget_hit)
		virtio_queue_notify(d, vq->index);
	vq->budget_hit = false;
	if (vq->broken)
		virtio_needs_reset(d, vq->why_broken);
}

void virtio_needs_reset(struct virtio_device *d, const char *why)
{
	if (d->started) {
		d->started = false;
		unwatch_kicks(d);
		if (d->ops->stop)
			d->ops->stop(d);
		for (unsigned i = 0; i < d->n_queues; i++) {
			virtqueue_flush(&d->queues[i]);
			virtqueue_abandon(&d->queues[i]);
		}
	}
	mark_needs_reset(d, why);
}

void virtio_config_changed(struct virtio_device *d)
{
	d->config_generation++;
	if (d->config_interrupt && d->status & BIT_DRIVER_OK)
		d->config_interrupt(d);
}

uint64_t virtio_device_features(struct virtio_device *d)
{
	return CORE_FEATURES | (d->ops->features ? d->ops->features(d) : 0);
}

void virtio_write_driver_features(struct virtio_device *d, unsigned half, uint32_t value)
{
	unsigned shift = half * 32;

	if (half > 1 || (d->status & (BIT_DRIVER | BIT_FEATURES_OK)) != BIT_DRIVER)
		return;
	d->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	d->driver_features |= (uint64_t)value << shift;
}

static bool features_are_acceptable(struct virtio_device *d)
{
	return !(d->driver_features & ~virtio_device_features(d)) &&
	       virtio_has(d, VIRTIO_F_VERSION_1) &&
	       (!d->ops->set_features || d->ops->set_features(d, d->driver_features));
}

/* One step of initialisation: a bit that may be set once the one before it is (virtio 1.2, 3.1.1).
 */
static const struct status_step {
	uint8_t bit, after;
	bool (*allowed)(struct virtio_device *d);
} steps[] = {
	{ BIT_ACK, 0, NULL },
	{ BIT_DRIVER, BIT_ACK, NULL },
	{ BIT_FEATURES_OK, BIT_DRIVER, features_are_acceptable },
	{ BIT_DRIVER_OK, BIT_FEATURES_OK, NULL },
};

void virtio_write_status(struct virtio_device *d, uint8_t value)
{
	if (value == 0) {
		virtio_device_reset(d);
		return;
	}
	/* Given up, or to be reset: nothing but a reset counts. Bits are never cleared. */
	if (d->status & (BIT_FAILED | BIT_NEEDS_RESET))
		return;
	if (value & BIT_FAILED) {
		atomic_fetch_or(&d->status, BIT_FAILED);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		if (!(value & steps[i].bit) || d->status & steps[i].bit)
			continue;
		if ((d->status & steps[i].after) != steps[i].after ||
		    (steps[i].allowed && !steps[i].allowed(d)))
			return;
		atomic_fetch_or(&d->status, steps[i].bit);
	}
	if (should_run(d))
		ioloop_call(d->loop, update_in_loop, d);
}

void virtio_device_reset(struct virtio_device *d)
{
	/* At power-on already: drivers begin with a reset, which need not wait for the loop. */
	if (!d->status)
		return;
	ioloop_call(d->loop, reset_in_loop, d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		virtqueue_disable(&d->queues[i]);
		d->queues[i].size = d->queue_max;
	}
	d->driver_features = 0;
	d->loaded = false;
	d->status = 0;
}

void virtio_device_hold(struct virtio_device *d, enum virtio_hold hold, bool on)
{
	unsigned before = d->holds;

	d->holds = on ? before | hold : before & ~(unsigned)hold;
	if (d->holds != before && d->status & BIT_DRIVER_OK)
		ioloop_call(d->loop, update_in_loop, d);
}

void virtio_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	uint32_t inside = offset < d->config_len ? MIN_OF(len, d->config_len - offset) : 0;

	memset(buf, 0xff, len);
	if (inside && d->ops->config_read)
		d->ops->config_read(d, offset, buf, inside);
}

void virtio_config_write(struct virtio_device *d, uint32_t offset, const void *buf, uint32_t len)
{
	if (offset >= d->config_len || len > d->config_len - offset || !d->ops->config_write ||
	    !(d->status & BIT_DRIVER) || d->status & BIT_NEEDS_RESET)
		return;
	d->ops->config_write(d, offset, buf, len);
}

uint64_t virtio_queue_read(struct virtio_device *d, unsigned queue, enum virtio_queue_field field)
{
	const struct virtqueue *vq;

	if (queue >= d->n_queues)
		return 0;
	vq = &d->queues[queue];
	switch (field) {
	case VIRTIO_QUEUE_SIZE:
		return vq->size;
	case VIRTIO_QUEUE_DESC:
		return vq->desc.v;
	case VIRTIO_QUEUE_DRIVER:
		return vq->avail.v;
	case VIRTIO_QUEUE_DEVICE:
		return vq->used.v;
	default:
		return 0;
	}
}

/* Frozen from queue_enable on, and all of them from DRIVER_OK on. */
static bool queue_is_open(const struct virtio_device *d, unsigned queue)
{
	return queue < d->n_queues && !d->queues[queue].enabled &&
	       (d->status & (BIT_DRIVER | BIT_DRIVER_OK | BIT_NEEDS_RESET)) == BIT_DRIVER;
}

void virtio_queue_write(struct virtio_device *d, unsigned queue, enum virtio_queue_field field,
                        uint64_t value)
{
	struct virtqueue *vq;

	if (!queue_is_open(d, queue))
		return;
	vq = &d->queues[queue];
	switch (field) {
	case VIRTIO_QUEUE_SIZE:
		vq->size = (uint16_t)value;
		break;
	case VIRTIO_QUEUE_DESC:
		vq->desc = GPA(value);
		break;
	case VIRTIO_QUEUE_DRIVER:
		vq->avail = GPA(value);
		break;
	case VIRTIO_QUEUE_DEVICE:
		vq->used = GPA(value);
		break;
	default:
		break;
	}
}

bool virtio_queue_is_enabled(const struct virtio_device *d, unsigned queue)
{
	return queue < d->n_queues && d->queues[queue].enabled;
}

void virtio_queue_enable(struct virtio_device *d, unsigned queue)
{
	if (queue_is_open(d, queue) &&
	    virtqueue_enable(&d->queues[queue], d->mem, d->queue_max) < 0)
		mark_needs_reset(d, "a queue's size or addresses make no sense");
}

void virtio_queue_notify(struct virtio_device *d, unsigned queue)
{
	if (queue < d->n_queues && d->queues[queue].kick_fd >= 0)
		(void)eventfd_write(d->queues[queue].kick_fd, 1);
}

static void set_paused(struct virtio_device *d, bool on)
{
	pthread_mutex_lock(&d->lock);
	virtio_device_hold(d, VIRTIO_HOLD_PAUSED, on);
	pthread_mutex_unlock(&d->lock);
}

struct settle_call {
	struct virtio_device *d;
	uint32_t progress;
	bool at_rest;
};

static void settle_in_loop(void *arg)
{
	struct settle_call *c = arg;

	c->at_rest = !c->d->started || c->d->ops->settle(c->d, &c->progress);
}

bool virtio_device_settle(struct virtio_device *d, uint32_t *ret_progress)
{
	struct settle_call c = { .d = d };

	if (!d->ops->settle)
		return true;
	ioloop_call(d->loop, settle_in_loop, &c);
	*ret_progress = c.progress;
	return c.at_rest;
}

void virtio_device_pause(struct virtio_device *d)
{
	set_paused(d, true);
}

void virtio_device_resume(struct virtio_device *d)
{
	set_paused(d, false);
}

json_t *virtio_device_stats(struct virtio_device *d)
{
	json_t *stats = d->ops->stats ? d->ops->stats(d) : json_object();
	uint64_t n = d->needs_reset_count;

	if (stats)
		json_object_set_new(stats, "needs_reset", json_integer((json_int_t)n));
	return stats;
}
