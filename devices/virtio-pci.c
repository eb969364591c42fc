/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/virtio-pci.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "devices/virtio-pci-priv.h"

/*
 * BAR 0. Each block is what one capability points at; the pages of doorbells and of MSI-X hold
 * nothing else, so that the kernel can answer the doorbells.
 */
enum {
	COMMON_AT = 0x0000,
	COMMON_BYTES = VIRTIO_PCI_COMMON_BYTES,
	ISR_AT = 0x0040,
	ISR_BYTES = 1,
	DEVICE_AT = 0x0100,
	NOTIFY_AT = 0x1000,
	NOTIFY_STRIDE = 4,
	TABLE_AT = 0x2000,
	PBA_AT = 0x3000,
	BAR_BYTES = 0x4000,
	MAX_CONFIG = NOTIFY_AT - DEVICE_AT
};

#define VENDOR          0x1af4
#define DEVICE_BASE     0x1040
#define SUBSYSTEM       0x1100
#define REVISION        1 /* virtio 1.2, 4.1.2.1: not a transitional device */
#define ISR_QUEUE       1
#define ISR_CONFIG      2
#define SECTION         "virtio-pci"
#define SECTION_VERSION 1

/* Class codes by device id, as other monitors give them. */
static uint32_t class_of(uint16_t id)
{
	switch (id) {
	case VIRTIO_ID_NET:
		return 0x020000;
	case VIRTIO_ID_BLOCK:
		return 0x010000;
	case VIRTIO_ID_CONSOLE:
		return 0x078000;
	default:
		return 0x00ff00;
	}
}

static void queue_interrupt(struct virtqueue *vq)
{
	struct virtio_pci *p = vq->device->transport;

	atomic_fetch_or(&p->isr, ISR_QUEUE);
	msix_send(&p->pci, p->queue_vectors[vq->index]);
}

static void config_interrupt(struct virtio_device *d)
{
	struct virtio_pci *p = d->transport;

	atomic_fetch_or(&p->isr, ISR_CONFIG);
	msix_send(&p->pci, p->config_vector);
}

static uint64_t device_read(struct virtio_pci *p, uint64_t at, unsigned size)
{
	uint8_t bytes[8];
	uint64_t value = 0;

	virtio_config_read(p->device, (uint32_t)at, bytes, size);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)bytes[i] << 8 * i;
	return value;
}

static void device_write(struct virtio_pci *p, uint64_t at, unsigned size, uint64_t value)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
	virtio_config_write(p->device, (uint32_t)at, bytes, size);
}

/* Reading tells and clears (virtio 1.2, 4.1.4.5). */
static uint64_t isr_read(struct virtio_pci *p, uint64_t at UNUSED, unsigned size UNUSED)
{
	return atomic_exchange(&p->isr, 0);
}

/* Here only when the kernel did not take it: the doorbell could not be bound, or it came through
 * the config space. The value is the queue's number again, and not needed. */
static void notify_write(struct virtio_pci *p, uint64_t at, unsigned size UNUSED,
                         uint64_t value UNUSED)
{
	if (at % NOTIFY_STRIDE == 0)
		virtio_queue_notify(p->device, (unsigned)(at / NOTIFY_STRIDE));
}

static uint64_t vectors_read(struct virtio_pci *p, uint64_t at, unsigned size)
{
	return msix_read(&p->pci, at + TABLE_AT, size);
}

static void vectors_write(struct virtio_pci *p, uint64_t at, unsigned size, uint64_t value)
{
	msix_write(&p->pci, at + TABLE_AT, size, value);
}

static const struct block {
	uint32_t at, end;
	bool locked; /* by the device's lock */
	uint64_t (*read)(struct virtio_pci *p, uint64_t at, unsigned size);
	void (*write)(struct virtio_pci *p, uint64_t at, unsigned size, uint64_t value);
} blocks[] = {
	{ COMMON_AT, COMMON_AT + COMMON_BYTES, true, virtio_pci_common_read,
	  virtio_pci_common_write },
	{ ISR_AT, ISR_AT + ISR_BYTES, false, isr_read, NULL },
	{ DEVICE_AT, NOTIFY_AT, true, device_read, device_write },
	{ NOTIFY_AT, TABLE_AT, false, NULL, notify_write },
	{ TABLE_AT, BAR_BYTES, false, vectors_read, vectors_write },
};

static const struct block *find_block(uint64_t offset, unsigned size)
{
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		if (offset >= blocks[i].at && offset + size <= blocks[i].end)
			return &blocks[i];
	return NULL;
}

static struct virtio_pci *of_region(struct bus_region *r)
{
	return container_of(r, struct virtio_pci, pci.bars[0].region);
}

static uint64_t bar_read(struct bus_region *r, uint64_t offset, unsigned size)
{
	struct virtio_pci *p = of_region(r);
	const struct block *b = find_block(offset, size);
	uint64_t value;

	if (!b || !b->read)
		return UINT64_MAX;
	if (b->locked)
		pthread_mutex_lock(&p->device->lock);
	value = b->read(p, offset - b->at, size);
	if (b->locked)
		pthread_mutex_unlock(&p->device->lock);
	return value;
}

static void bar_write(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *p = of_region(r);
	const struct block *b = find_block(offset, size);

	if (!b || !b->write)
		return;
	if (b->locked)
		pthread_mutex_lock(&p->device->lock);
	b->write(p, offset - b->at, size, value);
	if (b->locked)
		pthread_mutex_unlock(&p->device->lock);
}

static const struct bus_region_ops bar_ops = { "virtio-pci", bar_read, bar_write };

/* Access to BAR 0 through the config space (virtio 1.2, 4.1.4.9): bar, offset and length are the
 * driver's, the data window follows. */

static uint32_t get32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

#define WINDOW_DATA_BYTES 4u

static bool window_is_touched(const struct virtio_pci *p, unsigned offset, unsigned len)
{
	unsigned at = p->window + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);

	return offset < at + WINDOW_DATA_BYTES && at < offset + len;
}

static bool window_target(const struct virtio_pci *p, uint32_t *offset, unsigned *size)
{
	const uint8_t *c = p->pci.config + p->window;

	*offset = get32(c + offsetof(struct virtio_pci_cap, offset));
	*size = get32(c + offsetof(struct virtio_pci_cap, length));
	return c[offsetof(struct virtio_pci_cap, bar)] == 0 &&
	       (*size == 1 || *size == 2 || *size == 4) && *offset % *size == 0 &&
	       *offset < BAR_BYTES;
}

static void config_reading(struct pci_device *d, unsigned offset, unsigned len)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
	uint8_t *data = d->config + p->window + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	uint32_t target;
	uint64_t value;
	unsigned size;

	if (!window_is_touched(p, offset, len) || !window_target(p, &target, &size))
		return;
	value = bar_read(&d->bars[0].region, target, size);
	for (unsigned i = 0; i < size; i++)
		data[i] = (uint8_t)(value >> 8 * i);
}

static void config_written(struct pci_device *d, unsigned offset, unsigned len)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
	const uint8_t *data =
		d->config + p->window + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	uint32_t target;
	unsigned size;

	if (window_is_touched(p, offset, len) && window_target(p, &target, &size))
		bar_write(&d->bars[0].region, target, size,
		          get32(data) & (UINT32_MAX >> (32 - 8 * size)));
	if (offset < PCI_COMMAND + 2 && PCI_COMMAND < offset + len) {
		pthread_mutex_lock(&p->device->lock);
		virtio_device_hold(p->device, VIRTIO_HOLD_NO_DMA,
		                   !(d->config[PCI_COMMAND] & PCI_COMMAND_MASTER));
		pthread_mutex_unlock(&p->device->lock);
	}
}

static void bar_mapped(struct pci_device *d, unsigned bar UNUSED, uint64_t address, bool mapped)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, pci);

	for (unsigned i = 0; p->doorbells && i < p->device->n_queues; i++) {
		uint64_t at = address + NOTIFY_AT + (uint64_t)NOTIFY_STRIDE * i;
		int fd = p->device->queues[i].kick_fd;

		/* One that cannot be bound is served by notify_write(). */
		if (mapped)
			(void)p->doorbells->ops->bind(p->doorbells, at, fd);
		else
			p->doorbells->ops->unbind(p->doorbells, at, fd);
	}
}

static const struct pci_device_ops pci_ops = { .config_written = config_written,
	                                       .config_reading = config_reading,
	                                       .bar_mapped = bar_mapped };

static void put32(uint8_t *at, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> 8 * i);
}

static unsigned add_capability(struct virtio_pci *p, uint8_t type, uint8_t len, uint32_t at,
                               uint32_t bytes)
{
	unsigned offset = pci_add_capability(&p->pci, PCI_CAP_ID_VNDR, len);
	uint8_t *c = p->pci.config + offset;

	c[offsetof(struct virtio_pci_cap, cap_len)] = len;
	c[offsetof(struct virtio_pci_cap, cfg_type)] = type;
	put32(c + offsetof(struct virtio_pci_cap, offset), at);
	put32(c + offsetof(struct virtio_pci_cap, length), bytes);
	return offset;
}

static void add_capabilities(struct virtio_pci *p)
{
	struct virtio_device *d = p->device;
	uint8_t *w;
	unsigned at;

	add_capability(p, VIRTIO_PCI_CAP_COMMON_CFG, sizeof(struct virtio_pci_cap), COMMON_AT,
	               COMMON_BYTES);
	at = add_capability(p, VIRTIO_PCI_CAP_NOTIFY_CFG, sizeof(struct virtio_pci_notify_cap),
	                    NOTIFY_AT, d->n_queues * NOTIFY_STRIDE);
	put32(p->pci.config + at + offsetof(struct virtio_pci_notify_cap, notify_off_multiplier),
	      NOTIFY_STRIDE);
	add_capability(p, VIRTIO_PCI_CAP_ISR_CFG, sizeof(struct virtio_pci_cap), ISR_AT, ISR_BYTES);
	if (d->config_len)
		add_capability(p, VIRTIO_PCI_CAP_DEVICE_CFG, sizeof(struct virtio_pci_cap),
		               DEVICE_AT, d->config_len);
	p->window =
		add_capability(p, VIRTIO_PCI_CAP_PCI_CFG, sizeof(struct virtio_pci_cfg_cap), 0, 0);
	w = p->pci.writable + p->window;
	w[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(w + offsetof(struct virtio_pci_cap, offset), 0xff, 4);
	memset(w + offsetof(struct virtio_pci_cap, length), 0xff, 4);
	memset(w + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data), 0xff, WINDOW_DATA_BYTES);
}

static int set_up(struct virtio_pci *p, struct pci_bus *bus, int slot, struct vmd_error *err)
{
	struct virtio_device *d = p->device;
	int r;

	assert(d->config_len <= MAX_CONFIG);
	pci_device_init(&p->pci, &pci_ops, VENDOR, (uint16_t)(DEVICE_BASE + d->ops->id),
	                class_of(d->ops->id), REVISION);
	pci_set_subsystem(&p->pci, VENDOR, SUBSYSTEM);
	pci_set_bar(&p->pci, 0, BAR_BYTES, false, &bar_ops);
	r = pci_add_msix(&p->pci, d->n_queues + 1, 0, TABLE_AT, PBA_AT);
	if (r < 0)
		return error_set_errno(err, -r, "device '%s'", d->id);
	add_capabilities(p);
	virtio_pci_reset_registers(p);
	d->transport = p;
	d->config_interrupt = config_interrupt;
	for (unsigned i = 0; i < d->n_queues; i++) {
		d->queues[i].interrupt = queue_interrupt;
		d->queues[i].kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (d->queues[i].kick_fd < 0)
			return error_set_errno(err, errno, "device '%s': eventfd", d->id);
	}
	virtio_device_hold(d, VIRTIO_HOLD_NO_DMA, true);
	r = pci_add(bus, &p->pci, slot, err);
	if (r < 0)
		error_prefix(err, "device '%s'", d->id);
	return r;
}

int virtio_pci_new(struct pci_bus *bus, struct doorbells *doorbells, struct virtio_device *d,
                   int slot, struct virtio_pci **ret, struct vmd_error *err)
{
	struct virtio_pci *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return error_set_errno(err, ENOMEM, "device '%s'", d->id);
	p->device = d;
	p->doorbells = doorbells;
	r = set_up(p, bus, slot, err);
	if (r < 0) {
		virtio_pci_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct virtio_pci *virtio_pci_free(struct virtio_pci *p)
{
	struct virtio_device *d;

	if (!p)
		return NULL;
	d = p->device;
	/* No vCPU is in its registers any more when it is stopped, no loop in its interrupts when
	 * they are freed. */
	pci_detach(&p->pci);
	pthread_mutex_lock(&d->lock);
	virtio_device_reset(d);
	pthread_mutex_unlock(&d->lock);
	d->config_interrupt = NULL;
	d->transport = NULL;
	for (unsigned i = 0; i < d->n_queues; i++) {
		d->queues[i].interrupt = NULL;
		cleanup_close_p(&d->queues[i].kick_fd);
	}
	pci_remove(&p->pci);
	free(p);
	return NULL;
}

void virtio_pci_reset(struct virtio_pci *p)
{
	pthread_mutex_lock(&p->device->lock);
	virtio_device_reset(p->device);
	virtio_device_hold(p->device, VIRTIO_HOLD_NO_DMA, true);
	virtio_pci_reset_registers(p);
	pthread_mutex_unlock(&p->device->lock);
	pci_device_reset(&p->pci);
}

void virtio_pci_save(struct virtio_pci *p, struct state_out *o)
{
	pci_device_save(&p->pci, p->device->id, o);
	state_begin(o, SECTION, p->device->id, SECTION_VERSION);
	state_put_u32(o, p->device_feature_select);
	state_put_u32(o, p->driver_feature_select);
	state_put_u16(o, p->queue_select);
	state_put_u8(o, p->isr);
	state_put_u16(o, p->config_vector);
	for (unsigned i = 0; i < p->device->n_queues; i++)
		state_put_u16(o, p->queue_vectors[i]);
	state_end(o);
}

/* Only what a driver could have put there. */
static int load_vector(struct virtio_pci *p, struct state_section *s, _Atomic uint16_t *vector)
{
	uint16_t value = state_get_u16(s);

	*vector = value;
	return virtio_pci_valid_vector(p, value) == value ? 0 : -EINVAL;
}

static int load_registers(struct virtio_pci *p, struct state_section *s)
{
	int r;

	p->device_feature_select = state_get_u32(s);
	p->driver_feature_select = state_get_u32(s);
	p->queue_select = state_get_u16(s);
	p->isr = state_get_u8(s);
	r = p->isr & ~(ISR_QUEUE | ISR_CONFIG) ? -EINVAL : 0;
	if (r == 0)
		r = load_vector(p, s, &p->config_vector);
	for (unsigned i = 0; r == 0 && i < p->device->n_queues; i++)
		r = load_vector(p, s, &p->queue_vectors[i]);
	return r;
}

int virtio_pci_load(struct virtio_pci *p, struct state_in *in, struct vmd_error *err)
{
	struct state_section s;
	int r = pci_device_load(&p->pci, p->device->id, in, err);

	if (r == 0)
		r = state_take(in, SECTION, p->device->id, SECTION_VERSION, &s, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&p->device->lock);
	virtio_device_hold(p->device, VIRTIO_HOLD_NO_DMA,
	                   !(p->pci.config[PCI_COMMAND] & PCI_COMMAND_MASTER));
	r = load_registers(p, &s);
	pthread_mutex_unlock(&p->device->lock);
	if (r == 0)
		r = state_section_done(&s, NULL);
	if (r < 0)
		error_set(err, ERROR_INVALID, "device '%s': its registers make no sense",
		          p->device->id);
	return r < 0 ? -EINVAL : 0;
}
