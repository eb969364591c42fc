/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A machine without a CPU, for tests of PCI devices: buses, PCI, an irqchip that counts, doorbells
 * that are remembered; and a guest's virtio-pci driver, which knows nothing but what it reads from
 * config space and BARs. Failures are assertions.
 */
#include <pthread.h>

#include "devices/irq.h"
#include "devices/pci.h"
#include "devices/virtio-pci.h"
#include "tests/lib/guest-ram.h"

#define MACHINE_ECAM      0xb0000000ull
#define MACHINE_LOW       0xc0000000ull
#define MACHINE_HIGH      0x100000000000ull
#define MACHINE_DOORBELLS 64
#define MACHINE_VECTORS   256

struct guest_machine {
	struct guest_ram ram;
	struct bus pio, mmio;
	struct pci_bus pci;
	struct irqchip irqchip;
	struct doorbells doorbells;

	pthread_mutex_t lock; /* all below */
	pthread_cond_t sent;
	unsigned routes, route_updates;   /* alive; calls of msi_set */
	bool refuse_routes;               /* msi_set fails */
	unsigned counts[MACHINE_VECTORS]; /* messages sent, by their data */
	struct {
		uint64_t address;
		int eventfd;
	} bells[MACHINE_DOORBELLS];
	unsigned n_bells;
};

void guest_machine_init(struct guest_machine *m, size_t ram_bytes);
/* Asserts that no route and no doorbell is left. */
void guest_machine_deinit(struct guest_machine *m);
unsigned machine_sent(struct guest_machine *m, uint8_t data);
/* Waits until message data was sent n times; asserts that it comes to that within half a minute. */
void machine_wait_sent(struct guest_machine *m, uint8_t data, unsigned n);
/* A guest's write: to a doorbell when one is bound there, else to the bus. */
void machine_write(struct guest_machine *m, uint64_t address, unsigned size, uint64_t value);
uint32_t machine_config_read(struct guest_machine *m, unsigned slot, unsigned offset,
                             unsigned size);
void machine_config_write(struct guest_machine *m, unsigned slot, unsigned offset, unsigned size,
                          uint32_t value);

/* A driver bound to the virtio function in a slot. */
struct pci_driver {
	struct guest_machine *machine;
	unsigned slot;
	uint64_t common, isr, notify, device; /* addresses; 0: no such capability */
	uint32_t notify_multiplier, window;   /* window: offset in config space */
	unsigned msix;                        /* offset in config space */
	uint64_t table, pba;
};

/* Finds the capabilities, enables memory and bus mastering. */
void pci_driver_probe(struct pci_driver *p, struct guest_machine *m, unsigned slot);
uint32_t pci_driver_read(struct pci_driver *p, unsigned common_offset, unsigned size);
void pci_driver_write(struct pci_driver *p, unsigned common_offset, unsigned size, uint32_t value);
void pci_driver_set_status(struct pci_driver *p, uint8_t status);
uint8_t pci_driver_status(struct pci_driver *p);
uint64_t pci_driver_features(struct pci_driver *p);
/* Reset, ACKNOWLEDGE, DRIVER, these features, FEATURES_OK; was it accepted? */
bool pci_driver_negotiate(struct pci_driver *p, uint64_t features);
/* Gives MSI-X vector n the message n + 1 and unmasks it; enables MSI-X. */
void pci_driver_set_vector(struct pci_driver *p, unsigned n);
/* Tells of a queue's size and places, with the vector, and enables it. */
void pci_driver_set_queue(struct pci_driver *p, unsigned index, const struct driver_queue *q,
                          uint16_t vector);
void pci_driver_ok(struct pci_driver *p);
void pci_driver_kick(struct pci_driver *p, unsigned index);
/* Waits for the next used entry; its written length. The queue's message is `data`. */
uint32_t pci_driver_wait_used(struct pci_driver *p, struct driver_queue *q, uint8_t data,
                              uint32_t *id);
