/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What virtio-pci.c and virtio-pci-regs.c share. All with the device's lock held. */
#include <stdatomic.h>

#include "devices/virtio-pci.h"

#define VIRTIO_PCI_COMMON_BYTES 0x38

struct virtio_pci {
	struct pci_device pci; /* the bus's lock */
	struct virtio_device *device;
	struct doorbells *doorbells;
	unsigned window; /* offset of the capability for access through the config space */

	/* The device's lock. */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;

	/* Read by loops. */
	_Atomic uint16_t config_vector, queue_vectors[VIRTIO_MAX_QUEUES];
	_Atomic uint8_t isr;
};

/* A vector that is not there is NO_VECTOR, which the driver reads back (virtio 1.2, 4.1.5.1.2). */
uint16_t virtio_pci_valid_vector(const struct virtio_pci *p, uint64_t value);
void virtio_pci_reset_registers(struct virtio_pci *p);
/* The common block (virtio 1.2, 4.1.4.3): what is no register of that width reads as all ones. */
uint64_t virtio_pci_common_read(struct virtio_pci *p, uint64_t at, unsigned size);
void virtio_pci_common_write(struct virtio_pci *p, uint64_t at, unsigned size, uint64_t value);
