/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The keyboard controller as far as machines need it: the command that pulses the reset line. */
#include "devices/bus.h"
#include "devices/platform.h"

struct i8042 {
	struct bus_region data, command; /* ports 0x60 and 0x64 */
	struct platform *platform;
};

/* Adds its ports to pio. 0 or negative errno. It keeps no state. */
int i8042_init(struct i8042 *d, struct bus *pio, struct platform *platform);
void i8042_deinit(struct i8042 *d, struct bus *pio);
