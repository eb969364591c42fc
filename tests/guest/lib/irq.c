/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "irq.h"

#include "acpi.h"
#include "guest.h"

#define APIC_BASE          0xFEE00000u
#define APIC_ID            (APIC_BASE + 0x20)
#define APIC_EOI           (APIC_BASE + 0xB0)
#define APIC_SPURIOUS      (APIC_BASE + 0xF0)
#define APIC_REQUESTS      (APIC_BASE + 0x200) /* IRR: 32 vectors in each of 8 registers */
#define APIC_COMMAND       (APIC_BASE + 0x300)
#define APIC_COMMAND_HIGH  (APIC_BASE + 0x310)
#define APIC_TIMER         (APIC_BASE + 0x320)
#define APIC_LINT0         (APIC_BASE + 0x350)
#define APIC_TIMER_COUNT   (APIC_BASE + 0x380)
#define APIC_TIMER_DIVIDE  (APIC_BASE + 0x3E0)
#define APIC_ENABLED       0x100
#define APIC_DIVIDE_BY_1   0x0B
#define APIC_MASKED        0x10000
#define PIC1_MASK          0x21
#define PIC2_MASK          0xA1
#define IOAPIC_DATA        0x10
#define IOAPIC_REDIRECTION 0x10
#define COMMAND_BUSY       (1u << 12)

#define VECTORS         256
#define SETTLE_US       1000000
#define FIRST_INTERRUPT 32
#define FAULT_GP        13
#define STUB_BYTES      16
#define GATE_INTERRUPT  0x8E00u
#define CODE_SELECTOR   0x08u

extern char interrupt_stubs[];

static struct {
	uint64_t low, high;
} __attribute__((aligned(16))) gates[VECTORS];

static struct {
	volatile uint64_t count;
	void (*handler)(void *arg);
	void *arg;
} vectors[VECTORS];

static uint8_t next_vector = VECTOR_FREE;
static volatile bool ready;
/* Where a fault of the access in progress goes on, or 0. Only the first processor tries. */
static volatile uint64_t recover_rip;

void interrupt_handle(struct interrupt_frame *f);

static void set_gate(unsigned vector)
{
	uint64_t stub = (uint64_t)interrupt_stubs + vector * STUB_BYTES;

	gates[vector].low = (stub & 0xFFFF) | CODE_SELECTOR << 16 | (uint64_t)GATE_INTERRUPT << 32 |
	                    (stub >> 16 & 0xFFFF) << 48;
	gates[vector].high = stub >> 32;
}

void irq_init(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { sizeof(gates) - 1, (uint64_t)gates };

	if (!ready) {
		for (unsigned v = 0; v <= VECTOR_WAKE; v++)
			set_gate(v);
		set_gate(VECTOR_SPURIOUS);
		ready = true;
	}
	__asm__ volatile("lidt %0" : : "m"(idtr));
}

/* Firmware may have left the APIC on and the old interrupt controllers connected to it. */
void apic_init(void)
{
	if (mmio_read32(APIC_TIMER) == VECTOR_TIMER)
		return;
	out8(PIC1_MASK, 0xFF);
	out8(PIC2_MASK, 0xFF);
	mmio_write32(APIC_LINT0, APIC_MASKED);
	mmio_write32(APIC_SPURIOUS, APIC_ENABLED | VECTOR_SPURIOUS);
	mmio_write32(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	mmio_write32(APIC_TIMER, VECTOR_TIMER);
}

void apic_timer(uint32_t ns)
{
	mmio_write32(APIC_TIMER_COUNT, ns);
}

uint8_t irq_vector_new(void)
{
	uint8_t v;

	apic_init();
	if (next_vector == VECTOR_SPURIOUS)
		next_vector = VECTOR_FREE;
	v = next_vector++;
	set_gate(v);
	vectors[v].count = 0;
	vectors[v].handler = NULL;
	return v;
}

uint64_t irq_count(uint8_t vector)
{
	return __atomic_load_n(&vectors[vector].count, __ATOMIC_ACQUIRE);
}

/* Some KVMs look for interrupts only when the guest is entered, so there is an exit in between. */
void irq_serve(void)
{
	__asm__ volatile("sti; nop; outb %%al, $0x80; nop; cli" : : : "memory");
}

static bool is_requested(void *arg)
{
	unsigned vector = (unsigned)(uint64_t)arg;

	return mmio_read32(APIC_REQUESTS + vector / 32 * 16) >> vector % 32 & 1;
}

static bool is_not_requested(void *arg)
{
	return !is_requested(arg);
}

bool irq_settle(uint8_t vector)
{
	return wait_for(is_not_requested, (void *)(uint64_t)vector, SETTLE_US);
}

void irq_set_handler(uint8_t vector, void (*handler)(void *arg), void *arg)
{
	vectors[vector].arg = arg;
	vectors[vector].handler = handler;
}

bool ioapic_route(unsigned gsi, uint8_t vector)
{
	uint32_t base, first;

	if (!acpi_ioapic(&base, &first) || gsi < first)
		return false;
	apic_init();
	mmio_write32(base, IOAPIC_REDIRECTION + (gsi - first) * 2 + 1);
	mmio_write32(base + IOAPIC_DATA, apic_id() << 24);
	mmio_write32(base, IOAPIC_REDIRECTION + (gsi - first) * 2);
	mmio_write32(base + IOAPIC_DATA, vector);
	return true;
}

uint32_t apic_id(void)
{
	return mmio_read32(APIC_ID) >> 24;
}

void apic_send(uint32_t id, uint32_t command)
{
	apic_init();
	while (mmio_read32(APIC_COMMAND) & COMMAND_BUSY)
		cpu_relax();
	mmio_write32(APIC_COMMAND_HIGH, id << 24);
	mmio_write32(APIC_COMMAND, command);
}

void interrupt_handle(struct interrupt_frame *f)
{
	if (f->vector == FAULT_GP && recover_rip) {
		f->rip = recover_rip;
		recover_rip = 0;
		return;
	}
	if (f->vector < FIRST_INTERRUPT) {
		uint64_t cr2;

		__asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
		give_up("exception %lu error 0x%lx at 0x%lx, cr2 0x%lx", f->vector, f->error,
		        f->rip, cr2);
	}
	__atomic_fetch_add(&vectors[f->vector].count, 1, __ATOMIC_RELEASE);
	if (vectors[f->vector].handler)
		vectors[f->vector].handler(vectors[f->vector].arg);
	if (f->vector != VECTOR_SPURIOUS)
		mmio_write32(APIC_EOI, 0);
}

/* The fault handler goes on at label 1, with the "worked" register still 0. */
bool try_rdmsr(uint32_t msr, uint64_t *ret)
{
	uint32_t low = 0, high = 0;
	uint64_t worked = 0;

	__asm__ volatile("leaq 1f(%%rip), %%rdi; movq %%rdi, %[recover]\n\t"
	                 "rdmsr\n\t"
	                 "movl $1, %k[worked]\n"
	                 "1: movq $0, %[recover]"
	                 : [worked] "+S"(worked), "+a"(low), "+d"(high), [recover] "=m"(recover_rip)
	                 : "c"(msr)
	                 : "rdi", "memory");
	*ret = (uint64_t)high << 32 | low;
	return worked;
}

bool try_wrmsr(uint32_t msr, uint64_t value)
{
	uint64_t worked = 0;

	__asm__ volatile("leaq 1f(%%rip), %%rdi; movq %%rdi, %[recover]\n\t"
	                 "wrmsr\n\t"
	                 "movl $1, %k[worked]\n"
	                 "1: movq $0, %[recover]"
	                 : [worked] "+S"(worked), [recover] "=m"(recover_rip)
	                 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
	                 : "rdi", "memory");
	return worked;
}
