/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The fixed registers of a hardware-reduced ACPI machine: sleep control and status (S5), reset, and
 * the event register behind the generic event device (ACPI 6.4, 5.6.9) with the power button and
 * the VM generation id. The DSDT knows the same ports (vmm/dsdt.dsl).
 */
#include <pthread.h>

#include "devices/bus.h"
#include "devices/irq.h"
#include "devices/platform.h"
#include "devices/state.h"

#define ACPI_POWER_PORT    0x600 /* events, 8 bits: reading tells and clears them */
#define ACPI_SLEEP_CONTROL 0x604
#define ACPI_SLEEP_STATUS  0x605
#define ACPI_RESET_PORT    0x606
#define ACPI_RESET_VALUE   1
#define ACPI_EVENT_GSI     9
#define ACPI_S5_TYPE       5

enum acpi_event {
	ACPI_EVENT_POWER_BUTTON = 1,
	ACPI_EVENT_GENERATION = 2
};

struct acpi_power {
	struct bus_region region;
	struct platform *platform;
	struct irqchip *irqchip;
	pthread_mutex_t lock;
	uint8_t events; /* under lock */
};

int acpi_power_init(struct acpi_power *d, struct bus *pio, struct irqchip *irqchip,
                    struct platform *platform);
void acpi_power_deinit(struct acpi_power *d, struct bus *pio);
/* Tells the guest's event device. Any thread, never waits. */
void acpi_power_raise(struct acpi_power *d, enum acpi_event event);
void acpi_power_reset(struct acpi_power *d);
void acpi_power_save(struct acpi_power *d, struct state_out *o);
int acpi_power_load(struct acpi_power *d, struct state_in *in, struct vmd_error *err);
