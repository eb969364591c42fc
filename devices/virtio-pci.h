/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The virtio PCI transport (virtio 1.2, 4.1), modern only. Everything is in BAR 0, 16 KiB, 32-bit:
 * registers, doorbells and MSI-X each in a page of its own. As on a real bus, the BAR answers while
 * memory decoding is on, and the device touches guest memory while bus mastering is on (command
 * register, bits 1 and 2): a driver sets both.
 */
#include "devices/pci.h"
#include "devices/virtio.h"

struct virtio_pci;

/* Puts device d (borrowed) on the bus. One MSI-X vector per queue and one for the config space. */
int virtio_pci_new(struct pci_bus *bus, struct doorbells *doorbells, struct virtio_device *d,
                   int slot, struct virtio_pci **ret, struct vmd_error *err);
/* Takes it off the bus; the device stays. NULL is fine. */
struct virtio_pci *virtio_pci_free(struct virtio_pci *p);
/* The device too. Control thread, vCPUs stopped. */
void virtio_pci_reset(struct virtio_pci *p);
/* The transport's part (sections "pci" and "virtio-pci"); the device's is virtio_device_save() and
 * virtio_device_load(). Control thread, vCPUs stopped, device paused. */
void virtio_pci_save(struct virtio_pci *p, struct state_out *o);
int virtio_pci_load(struct virtio_pci *p, struct state_in *in, struct vmd_error *err);
