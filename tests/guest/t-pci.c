/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PCI: what is there, both ways of configuration, BARs that move. */
#include "lib/guest.h"
#include "lib/pci.h"
#include "lib/virtio.h"
#include "tests.h"

#define VENDOR_VIRTIO 0x1AF4
#define ABSENT        0xFFFFFFFF
#define HIGH_WINDOW   (64 * GIB)
#define LOW_START     0x80000000u
#define LOW_END       0xFE000000u
#define HEADER_BRIDGE 1

static unsigned n_bars(pci_fn fn)
{
	return (pci_read(fn, PCI_HEADER_TYPE, 1) & 0x7F) == HEADER_BRIDGE ? 2 : PCI_BARS;
}

static bool scan_capabilities(pci_fn fn)
{
	unsigned at = pci_read(fn, PCI_CAPABILITIES, 1), n = 0;

	if (!(pci_read(fn, PCI_STATUS, 2) & PCI_STATUS_CAPS))
		return true;
	for (; at; at = pci_read(fn, at + 1, 1)) {
		if (at < 0x40 || (at & 3) || ++n > 48)
			return fail("%02x.%u: the capability list leads to 0x%x", fn >> 3, fn & 7,
			            at);
		print("pci: %02x.%u capability 0x%02x at 0x%02x type %u\n", fn >> 3, fn & 7,
		      pci_read(fn, at, 1), at, pci_read(fn, at + 3, 1));
	}
	return true;
}

/* Every dword by ECAM and by ports is the same; parts of a dword are parts of it. */
static bool compare_ways(pci_fn fn)
{
	for (unsigned at = 0; at < 256; at += 4) {
		uint32_t a = pci_read(fn, at, 4), b = pci_port_read(fn, at, 4);

		if (a != b)
			return fail("%02x.%u: 0x%x by ECAM, 0x%x by port at 0x%x", fn >> 3, fn & 7,
			            a, b, at);
	}
	for (unsigned at = 0; at < 16; at++) {
		uint32_t word = pci_read(fn, at & ~3u, 4) >> (at & 3) * 8;

		CHECK(pci_port_read(fn, at, 1) == (word & 0xFF));
		CHECK(pci_read(fn, at, 1) == (word & 0xFF));
		CHECK((at & 1) || pci_read(fn, at, 2) == (word & 0xFFFF));
		CHECK((at & 1) || pci_port_read(fn, at, 2) == (word & 0xFFFF));
	}
	return true;
}

static bool read_only_stays(pci_fn fn)
{
	uint32_t id = pci_read(fn, PCI_VENDOR, 4), class = pci_read(fn, PCI_CLASS, 4);

	pci_write(fn, PCI_VENDOR, 4, ~id);
	pci_port_write(fn, PCI_CLASS, 4, ~class);
	CHECK(pci_read(fn, PCI_VENDOR, 4) == id && pci_read(fn, PCI_CLASS, 4) == class);
	return true;
}

static bool scan_function(pci_fn fn)
{
	print("pci: %02x.%u %04x:%04x class %06x\n", fn >> 3, fn & 7, pci_read(fn, PCI_VENDOR, 2),
	      pci_read(fn, PCI_VENDOR + 2, 2), pci_read(fn, PCI_CLASS, 4) >> 8);
	for (unsigned i = 0; i < n_bars(fn); i++) {
		struct pci_bar b = pci_bar(fn, i);

		if (b.bytes == 0)
			continue;
		print("pci: %02x.%u bar %u 0x%lx+0x%lx %s\n", fn >> 3, fn & 7, i, b.address,
		      b.bytes,
		      b.io      ? "io"
		      : b.is_64 ? "memory 64"
		                : "memory");
		if ((b.bytes & (b.bytes - 1)) || (b.address & (b.bytes - 1)))
			return fail("%02x.%u: bar %u is not aligned", fn >> 3, fn & 7, i);
		i += b.is_64;
	}
	TRY(scan_capabilities(fn));
	TRY(read_only_stays(fn));
	return compare_ways(fn);
}

static bool overlaps(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

static bool is_free(uint64_t address, uint64_t bytes)
{
	size_t n;
	const struct memory_range *map = memory_map(&n);

	for (size_t i = 0; i < n; i++)
		if (overlaps(address, bytes, map[i].address, map[i].bytes))
			return false;
	if (overlaps(address, bytes, pci_ecam(), 256 * MIB))
		return false;
	for (unsigned fn = 0; pci_next(&fn); fn++)
		for (unsigned i = 0; i < n_bars((pci_fn)fn); i++) {
			struct pci_bar b = pci_bar((pci_fn)fn, i);

			if (!b.io && overlaps(address, bytes, b.address, b.bytes))
				return false;
			i += b.is_64;
		}
	return true;
}

/* A place below the chips at the end of the first 4 GiB that nobody uses, or 0. */
static uint64_t free_place(uint64_t bytes)
{
	uint64_t step = bytes > 16 * MIB ? bytes : 16 * MIB;

	for (uint64_t a = LOW_END - step; a >= LOW_START; a -= step)
		if (is_free(a & ~(bytes - 1), bytes))
			return a & ~(bytes - 1);
	return 0;
}

/* The common configuration answers at the new place and nothing does at the old one. */
static bool move_to(struct virtio *v, unsigned n, const struct pci_bar *bar, uint64_t to)
{
	uint64_t at = v->common - bar->address + COMMON_NUM_QUEUES;
	uint16_t queues = mmio_read16(bar->address + at), there, left;

	memory_map_range(to, bar->bytes);
	pci_bar_move(v->fn, n, to);
	there = mmio_read16(to + at);
	left = mmio_read16(bar->address + at);
	pci_bar_move(v->fn, n, bar->address);
	if (there != queues)
		return fail("%02x: bar %u at 0x%lx reads 0x%x, not 0x%x", v->fn >> 3, n, to, there,
		            queues);
	if (left == queues)
		return fail("%02x: bar %u is still at 0x%lx", v->fn >> 3, n, bar->address);
	if (mmio_read16(bar->address + at) != queues)
		return fail("%02x: bar %u does not come back", v->fn >> 3, n);
	print("pci: %02x.0 bar %u moved to 0x%lx and back\n", v->fn >> 3, n, to);
	return true;
}

static bool move_bars(struct virtio *v)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar b = pci_bar(v->fn, i);
		uint64_t low;

		if (!b.bytes || b.io || v->common < b.address || v->common >= b.address + b.bytes) {
			i += b.is_64;
			continue;
		}
		low = free_place(b.bytes);
		if (low)
			TRY(move_to(v, i, &b, low));
		if (b.is_64)
			TRY(move_to(v, i, &b, HIGH_WINDOW));
		return true;
	}
	return fail("%02x: no bar has the common configuration", v->fn >> 3);
}

bool test_pci(void)
{
	static struct virtio v;
	unsigned n = 0, missing = 31 << 3;

	print("pci: ECAM at 0x%lx\n", pci_ecam());
	for (unsigned fn = 0; pci_next(&fn); fn++, n++)
		TRY(scan_function((pci_fn)fn));
	CHECK(n > 0);
	if (pci_read((pci_fn)missing, PCI_VENDOR, 2) == 0xFFFF) {
		pci_write((pci_fn)missing, PCI_BAR, 4, 0x12345678);
		CHECK(pci_read((pci_fn)missing, PCI_BAR, 4) == ABSENT);
	}
	for (uint16_t type = 1; type < 64; type++)
		for (unsigned i = 0; virtio_exists(type, i); i++) {
			TRY(virtio_find(type, i, &v));
			TRY(move_bars(&v));
		}
	return true;
}
