/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "smp.h"

#include "acpi.h"
#include "guest.h"
#include "irq.h"

#define TRAMPOLINE      0x8000u
#define COMMAND_INIT    0x4500u
#define COMMAND_STARTUP 0x4600u
#define COMMAND_FIXED   0x4000u
#define STACK_BYTES     8192
#define START_US        200000
#define START_ATTEMPTS  10
#define WORK_US         10000000

extern const char ap_trampoline[], ap_trampoline_end[];
extern uint64_t ap_stack_top;

static struct cpu {
	uint32_t apic_id;
	volatile bool online, busy;
	void (*work)(void *arg);
	void *arg;
} cpus[CPUS_MAX];
static unsigned n_cpus;
static struct cpu *volatile starting;

void ap_main(void);

/* Work is looked for with interrupts off, so that its wake-up cannot get lost before the halt. */
void ap_main(void)
{
	struct cpu *c = starting;

	irq_init();
	apic_init();
	__atomic_store_n(&c->online, true, __ATOMIC_RELEASE);
	for (;;) {
		if (__atomic_load_n(&c->busy, __ATOMIC_ACQUIRE)) {
			c->work(c->arg);
			__atomic_store_n(&c->busy, false, __ATOMIC_RELEASE);
		}
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	}
}

static bool is_online(void *arg)
{
	const struct cpu *c = arg;

	return __atomic_load_n(&c->online, __ATOMIC_ACQUIRE);
}

static bool is_idle(void *arg)
{
	const struct cpu *c = arg;

	return !__atomic_load_n(&c->busy, __ATOMIC_ACQUIRE);
}

static bool start_one(struct cpu *c)
{
	ap_stack_top = (uint64_t)pages_alloc(STACK_BYTES) + STACK_BYTES;
	starting = c;
	apic_send(c->apic_id, COMMAND_INIT);
	for (int i = 0; i < START_ATTEMPTS; i++) {
		apic_send(c->apic_id, COMMAND_STARTUP | TRAMPOLINE / PAGE_BYTES);
		if (wait_for(is_online, c, START_US))
			return true;
	}
	return false;
}

unsigned smp_start(void)
{
	uint32_t ids[CPUS_MAX];
	unsigned n = acpi_cpus(ids, CPUS_MAX), started = 1;

	if (n_cpus > 0)
		return n_cpus;
	apic_init();
	if (!memory_is_ram(TRAMPOLINE, PAGE_BYTES))
		give_up("no memory at 0x%x for the start of other processors", TRAMPOLINE);
	memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	cpus[0].apic_id = apic_id();
	cpus[0].online = true;
	for (unsigned i = 0; i < n; i++) {
		if (ids[i] == cpus[0].apic_id || started == CPUS_MAX)
			continue;
		cpus[started].apic_id = ids[i];
		if (!start_one(&cpus[started]))
			give_up("processor with APIC id %u does not start", ids[i]);
		started++;
	}
	n_cpus = started;
	return n_cpus;
}

uint32_t smp_apic_id(unsigned cpu)
{
	return cpus[cpu].apic_id;
}

void smp_run(unsigned cpu, void (*work)(void *arg), void *arg)
{
	cpus[cpu].work = work;
	cpus[cpu].arg = arg;
	__atomic_store_n(&cpus[cpu].busy, true, __ATOMIC_RELEASE);
	apic_send(cpus[cpu].apic_id, COMMAND_FIXED | VECTOR_WAKE);
}

bool smp_wait(unsigned cpu)
{
	return wait_for(is_idle, &cpus[cpu], WORK_US);
}
