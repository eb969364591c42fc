/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* PCI configuration, by ECAM where ACPI tells of it, else by ports; BARs and MSI-X. */
#include <stdbool.h>
#include <stdint.h>

#define PCI_VENDOR         0x00
#define PCI_COMMAND        0x04
#define PCI_STATUS         0x06
#define PCI_CLASS          0x08
#define PCI_HEADER_TYPE    0x0E
#define PCI_BAR            0x10
#define PCI_CAPABILITIES   0x34
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_STATUS_CAPS    0x10
#define PCI_CAP_MSIX       0x11
#define PCI_CAP_VENDOR     0x09
#define PCI_BARS           6

/* A function of bus 0: device << 3 | function. */
typedef uint8_t pci_fn;

uint32_t pci_read(pci_fn fn, unsigned offset, unsigned bytes);
void pci_write(pci_fn fn, unsigned offset, unsigned bytes, uint32_t value);
/* By the ports 0xCF8 and 0xCFC in any case. */
uint32_t pci_port_read(pci_fn fn, unsigned offset, unsigned bytes);
void pci_port_write(pci_fn fn, unsigned offset, unsigned bytes, uint32_t value);
/* Where ECAM is, or 0. */
uint64_t pci_ecam(void);

/* The first function at or after *fn; false when there is none. */
bool pci_next(unsigned *fn);
/* Capability id after offset (0: from the start), or 0. Bounded, whatever the list says. */
unsigned pci_capability(pci_fn fn, uint8_t id, unsigned after);

struct pci_bar {
	uint64_t address, bytes; /* 0 bytes: there is none */
	bool io, is_64;
};
/* Sizes it when it is first asked for, with decoding off meanwhile. */
struct pci_bar pci_bar(pci_fn fn, unsigned n);
void pci_bar_move(pci_fn fn, unsigned n, uint64_t address);
/* Decoding and bus mastering on. */
void pci_enable(pci_fn fn);

/* How many vectors; turns MSI-X on and masks them all. 0 without the capability. */
unsigned pci_msix_enable(pci_fn fn, uint64_t *ret_table);
/* Entry n of the table interrupts this processor with the vector. */
void pci_msix_set(uint64_t table, unsigned n, uint8_t vector);
void pci_msix_mask(uint64_t table, unsigned n, bool masked);
