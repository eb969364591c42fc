/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/pvpanic.h"

#include "common/macros.h"

enum {
	EVENT_PANICKED = 1,
	EVENT_CRASHLOADED = 2
};

static uint64_t read_events(struct bus_region *r UNUSED, uint64_t offset UNUSED,
                            unsigned size UNUSED)
{
	return EVENT_PANICKED | EVENT_CRASHLOADED; /* those it understands */
}

static void write_event(struct bus_region *r, uint64_t offset UNUSED, unsigned size UNUSED,
                        uint64_t value)
{
	struct pvpanic *d = container_of(r, struct pvpanic, region);

	if (value & EVENT_PANICKED)
		d->platform->event(d->platform, PLATFORM_PANICKED, 0);
	else if (value & EVENT_CRASHLOADED)
		d->platform->event(d->platform, PLATFORM_CRASHLOADED, 0);
}

static const struct bus_region_ops ops = { "pvpanic", read_events, write_event };

int pvpanic_init(struct pvpanic *d, struct bus *pio, struct platform *platform)
{
	d->platform = platform;
	d->region = (struct bus_region){ .ops = &ops, .base = PVPANIC_PORT, .bytes = 1 };
	return bus_add(pio, &d->region);
}

void pvpanic_deinit(struct pvpanic *d, struct bus *pio)
{
	bus_remove(pio, &d->region);
}
