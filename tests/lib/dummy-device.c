/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/dummy-device.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"

static struct dummy_device *of(struct virtio_device *d)
{
	return container_of(d, struct dummy_device, virtio);
}

static uint64_t features(struct virtio_device *d UNUSED)
{
	return 1ull << DUMMY_FEATURE | 1ull << DUMMY_REFUSED;
}

static bool set_features(struct virtio_device *d UNUSED, uint64_t features)
{
	return !(features >> DUMMY_REFUSED & 1);
}

static void config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	assert(offset + len <= DUMMY_CONFIG_BYTES);
	memcpy(buf, of(d)->config + offset, len);
}

static void config_write(struct virtio_device *d, uint32_t offset, const void *buf, uint32_t len)
{
	assert(offset + len <= DUMMY_CONFIG_BYTES);
	memcpy(of(d)->config + offset, buf, len);
}

static int start(struct virtio_device *d)
{
	of(d)->starts++;
	return of(d)->fail_start ? -EIO : 0;
}

static void answer(struct virtqueue *vq, struct virtq_chain *c)
{
	uint8_t byte[512];
	uint32_t done = 0;

	while (done < MIN_OF(c->in_bytes, c->out_bytes)) {
		size_t n = iov_to_buf(c->iov, c->n_out, done, byte, sizeof(byte));

		done += (uint32_t)iov_from_buf(c->iov + c->n_out, c->n_in, done, byte, n);
	}
	virtqueue_push(vq, c->head, done);
}

static void stop(struct virtio_device *d)
{
	struct dummy_device *dummy = of(d);

	dummy->stops++;
	if (dummy->holding)
		answer(&d->queues[0], &dummy->held);
	dummy->holding = false;
}

static void kick(struct virtio_device *d, unsigned queue)
{
	struct dummy_device *dummy = of(d);
	struct virtqueue *vq = &d->queues[queue];
	struct virtq_chain c;

	dummy->kicks++;
	do {
		virtqueue_disable_kicks(vq);
		while (!dummy->holding &&
		       virtqueue_pop(vq, &c, dummy->iov, VIRTQUEUE_MAX_IOV) > 0) {
			if (queue == 0 && dummy->hold) {
				dummy->held = c;
				dummy->holding = true;
				break;
			}
			answer(vq, &c);
			dummy->answered++;
			if (queue == 0 && dummy->on_answer)
				dummy->on_answer(dummy);
		}
		virtqueue_flush(vq);
	} while (virtqueue_enable_kicks(vq) && !dummy->holding);
}

static void reset(struct virtio_device *d)
{
	of(d)->resets++;
	memset(of(d)->config, 0, DUMMY_CONFIG_BYTES);
}

static void save(struct virtio_device *d, struct state_out *o)
{
	state_put_bytes(o, of(d)->config, DUMMY_CONFIG_BYTES);
}

static int load(struct virtio_device *d, struct state_section *s)
{
	state_get_bytes(s, of(d)->config, DUMMY_CONFIG_BYTES);
	return of(d)->config[0] == 0xee ? -EINVAL : 0;
}

static void free_dummy(struct virtio_device *d)
{
	if (of(d)->freed)
		*of(d)->freed = true;
	free(of(d));
}

static const struct virtio_device_ops ops = {
	.name = "dummy",
	.id = VIRTIO_ID_RNG,
	.features = features,
	.set_features = set_features,
	.config_read = config_read,
	.config_write = config_write,
	.start = start,
	.stop = stop,
	.kick = kick,
	.reset = reset,
	.save = save,
	.load = load,
	.free = free_dummy,
	.state_version = 1,
};

struct dummy_device *dummy_device_new(const char *id, const struct guestmem *mem,
                                      struct ioloop *loop, unsigned n_queues, uint16_t queue_max)
{
	struct dummy_device *d = calloc(1, sizeof(*d));

	assert(d);
	virtio_device_init(&d->virtio, &ops, id, mem, loop, n_queues, queue_max,
	                   DUMMY_CONFIG_BYTES);
	return d;
}
