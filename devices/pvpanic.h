/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The port by which a guest's kernel says that it panicked (the ISA pvpanic device). */
#include "devices/bus.h"
#include "devices/platform.h"

#define PVPANIC_PORT 0x505

struct pvpanic {
	struct bus_region region;
	struct platform *platform;
};

/* Adds its port to pio. 0 or negative errno. It keeps no state. */
int pvpanic_init(struct pvpanic *d, struct bus *pio, struct platform *platform);
void pvpanic_deinit(struct pvpanic *d, struct bus *pio);
