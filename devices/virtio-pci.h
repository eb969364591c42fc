/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The virtio PCI transport (virtio 1.2, 4.1), modern only. */
#include "devices/pci.h"
#include "devices/virtio.h"

struct virtio_pci;

/* Puts device d (borrowed) on the bus. One MSI-X vector per queue and one for the config space. */
int virtio_pci_new(struct pci_bus *bus, struct doorbells *doorbells, struct virtio_device *d,
                   int slot, struct virtio_pci **ret, struct vmd_error *err);
/* Takes it off the bus; the device stays. NULL is fine. */
struct virtio_pci *virtio_pci_free(struct virtio_pci *p);
void virtio_pci_reset(struct virtio_pci *p);
void virtio_pci_save(struct virtio_pci *p, struct state_out *o);
int virtio_pci_load(struct virtio_pci *p, struct state_in *in, struct vmd_error *err);
