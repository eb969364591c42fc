/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What pci.c and pci-msix.c know of each other. All with the bus locked; a device without MSI-X is
 * fine everywhere. */
#include "devices/pci.h"

#define PCI_SLOT_OF(devfn) ((devfn) >> 3)
#define PCI_FUNC_OF(devfn) ((devfn)&7)

/* Makes the routes of a device that comes onto the bus. */
int msix_attach(struct pci_device *d, struct irqchip *irqchip, struct vmd_error *err);
/* Frees it. The bus need not be locked. */
void msix_free(struct pci_device *d);
/* Looks whether enable and mask bits were among what was written. */
void msix_config_written(struct pci_device *d, unsigned offset, unsigned len);
void msix_reset(struct pci_device *d);
void msix_save(struct pci_device *d, struct state_out *o);
/* Table and pending bits; config is what the config space will be. Takes effect with
 * msix_config_written(). -EINVAL. */
int msix_load(struct pci_device *d, const uint8_t *config, struct state_section *s);
