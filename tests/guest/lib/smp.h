/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define CPUS_MAX 64

/* Starts every processor that the MADT tells. The count that runs, this one included; number 0 is
 * this one. Starts nothing twice. */
unsigned smp_start(void);
uint32_t smp_apic_id(unsigned cpu);
/* Lets an idle processor, not number 0, run work(arg) with interrupts off. */
void smp_run(unsigned cpu, void (*work)(void *arg), void *arg);
/* Until it has returned; false after 10 s. */
bool smp_wait(unsigned cpu);
