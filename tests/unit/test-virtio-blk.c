/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/blk-fixture.h"

TestSuite(virtio_blk, .init = blk_setup, .fini = blk_teardown, .timeout = 60);

struct way {
	bool no_io_uring;
	enum blk_cache cache;
	int flags;
};

/* Does this process have a ring? */
static bool has_ring(void)
{
	char link[64], target[64];

	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, target, sizeof(target) - 1);
		if (n > 0 && memmem(target, (size_t)n, "io_uring", 8))
			return true;
	}
	return false;
}

static bool host_has_rings(void)
{
	struct io_uring_params p = { 0 };
	long fd = syscall(__NR_io_uring_setup, 1, &p);

	if (fd < 0)
		return false;
	close((int)fd);
	return true;
}

/* Every request kind, by the ring and without it, cached and direct. */
ParameterizedTestParameters(virtio_blk, requests)
{
	static struct way ways[] = {
		{ false, BLK_CACHE_WRITEBACK, 0 },    { true, BLK_CACHE_WRITEBACK, 0 },
		{ false, BLK_CACHE_WRITETHROUGH, 0 }, { true, BLK_CACHE_WRITETHROUGH, 0 },
		{ false, BLK_CACHE_NONE, O_DIRECT },  { true, BLK_CACHE_NONE, O_DIRECT },
		{ false, BLK_CACHE_UNSAFE, 0 },
	};

	return cr_make_param_array(struct way, ways, sizeof(ways) / sizeof(ways[0]));
}

ParameterizedTest(struct way *w, virtio_blk, requests)
{
	int fd = blk_disk_file("disk", O_RDWR | w->flags), plain = blk_disk_file("disk", O_RDWR);
	struct virtio_blk_config c = { .fd = fd,
		                       .cache = w->cache,
		                       .no_io_uring = w->no_io_uring,
		                       .discard = true,
		                       .serial = "0123456789abcdefghijkl" };
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range[2] = { { 8, 8, 0 }, { 64, 128, 0 } };
	uint8_t *data, *file = malloc(65536);
	struct stat st;

	blk_start(&c);
	cr_assert_eq(has_ring(), !w->no_io_uring && host_has_rings());
	data = vguest_at(&g, data_gpa);
	blk_pattern(data, 65536, 1);
	cr_assert_eq(blk_request(T_OUT, 16, 65536), S_OK);
	cr_assert_eq(blk_request(T_FLUSH, 0, 0), S_OK);
	cr_assert_eq(pread(plain, file, 65536, 16 * 512), 65536);
	cr_assert_arr_eq(file, data, 65536);
	memset(data, 0, 65536);
	cr_assert_eq(blk_request(T_IN, 16, 65536), S_OK);
	cr_assert_arr_eq(file, data, 65536);

	/* Zeroes, with and without giving the blocks back, in two ranges. */
	memcpy(data, range, sizeof(range));
	cr_assert_eq(blk_request(T_ZEROES, 0, sizeof(range)), S_OK);
	range[0].flags = range[1].flags = 1;
	range[0].sector = 16;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(blk_request(T_ZEROES, 0, sizeof(range)), S_OK);
	cr_assert_eq(blk_request(T_IN, 16, 65536), S_OK);
	blk_pattern(file, 65536, 1);
	memset(file, 0, 8 * 512);
	memset(file + 48 * 512, 0, 80 * 512);
	cr_assert_arr_eq(file, data, 65536);

	range[0].flags = range[1].flags = 0;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(blk_request(T_DISCARD, 0, sizeof(range)), S_OK);
	range[0].flags = 1;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(blk_request(T_DISCARD, 0, 16), S_UNSUPP);
	cr_assert_eq(blk_request(T_GET_ID, 0, 20), S_OK);
	cr_assert_arr_eq(data, "0123456789abcdefghij", 20);
	cr_assert_eq(blk_request(99, 0, 512), S_UNSUPP);

	cr_assert_eq(fstat(plain, &st), 0);
	cr_assert_eq(st.st_size, DISK_BYTES);
	cr_assert_eq(vguest_stat(&g, "read", "operations"), 3);
	cr_assert_eq(vguest_stat(&g, "write", "operations"), 3);
	cr_assert_eq(vguest_stat(&g, "write", "bytes"), 65536 + 2 * 136 * 512);
	cr_assert_eq(vguest_stat(&g, "flush", "operations"), 1);
	cr_assert_eq(vguest_stat(&g, "discard", "operations"), 1);
	close(plain);
	free(file);
}

/* Unaligned memory and O_DIRECT: by way of the bounce buffer, whole and in order. */
Test(virtio_blk, direct_unaligned)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR | O_DIRECT),
		                       .cache = BLK_CACHE_NONE };
	const uint32_t len = 640 * 1024;
	struct vguest_buf out[] = {
		{ 0, 16, false }, { 0, 1000, false }, { 0, len - 1000, false }, { 0, 1, true }
	};
	struct vguest_buf in[] = {
		{ 0, 16, false }, { 0, 333, true }, { 0, len - 333, true }, { 0, 1, true }
	};
	uint8_t *expected = malloc(len);
	uint64_t back;

	blk_start(&c);
	back = vguest_alloc(&g, len + 8192);
	blk_pattern(expected, len, 3);
	out[0].gpa = in[0].gpa = header_gpa;
	out[3].gpa = in[3].gpa = status_gpa;
	out[1].gpa = data_gpa + 3;
	out[2].gpa = data_gpa + 1003;
	memcpy(vguest_at(&g, data_gpa + 3), expected, len);
	blk_header(header_gpa, T_OUT, 8);
	vguest_do(&g, 0, out, 4);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_OK);
	in[1].gpa = back + 1;
	in[2].gpa = back + 334;
	blk_header(header_gpa, T_IN, 8);
	cr_assert_eq(vguest_do(&g, 0, in, 4), len + 1);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_OK);
	cr_assert_arr_eq(vguest_at(&g, back + 1), expected, len);
	free(expected);
}

/* 120 requests at once, several of them unaligned, in two queues; each answered once. */
Test(virtio_blk, many)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR), .n_queues = 2 };
	uint64_t headers, status;
	bool seen[2][128] = { { false } };

	cr_assert(blk_start(&c) >> F_MQ & 1);
	headers = vguest_alloc(&g, 240 * 16);
	status = vguest_alloc(&g, 240);
	for (unsigned i = 0; i < 240; i++) {
		struct vguest_buf bufs[] = { { headers + 16 * i, 16, false },
			                     { data_gpa + 4096 * i, 4096, false },
			                     { status + i, 1, true } };

		blk_pattern(vguest_at(&g, data_gpa + 4096 * i), 4096, i);
		blk_header(headers + 16 * i, T_OUT, 8 * i);
		*(uint8_t *)vguest_at(&g, status + i) = S_NONE;
		vguest_add_indirect(&g, i % 2, bufs, 3);
	}
	vguest_kick(&g, 0);
	vguest_kick(&g, 1);
	for (unsigned i = 0; i < 240; i++) {
		uint16_t head = vguest_wait(&g, i % 2, NULL);

		cr_assert_not(seen[i % 2][head]);
		seen[i % 2][head] = true;
	}
	for (unsigned i = 0; i < 240; i++) {
		uint8_t expected[4096], got[4096];

		cr_assert_eq(*(uint8_t *)vguest_at(&g, status + i), S_OK);
		blk_pattern(expected, 4096, i);
		cr_assert_eq(pread(c.fd, got, 4096, 4096 * i), 4096);
		cr_assert_arr_eq(got, expected, 4096);
	}
	cr_assert_eq(vguest_stat(&g, "write", "operations"), 240);
}

/* What lies outside of the disk, or is no whole number of sectors, fails and changes nothing. */
Test(virtio_blk, out_of_range)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR), .discard = true };
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range = { 0 };
	static const struct {
		uint64_t sector;
		uint32_t bytes;
	} bad[] = { { SECTORS, 512 },    { SECTORS - 1, 1024 },
		    { UINT64_MAX, 512 }, { UINT64_MAX / 512, 512 },
		    { 1ull << 55, 512 }, { 0, 511 },
		    { 0, 513 },          { UINT64_MAX - 1, 1024 } };
	struct stat st;

	blk_start(&c);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(blk_request(T_IN, bad[i].sector, bad[i].bytes), S_IOERR, "read %u", i);
		cr_assert_eq(blk_request(T_OUT, bad[i].sector, bad[i].bytes), S_IOERR, "write %u",
		             i);
		range.sector = bad[i].sector;
		range.sectors = 1u << 31 | bad[i].bytes;
		memcpy(vguest_at(&g, data_gpa), &range, sizeof(range));
		cr_assert_eq(blk_request(T_ZEROES, 0, sizeof(range)), S_IOERR, "zero %u", i);
		cr_assert_eq(blk_request(T_DISCARD, 0, sizeof(range)), S_IOERR, "discard %u", i);
	}
	cr_assert_eq(blk_request(T_IN, SECTORS, 0), S_OK);
	cr_assert_eq(blk_request(T_IN, SECTORS - 1, 512), S_OK);
	cr_assert_eq(blk_request(T_DISCARD, 0, 15), S_IOERR);
	cr_assert_eq(blk_request(T_DISCARD, 0, 0), S_IOERR);
	cr_assert_eq(blk_request(T_DISCARD, 0, 16 * 17), S_IOERR);
	cr_assert_eq(fstat(c.fd, &st), 0);
	cr_assert_eq(st.st_size, DISK_BYTES);
	cr_assert_eq(st.st_blocks, 0);
	cr_assert_eq(vguest_stat(&g, "read", "errors"), 8);
}

/* No header, no status, nothing at all: answered, and the device goes on. */
Test(virtio_blk, malformed)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };
	struct vguest_buf buf;

	blk_start(&c);
	blk_header(header_gpa, T_IN, 0);
	buf = (struct vguest_buf){ header_gpa, 16, false }; /* no status */
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 0);
	buf = (struct vguest_buf){ status_gpa, 1, true }; /* no header */
	*(uint8_t *)vguest_at(&g, status_gpa) = S_NONE;
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 1);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_IOERR);
	buf = (struct vguest_buf){ data_gpa, 0, false }; /* no bytes */
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 0);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	cr_assert_not(vguest_needs_reset(&g));
}

/* The header over three buffers, data and status in one. */
Test(virtio_blk, any_layout)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };
	struct vguest_buf bufs[4];
	uint8_t expected[512];

	blk_start(&c);
	blk_pattern(expected, 512, 9);
	cr_assert_eq(pwrite(c.fd, expected, 512, 512), 512);
	blk_header(header_gpa, T_IN, 1);
	bufs[0] = (struct vguest_buf){ header_gpa, 1, false };
	bufs[1] = (struct vguest_buf){ header_gpa + 1, 10, false };
	bufs[2] = (struct vguest_buf){ header_gpa + 11, 5, false };
	bufs[3] = (struct vguest_buf){ data_gpa, 513, true };
	cr_assert_eq(vguest_do(&g, 0, bufs, 4), 513);
	cr_assert_arr_eq(vguest_at(&g, data_gpa), expected, 512);
	cr_assert_eq(((uint8_t *)vguest_at(&g, data_gpa))[512], S_OK);
}

/* Rings that make no sense: the device stops, says so, and works again after a reset. */
ParameterizedTestParameters(virtio_blk, broken_ring)
{
	static int kinds[] = { 0, 1, 2, 3, 4, 5 };

	return cr_make_param_array(int, kinds, 6);
}

ParameterizedTest(int *kind, virtio_blk, broken_ring)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };

	blk_start(&c);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	switch (*kind) {
	case 0: /* a loop */
		vguest_desc(&g, 0, 10, data_gpa, 16, VRING_DESC_F_NEXT, 10);
		vguest_offer(&g, 0, 10);
		break;
	case 1: /* outside of RAM */
		vguest_desc(&g, 0, 10, 0xfee00000, 16, 0, 0);
		vguest_offer(&g, 0, 10);
		break;
	case 2: /* wraps around */
		vguest_desc(&g, 0, 10, UINT64_MAX - 8, 16, 0, 0);
		vguest_offer(&g, 0, 10);
		break;
	case 3: /* no such head */
		vguest_offer(&g, 0, 1000);
		break;
	case 4: /* an index that jumps */
		g.rings[0].avail = (uint16_t)(g.rings[0].avail + 1000);
		vguest_offer(&g, 0, 0);
		break;
	default: /* indirect in indirect */
		vguest_desc(&g, 0, 10, header_gpa, 16, VRING_DESC_F_INDIRECT, 0);
		memset(vguest_at(&g, header_gpa), 0, 16);
		((uint8_t *)vguest_at(&g, header_gpa))[12] = VRING_DESC_F_INDIRECT;
		vguest_offer(&g, 0, 10);
		break;
	}
	vguest_kick(&g, 0);
	vguest_expect_needs_reset(&g);
	vguest_reset(&g);
	vguest_start(&g, g.d, ~0ull, 1, 0);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
}

/* A reset with requests under way: nothing is written to the guest after it. */
Test(virtio_blk, reset_in_flight)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR),
		                       .limits = { .read_ops_per_s = 1 } };

	blk_start(&c);
	for (unsigned round = 0; round < 50; round++) {
		uint8_t *data = vguest_at(&g, data_gpa);

		blk_header(header_gpa, T_IN, 0);
		for (unsigned i = 0; i < 20; i++) {
			struct vguest_buf bufs[] = { { header_gpa, 16, false },
				                     { data_gpa + 4096 * i, 4096, true },
				                     { status_gpa, 1, true } };

			vguest_add(&g, 0, bufs, 3);
		}
		vguest_kick(&g, 0);
		if (round % 2)
			vguest_settle(&g);
		vguest_reset(&g);
		memset(data, 0x5a, 20 * 4096);
		vguest_settle(&g);
		for (unsigned i = 0; i < 20 * 4096; i++)
			cr_assert_eq(data[i], 0x5a);
		g.next = header_gpa; /* rings anew, in the same place */
		vguest_start(&g, g.d, ~0ull, 1, 0);
		header_gpa = vguest_alloc(&g, 16);
		data_gpa = vguest_alloc(&g, 1u << 20);
		status_gpa = vguest_alloc(&g, 1);
	}
}

static void save(struct state_out *o)
{
	state_out_init(o);
	virtio_device_pause(g.d);
	virtio_device_save(g.d, o);
	cr_assert_eq(state_finish(o), 0);
}

static int load(struct virtio_device *d, const struct state_out *o)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_in in;

	cr_assert_eq(state_open(&in, o->data, o->len, &err), 0, "%s", err.message);
	return virtio_device_load(d, &in, &err);
}

/* Saved, loaded into a new device on the same memory, going on; refused on another disk. */
Test(virtio_blk, saved_and_loaded)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };
	struct virtio_blk_config smaller = { .fd = blk_disk_file("big", O_RDWR) };
	struct virtio_device *before, *after;
	struct state_out o;
	uint8_t off = 0;

	blk_start(&c);
	virtio_config_write(g.d, 32, &off, 1);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	save(&o);
	before = g.d;
	cr_assert_eq(ftruncate(smaller.fd, DISK_BYTES - 512), 0);
	after = blk_new(&smaller);
	cr_assert_lt(load(after, &o), 0);
	virtio_device_free(after);
	c.fd = blk_disk_file("disk", O_RDWR);
	after = blk_new(&c);
	cr_assert_eq(load(after, &o), 0);
	virtio_device_free(before);
	g.d = after;
	after->owner = &g;
	vguest_connect(&g, 0);
	virtio_device_resume(after);
	cr_assert_eq(blk_config_byte(32), 0);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	state_out_deinit(&o);
}

Test(virtio_blk, bad_config)
{
	struct virtio_blk_config c = { .id = "disk0",
		                       .fd = open("/dev/null", O_RDWR),
		                       .n_queues = 1 };
	struct virtio_device *d;

	cr_assert_eq(virtio_blk_new(&c, &g.mem, g.loop, &d), -EINVAL);
	cr_assert_geq(fcntl(c.fd, F_GETFD), 0); /* left alone */
	close(c.fd);
	c.fd = blk_disk_file("disk", O_RDWR);
	c.n_queues = 33;
	cr_assert_eq(virtio_blk_new(&c, &g.mem, g.loop, &d), -EINVAL);
	close(c.fd);
}
