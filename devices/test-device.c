/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/test-device.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"

enum {
	PORT_SERIAL = 0xF1,
	PORT_EXIT = 0xF4
};

static uint64_t read_zero(struct bus_region *r UNUSED, uint64_t offset UNUSED, unsigned size UNUSED)
{
	return 0;
}

static void write_exit(struct bus_region *r, uint64_t offset UNUSED, unsigned size UNUSED,
                       uint64_t value)
{
	struct test_device *d = container_of(r, struct test_device, exit);

	/* The status is odd, so that it never looks like a success that nobody reported. */
	d->platform->event(d->platform, PLATFORM_TEST_EXIT, (unsigned)((value << 1) | 1) & 0xFF);
}

static void write_serial(struct bus_region *r, uint64_t offset UNUSED, unsigned size UNUSED,
                         uint64_t value)
{
	struct test_device *d = container_of(r, struct test_device, serial);
	char c = (char)value;

	/* A reader that does not read loses bytes; the guest is never held up. */
	if (d->fd >= 0 && write(d->fd, &c, 1) < 0)
		return;
}

static const struct bus_region_ops exit_ops = { "test-exit", read_zero, write_exit };
static const struct bus_region_ops serial_ops = { "test-serial", read_zero, write_serial };

int test_device_init(struct test_device *d, struct bus *pio, struct platform *platform, int fd)
{
	int r;

	d->platform = platform;
	d->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -EBADF;
	if (fd >= 0 && d->fd < 0)
		return -errno;
	d->exit = (struct bus_region){ .ops = &exit_ops, .base = PORT_EXIT, .bytes = 4 };
	d->serial = (struct bus_region){ .ops = &serial_ops, .base = PORT_SERIAL, .bytes = 1 };
	r = bus_add(pio, &d->exit);
	if (r == 0) {
		r = bus_add(pio, &d->serial);
		if (r < 0)
			bus_remove(pio, &d->exit);
	}
	if (r < 0)
		cleanup_close_p(&d->fd);
	return r;
}

void test_device_deinit(struct test_device *d, struct bus *pio)
{
	bus_remove(pio, &d->serial);
	bus_remove(pio, &d->exit);
	cleanup_close_p(&d->fd);
}
