/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * One PCI Express root bus: configuration by ECAM and by ports 0xCF8/0xCFC, memory BARs that the
 * guest may move, MSI-X. Functions have no I/O BARs and no INTx. Slot 0 is a host bridge, without
 * which Linux does not believe in ports 0xCF8/0xCFC.
 *
 * Lock order: pci_bus.lock, then what a device's hooks take (virtio_device.lock), then the locks
 * inside bus and MSI-X, which are leaves. Handlers of BARs never take pci_bus.lock: a BAR is moved
 * with it held, and moving waits for them.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/bus.h"
#include "devices/irq.h"
#include "devices/state.h"

#define PCI_MAX_DEVICES    32
#define PCI_CONFIG_BYTES   256
#define PCI_MAX_BARS       6
#define PCI_ECAM_BUS_BYTES (1u << 20)

struct pci_device;

struct pci_device_ops {
	/* After a write to [offset, offset + len) of its config space; may be NULL. vCPU thread,
	 * bus locked. */
	void (*config_written)(struct pci_device *d, unsigned offset, unsigned len);
	/* Before a read of it; may be NULL. */
	void (*config_reading)(struct pci_device *d, unsigned offset, unsigned len);
	/* A memory BAR is at address from now on, or no longer: move doorbells. May be NULL. Bus
	 * locked. */
	void (*bar_mapped)(struct pci_device *d, unsigned bar, uint64_t address, bool mapped);
};

struct pci_bar {
	uint64_t bytes; /* power of two, or 0: none. 64-bit BARs take two slots */
	bool is_64, prefetch, mapped;
	uint64_t home;            /* where it is after power-on and reset */
	struct bus_region region; /* ops set by the device; base is kept by pci.c */
};

struct msix;

/* Embedded in what it is the PCI side of; zeroed before pci_device_init(). */
struct pci_device {
	const struct pci_device_ops *ops;
	struct pci_bus *bus;
	unsigned slot;
	uint8_t config[PCI_CONFIG_BYTES], writable[PCI_CONFIG_BYTES]; /* masks of writable bits */
	uint8_t next_capability;                                      /* where the next one goes */
	struct pci_bar bars[PCI_MAX_BARS];
	struct msix *msix; /* owned, or NULL */
};

struct pci_bus {
	pthread_mutex_t lock;
	struct pci_device bridge;
	struct pci_device *devices[PCI_MAX_DEVICES];
	struct bus *mmio;
	struct irqchip *irqchip;
	/* Added to the buses by pci_bus_init(): 1 MiB at ecam_base; 0xCF8 and 0xCFC, 4 bytes each.
	 */
	struct bus_region ecam, address_region, data_region;
	struct bus *pio;
	uint32_t address_port;
	/* Where BARs are placed at power-on: [low, low_end) below 4 GiB, [high, high_end) above. */
	uint64_t low, low_end, high, high_end;
};

/* low ... high_end are the caller's to set, before the first pci_add(). */
int pci_bus_init(struct pci_bus *b, struct bus *pio, struct bus *mmio, struct irqchip *irqchip,
                 uint64_t ecam_base);
void pci_bus_deinit(struct pci_bus *b);
/* The bus itself and its bridge; devices are reset, saved and loaded by their owners. Control
 * thread, vCPUs stopped. */
void pci_bus_reset(struct pci_bus *b);
void pci_bus_save(struct pci_bus *b, struct state_out *o);
int pci_bus_load(struct pci_bus *b, struct state_in *in, struct vmd_error *err);

/* Type 0 header; class is the 24-bit class code. */
void pci_device_init(struct pci_device *d, const struct pci_device_ops *ops, uint16_t vendor,
                     uint16_t device, uint32_t class_code, uint8_t revision);
void pci_set_subsystem(struct pci_device *d, uint16_t vendor, uint16_t device);
/* Room of len bytes (header included) in the capability list; its offset. len is asserted to fit.
 */
unsigned pci_add_capability(struct pci_device *d, uint8_t id, unsigned len);
void pci_set_bar(struct pci_device *d, unsigned bar, uint64_t bytes, bool is_64,
                 const struct bus_region_ops *ops);
/* MSI-X with n vectors, its table at bar + table_offset, the PBA at bar + pba_offset. */
int pci_add_msix(struct pci_device *d, unsigned n, unsigned bar, uint32_t table_offset,
                 uint32_t pba_offset);
/* Puts it on the bus in slot, or in a free one when slot is negative; gives its BARs addresses, and
 * MSI-X its routes. ERROR_EXISTS, ERROR_NO_SPACE, or what the irqchip says. */
int pci_add(struct pci_bus *b, struct pci_device *d, int slot, struct vmd_error *err);
/* It is gone from the bus, its BARs too, and nobody is in their handlers when it returns. MSI-X
 * stays until pci_remove(). */
void pci_detach(struct pci_device *d);
/* As pci_detach(); frees MSI-X. Safe on one that was not added. */
void pci_remove(struct pci_device *d);

/* Sends vector n, or marks it pending when masked. Any thread; never waits for long. */
void msix_send(struct pci_device *d, unsigned n);
/* For the BAR that holds table and PBA. */
uint64_t msix_read(struct pci_device *d, uint64_t bar_offset, unsigned size);
void msix_write(struct pci_device *d, uint64_t bar_offset, unsigned size, uint64_t value);

/* Control thread, vCPUs stopped. Section "pci". What a state may not change (ids, capabilities)
 * must be equal in load, -EINVAL. */
void pci_device_reset(struct pci_device *d);
void pci_device_save(struct pci_device *d, const char *instance, struct state_out *o);
int pci_device_load(struct pci_device *d, const char *instance, struct state_in *in,
                    struct vmd_error *err);
