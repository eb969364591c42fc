/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <linux/virtio_pci.h>

#include "common/macros.h"
#include "devices/virtio-pci-priv.h"

uint16_t virtio_pci_valid_vector(const struct virtio_pci *p, uint64_t value)
{
	return value <= p->device->n_queues ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

void virtio_pci_reset_registers(struct virtio_pci *p)
{
	p->device_feature_select = p->driver_feature_select = 0;
	p->queue_select = 0;
	p->config_vector = VIRTIO_MSI_NO_VECTOR;
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		p->queue_vectors[i] = VIRTIO_MSI_NO_VECTOR;
	p->isr = 0;
}

static bool selected_queue_exists(const struct virtio_pci *p)
{
	return p->queue_select < p->device->n_queues;
}

/* Registers of the common block. Each has a function to read and, where it can be written, one to
 * write; both with the device's lock held. */

static uint64_t read_device_feature_select(struct virtio_pci *p)
{
	return p->device_feature_select;
}

static void write_device_feature_select(struct virtio_pci *p, uint64_t v)
{
	p->device_feature_select = (uint32_t)v;
}

static uint32_t half_of(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

static uint64_t read_device_feature(struct virtio_pci *p)
{
	return half_of(virtio_device_features(p->device), p->device_feature_select);
}

static uint64_t read_driver_feature_select(struct virtio_pci *p)
{
	return p->driver_feature_select;
}

static void write_driver_feature_select(struct virtio_pci *p, uint64_t v)
{
	p->driver_feature_select = (uint32_t)v;
}

static uint64_t read_driver_feature(struct virtio_pci *p)
{
	return half_of(p->device->driver_features, p->driver_feature_select);
}

static void write_driver_feature(struct virtio_pci *p, uint64_t v)
{
	virtio_write_driver_features(p->device, p->driver_feature_select, (uint32_t)v);
}

static uint64_t read_config_vector(struct virtio_pci *p)
{
	return p->config_vector;
}

static void write_config_vector(struct virtio_pci *p, uint64_t v)
{
	p->config_vector = virtio_pci_valid_vector(p, v);
}

static uint64_t read_num_queues(struct virtio_pci *p)
{
	return p->device->n_queues;
}

static uint64_t read_status(struct virtio_pci *p)
{
	return p->device->status;
}

static void write_status(struct virtio_pci *p, uint64_t v)
{
	virtio_write_status(p->device, (uint8_t)v);
	if (v == 0)
		virtio_pci_reset_registers(p);
}

static uint64_t read_generation(struct virtio_pci *p)
{
	return p->device->config_generation;
}

static uint64_t read_queue_select(struct virtio_pci *p)
{
	return p->queue_select;
}

static void write_queue_select(struct virtio_pci *p, uint64_t v)
{
	p->queue_select = (uint16_t)v;
}

static uint64_t read_queue_size(struct virtio_pci *p)
{
	return virtio_queue_read(p->device, p->queue_select, VIRTIO_QUEUE_SIZE);
}

static void write_queue_size(struct virtio_pci *p, uint64_t v)
{
	virtio_queue_write(p->device, p->queue_select, VIRTIO_QUEUE_SIZE, v);
}

static uint64_t read_queue_vector(struct virtio_pci *p)
{
	return selected_queue_exists(p) ? p->queue_vectors[p->queue_select] : VIRTIO_MSI_NO_VECTOR;
}

static void write_queue_vector(struct virtio_pci *p, uint64_t v)
{
	if (selected_queue_exists(p))
		p->queue_vectors[p->queue_select] = virtio_pci_valid_vector(p, v);
}

static uint64_t read_queue_enable(struct virtio_pci *p)
{
	return virtio_queue_is_enabled(p->device, p->queue_select);
}

static void write_queue_enable(struct virtio_pci *p, uint64_t v)
{
	if (v == 1)
		virtio_queue_enable(p->device, p->queue_select);
}

static uint64_t read_notify_off(struct virtio_pci *p)
{
	return selected_queue_exists(p) ? p->queue_select : 0;
}

/* The registers of 8 bytes are read and written by halves (virtio 1.2, 4.1.3.1). */
static uint64_t read_half(struct virtio_pci *p, enum virtio_queue_field field, unsigned half)
{
	return (uint32_t)(virtio_queue_read(p->device, p->queue_select, field) >> 32 * half);
}

static void write_half(struct virtio_pci *p, enum virtio_queue_field field, unsigned half,
                       uint64_t v)
{
	uint64_t old = virtio_queue_read(p->device, p->queue_select, field);

	old &= ~((uint64_t)UINT32_MAX << 32 * half);
	virtio_queue_write(p->device, p->queue_select, field, old | v << 32 * half);
}

static const struct common_register {
	uint8_t at, size;
	uint64_t (*read)(struct virtio_pci *p);
	void (*write)(struct virtio_pci *p, uint64_t v);
} registers[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, read_device_feature_select, write_device_feature_select },
	{ VIRTIO_PCI_COMMON_DF, 4, read_device_feature, NULL },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, read_driver_feature_select, write_driver_feature_select },
	{ VIRTIO_PCI_COMMON_GF, 4, read_driver_feature, write_driver_feature },
	{ VIRTIO_PCI_COMMON_MSIX, 2, read_config_vector, write_config_vector },
	{ VIRTIO_PCI_COMMON_NUMQ, 2, read_num_queues, NULL },
	{ VIRTIO_PCI_COMMON_STATUS, 1, read_status, write_status },
	{ VIRTIO_PCI_COMMON_CFGGENERATION, 1, read_generation, NULL },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, read_queue_select, write_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, read_queue_size, write_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, read_queue_vector, write_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, read_queue_enable, write_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_NOFF, 2, read_notify_off, NULL },
};

static const struct common_register *find_register(uint64_t at, unsigned size)
{
	for (size_t i = 0; i < ARRAY_SIZE(registers); i++)
		if (registers[i].at == at && registers[i].size == size)
			return &registers[i];
	return NULL;
}

/* Is it one of the three addresses, or a half of one? Which one, and how far in it begins. Drivers
 * have to take the halves one by one (virtio 1.2, 4.1.3.1); both at once mean the same, as on QEMU.
 */
static bool find_address(uint64_t at, unsigned size, enum virtio_queue_field *ret, unsigned *half)
{
	if ((size != 4 && size != 8) || at % size || at < VIRTIO_PCI_COMMON_Q_DESCLO ||
	    at >= VIRTIO_PCI_COMMON_BYTES)
		return false;
	*ret = VIRTIO_QUEUE_DESC + (unsigned)(at - VIRTIO_PCI_COMMON_Q_DESCLO) / 8;
	*half = at % 8 / 4;
	return true;
}

uint64_t virtio_pci_common_read(struct virtio_pci *p, uint64_t at, unsigned size)
{
	const struct common_register *r = find_register(at, size);
	enum virtio_queue_field field;
	unsigned half;

	if (r)
		return r->read(p);
	if (!find_address(at, size, &field, &half))
		return UINT64_MAX;
	return size == 8 ? virtio_queue_read(p->device, p->queue_select, field)
	                 : read_half(p, field, half);
}

void virtio_pci_common_write(struct virtio_pci *p, uint64_t at, unsigned size, uint64_t value)
{
	const struct common_register *r = find_register(at, size);
	enum virtio_queue_field field;
	unsigned half;

	if (r && r->write)
		r->write(p, value);
	else if (r || !find_address(at, size, &field, &half))
		return;
	else if (size == 8)
		virtio_queue_write(p->device, p->queue_select, field, value);
	else
		write_half(p, field, half, value);
}
