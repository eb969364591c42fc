/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The ports that kvm-unit-tests uses: 0xf4 ends the machine, 0xf1 is a serial line. Off by default.
 */
#include "devices/bus.h"
#include "devices/platform.h"

struct test_device {
	struct bus_region exit, serial;
	struct platform *platform;
	int fd; /* where the serial port's bytes go (owned), or -EBADF */
};

/* fd: borrowed; it is duplicated, as its owner closes it when the other end is gone. 0 or negative
 * errno. */
int test_device_init(struct test_device *d, struct bus *pio, struct platform *platform, int fd);
void test_device_deinit(struct test_device *d, struct bus *pio);
