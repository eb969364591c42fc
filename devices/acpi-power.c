/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/acpi-power.h"

#include "common/macros.h"

enum {
	BYTES = 8,
	SLEEP_ENABLE = 1 << 5,
	SLEEP_TYPE_SHIFT = 2,
	SLEEP_TYPE_MASK = 7,
	STATE_VERSION = 1
};

static uint64_t read_register(struct bus_region *r, uint64_t offset, unsigned size UNUSED)
{
	struct acpi_power *d = container_of(r, struct acpi_power, region);
	uint8_t events = 0;

	if (offset != 0)
		return 0;
	pthread_mutex_lock(&d->lock);
	events = d->events;
	d->events = 0;
	pthread_mutex_unlock(&d->lock);
	return events;
}

static void write_register(struct bus_region *r, uint64_t offset, unsigned size UNUSED,
                           uint64_t value)
{
	struct acpi_power *d = container_of(r, struct acpi_power, region);

	switch (r->base + offset) {
	case ACPI_SLEEP_CONTROL:
		if ((value & SLEEP_ENABLE) &&
		    (value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == ACPI_S5_TYPE)
			d->platform->event(d->platform, PLATFORM_POWEROFF, 0);
		break;
	case ACPI_RESET_PORT:
		if ((value & 0xFF) == ACPI_RESET_VALUE)
			d->platform->event(d->platform, PLATFORM_RESET, 0);
		break;
	}
}

static const struct bus_region_ops ops = { "acpi-power", read_register, write_register };

int acpi_power_init(struct acpi_power *d, struct bus *pio, struct irqchip *irqchip,
                    struct platform *platform)
{
	d->platform = platform;
	d->irqchip = irqchip;
	d->events = 0;
	pthread_mutex_init(&d->lock, NULL);
	d->region = (struct bus_region){ .ops = &ops, .base = ACPI_POWER_PORT, .bytes = BYTES };
	return bus_add(pio, &d->region);
}

void acpi_power_deinit(struct acpi_power *d, struct bus *pio)
{
	bus_remove(pio, &d->region);
	pthread_mutex_destroy(&d->lock);
}

/* Edge-triggered: what comes while the guest handles one is in the register it reads next. */
static void pulse(struct acpi_power *d)
{
	d->irqchip->ops->set_line(d->irqchip, ACPI_EVENT_GSI, true);
	d->irqchip->ops->set_line(d->irqchip, ACPI_EVENT_GSI, false);
}

void acpi_power_raise(struct acpi_power *d, enum acpi_event event)
{
	pthread_mutex_lock(&d->lock);
	d->events |= (uint8_t)event;
	pthread_mutex_unlock(&d->lock);
	pulse(d);
}

void acpi_power_reset(struct acpi_power *d)
{
	pthread_mutex_lock(&d->lock);
	d->events = 0;
	pthread_mutex_unlock(&d->lock);
}

void acpi_power_save(struct acpi_power *d, struct state_out *o)
{
	state_begin(o, "acpi-power", "", STATE_VERSION);
	state_put_u8(o, d->events);
	state_end(o);
}

int acpi_power_load(struct acpi_power *d, struct state_in *in, struct vmd_error *err)
{
	struct state_section s;
	int r = state_take(in, "acpi-power", "", STATE_VERSION, &s, err);
	uint8_t events;

	if (r < 0)
		return r;
	events = state_get_u8(&s);
	r = state_section_done(&s, err);
	if (r == 0 && (events & ~(ACPI_EVENT_POWER_BUTTON | ACPI_EVENT_GENERATION)))
		r = error_set(err, ERROR_INVALID, "acpi-power: no such events: 0x%x", events);
	if (r == 0)
		d->events = events;
	return r;
}
