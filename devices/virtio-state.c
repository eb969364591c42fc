/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>

#include "devices/virtio.h"

/* Saving and loading of the virtio core. What is loaded is taken through the same checks as what a
 * driver writes. */

#define SECTION         "virtio"
#define SECTION_VERSION 1

#define INIT_BITS                                                                             \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_DRIVER_OK)

void virtio_device_save(struct virtio_device *d, struct state_out *o)
{
	assert(d->holds & VIRTIO_HOLD_PAUSED && !d->started);
	state_begin(o, SECTION, d->id, SECTION_VERSION);
	state_put_u16(o, d->ops->id);
	state_put_u8(o, d->status);
	state_put_u8(o, d->config_generation);
	state_put_u64(o, d->driver_features);
	state_put_u16(o, (uint16_t)d->n_queues);
	for (unsigned i = 0; i < d->n_queues; i++)
		virtqueue_save(&d->queues[i], o);
	state_end(o);
	if (d->ops->save) {
		state_begin(o, d->ops->name, d->id, d->ops->state_version);
		d->ops->save(d, o);
		state_end(o);
	}
}

/* Could a driver have brought the status to this? The steps of initialisation come in order. */
static bool status_is_possible(uint8_t status)
{
	static const uint8_t reached[] = {
		0,
		VIRTIO_CONFIG_S_ACKNOWLEDGE,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
		INIT_BITS & ~VIRTIO_CONFIG_S_DRIVER_OK,
		INIT_BITS,
	};

	if (status & ~(INIT_BITS | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED))
		return false;
	for (size_t i = 0; i < sizeof(reached); i++)
		if ((status & INIT_BITS) == reached[i])
			return true;
	return false;
}

static bool load_features(struct virtio_device *d, uint8_t status, uint64_t features)
{
	if (!(status & VIRTIO_CONFIG_S_DRIVER) && features)
		return false;
	d->driver_features = features;
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK))
		return true;
	return !(features & ~virtio_device_features(d)) && virtio_has(d, VIRTIO_F_VERSION_1) &&
	       (!d->ops->set_features || d->ops->set_features(d, features));
}

static int load_queues(struct virtio_device *d, uint8_t status, struct state_section *s,
                       struct vmd_error *err)
{
	if (state_get_u16(s) != d->n_queues) {
		error_set(err, ERROR_INVALID, "device '%s': the number of queues differs", d->id);
		return -EINVAL;
	}
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (virtqueue_load(&d->queues[i], s, d->mem, d->queue_max) < 0 ||
		    (d->queues[i].enabled && !(status & VIRTIO_CONFIG_S_DRIVER))) {
			error_set(err, ERROR_INVALID, "device '%s': queue %u makes no sense", d->id,
			          i);
			return -EINVAL;
		}
	}
	return 0;
}

static int load_core(struct virtio_device *d, struct state_section *s, uint8_t *ret_status,
                     struct vmd_error *err)
{
	uint16_t id = state_get_u16(s);
	uint8_t status = state_get_u8(s);

	d->config_generation = state_get_u8(s);
	if (id != d->ops->id || !status_is_possible(status) ||
	    !load_features(d, status, state_get_u64(s))) {
		error_set(err, ERROR_INVALID,
		          "device '%s': its kind, status or features make no sense here", d->id);
		return -EINVAL;
	}
	*ret_status = status;
	if (load_queues(d, status, s, err) < 0)
		return -EINVAL;
	return state_section_done(s, err);
}

static int load_own(struct virtio_device *d, struct state_in *in, struct vmd_error *err)
{
	struct state_section s;
	int r;

	if (!d->ops->load)
		return 0;
	r = state_take(in, d->ops->name, d->id, d->ops->state_version, &s, err);
	if (r < 0)
		return r;
	if (d->ops->load(d, &s) < 0) {
		error_set(err, ERROR_INVALID, "device '%s': its saved state makes no sense", d->id);
		return -EINVAL;
	}
	return state_section_done(&s, err);
}

int virtio_device_load(struct virtio_device *d, struct state_in *in, struct vmd_error *err)
{
	struct state_section s;
	uint8_t status = 0;
	int r;

	assert(!d->started && d->status == 0);
	virtio_device_pause(d);
	r = state_take(in, SECTION, d->id, SECTION_VERSION, &s, err);
	if (r == 0)
		r = load_core(d, &s, &status, err);
	if (r == 0)
		r = load_own(d, in, err);
	if (r < 0)
		return r;
	/* Last, so that nothing runs on what was not checked. */
	d->status = status;
	d->loaded = true;
	return 0;
}
