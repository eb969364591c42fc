/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The micro-guests of vmd-kvm-probe: 64-bit ring-0 code, position independent, one entry a check.
 */
#include <stddef.h>

#define PROBE_CHECKS_MAX 16

/* Ports: 4 bytes written to END end the guest; OUT takes anything; IN gives IN_VALUE. */
#define PROBE_PORT_END     0xF0
#define PROBE_PORT_IN      0xF1
#define PROBE_PORT_OUT     0xF2
#define PROBE_IN_VALUE     0x5A
#define PROBE_GOOD         0x600D
#define PROBE_MMIO_ADDRESS 0x10000000u
#define PROBE_MMIO_WRITTEN 0x12345678u
#define PROBE_MMIO_READ    0x07654321u

#ifdef __x86_64__
struct probe_check {
	const char *name; /* in the report */
	const char *what; /* in a sentence */
	const char *entry;
};

extern const char probe_guest_start[], probe_guest_end[];
extern const char probe_guest_on_int3[], probe_guest_on_page_fault[];
extern const struct probe_check probe_checks[];
extern const size_t probe_n_checks;
/* Both take a count in rcx: rounds of two instructions, and port exits. */
extern const struct probe_check probe_loop, probe_exits;
#endif
