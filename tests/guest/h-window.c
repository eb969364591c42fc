/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The whole of what is small: the BARs of a device and its configuration, at each offset and width.
 */
#include "hostile.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/pci.h"
#include "victim.h"

#define CONFIG_DWORDS 64
#define CONFIG_PORT   0xCF8
#define PCI_DATA      0xCFC
#define REGISTERS     320 /* of each page of a BAR: registers are at the begin */

static void read_at(uint64_t a, unsigned bytes)
{
	if (bytes == 1)
		(void)mmio_read8(a);
	else if (bytes == 2)
		(void)mmio_read16(a);
	else if (bytes == 4)
		(void)mmio_read32(a);
	else
		(void)mmio_read64(a);
}

static void write_at(uint64_t a, unsigned bytes, uint64_t value)
{
	if (bytes == 1)
		mmio_write8(a, (uint8_t)value);
	else if (bytes == 2)
		mmio_write16(a, (uint16_t)value);
	else if (bytes == 4)
		mmio_write32(a, (uint32_t)value);
	else
		mmio_write64(a, value);
}

/* Every offset and width is read, also across the end of a page; the last ones across the end of
 * the window. */
static uint64_t read_window(uint64_t base, uint64_t bytes, unsigned part, unsigned parts)
{
	uint64_t n = 0;

	for (uint64_t at = part; at < bytes; at += parts)
		for (unsigned width = 1; width <= 8; width *= 2, n++)
			read_at(base + at, width);
	return n;
}

/* Written: all that is near a register, and samples of the rest. */
static uint64_t write_window(uint64_t base, uint64_t bytes, unsigned part, unsigned parts)
{
	uint64_t n = 0;

	for (uint64_t at = part; at < bytes; at += at % PAGE_BYTES < REGISTERS ? parts : 61)
		for (unsigned width = 1; width <= 8; width *= 2, n += 2) {
			write_at(base + at, width, ~0ull);
			write_at(base + at, width, 0);
		}
	return n;
}

/* part=P parts=N: every N-th offset, beginning with the P-th. */
static bool all_of_bars(struct victim *v)
{
	unsigned part = (unsigned)option_number("part", 0);
	unsigned parts = (unsigned)option_number("parts", 1);
	uint64_t n = 0;

	if (v->kind->queue > 0 || part >= parts) /* once for each device */
		return part < parts || fail("part=%u of parts=%u", part, parts);
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar b = pci_bar(v->v.fn, i);

		i += b.is_64;
		if (b.io || !b.bytes)
			continue;
		memory_map_range(b.address, b.bytes + PAGE_BYTES);
		TRY(victim_start(v));
		n += read_window(b.address, b.bytes, part, parts);
		n += write_window(b.address, b.bytes, part, parts);
	}
	print("bars: %s %u: %lu accesses\n", v->kind->name, v->nth, n);
	TRY(n > 0 || fail("%s has no BAR", v->kind->name));
	/* Vectors and addresses were written over. */
	TRY(virtio_find(v->v.type, v->nth, &v->v));
	return victim_works(v);
}

bool test_bars(void)
{
	return for_victims(all_of_bars);
}

/* At the two ports, with any width and at offsets that are no multiple of it. */
static void abuse_ports(pci_fn fn, unsigned at)
{
	out32(CONFIG_PORT, 0x80000000u | (uint32_t)fn << 8 | at);
	for (uint16_t i = 0; i < 4; i++) {
		(void)in8((uint16_t)(PCI_DATA + i));
		(void)in16((uint16_t)(PCI_DATA + i));
		(void)in32((uint16_t)(PCI_DATA + i));
		(void)in8((uint16_t)(CONFIG_PORT + i));
		(void)in16((uint16_t)(CONFIG_PORT + i));
		(void)in32((uint16_t)(CONFIG_PORT + i));
	}
}

static uint64_t abuse_config(pci_fn fn, const uint32_t *before)
{
	uint64_t base = pci_ecam() + ((uint64_t)fn << 12), n = 0;

	for (unsigned at = 0; at < CONFIG_DWORDS * 4; at++)
		for (unsigned width = 1; width <= 8; width *= 2, n += 3) {
			write_at(base + at, width, ~0ull);
			write_at(base + at, width, 0);
			pci_write(fn, at & ~3u, 4, before[at / 4]);
		}
	for (unsigned at = 0; at < CONFIG_DWORDS * 4; at++)
		abuse_ports(fn, at);
	/* BARs before the command register, and the capabilities last: their order counts. */
	for (unsigned i = CONFIG_DWORDS - 1; i > 1; i--)
		pci_write(fn, i * 4, 4, before[i]);
	pci_write(fn, PCI_COMMAND, 2, before[1] & 0xFFFF);
	return n;
}

static bool all_of_config(struct victim *v)
{
	static uint32_t before[CONFIG_DWORDS];
	uint64_t base = pci_ecam() + ((uint64_t)v->v.fn << 12), n;

	if (v->kind->queue > 0 || !pci_ecam())
		return true;
	for (unsigned i = 0; i < CONFIG_DWORDS; i++)
		before[i] = pci_read(v->v.fn, i * 4, 4);
	n = read_window(base, PAGE_BYTES, 0, 1);
	n += abuse_config(v->v.fn, before);
	for (unsigned i = 0; i < 16; i++)
		if (i != 1 && pci_read(v->v.fn, i * 4, 4) != before[i])
			return fail("%s: configuration 0x%x was 0x%x and is 0x%x", v->kind->name,
			            i * 4, before[i], pci_read(v->v.fn, i * 4, 4));
	print("ecam: %s %u: %lu accesses\n", v->kind->name, v->nth, n);
	pci_enable(v->v.fn);
	TRY(virtio_find(v->v.type, v->nth, &v->v));
	return victim_works(v);
}

/* The configuration of each virtio function, all of it; of the host bridge, reads; of functions
 * that are not there, their first bytes. */
bool test_ecam(void)
{
	TRY(for_victims(all_of_config));
	if (!pci_ecam())
		return true;
	(void)read_window(pci_ecam(), PAGE_BYTES, 0, 1);
	for (unsigned fn = 1; fn < 256; fn++)
		for (unsigned width = 1; width <= 8; width *= 2) {
			read_at(pci_ecam() + (fn << 12) + 1, width);
			if (pci_read((pci_fn)fn, PCI_VENDOR, 2) == 0xFFFF)
				write_at(pci_ecam() + (fn << 12) + 3, width, ~0ull);
		}
	return true;
}
