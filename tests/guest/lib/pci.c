/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pci.h"

#include "acpi.h"
#include "guest.h"
#include "irq.h"

#define ADDRESS_PORT       0xCF8
#define DATA_PORT          0xCFC
#define ADDRESS_ENABLE     0x80000000u
#define FN_SHIFT_ECAM      12
#define FN_COUNT           256
#define MULTIFUNCTION      0x80
#define BAR_IO             0x1u
#define BAR_64             0x4u
#define CAPS_MAX           48
#define MSIX_CONTROL       2
#define MSIX_TABLE         4
#define MSIX_ENABLE        0x8000u
#define MSIX_FUNCTION_MASK 0x4000u
#define MSIX_ENTRY         16
#define MSI_ADDRESS        0xFEE00000u

uint64_t pci_ecam(void)
{
	static uint64_t base;
	static bool known;
	const struct acpi_mcfg *mcfg;

	if (known)
		return base;
	known = true;
	mcfg = acpi_find("MCFG");
	if (mcfg && mcfg->header.length >= sizeof(*mcfg) + sizeof(mcfg->segments[0])) {
		base = mcfg->segments[0].base;
		memory_map_range(base, (uint64_t)FN_COUNT << FN_SHIFT_ECAM);
	}
	return base;
}

static uint16_t select_port(pci_fn fn, unsigned offset)
{
	out32(ADDRESS_PORT, ADDRESS_ENABLE | (uint32_t)fn << 8 | (offset & 0xFC));
	return (uint16_t)(DATA_PORT + (offset & 3));
}

uint32_t pci_port_read(pci_fn fn, unsigned offset, unsigned bytes)
{
	uint16_t port = select_port(fn, offset);

	return bytes == 4 ? in32(port) : bytes == 2 ? in16(port) : in8(port);
}

void pci_port_write(pci_fn fn, unsigned offset, unsigned bytes, uint32_t value)
{
	uint16_t port = select_port(fn, offset);

	if (bytes == 4)
		out32(port, value);
	else if (bytes == 2)
		out16(port, (uint16_t)value);
	else
		out8(port, (uint8_t)value);
}

uint32_t pci_read(pci_fn fn, unsigned offset, unsigned bytes)
{
	uint64_t a = pci_ecam() + ((uint64_t)fn << FN_SHIFT_ECAM) + offset;

	if (!pci_ecam())
		return pci_port_read(fn, offset, bytes);
	return bytes == 4 ? mmio_read32(a) : bytes == 2 ? mmio_read16(a) : mmio_read8(a);
}

void pci_write(pci_fn fn, unsigned offset, unsigned bytes, uint32_t value)
{
	uint64_t a = pci_ecam() + ((uint64_t)fn << FN_SHIFT_ECAM) + offset;

	if (!pci_ecam())
		pci_port_write(fn, offset, bytes, value);
	else if (bytes == 4)
		mmio_write32(a, value);
	else if (bytes == 2)
		mmio_write16(a, (uint16_t)value);
	else
		mmio_write8(a, (uint8_t)value);
}

static bool is_multifunction(unsigned device)
{
	return pci_read((pci_fn)(device << 3), PCI_HEADER_TYPE, 1) & MULTIFUNCTION;
}

bool pci_next(unsigned *fn)
{
	while (*fn < FN_COUNT) {
		if (pci_read((pci_fn)*fn, PCI_VENDOR, 2) != 0xFFFF)
			return true;
		/* Functions 1 to 7 only count where function 0 is there and says so. */
		if ((*fn & 7) == 0 || !is_multifunction(*fn >> 3))
			*fn = (*fn & ~7u) + 8;
		else
			++*fn;
	}
	return false;
}

unsigned pci_capability(pci_fn fn, uint8_t id, unsigned after)
{
	unsigned at = after ? pci_read(fn, after + 1, 1) : pci_read(fn, PCI_CAPABILITIES, 1);

	if (!(pci_read(fn, PCI_STATUS, 2) & PCI_STATUS_CAPS))
		return 0;
	for (unsigned i = 0; i < CAPS_MAX && at >= 0x40; i++) {
		if (pci_read(fn, at, 1) == id)
			return at;
		at = pci_read(fn, at + 1, 1);
	}
	return 0;
}

static void decode(pci_fn fn, bool on)
{
	uint32_t command = pci_read(fn, PCI_COMMAND, 2);

	pci_write(fn, PCI_COMMAND, 2,
	          on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY);
}

static struct pci_bar size_bar(pci_fn fn, unsigned n)
{
	unsigned at = PCI_BAR + n * 4;
	uint32_t low = pci_read(fn, at, 4), high = 0;
	uint32_t command = pci_read(fn, PCI_COMMAND, 2);
	uint64_t mask;
	struct pci_bar b = { .io = low & BAR_IO, .is_64 = !(low & BAR_IO) && (low & BAR_64) };

	pci_write(fn, PCI_COMMAND, 2, command & ~3u);
	pci_write(fn, at, 4, 0xFFFFFFFF);
	mask = pci_read(fn, at, 4) & (b.io ? ~3u : ~15u);
	if (b.is_64) {
		high = pci_read(fn, at + 4, 4);
		pci_write(fn, at + 4, 4, 0xFFFFFFFF);
		mask |= (uint64_t)pci_read(fn, at + 4, 4) << 32;
		pci_write(fn, at + 4, 4, high);
	} else if (mask) {
		mask |= 0xFFFFFFFF00000000ull | (b.io ? 0xFFFF0000u : 0);
	}
	pci_write(fn, at, 4, low);
	pci_write(fn, PCI_COMMAND, 2, command);
	b.address = (low & (b.io ? ~3u : ~15u)) | (uint64_t)high << 32;
	b.bytes = mask ? ~mask + 1 : 0;
	return b;
}

/* Turning the decoder off and on is slow with many monitors, so each BAR is sized once. */
static struct {
	bool known;
	struct pci_bar bar;
} bars[FN_COUNT][PCI_BARS];

struct pci_bar pci_bar(pci_fn fn, unsigned n)
{
	if (!bars[fn][n].known) {
		bars[fn][n].bar = size_bar(fn, n);
		bars[fn][n].known = true;
	}
	return bars[fn][n].bar;
}

void pci_bar_move(pci_fn fn, unsigned n, uint64_t address)
{
	struct pci_bar *bar = &bars[fn][n].bar;

	(void)pci_bar(fn, n);
	decode(fn, false);
	pci_write(fn, PCI_BAR + n * 4, 4, (uint32_t)address);
	if (bar->is_64)
		pci_write(fn, PCI_BAR + n * 4 + 4, 4, (uint32_t)(address >> 32));
	decode(fn, true);
	bar->address = address;
}

void pci_enable(pci_fn fn)
{
	pci_write(fn, PCI_COMMAND, 2,
	          pci_read(fn, PCI_COMMAND, 2) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

unsigned pci_msix_enable(pci_fn fn, uint64_t *ret_table)
{
	unsigned cap = pci_capability(fn, PCI_CAP_MSIX, 0), n;
	uint32_t table, control;

	if (!cap)
		return 0;
	control = pci_read(fn, cap + MSIX_CONTROL, 2);
	n = (control & 0x7FF) + 1;
	table = pci_read(fn, cap + MSIX_TABLE, 4);
	*ret_table = pci_bar(fn, table & 7).address + (table & ~7u);
	memory_map_range(*ret_table, (uint64_t)n * MSIX_ENTRY);
	for (unsigned i = 0; i < n; i++)
		pci_msix_mask(*ret_table, i, true);
	pci_write(fn, cap + MSIX_CONTROL, 2, (control | MSIX_ENABLE) & ~MSIX_FUNCTION_MASK);
	return n;
}

void pci_msix_set(uint64_t table, unsigned n, uint8_t vector)
{
	uint64_t entry = table + (uint64_t)n * MSIX_ENTRY;

	mmio_write32(entry, MSI_ADDRESS | apic_id() << 12);
	mmio_write32(entry + 4, 0);
	mmio_write32(entry + 8, vector);
	pci_msix_mask(table, n, false);
}

void pci_msix_mask(uint64_t table, unsigned n, bool masked)
{
	mmio_write32(table + (uint64_t)n * MSIX_ENTRY + 12, masked);
}
