/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Interrupts, the local APIC and time. All of it is set up when it is first used, so that a guest
 * that needs none of it begins at once. */
#include <stdbool.h>
#include <stdint.h>

/* What the stub in start.S has pushed. */
struct interrupt_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

#define VECTOR_TIMER    0x20
#define VECTOR_WAKE     0x21
#define VECTOR_SPURIOUS 0xFF
#define VECTOR_FREE     0x30 /* the first one for devices */

/* Loads the interrupt table of this processor. Interrupts are off except in wait_for(). */
void irq_init(void);
/* Turns the local APIC of this processor on. Safe to repeat. */
void apic_init(void);
/* One timer interrupt after so many nanoseconds; 0: none. */
void apic_timer(uint32_t ns);
/* A vector that is nobody's yet; its interrupts are counted. */
uint8_t irq_vector_new(void);
uint64_t irq_count(uint8_t vector);
/* Serves the interrupts that are pending. */
void irq_serve(void);
/* Halts until the local APIC holds no request of this vector: what it has accepted is delivered,
 * whatever becomes of the source. False after a second. */
bool irq_settle(uint8_t vector);
/* Calls handler in the interrupt of that vector. */
void irq_set_handler(uint8_t vector, void (*handler)(void *arg), void *arg);
/* Global interrupt gsi, edge-triggered, comes to this processor as the vector. false without an
 * I/O APIC. */
bool ioapic_route(unsigned gsi, uint8_t vector);
/* The APIC id of this processor. */
uint32_t apic_id(void);
/* Sends an inter-processor interrupt by the low half of the command register. */
void apic_send(uint32_t id, uint32_t command);
/* Reads or writes a model-specific register; false when that is a general-protection fault. */
bool try_rdmsr(uint32_t msr, uint64_t *ret);
bool try_wrmsr(uint32_t msr, uint64_t value);

/* Nanoseconds of this guest's life, by the TSC and its calibrated frequency. */
uint64_t now_ns(void);
uint64_t tsc_hz(void);
/* Halts until the time is over; other interrupts are served. */
void sleep_us(uint64_t us);
/* Halts until condition(arg) or the time is over; false when it is over. */
bool wait_for(bool (*condition)(void *arg), void *arg, uint64_t us);
