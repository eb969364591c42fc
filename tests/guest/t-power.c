/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ways in which a machine ends or begins anew. */
#include "lib/acpi.h"
#include "lib/end.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "tests.h"

#define PVPANIC           0x505
#define PVPANIC_PANICKED  1
#define CMOS_INDEX        0x70
#define CMOS_DATA         0x71
#define CMOS_MAGIC_AT     0x70
#define CMOS_COUNT_AT     0x71
#define CMOS_MAGIC        0xA6
#define PM1_POWER_BUTTON  0x100
#define EVENT_PORT        0x600
#define EVENT_MMIO        0xFEA00000u
#define EVENT_GSI         9
#define EVENT_BUTTON      1
#define EVENT_BUTTON_QEMU 2
#define SPACE_PORT        1
#define BUTTON_US         30000000

/*
 * Tells the host that the kernel panicked. What happens next is the host's choice; a guest that
 * goes on says so.
 */
bool test_panic(void)
{
	if (in8(PVPANIC) == 0xFF)
		return fail("there is no pvpanic device");
	CHECK(in8(PVPANIC) & PVPANIC_PANICKED);
	print("panic: now\n");
	out8(PVPANIC, PVPANIC_PANICKED);
	print("panic: went on\n");
	return true;
}

/*
 * The button: behind the generic event device's register on a hardware-reduced machine (a port on
 * vmd-vmm, memory on QEMU's microvm), else the fixed event of PM1. Its interrupt is gsi 9 on all.
 */
static bool button_pressed(void *arg)
{
	const struct acpi_fadt *f = arg;

	if (!(f->flags & FADT_HARDWARE_REDUCED))
		return in16((uint16_t)f->pm1a_event) & PM1_POWER_BUTTON;
	if (f->sleep_control.space == SPACE_PORT)
		return in8(EVENT_PORT) & EVENT_BUTTON;
	return mmio_read32(EVENT_MMIO) & EVENT_BUTTON_QEMU;
}

static bool interrupted(void *arg)
{
	return irq_count(*(uint8_t *)arg) > 0;
}

bool test_button(void)
{
	const struct acpi_fadt *f = acpi_fadt();
	uint8_t vector = irq_vector_new();

	if (!f)
		return fail("there is no FADT");
	if (!(f->flags & FADT_HARDWARE_REDUCED)) {
		out16((uint16_t)f->pm1a_event, PM1_POWER_BUTTON);
		out16((uint16_t)(f->pm1a_event + f->pm1_event_len / 2), PM1_POWER_BUTTON);
	}
	if (!ioapic_route(EVENT_GSI, vector))
		return fail("there is no I/O APIC");
	print("button: waiting\n");
	if (!wait_for(button_pressed, (void *)(uint64_t)f, BUTTON_US))
		return fail("nobody pressed the button");
	/* The bit may be seen before its interrupt has come. */
	if ((f->flags & FADT_HARDWARE_REDUCED) && !wait_for(interrupted, &vector, BUTTON_US))
		return fail("the button was pressed, but no interrupt came");
	print("button: pressed\n");
	return true;
}

static uint8_t cmos_read(uint8_t index)
{
	out8(CMOS_INDEX, index);
	return in8(CMOS_DATA);
}

static void cmos_write(uint8_t index, uint8_t value)
{
	out8(CMOS_INDEX, index);
	out8(CMOS_DATA, value);
}

static unsigned from_bcd(uint8_t v, bool binary)
{
	return binary ? v : (v >> 4) * 10u + (v & 15u);
}

/* The date, as the CMOS clock tells it; a reference is the host's. */
bool test_clock(void)
{
	bool binary = cmos_read(0x0B) & 4;
	unsigned year, month, day, hour, minute, second;

	do {
		second = from_bcd(cmos_read(0), binary);
		minute = from_bcd(cmos_read(2), binary);
		hour = from_bcd(cmos_read(4), binary);
		day = from_bcd(cmos_read(7), binary);
		month = from_bcd(cmos_read(8), binary);
		year = from_bcd(cmos_read(9), binary) + 100 * from_bcd(cmos_read(0x32), binary);
	} while (second != from_bcd(cmos_read(0), binary));
	print("clock: %04u-%02u-%02u %02u:%02u:%02u\n", year, month, day, hour, minute, second);
	CHECK(cmos_read(0x0D) & 0x80);
	CHECK(month >= 1 && month <= 12 && day >= 1 && day <= 31);
	CHECK(hour < 24 && minute < 60 && second < 61);
	return true;
}

static void reset_by(unsigned way)
{
	static void (*const ways[])(void) = { end_reset_acpi, end_reset_i8042, end_triple_fault };
	const char *only = option("way");

	if (only && strcmp(only, "acpi") == 0)
		end_reset_acpi();
	else if (only && strcmp(only, "i8042") == 0)
		end_reset_i8042();
	else if (only && strcmp(only, "triple") == 0)
		end_triple_fault();
	else
		ways[way % ARRAY_SIZE(ways)]();
}

/*
 * Begins anew count=N times, each way in turn or way=acpi|i8042|triple. The count is kept in the
 * battery-backed memory of the clock, which a reset leaves alone; quiet at all but every 100th.
 */
bool test_resets(void)
{
	uint64_t n = option_number("count", 10), done = 0;

	if (cmos_read(CMOS_MAGIC_AT) == CMOS_MAGIC)
		done = cmos_read(CMOS_COUNT_AT) | (uint64_t)cmos_read(CMOS_COUNT_AT + 1) << 8;
	if (done >= n) {
		cmos_write(CMOS_MAGIC_AT, 0);
		print("resets: %lu\n", done);
		return true;
	}
	if (done % 100 == 0)
		print("resets: %lu\n", done);
	done++;
	cmos_write(CMOS_COUNT_AT, (uint8_t)done);
	cmos_write(CMOS_COUNT_AT + 1, (uint8_t)(done >> 8));
	cmos_write(CMOS_MAGIC_AT, CMOS_MAGIC);
	if (cmos_read(CMOS_COUNT_AT) != (uint8_t)done)
		return fail("the clock's memory does not keep what is written");
	reset_by((unsigned)done);
	return fail("reset %lu had no effect", done);
}
