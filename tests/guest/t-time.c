/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Timer ticks, and what leaving the guest costs. */
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/pci.h"
#include "tests.h"

#define APIC_TIMER     0xFEE00320u
#define TIMER_PERIODIC 0x20000u
#define TICK_NS        1000000u
#define DEFAULT_PORT   0x3FD
#define DEFAULT_COUNT  1000

static bool ticked(void *arg)
{
	return irq_count(VECTOR_TIMER) >= *(uint64_t *)arg;
}

/* ms=N ticks of 1 ms. The TSC must have seen at least that time, less one tick. */
bool test_tick(void)
{
	uint64_t n = option_number("ms", 100), hz = tsc_hz(), end, start, passed_us;

	end = irq_count(VECTOR_TIMER) + n;
	start = rdtsc();
	mmio_write32(APIC_TIMER, TIMER_PERIODIC | VECTOR_TIMER);
	apic_timer(TICK_NS);
	while (!ticked(&end))
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	apic_timer(0);
	mmio_write32(APIC_TIMER, VECTOR_TIMER);
	passed_us = (rdtsc() - start) * 1000 / (hz / 1000);
	print("tick: %lu ticks of 1 ms in %lu us, TSC %lu kHz\n", n, passed_us, hz / 1000);
	if (passed_us + 1000 < n * 1000)
		return fail("%lu ticks in %lu us", n, passed_us);
	return true;
}

enum exit_kind {
	EXIT_PORT_READ,
	EXIT_PORT_WRITE,
	EXIT_PORT_NOBODY,
	EXIT_MMIO_READ,
	EXIT_CPUID,
	EXIT_NONE
};

static uint64_t exit_port, exit_mmio;

static void leave(enum exit_kind kind)
{
	switch (kind) {
	case EXIT_PORT_READ:
		(void)in8((uint16_t)exit_port);
		break;
	case EXIT_PORT_WRITE:
		out8((uint16_t)(exit_port + 2), 0); /* the scratch register */
		break;
	case EXIT_PORT_NOBODY:
		(void)in8(0x2E8);
		break;
	case EXIT_MMIO_READ:
		(void)mmio_read32(exit_mmio);
		break;
	case EXIT_CPUID:
		(void)cpuid(0, 0);
		break;
	case EXIT_NONE:
		break;
	}
}

static void measure(const char *name, enum exit_kind kind, uint64_t n)
{
	uint64_t best = ~0ull, hz = tsc_hz();

	for (int round = 0; round < 5; round++) {
		uint64_t start = rdtsc();

		for (uint64_t i = 0; i < n; i++)
			leave(kind);
		start = rdtsc() - start;
		best = start < best ? start : best;
	}
	print("exits: %s %lu ns\n", name, best * 1000000 / (hz / 1000) / n);
}

/* count=N port=P: the best of five rounds of N accesses each, in nanoseconds an access. The last
 * line is what the loop itself takes. */
bool test_exits(void)
{
	uint64_t n = option_number("count", DEFAULT_COUNT);

	exit_port = option_number("port", DEFAULT_PORT);
	exit_mmio = pci_ecam();
	measure("port-read", EXIT_PORT_READ, n);
	measure("port-write", EXIT_PORT_WRITE, n);
	measure("port-nobody", EXIT_PORT_NOBODY, n);
	if (exit_mmio)
		measure("mmio-read", EXIT_MMIO_READ, n);
	measure("cpuid", EXIT_CPUID, n);
	measure("loop", EXIT_NONE, n);
	return true;
}
