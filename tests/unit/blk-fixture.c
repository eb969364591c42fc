/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/unit/blk-fixture.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vguest g;
char blk_dir[64];
uint64_t header_gpa, data_gpa, status_gpa;

int blk_disk_file(const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", blk_dir, name);
	fd = open(path, O_CREAT | O_CLOEXEC | flags, 0600);
	cr_assert_geq(fd, 0);
	if ((flags & O_ACCMODE) == O_RDWR)
		cr_assert_eq(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

struct virtio_device *blk_new(struct virtio_blk_config *c)
{
	struct virtio_device *d;

	c->id = "disk0";
	if (!c->n_queues)
		c->n_queues = 1;
	cr_assert_eq(virtio_blk_new(c, &g.mem, g.loop, &d), 0);
	return d;
}

uint64_t blk_start_without(struct virtio_blk_config *c, uint64_t features)
{
	struct virtio_device *d = blk_new(c);
	uint64_t f = vguest_start(&g, d, ~features, c->n_queues, 0);

	header_gpa = vguest_alloc(&g, 16);
	data_gpa = vguest_alloc(&g, 1u << 20);
	status_gpa = vguest_alloc(&g, 1);
	return f;
}

uint64_t blk_start(struct virtio_blk_config *c)
{
	return blk_start_without(c, 0);
}

void blk_header(uint64_t gpa, uint32_t type, uint64_t sector)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} h = { type, 0, sector };

	memcpy(vguest_at(&g, gpa), &h, sizeof(h));
}

unsigned blk_request(uint32_t type, uint64_t sector, uint32_t bytes)
{
	bool in = type == T_IN || type == T_GET_ID;
	struct vguest_buf bufs[] = { { header_gpa, 16, false },
		                     { data_gpa, bytes, in },
		                     { status_gpa, 1, true } };
	uint8_t *status = vguest_at(&g, status_gpa);

	blk_header(header_gpa, type, sector);
	*status = S_NONE;
	vguest_do(&g, 0, bufs, 3);
	return *status;
}

void blk_pattern(void *at, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)at)[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

void blk_setup(void)
{
	strcpy(blk_dir, "/tmp/vmd-blk-XXXXXX");
	cr_assert(mkdtemp(blk_dir));
	vguest_init(&g);
}

void blk_teardown(void)
{
	static const char *const names[] = { "disk", "big" };
	char path[128];

	vguest_deinit(&g);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", blk_dir, names[i]);
		unlink(path);
	}
	cr_assert_eq(rmdir(blk_dir), 0);
}

uint8_t blk_config_byte(unsigned offset)
{
	uint8_t v;

	virtio_config_read(g.d, offset, &v, 1);
	return v;
}
