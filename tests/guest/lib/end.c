/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "end.h"

#include "acpi.h"
#include "guest.h"

#define I8042_COMMAND 0x64
#define I8042_PULSE   0xFE
#define TEST_DEVICE   0xF4
#define SLEEP_ENABLE  (1u << 5)  /* of the sleep control register */
#define PM1_SLEEP     (1u << 13) /* of PM1 control */
#define SETTLE_ROUNDS 200000

/* A register whose write ends the machine may take a moment. */
static void settle(void)
{
	for (int i = 0; i < SETTLE_ROUNDS; i++)
		cpu_relax();
}

void end_reset_acpi(void)
{
	const struct acpi_fadt *fadt = acpi_fadt();

	if (!fadt || !(fadt->flags & FADT_RESET_SUPPORTED))
		return;
	acpi_register_write(&fadt->reset_register, fadt->reset_value);
	settle();
}

void end_reset_i8042(void)
{
	out8(I8042_COMMAND, I8042_PULSE);
	settle();
}

void end_triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none;

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

void end_s5(void)
{
	const struct acpi_fadt *fadt = acpi_fadt();
	int type = acpi_s5_type();

	if (!fadt || type < 0)
		return;
	if (fadt->flags & FADT_HARDWARE_REDUCED)
		acpi_register_write(&fadt->sleep_control, (uint64_t)type << 2 | SLEEP_ENABLE);
	else
		out16((uint16_t)fadt->pm1a_control, (uint16_t)(type << 10 | PM1_SLEEP));
	settle();
}

void end_testdev(int code)
{
	out8(TEST_DEVICE, (uint8_t)code);
	settle();
}
