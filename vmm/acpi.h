/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The ACPI tables of a hardware-reduced machine, below 1 MiB; the RSDP is at BOOT_ACPI. */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "devices/guestmem.h"
#include "vmm/cpuid.h"

struct acpi_config {
	unsigned n_cpus;
	struct cpu_topology topology;
	bool serial, pvpanic;
	uint64_t high, high_end; /* PCI's 64-bit window [high, high_end), or 0 and 0 */
};

/* Writes all tables. -ENOSPC when they do not fit (more processors than are allowed). */
int acpi_build(const struct acpi_config *c, const struct guestmem *mem, struct vmd_error *err);
