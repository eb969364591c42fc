/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The whole address space, whoever is there: ports, device memory, configuration, registers. */
#include "hostile.h"
#include "lib/acpi.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/pci.h"
#include "victim.h"

#define UART       0x3F8
#define PCI_DATA   0xCFC
#define PORTS      0x10000u
#define LOW_START  0xC0000000u
#define LAPIC      0xFEE00000u
#define IOAPIC     0xFEC00000u
#define STRING_MAX 4096u

/* What ends or stops the machine when it is written, or is the way by which results are told. */
static bool port_is_special(unsigned port)
{
	static const struct {
		uint16_t first, last;
	} special[] = {
		{ 0x20, 0x21 },   { 0xA0, 0xA1 },
		{ 0x60, 0x64 }, /* interrupts, keyboard: reset */
		{ 0x70, 0x71 }, /* the clock keeps its date */
		{ 0x92, 0x92 },   { 0xB2, 0xB3 },
		{ 0xF0, 0xF7 }, /* reset, SMI, test exit */
		{ 0x3F8, 0x3FF }, { 0x501, 0x505 },
		{ 0x510, 0x51B }, /* serial, panic, fw_cfg */
		{ 0x600, 0x67F }, { 0xAE00, 0xAFFF },
		{ 0xCD8, 0xCDF }, /* power, hot-plug */
		{ 0xCF8, 0xCFF }, /* PCI and its reset */
	};

	for (size_t i = 0; i < ARRAY_SIZE(special); i++)
		if (port + 3 >= special[i].first && port <= special[i].last)
			return true;
	return false;
}

/* Every port at every width is read; written, unless write=0, where that ends nothing: all of them
 * below write-end, then those at each write-step. Reads have effects too: the power button's
 * register is cleared, the serial port's input is lost. QEMU 7.2 dies of wide accesses to its
 * serial port, so with option "qemu" there are none. */
bool test_ports(void)
{
	uint64_t first = option_number("first", 0), end = option_number("end-port", PORTS);
	uint64_t write_end = option_number("write-end", PORTS);
	uint64_t step = option_number("write-step", 1);
	bool write = option_number("write", 1);
	uint64_t answered = 0;

	for (uint64_t p = first; p < end; p++) {
		uint16_t port = (uint16_t)p;

		answered += in8(port) != 0xFF;
		if (option("qemu") && port + 3 >= UART && port < UART + 8)
			continue;
		(void)in16(port);
		(void)in32(port);
		if (!write || port_is_special(port) || (p >= write_end && p % step))
			continue;
		out8(port, 0);
		out16(port, 0xFFFF);
		out32(port, 0x5A5A5A5A);
	}
	print("ports: %lu of %lu ports answer\n", answered, end - first);
	return true;
}

static void in_string(uint16_t port, void *to, uint64_t n)
{
	__asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(port) : "memory");
}

static void out_string(uint16_t port, const void *from, uint64_t n)
{
	__asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(port) : "memory");
}

static void in_string32(uint16_t port, void *to, uint64_t n)
{
	__asm__ volatile("rep insl" : "+D"(to), "+c"(n) : "d"(port) : "memory");
}

/* String instructions: thousands of accesses in one exit, into and out of memory. */
bool test_strings(void)
{
	uint8_t *p = pages_alloc(4 * STRING_MAX + PAGE_BYTES);

	p[STRING_MAX] = 0xA5;
	in_string(UART + 7, p, STRING_MAX);
	CHECK(p[STRING_MAX] == 0xA5);
	p[4 * STRING_MAX] = 0xA5;
	in_string32(PCI_DATA, p, STRING_MAX);
	CHECK(p[4 * STRING_MAX] == 0xA5);
	out_string(0x80, p, STRING_MAX);
	/* Neither from nor to where no memory is. */
	out_string(0x80, (const void *)LOW_START, 64);
	in_string(0x80, (void *)LOW_START, 64);
	print("strings: three of %u\n", STRING_MAX);
	return true;
}

static void touch(uint64_t a, bool write)
{
	(void)mmio_read8(a);
	(void)mmio_read16(a);
	(void)mmio_read32(a);
	(void)mmio_read64(a);
	if (!write)
		return;
	mmio_write8(a, 0xFF);
	mmio_write16(a, 0xFFFF);
	mmio_write32(a, 0xFFFFFFFF);
	mmio_write64(a, ~0ull);
}

static bool in_bar(uint64_t address)
{
	for (unsigned fn = 0; pci_next(&fn); fn++)
		for (unsigned i = 0; i < PCI_BARS; i++) {
			struct pci_bar b = pci_bar((pci_fn)fn, i);

			if (!b.io && address - b.address < b.bytes)
				return true;
			i += b.is_64;
		}
	return false;
}

/* The interrupt controllers and the configuration space are read only here: writing there is the
 * guest's own end. */
static bool may_write(uint64_t a)
{
	uint64_t page = a & ~(uint64_t)(PAGE_BYTES - 1);

	return page != LAPIC && page != IOAPIC && a - pci_ecam() >= 256 * MIB && !in_bar(a);
}

/* One page in each step=, at its begin and across its end; then what is beyond RAM, by doubling. */
bool test_mmio(void)
{
	static const uint16_t offsets[] = { 0, 1, 3, 0x7F, 0xFFC, 0xFFF };
	uint64_t step = option_number("step", 16 * MIB), n = 0;
	uint64_t start = ram_top() > LOW_START ? ram_top() : LOW_START;

	start = (start + step - 1) & ~(step - 1);
	for (uint64_t page = start; page < 4 * GIB; page += step)
		for (size_t i = 0; i < ARRAY_SIZE(offsets); i++, n++)
			if (page + 2 * PAGE_BYTES <= 4 * GIB)
				touch(page + offsets[i],
				      may_write(page) && may_write(page + PAGE_BYTES));
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++, n += 2) {
		touch(IOAPIC + (offsets[i] & 0xFF8), false);
		touch(LAPIC + (offsets[i] & 0xFF0), false);
	}
	for (uint64_t a = 8 * GIB; a < 512 * GIB; a *= 2, n++) {
		memory_map_range(a, PAGE_BYTES);
		if (a >= memory_end() && !in_bar(a))
			touch(a + 0x10, true);
	}
	print("mmio: %lu places at four widths\n", n);
	return true;
}

/* Configuration of every function, also where none is: all widths and offsets; all ones written and
 * taken back. Afterwards the functions are what they were. */
static bool abuse_function(pci_fn fn)
{
	static uint32_t before[64];
	uint64_t base = pci_ecam() + ((uint64_t)fn << 12);

	for (unsigned i = 0; i < 64; i++)
		before[i] = pci_port_read(fn, i * 4, 4);
	for (unsigned at = 0; pci_ecam() && at < PAGE_BYTES - 8; at += at < 256 ? 1 : 61) {
		(void)mmio_read8(base + at);
		(void)mmio_read16(base + at);
		(void)mmio_read32(base + at);
		(void)mmio_read64(base + at);
	}
	for (unsigned at = 0; at < 256; at += 4) {
		pci_port_write(fn, at, 4, 0xFFFFFFFF);
		pci_port_write(fn, at, 4, 0);
		pci_port_write(fn, at, 1, 0xFF);
		pci_port_write(fn, at + 2, 2, 0xFFFF);
		pci_port_write(fn, at, 4, before[at / 4]);
	}
	/* Where an order counts: BARs before the command register, capabilities once more. */
	for (unsigned i = 63; i > 1; i--)
		pci_port_write(fn, i * 4, 4, before[i]);
	pci_port_write(fn, PCI_COMMAND, 2, before[1] & 0xFFFF);
	for (unsigned i = 0; i < 16; i++)
		if (i != 1 && pci_port_read(fn, i * 4, 4) != before[i])
			return fail("%02x.%u: configuration 0x%x was 0x%x and is 0x%x", fn >> 3,
			            fn & 7, i * 4, before[i], pci_port_read(fn, i * 4, 4));
	return true;
}

/* Only virtio functions: other chips have registers that end the machine. */
static bool config_of(struct victim *v)
{
	TRY(victim_works(v));
	TRY(abuse_function(v->v.fn));
	pci_enable(v->v.fn);
	TRY(virtio_find(v->v.type, v->nth, &v->v));
	return victim_works(v);
}

bool test_pci_config(void)
{
	for (unsigned slot = 20; slot < 28; slot++)
		if (pci_read((pci_fn)(slot << 3), PCI_VENDOR, 2) == 0xFFFF)
			TRY(abuse_function((pci_fn)(slot << 3)));
	return for_victims(config_of);
}

/* Registers whose change would be felt by the guest itself. */
static bool msr_is_own(uint32_t msr)
{
	static const uint32_t own[] = { 0x1B,       0x277,      0x2FF, 0xC0000080,
		                        0xC0000100, 0xC0000101, 0x79,  0x4B564D00,
		                        0x4B564D01, 0x11,       0x12,  0x6E0 };

	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		if (own[i] == msr)
			return true;
	return msr >= 0x800 && msr < 0x900;
}

/* All model-specific registers in the ranges that are in use: read, written back, written with
 * ones. Either it works or it is a fault, and nothing else. */
bool test_msr(void)
{
	static const struct {
		uint32_t first, n;
	} ranges[] = { { 0, 0x1000 },         { 0x40000000, 0x200 }, { 0x4B564D00, 0x10 },
		       { 0xC0000000, 0x400 }, { 0xC0010000, 0x400 }, { 0xFFFFFF00, 0x100 } };
	uint64_t readable = 0, writable = 0, value;

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		for (uint32_t n = 0; n < ranges[i].n; n++) {
			uint32_t msr = ranges[i].first + n;

			if (!try_rdmsr(msr, &value)) {
				(void)try_wrmsr(msr, ~0ull);
				continue;
			}
			readable++;
			if (!msr_is_own(msr) && try_wrmsr(msr, value))
				writable++;
		}
	print("msr: %lu can be read, %lu written\n", readable, writable);
	CHECK(readable > 0);
	return true;
}
