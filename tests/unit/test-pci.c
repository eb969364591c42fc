/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/macros.h"
#include "tests/lib/guest-pci.h"

#define SLOT      5
#define BAR_BYTES 0x4000u
#define VECTORS   3
#define TABLE     0x2000u
#define PBA       0x3000u

/* A function with a 32-bit BAR of memory and MSI-X, and a 64-bit one. */
struct thing {
	struct pci_device pci;
	uint64_t last_offset, last_value;
	unsigned maps, unmaps;
	uint64_t mapped_at;
};

static struct guest_machine m;
static struct thing thing;

static struct thing *of_region(struct bus_region *r)
{
	return container_of(r, struct thing, pci.bars[0].region);
}

static uint64_t bar_read(struct bus_region *r, uint64_t offset, unsigned size)
{
	return offset >= TABLE ? msix_read(&of_region(r)->pci, offset, size) : 0x5a;
}

static void bar_write(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset >= TABLE)
		msix_write(&of_region(r)->pci, offset, size, value);
	of_region(r)->last_offset = offset;
	of_region(r)->last_value = value;
}

static const struct bus_region_ops bar_ops = { "thing", bar_read, bar_write };

static uint64_t big_read(struct bus_region *r UNUSED, uint64_t offset UNUSED, unsigned size UNUSED)
{
	return 0x5a;
}

static const struct bus_region_ops big_ops = { "thing-big", big_read, NULL };

static void bar_mapped(struct pci_device *d, unsigned bar, uint64_t address, bool mapped)
{
	struct thing *t = container_of(d, struct thing, pci);

	if (bar != 0)
		return;
	t->mapped_at = address;
	*(mapped ? &t->maps : &t->unmaps) += 1;
}

static const struct pci_device_ops thing_ops = { .bar_mapped = bar_mapped };

static void thing_init(struct thing *t)
{
	*t = (struct thing){ 0 };
	pci_device_init(&t->pci, &thing_ops, 0x1234, 0x5678, 0xff0000, 7);
	pci_set_bar(&t->pci, 0, BAR_BYTES, false, &bar_ops);
	pci_set_bar(&t->pci, 2, 1 << 20, true, &big_ops);
	cr_assert_eq(pci_add_msix(&t->pci, VECTORS, 0, TABLE, PBA), 0);
}

static void set_up(void)
{
	guest_machine_init(&m, 1 << 20);
	thing_init(&thing);
	cr_assert_eq(pci_add(&m.pci, &thing.pci, SLOT, NULL), 0);
}

static void tear_down(void)
{
	pci_remove(&thing.pci);
	guest_machine_deinit(&m);
}

TestSuite(pci, .init = set_up, .fini = tear_down, .timeout = 60);

static uint32_t config(unsigned offset, unsigned size)
{
	return machine_config_read(&m, SLOT, offset, size);
}

static void set_config(unsigned offset, unsigned size, uint32_t value)
{
	machine_config_write(&m, SLOT, offset, size, value);
}

static void decode(bool on)
{
	set_config(PCI_COMMAND, 2, on ? PCI_COMMAND_MEMORY : 0);
}

static uint32_t by_ports(unsigned devfn, unsigned offset, unsigned size)
{
	bus_write(&m.pio, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
	return (uint32_t)bus_read(&m.pio, 0xcfc + (offset & 3), size);
}

Test(pci, a_scan_finds_what_is_there)
{
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		uint32_t expected = devfn == 0           ? 0x00081b36u
		                    : devfn == SLOT << 3 ? 0x56781234u
		                                         : UINT32_MAX;

		cr_expect_eq(by_ports(devfn, 0, 4), expected, "devfn %u", devfn);
		cr_expect_eq(bus_read(&m.mmio, MACHINE_ECAM + (devfn << 12), 4), expected);
	}
	/* Other buses do not exist. */
	bus_write(&m.pio, 0xcf8, 4, 0x80010000u);
	cr_expect_eq(bus_read(&m.pio, 0xcfc, 4), UINT32_MAX);
	cr_expect_eq(bus_read(&m.mmio, MACHINE_ECAM + (1 << 20), 4), UINT32_MAX);
	/* Linux wants a host bridge before it believes in the ports. */
	cr_expect_eq(by_ports(0, PCI_CLASS_DEVICE, 2), 0x0600u);
}

Test(pci, ports_and_ecam_agree_at_every_width_and_offset)
{
	for (unsigned offset = 0; offset < PCI_CONFIG_BYTES; offset++)
		for (unsigned size = 1; size <= 4 && (offset & 3) + size <= 4; size *= 2)
			cr_expect_eq(by_ports(SLOT << 3, offset, size), config(offset, size),
			             "offset 0x%x, %u bytes", offset, size);
	cr_expect_eq(config(PCI_CONFIG_BYTES - 1, 4) >> 8, 0xffffffu, "past the end");
	cr_expect_eq(config(PCI_CONFIG_BYTES, 4), UINT32_MAX, "no extended space");
	cr_expect_eq(config(0xfff, 4), UINT32_MAX);
	cr_expect_eq(bus_read(&m.mmio, MACHINE_ECAM + (SLOT << 15), 8) >> 32, config(4, 4));
}

Test(pci, the_address_port)
{
	bus_write(&m.pio, 0xcf8, 4, UINT32_MAX);
	cr_expect_eq(bus_read(&m.pio, 0xcf8, 4), 0x80fffffcu);
	/* How Linux finds out that there are such ports. */
	bus_write(&m.pio, 0xcfb, 1, 1);
	bus_write(&m.pio, 0xcf8, 4, 0x80000000u);
	cr_expect_eq(bus_read(&m.pio, 0xcf8, 4), 0x80000000u);
	cr_expect_eq(bus_read(&m.pio, 0xcf8, 2), 0xffffu);
	bus_write(&m.pio, 0xcf8, 4, 0);
	cr_expect_eq(bus_read(&m.pio, 0xcfc, 4), UINT32_MAX, "not enabled");
	cr_expect_eq(bus_read(&m.pio, 0xcfe, 4), UINT32_MAX, "leaves the port");
}

Test(pci, only_what_is_writable_is_written)
{
	uint8_t before[PCI_CONFIG_BYTES];

	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		before[i] = (uint8_t)config(i, 1);
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		set_config(i, 1, (uint8_t)~before[i]);
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		uint8_t writable = thing.pci.writable[i];

		cr_expect_eq(config(i, 1), (before[i] ^ writable) & 0xffu, "offset 0x%x", i);
	}
	cr_expect_eq(config(PCI_COMMAND, 2), 0x406u);
}

Test(pci, bars_are_sized_and_moved)
{
	uint32_t home = config(PCI_BASE_ADDRESS_0, 4);

	cr_expect(home >= MACHINE_LOW && home % BAR_BYTES == 0);
	cr_expect_eq(bus_read(&m.mmio, home, 1), 0xffu, "not decoded yet");
	set_config(PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
	cr_expect_eq(config(PCI_BASE_ADDRESS_0, 4), ~(BAR_BYTES - 1));
	set_config(PCI_BASE_ADDRESS_0, 4, home);
	set_config(PCI_BASE_ADDRESS_0 + 8, 4, UINT32_MAX);
	set_config(PCI_BASE_ADDRESS_0 + 12, 4, UINT32_MAX);
	cr_expect_eq(config(PCI_BASE_ADDRESS_0 + 8, 4), 0xfff00004u);
	cr_expect_eq(config(PCI_BASE_ADDRESS_0 + 12, 4), UINT32_MAX);
	set_config(PCI_BASE_ADDRESS_0 + 12, 4, 0x1000);
	cr_expect_eq(config(PCI_BASE_ADDRESS_0 + 4, 4), 0u, "no BAR 1");

	decode(true);
	cr_expect_eq(bus_read(&m.mmio, home, 1), 0x5au);
	cr_expect(thing.maps == 1 && thing.mapped_at == home);
	set_config(PCI_BASE_ADDRESS_0 + 2, 1, (home >> 16 & 0xff) ^ 0x40);
	cr_expect_eq(bus_read(&m.mmio, home, 1), 0xffu);
	cr_expect_eq(bus_read(&m.mmio, home ^ 0x400000, 1), 0x5au);
	cr_expect(thing.maps == 2 && thing.unmaps == 1);
	bus_write(&m.mmio, (home ^ 0x400000) + 8, 4, 77);
	cr_expect(thing.last_offset == 8 && thing.last_value == 77);
	decode(false);
	cr_expect_eq(bus_read(&m.mmio, home ^ 0x400000, 1), 0xffu);
	cr_expect(thing.maps == 2 && thing.unmaps == 2);
	pci_device_reset(&thing.pci);
	cr_expect_eq(config(PCI_BASE_ADDRESS_0, 4), home);
}

Test(pci, a_bar_on_top_of_something_else_does_not_answer_until_that_is_gone)
{
	struct thing other;
	uint32_t home = config(PCI_BASE_ADDRESS_0, 4), its;

	thing_init(&other);
	cr_assert_eq(pci_add(&m.pci, &other.pci, -1, NULL), 0);
	cr_expect_eq(other.pci.slot, 1u, "the first free one");
	its = machine_config_read(&m, 1, PCI_BASE_ADDRESS_0, 4);
	cr_expect_neq(its, home);
	machine_config_write(&m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	decode(true);
	set_config(PCI_BASE_ADDRESS_0, 4, its);
	cr_expect(thing.maps == 1 && thing.unmaps == 1);
	bus_write(&m.mmio, its, 1, 9);
	cr_expect_eq(other.last_value, 9u);
	machine_config_write(&m, 1, PCI_COMMAND, 2, 0);
	bus_write(&m.mmio, its, 1, 8);
	cr_expect_eq(thing.last_value, 8u);
	/* On top of the ECAM itself, and at the very end of the address space. */
	set_config(PCI_BASE_ADDRESS_0, 4, MACHINE_ECAM);
	cr_expect_eq(config(PCI_VENDOR_ID, 2), 0x1234u);
	set_config(PCI_BASE_ADDRESS_0 + 8, 4, UINT32_MAX);
	set_config(PCI_BASE_ADDRESS_0 + 12, 4, UINT32_MAX);
	cr_expect_eq(bus_read(&m.mmio, UINT64_MAX, 1), 0x5au);
	cr_expect_eq(bus_read(&m.mmio, UINT64_MAX, 2), 0xffffu);
	pci_remove(&other.pci);
}

Test(pci, slots)
{
	static struct thing others[PCI_MAX_DEVICES];
	struct vmd_error err = VMD_ERROR_INIT;
	unsigned n = 0;

	thing_init(&others[n]);
	cr_expect_lt(pci_add(&m.pci, &others[n].pci, SLOT, &err), 0);
	cr_expect_eq(err.kind, ERROR_EXISTS);
	cr_expect_lt(pci_add(&m.pci, &others[n].pci, PCI_MAX_DEVICES, NULL), 0);
	while (pci_add(&m.pci, &others[n].pci, -1, NULL) == 0)
		thing_init(&others[++n]);
	cr_expect_eq(n, (unsigned)PCI_MAX_DEVICES - 2);
	pci_remove(&others[n].pci);
	while (n)
		pci_remove(&others[--n].pci);
}

Test(pci, no_room_for_memory)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct thing other;

	thing_init(&other);
	m.pci.low_end = MACHINE_LOW + BAR_BYTES;
	cr_expect_lt(pci_add(&m.pci, &other.pci, -1, &err), 0);
	cr_expect_eq(err.kind, ERROR_NO_SPACE);
	cr_expect_null(m.pci.devices[1]);
	pci_remove(&other.pci);
}

static uint64_t vector_at(unsigned n)
{
	return config(PCI_BASE_ADDRESS_0, 4) + TABLE + n * PCI_MSIX_ENTRY_SIZE;
}

static void set_message(unsigned n, uint32_t data)
{
	bus_write(&m.mmio, vector_at(n), 8, 0xfee00000);
	bus_write(&m.mmio, vector_at(n) + 8, 4, data);
}

static void mask(unsigned n, bool on)
{
	bus_write(&m.mmio, vector_at(n) + 12, 4, on);
}

static void msix_control(uint16_t flags)
{
	set_config(thing.pci.config[PCI_CAPABILITY_LIST] + PCI_MSIX_FLAGS, 2, flags);
}

static uint64_t pending(void)
{
	return bus_read(&m.mmio, config(PCI_BASE_ADDRESS_0, 4) + PBA, 8);
}

Test(pci, msix_masks_and_keeps)
{
	decode(true);
	set_message(1, 40);
	mask(1, false);
	msix_send(&thing.pci, 1);
	cr_expect(machine_sent(&m, 40) == 0 && pending() == 0, "not enabled: lost");
	msix_control(PCI_MSIX_FLAGS_ENABLE);
	msix_send(&thing.pci, 1);
	cr_expect_eq(machine_sent(&m, 40), 1u);
	mask(1, true);
	msix_send(&thing.pci, 1);
	msix_send(&thing.pci, 1);
	cr_expect(machine_sent(&m, 40) == 1 && pending() == 2);
	mask(1, false);
	cr_expect(machine_sent(&m, 40) == 2 && pending() == 0);
	msix_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	msix_send(&thing.pci, 1);
	cr_expect(machine_sent(&m, 40) == 2 && pending() == 2);
	bus_write(&m.mmio, config(PCI_BASE_ADDRESS_0, 4) + PBA, 8, 0);
	cr_expect_eq(pending(), 2u, "read only");
	msix_control(PCI_MSIX_FLAGS_ENABLE);
	cr_expect(machine_sent(&m, 40) == 3 && pending() == 0);
	msix_send(&thing.pci, VECTORS);
	msix_send(&thing.pci, UINT16_MAX);
	cr_expect_eq(pending(), 0u);
}

Test(pci, msix_routes_are_set_only_when_they_change)
{
	decode(true);
	msix_control(PCI_MSIX_FLAGS_ENABLE);
	set_message(0, 50);
	cr_expect_eq(m.route_updates, 0u, "masked");
	mask(0, false);
	cr_expect_eq(m.route_updates, 1u);
	for (unsigned i = 0; i < 100; i++) {
		mask(0, true);
		mask(0, false);
		msix_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
		msix_control(PCI_MSIX_FLAGS_ENABLE);
	}
	cr_expect_eq(m.route_updates, 1u);
	/* A message that the irqchip refuses goes nowhere. */
	m.refuse_routes = true;
	set_message(0, 51);
	msix_send(&thing.pci, 0);
	cr_expect(machine_sent(&m, 50) == 0 && machine_sent(&m, 51) == 0);
	m.refuse_routes = false;
	set_message(0, 52);
	msix_send(&thing.pci, 0);
	cr_expect_eq(machine_sent(&m, 52), 1u);
}

Test(pci, the_msix_table_at_every_width_and_offset)
{
	uint64_t table;

	decode(true);
	table = vector_at(0);
	set_message(2, 60);
	for (unsigned at = 0; at < 0x2000; at++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			uint64_t ones = size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
			bool is_table = at + size <= VECTORS * PCI_MSIX_ENTRY_SIZE;
			bool is_pba = at >= 0x1000 && at + size <= 0x1008;

			if (size >= 4 && at % size == 0 && (is_table || is_pba))
				continue;
			cr_expect_eq(bus_read(&m.mmio, table + at, size), ones, "0x%x, %u", at,
			             size);
			bus_write(&m.mmio, table + at, size, ones);
		}
	}
	cr_expect_eq(bus_read(&m.mmio, vector_at(2), 8), 0xfee00000u);
	cr_expect_eq(bus_read(&m.mmio, vector_at(2) + 8, 8), 60 | 1ull << 32);
	bus_write(&m.mmio, vector_at(2) + 8, 8, UINT64_MAX);
	cr_expect_eq(bus_read(&m.mmio, vector_at(2) + 8, 8), 0x1ffffffffull, "reserved bits");
}

Test(pci, saved_and_loaded)
{
	struct state_out o;
	struct state_in in;
	uint32_t moved = MACHINE_LOW + 0x200000;

	decode(true);
	set_config(PCI_BASE_ADDRESS_0, 4, moved);
	msix_control(PCI_MSIX_FLAGS_ENABLE);
	set_message(0, 70);
	set_message(1, 71);
	mask(0, false);
	msix_send(&thing.pci, 1);
	bus_write(&m.pio, 0xcf8, 4, 0x80002810u);
	state_out_init(&o);
	pci_bus_save(&m.pci, &o);
	pci_device_save(&thing.pci, "thing", &o);
	cr_assert_eq(state_finish(&o), 0);
	tear_down();
	set_up();
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_assert_eq(pci_bus_load(&m.pci, &in, NULL), 0);
	cr_assert_eq(pci_device_load(&thing.pci, "thing", &in, NULL), 0);
	cr_assert_eq(state_close(&in, NULL), 0);
	cr_expect_eq(bus_read(&m.pio, 0xcfc, 4), moved);
	cr_expect_eq(bus_read(&m.mmio, moved, 1), 0x5au);
	cr_expect_eq(pending(), 2u);
	msix_send(&thing.pci, 0);
	cr_expect_eq(machine_sent(&m, 70), 1u);
	mask(1, false);
	cr_expect_eq(machine_sent(&m, 71), 1u);
	state_out_deinit(&o);
}

/* Three vCPUs: one moves the BAR and turns it off and on, one uses it, one sends interrupts. */
static void *use_bar(void *arg)
{
	while (!*(atomic_bool *)arg)
		for (uint64_t at = MACHINE_LOW; at < MACHINE_LOW + 0x100000; at += 0x4000) {
			bus_write(&m.mmio, at + TABLE + 8, 4, 80);
			bus_write(&m.mmio, at + TABLE + 12, 4, at >> 14 & 1);
			(void)bus_read(&m.mmio, at + PBA, 8);
		}
	return NULL;
}

static void *send_all(void *arg)
{
	while (!*(atomic_bool *)arg)
		for (unsigned i = 0; i <= VECTORS; i++)
			msix_send(&thing.pci, i);
	return NULL;
}

Test(pci, a_bar_that_moves_while_it_is_used)
{
	atomic_bool stop = false;
	pthread_t t[2];

	pthread_create(&t[0], NULL, use_bar, &stop);
	pthread_create(&t[1], NULL, send_all, &stop);
	for (unsigned i = 0; i < 5000; i++) {
		decode(i % 3);
		set_config(PCI_BASE_ADDRESS_0, 4, MACHINE_LOW + 0x4000 * (i % 64));
		msix_control(i % 2 ? PCI_MSIX_FLAGS_ENABLE : 0);
	}
	stop = true;
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	cr_expect_leq(thing.maps - thing.unmaps, 1u);
}

/* The bus itself. */

struct remover {
	struct bus_region region;
	struct bus *bus;
	bool removed;
};

static uint64_t remove_own(struct bus_region *r, uint64_t offset UNUSED, unsigned size UNUSED)
{
	struct remover *x = container_of(r, struct remover, region);

	bus_remove(x->bus, r);
	x->removed = true;
	return 1;
}

Test(bus, regions_do_not_overlap_and_a_handler_may_remove_its_own)
{
	static const struct bus_region_ops ops = { "remover", remove_own, NULL };
	struct remover x = { .region = { .ops = &ops, .base = 0x100, .bytes = 0x10 } };
	struct bus_region over[] = { { .ops = &ops, .base = 0xff, .bytes = 2 },
		                     { .ops = &ops, .base = 0x10f, .bytes = 1 },
		                     { .ops = &ops, .base = 0, .bytes = UINT64_MAX },
		                     { .ops = &ops, .base = 0x104, .bytes = 4 } };
	struct bus_region empty = { .ops = &ops, .base = 1 };
	struct bus_region wraps = { .ops = &ops, .base = UINT64_MAX, .bytes = 2 };
	struct bus_region beside = { .ops = &ops, .base = 0x110, .bytes = 1 };
	struct bus b;

	bus_init(&b);
	x.bus = &b;
	cr_assert_eq(bus_add(&b, &x.region), 0);
	for (size_t i = 0; i < ARRAY_SIZE(over); i++)
		cr_expect_eq(bus_add(&b, &over[i]), -EEXIST, "%zu", i);
	cr_expect_eq(bus_add(&b, &empty), -EINVAL);
	cr_expect_eq(bus_add(&b, &wraps), -EINVAL);
	cr_expect_eq(bus_add(&b, &beside), 0);
	cr_expect_eq(bus_read(&b, 0x10f, 2), 0xffffu, "leaves its region");
	cr_expect_eq(bus_read(&b, 0x100, 3), 0xffffffu, "no such size");
	cr_expect_eq(bus_read(&b, 0xff, 1), 0xffu);
	cr_expect_eq(b.misses, 2u);
	cr_expect_eq(bus_read(&b, 0x10f, 1), 1u);
	cr_expect(x.removed);
	cr_expect_eq(bus_read(&b, 0x10f, 1), 0xffu);
	bus_remove(&b, &beside);
	bus_remove(&b, &beside);
	cr_expect_eq(b.n, 0u);
	bus_deinit(&b);
}
