/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/i8042.h"

#include "common/macros.h"

enum {
	PORT_DATA = 0x60,
	PORT_COMMAND = 0x64,
	COMMAND_RESET = 0xFE
};

/* Both buffers empty: whoever waits for the controller before a command gets on at once. */
static uint64_t read_nothing(struct bus_region *r UNUSED, uint64_t offset UNUSED,
                             unsigned size UNUSED)
{
	return 0;
}

static void write_data(struct bus_region *r UNUSED, uint64_t offset UNUSED, unsigned size UNUSED,
                       uint64_t value UNUSED)
{
	/* No keyboard listens. */
}

static void write_command(struct bus_region *r, uint64_t offset UNUSED, unsigned size UNUSED,
                          uint64_t value)
{
	struct i8042 *d = container_of(r, struct i8042, command);

	if ((value & 0xFF) == COMMAND_RESET)
		d->platform->event(d->platform, PLATFORM_RESET, 0);
}

static const struct bus_region_ops data_ops = { "i8042-data", read_nothing, write_data };
static const struct bus_region_ops command_ops = { "i8042", read_nothing, write_command };

int i8042_init(struct i8042 *d, struct bus *pio, struct platform *platform)
{
	int r;

	d->platform = platform;
	d->data = (struct bus_region){ .ops = &data_ops, .base = PORT_DATA, .bytes = 1 };
	d->command = (struct bus_region){ .ops = &command_ops, .base = PORT_COMMAND, .bytes = 1 };
	r = bus_add(pio, &d->data);
	if (r < 0)
		return r;
	r = bus_add(pio, &d->command);
	if (r < 0)
		bus_remove(pio, &d->data);
	return r;
}

void i8042_deinit(struct i8042 *d, struct bus *pio)
{
	bus_remove(pio, &d->command);
	bus_remove(pio, &d->data);
}
