/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The ACPI tables, as far as a program without an AML interpreter can read them. */
#include <stdbool.h>
#include <stdint.h>

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

struct acpi_address {
	uint8_t space, bits, offset, access;
	uint64_t address;
} __attribute__((packed));

#define FADT_RESET_SUPPORTED  (1u << 10)
#define FADT_HARDWARE_REDUCED (1u << 20)

struct acpi_fadt {
	struct acpi_header header;
	uint32_t facs, dsdt;
	uint8_t reserved, profile;
	uint16_t sci;
	uint32_t smi_command;
	uint8_t enable, disable, s4bios, pstate;
	uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0,
		gpe1;
	uint8_t pm1_event_len, pm1_control_len, pm2_control_len, pm_timer_len, gpe0_len, gpe1_len,
		gpe1_base, cst;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_flags;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_address reset_register;
	uint8_t reset_value;
	uint16_t arm_flags;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct acpi_address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control,
		x_pm2_control, x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));

struct acpi_madt {
	struct acpi_header header;
	uint32_t local_apic, flags;
	uint8_t entries[];
} __attribute__((packed));

struct acpi_mcfg {
	struct acpi_header header;
	uint64_t reserved;
	struct {
		uint64_t base;
		uint16_t segment;
		uint8_t first_bus, last_bus;
		uint32_t reserved;
	} __attribute__((packed)) segments[];
} __attribute__((packed));

/* Table number n that the XSDT or RSDT lists, or NULL past the last one or without ACPI. */
const struct acpi_header *acpi_table(unsigned n);
/* The first table with that signature, or NULL. */
const void *acpi_find(const char *signature);
const struct acpi_fadt *acpi_fadt(void); /* NULL without one */
const struct acpi_header *acpi_dsdt(void);
/* The first value of the package _S5_, or -1. */
int acpi_s5_type(void);
/* Finds a name of four characters in the DSDT's bytes: the offset behind it, or 0. */
uint32_t acpi_dsdt_name(const char *name);
/* Sum of all bytes is 0. */
bool acpi_sum_ok(const void *table, uint32_t bytes);
/* What is wrong with the root pointer, or NULL. */
const char *acpi_root_error(void);
uint64_t acpi_register_read(const struct acpi_address *a);
void acpi_register_write(const struct acpi_address *a, uint64_t value);
/* APIC ids of usable processors; their count, at most max. */
unsigned acpi_cpus(uint32_t *ids, unsigned max);
/* The first I/O APIC; false when there is none. */
bool acpi_ioapic(uint32_t *ret_address, uint32_t *ret_first_gsi);
