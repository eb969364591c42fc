/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/timeutil.h"
#include "devices/blk-limits.h"
#include "devices/models.h"
#include "tests/lib/vguest.h"

#define DISK_BYTES (8u << 20)
#define SECTORS    (DISK_BYTES / 512)
#define FAST       (1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC)

enum {
	T_IN,
	T_OUT,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_ZEROES = 13
};
enum {
	F_RO = 5,
	F_FLUSH = 9,
	F_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_ZEROES = 14
};
enum {
	S_OK,
	S_IOERR,
	S_UNSUPP,
	S_NONE = 0xee
};

static struct vguest g;
static char dir[64];
static uint64_t header_gpa, data_gpa, status_gpa;

static int disk_file(const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_CLOEXEC | flags, 0600);
	cr_assert_geq(fd, 0);
	if ((flags & O_ACCMODE) == O_RDWR)
		cr_assert_eq(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

static struct virtio_device *new_disk(struct virtio_blk_config *c)
{
	struct virtio_device *d;

	c->id = "disk0";
	if (!c->n_queues)
		c->n_queues = 1;
	cr_assert_eq(virtio_blk_new(c, &g.mem, g.loop, &d), 0);
	return d;
}

static uint64_t start_without(struct virtio_blk_config *c, uint64_t features)
{
	struct virtio_device *d = new_disk(c);
	uint64_t f = vguest_start(&g, d, ~features, c->n_queues, 0);

	header_gpa = vguest_alloc(&g, 16);
	data_gpa = vguest_alloc(&g, 1u << 20);
	status_gpa = vguest_alloc(&g, 1);
	return f;
}

static uint64_t start(struct virtio_blk_config *c)
{
	return start_without(c, 0);
}

static void header(uint64_t gpa, uint32_t type, uint64_t sector)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} h = { type, 0, sector };

	memcpy(vguest_at(&g, gpa), &h, sizeof(h));
}

/* One request by the book; its status. */
static unsigned request(uint32_t type, uint64_t sector, uint32_t bytes)
{
	bool in = type == T_IN || type == T_GET_ID;
	struct vguest_buf bufs[] = { { header_gpa, 16, false },
		                     { data_gpa, bytes, in },
		                     { status_gpa, 1, true } };
	uint8_t *status = vguest_at(&g, status_gpa);

	header(header_gpa, type, sector);
	*status = S_NONE;
	vguest_do(&g, 0, bufs, 3);
	return *status;
}

static void pattern(void *at, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)at)[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

static void setup(void)
{
	strcpy(dir, "/tmp/vmd-blk-XXXXXX");
	cr_assert(mkdtemp(dir));
	vguest_init(&g);
}

static void teardown(void)
{
	static const char *const names[] = { "disk", "big" };
	char path[128];

	vguest_deinit(&g);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	cr_assert_eq(rmdir(dir), 0);
}

TestSuite(virtio_blk, .init = setup, .fini = teardown, .timeout = 60);

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
	int fd = disk_file("disk", O_RDWR | w->flags), plain = disk_file("disk", O_RDWR);
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

	start(&c);
	cr_assert_eq(has_ring(), !w->no_io_uring && host_has_rings());
	data = vguest_at(&g, data_gpa);
	pattern(data, 65536, 1);
	cr_assert_eq(request(T_OUT, 16, 65536), S_OK);
	cr_assert_eq(request(T_FLUSH, 0, 0), S_OK);
	cr_assert_eq(pread(plain, file, 65536, 16 * 512), 65536);
	cr_assert_arr_eq(file, data, 65536);
	memset(data, 0, 65536);
	cr_assert_eq(request(T_IN, 16, 65536), S_OK);
	cr_assert_arr_eq(file, data, 65536);

	/* Zeroes, with and without giving the blocks back, in two ranges. */
	memcpy(data, range, sizeof(range));
	cr_assert_eq(request(T_ZEROES, 0, sizeof(range)), S_OK);
	range[0].flags = range[1].flags = 1;
	range[0].sector = 16;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(request(T_ZEROES, 0, sizeof(range)), S_OK);
	cr_assert_eq(request(T_IN, 16, 65536), S_OK);
	pattern(file, 65536, 1);
	memset(file, 0, 8 * 512);
	memset(file + 48 * 512, 0, 80 * 512);
	cr_assert_arr_eq(file, data, 65536);

	range[0].flags = range[1].flags = 0;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(request(T_DISCARD, 0, sizeof(range)), S_OK);
	range[0].flags = 1;
	memcpy(data, range, sizeof(range));
	cr_assert_eq(request(T_DISCARD, 0, 16), S_UNSUPP);
	cr_assert_eq(request(T_GET_ID, 0, 20), S_OK);
	cr_assert_arr_eq(data, "0123456789abcdefghij", 20);
	cr_assert_eq(request(99, 0, 512), S_UNSUPP);

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
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR | O_DIRECT),
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

	start(&c);
	back = vguest_alloc(&g, len + 8192);
	pattern(expected, len, 3);
	out[0].gpa = in[0].gpa = header_gpa;
	out[3].gpa = in[3].gpa = status_gpa;
	out[1].gpa = data_gpa + 3;
	out[2].gpa = data_gpa + 1003;
	memcpy(vguest_at(&g, data_gpa + 3), expected, len);
	header(header_gpa, T_OUT, 8);
	vguest_do(&g, 0, out, 4);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_OK);
	in[1].gpa = back + 1;
	in[2].gpa = back + 334;
	header(header_gpa, T_IN, 8);
	cr_assert_eq(vguest_do(&g, 0, in, 4), len + 1);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_OK);
	cr_assert_arr_eq(vguest_at(&g, back + 1), expected, len);
	free(expected);
}

/* 120 requests at once, several of them unaligned, in two queues; each answered once. */
Test(virtio_blk, many)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR), .n_queues = 2 };
	uint64_t headers, status;
	bool seen[2][128] = { { false } };

	cr_assert(start(&c) >> F_MQ & 1);
	headers = vguest_alloc(&g, 240 * 16);
	status = vguest_alloc(&g, 240);
	for (unsigned i = 0; i < 240; i++) {
		struct vguest_buf bufs[] = { { headers + 16 * i, 16, false },
			                     { data_gpa + 4096 * i, 4096, false },
			                     { status + i, 1, true } };

		pattern(vguest_at(&g, data_gpa + 4096 * i), 4096, i);
		header(headers + 16 * i, T_OUT, 8 * i);
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
		pattern(expected, 4096, i);
		cr_assert_eq(pread(c.fd, got, 4096, 4096 * i), 4096);
		cr_assert_arr_eq(got, expected, 4096);
	}
	cr_assert_eq(vguest_stat(&g, "write", "operations"), 240);
}

/* What lies outside of the disk, or is no whole number of sectors, fails and changes nothing. */
Test(virtio_blk, out_of_range)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR), .discard = true };
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

	start(&c);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(request(T_IN, bad[i].sector, bad[i].bytes), S_IOERR, "read %u", i);
		cr_assert_eq(request(T_OUT, bad[i].sector, bad[i].bytes), S_IOERR, "write %u", i);
		range.sector = bad[i].sector;
		range.sectors = 1u << 31 | bad[i].bytes;
		memcpy(vguest_at(&g, data_gpa), &range, sizeof(range));
		cr_assert_eq(request(T_ZEROES, 0, sizeof(range)), S_IOERR, "zero %u", i);
		cr_assert_eq(request(T_DISCARD, 0, sizeof(range)), S_IOERR, "discard %u", i);
	}
	cr_assert_eq(request(T_IN, SECTORS, 0), S_OK);
	cr_assert_eq(request(T_IN, SECTORS - 1, 512), S_OK);
	cr_assert_eq(request(T_DISCARD, 0, 15), S_IOERR);
	cr_assert_eq(request(T_DISCARD, 0, 0), S_IOERR);
	cr_assert_eq(request(T_DISCARD, 0, 16 * 17), S_IOERR);
	cr_assert_eq(fstat(c.fd, &st), 0);
	cr_assert_eq(st.st_size, DISK_BYTES);
	cr_assert_eq(st.st_blocks, 0);
	cr_assert_eq(vguest_stat(&g, "read", "errors"), 8);
}

/* No header, no status, nothing at all: answered, and the device goes on. */
Test(virtio_blk, malformed)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };
	struct vguest_buf buf;

	start(&c);
	header(header_gpa, T_IN, 0);
	buf = (struct vguest_buf){ header_gpa, 16, false }; /* no status */
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 0);
	buf = (struct vguest_buf){ status_gpa, 1, true }; /* no header */
	*(uint8_t *)vguest_at(&g, status_gpa) = S_NONE;
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 1);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, status_gpa), S_IOERR);
	buf = (struct vguest_buf){ data_gpa, 0, false }; /* no bytes */
	cr_assert_eq(vguest_do(&g, 0, &buf, 1), 0);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
	cr_assert_not(vguest_needs_reset(&g));
}

/* The header over three buffers, data and status in one. */
Test(virtio_blk, any_layout)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };
	struct vguest_buf bufs[4];
	uint8_t expected[512];

	start(&c);
	pattern(expected, 512, 9);
	cr_assert_eq(pwrite(c.fd, expected, 512, 512), 512);
	header(header_gpa, T_IN, 1);
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
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };

	start(&c);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
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
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
}

/* A reset with requests under way: nothing is written to the guest after it. */
Test(virtio_blk, reset_in_flight)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR),
		                       .limits = { .read_ops_per_s = 1 } };

	start(&c);
	for (unsigned round = 0; round < 50; round++) {
		uint8_t *data = vguest_at(&g, data_gpa);

		header(header_gpa, T_IN, 0);
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

static atomic_int last_error;

static void on_error(void *arg, bool write, int error)
{
	cr_assert_eq(arg, &g);
	cr_assert(write);
	atomic_store(&last_error, error);
}

/* Read-only: the guest is told, and writes do not reach the file however they are sent. */
Test(virtio_blk, readonly)
{
	struct virtio_blk_config c = { .readonly = true, .discard = true };
	uint64_t f;

	close(disk_file("disk", O_RDWR));
	c.fd = disk_file("disk", O_RDONLY);
	f = start(&c);
	cr_assert(f >> F_RO & 1);
	cr_assert_not(f >> F_DISCARD & 1);
	cr_assert_eq(request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(request(T_ZEROES, 0, 16), S_UNSUPP);
	cr_assert_eq(request(T_FLUSH, 0, 0), S_OK);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
	vguest_deinit(&g);

	/* It is the definition that counts, not what the descriptor could do. */
	vguest_init(&g);
	c.fd = disk_file("disk", O_RDWR);
	start(&c);
	memset(vguest_at(&g, data_gpa), 0xff, 512);
	cr_assert_eq(request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, data_gpa), 0);
}

/* The host fails a write: the guest gets an error, the owner the reason. */
Test(virtio_blk, host_error)
{
	struct virtio_blk_config c = { .on_error = on_error, .on_error_arg = &g };

	close(disk_file("disk", O_RDWR));
	c.fd = disk_file("disk", O_RDONLY); /* EBADF, as good an error as any */
	start(&c);
	cr_assert_eq(request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(last_error, EBADF);
	cr_assert_eq(vguest_stat(&g, "write", "errors"), 1);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
}

/* A full file system. */
ParameterizedTestParameters(virtio_blk, no_space)
{
	static bool ways[] = { false, true };

	return cr_make_param_array(bool, ways, 2);
}

ParameterizedTest(bool *no_io_uring, virtio_blk, no_space)
{
	struct virtio_blk_config c = { .on_error = on_error,
		                       .on_error_arg = &g,
		                       .discard = true,
		                       .no_io_uring = *no_io_uring };
	uint8_t range[16] = { 0 };
	struct stat st;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=256k") < 0) {
		cr_skip_test("no mount namespace: %s", strerror(errno));
		return;
	}
	c.fd = disk_file("disk", O_RDWR);
	start(&c);
	cr_assert_eq(request(T_OUT, 0, 128 * 1024), S_OK);
	cr_assert_eq(request(T_OUT, 1024, 1024 * 1024), S_IOERR);
	cr_assert_eq(last_error, ENOSPC);
	cr_assert_eq(fstat(c.fd, &st), 0);
	cr_assert_eq(st.st_size, DISK_BYTES);
	/* tmpfs cannot zero without giving blocks back: it is written, and there is no space. */
	atomic_store(&last_error, 0);
	range[9] = 0x20; /* 8192 sectors from 0 on */
	memcpy(vguest_at(&g, data_gpa), range, 16);
	cr_assert_eq(request(T_ZEROES, 0, 16), S_IOERR);
	cr_assert_eq(last_error, ENOSPC);
	range[12] = 1; /* as holes there is */
	memcpy(vguest_at(&g, data_gpa), range, 16);
	cr_assert_eq(request(T_ZEROES, 0, 16), S_OK);
	vguest_reset(&g);
	cr_assert_eq(umount2(dir, MNT_DETACH), 0);
}

/* The file becomes shorter under us: an error, and it does not grow back. */
Test(virtio_blk, truncated)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };

	start(&c);
	cr_assert_eq(ftruncate(c.fd, 4096), 0);
	cr_assert_eq(request(T_IN, 4, 8192), S_IOERR);
	cr_assert_eq(request(T_IN, 0, 4096), S_OK);
}

static uint8_t config_byte(unsigned offset)
{
	uint8_t v;

	virtio_config_read(g.d, offset, &v, 1);
	return v;
}

/* The calls of the plain way, counted. */
static atomic_int plain_writes, durable_writes, syncs;

ssize_t __real_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	atomic_fetch_add(flags & RWF_DSYNC ? &durable_writes : &plain_writes, 1);
	return __real_pwritev2(fd, iov, n, offset, flags);
}

int __wrap_fdatasync(int fd)
{
	atomic_fetch_add(&syncs, 1);
	return __real_fdatasync(fd);
}

static void expect_calls(int writes, int durable, int sync)
{
	cr_assert_eq(atomic_exchange(&plain_writes, 0), writes);
	cr_assert_eq(atomic_exchange(&durable_writes, 0), durable);
	cr_assert_eq(atomic_exchange(&syncs, 0), sync);
}

/* What reaches stable storage when, in each mode. */
Test(virtio_blk, durability)
{
	static const struct {
		enum blk_cache cache;
		uint64_t without; /* features the guest does not take */
		int writes, durable, zero_syncs, flush_syncs;
	} modes[] = {
		{ BLK_CACHE_WRITEBACK, 0, 1, 0, 0, 1 },
		{ BLK_CACHE_WRITEBACK, 1 << F_FLUSH, 0, 1, 1, 1 },
		{ BLK_CACHE_WRITEBACK, 1 << F_WCE, 1, 0, 0, 1 },
		{ BLK_CACHE_NONE, 0, 1, 0, 0, 1 },
		{ BLK_CACHE_WRITETHROUGH, 0, 0, 1, 1, 1 },
		{ BLK_CACHE_UNSAFE, 0, 1, 0, 0, 0 },
		{ BLK_CACHE_UNSAFE, 1 << F_FLUSH, 1, 0, 0, 0 },
	};
	uint8_t off = 0, range[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 8 };

	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR),
			                       .cache = modes[i].cache,
			                       .no_io_uring = true };

		start_without(&c, modes[i].without);
		cr_assert_eq(request(T_OUT, 0, 4096), S_OK);
		expect_calls(modes[i].writes, modes[i].durable, 0);
		memcpy(vguest_at(&g, data_gpa), range, 16);
		cr_assert_eq(request(T_ZEROES, 0, 16), S_OK);
		expect_calls(0, 0, modes[i].zero_syncs);
		cr_assert_eq(request(T_FLUSH, 0, 0), S_OK);
		expect_calls(0, 0, modes[i].flush_syncs);
		if (!modes[i].without && modes[i].cache != BLK_CACHE_UNSAFE) {
			virtio_config_write(g.d, 32, &off, 1); /* the guest turns its cache off */
			cr_assert_eq(request(T_OUT, 0, 4096), S_OK);
			expect_calls(0, 1, 0);
		}
		vguest_deinit(&g);
		vguest_init(&g);
	}
}

/* 5.2.5.2: the write cache, as the guest sees and sets it. */
Test(virtio_blk, write_cache)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };
	uint8_t off = 0, on = 1;
	uint64_t capacity;

	start(&c);
	cr_assert_eq(config_byte(32), 1);
	virtio_config_write(g.d, 32, &off, 1);
	cr_assert_eq(config_byte(32), 0);
	virtio_config_write(g.d, 0, &on, 1); /* capacity is not the guest's */
	virtio_config_read(g.d, 0, &capacity, 8);
	cr_assert_eq(capacity, SECTORS);
	cr_assert_eq(request(T_OUT, 0, 4096), S_OK);
	vguest_reset(&g);
	vguest_start(&g, g.d, ~(1ull << F_FLUSH), 1, 0);
	cr_assert_eq(config_byte(32), 0);
	vguest_reset(&g);
	vguest_deinit(&g);

	vguest_init(&g);
	c = (struct virtio_blk_config){ .fd = disk_file("disk", O_RDWR),
		                        .cache = BLK_CACHE_WRITETHROUGH };
	start(&c);
	cr_assert_eq(config_byte(32), 0);
	virtio_config_write(g.d, 32, &on, 1);
	cr_assert_eq(config_byte(32), 0);
}

/* Rates hold over time, and every request is answered. */
Test(virtio_blk, limits)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR),
		                       .limits = { .write_ops_per_s = 50,
		                                   .read_bytes_per_s = 1u << 20 } };
	uint64_t begin = now_monotonic_us(), took;

	start(&c);
	for (unsigned i = 0; i < 75; i++)
		cr_assert_eq(request(T_OUT, 0, 512), S_OK);
	took = now_monotonic_us() - begin;
	/* 50 at once, then 25 at 50 per second. */
	cr_assert_geq(took, 450000);
	/* Reads have their own limit, of bytes: 1 MiB is the burst, 512 KiB more are half a second.
	 */
	begin = now_monotonic_us();
	for (unsigned i = 0; i < 25; i++)
		cr_assert_eq(request(T_IN, 0, 65536), S_OK);
	took = now_monotonic_us() - begin;
	cr_assert_geq(took, 450000);
}

/* A write that waits for its limit does not keep a read waiting. */
Test(virtio_blk, limits_apart)
{
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR),
		                       .limits = { .write_bytes_per_s = 512 } };
	struct vguest_buf bufs[] = { { 0, 16, false }, { 0, 4096, false }, { 0, 1, true } };
	uint16_t head;
	uint64_t h;

	start(&c);
	cr_assert_eq(request(T_OUT, 0, 4096), S_OK); /* a debt of seven seconds */
	h = vguest_alloc(&g, 32);
	bufs[0].gpa = h;
	bufs[1].gpa = data_gpa;
	bufs[2].gpa = h + 16;
	header(h, T_OUT, 0);
	head = vguest_add(&g, 0, bufs, 3);
	vguest_kick(&g, 0);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
	cr_assert_not(vguest_poll(&g, 0, &head, NULL));
	/* A pause completes it: nothing is ever lost. */
	virtio_device_pause(g.d);
	cr_assert(vguest_poll(&g, 0, &head, NULL));
	cr_assert_eq(*(uint8_t *)vguest_at(&g, h + 16), S_OK);
	virtio_device_resume(g.d);
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
	struct virtio_blk_config c = { .fd = disk_file("disk", O_RDWR) };
	struct virtio_blk_config smaller = { .fd = disk_file("big", O_RDWR) };
	struct virtio_device *before, *after;
	struct state_out o;
	uint8_t off = 0;

	start(&c);
	virtio_config_write(g.d, 32, &off, 1);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
	save(&o);
	before = g.d;
	cr_assert_eq(ftruncate(smaller.fd, DISK_BYTES - 512), 0);
	after = new_disk(&smaller);
	cr_assert_lt(load(after, &o), 0);
	virtio_device_free(after);
	c.fd = disk_file("disk", O_RDWR);
	after = new_disk(&c);
	cr_assert_eq(load(after, &o), 0);
	virtio_device_free(before);
	g.d = after;
	after->owner = &g;
	vguest_connect(&g, 0);
	virtio_device_resume(after);
	cr_assert_eq(config_byte(32), 0);
	cr_assert_eq(request(T_IN, 0, 512), S_OK);
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
	c.fd = disk_file("disk", O_RDWR);
	c.n_queues = 33;
	cr_assert_eq(virtio_blk_new(&c, &g.mem, g.loop, &d), -EINVAL);
	close(c.fd);
}

TestSuite(bucket, .timeout = 10);

Test(bucket, rate)
{
	struct bucket b;

	bucket_init(&b, 10, 1000);
	cr_assert_eq(bucket_wait(&b, 1000), 0);
	bucket_take(&b, 25);
	/* 15 in debt at 10 a second: 1.6 s until it is above zero. */
	cr_assert_eq(bucket_wait(&b, 1000), 1600000000);
	cr_assert_eq(bucket_wait(&b, 1000 + 1599999999), 1);
	cr_assert_eq(bucket_wait(&b, 1000 + 1600000000), 0);
	/* Asking often does not lose time. */
	bucket_take(&b, 1);
	for (uint64_t t = 0; t < 100000000; t += 999983)
		cr_assert_gt(bucket_wait(&b, 1600001000 + t), 0);
	cr_assert_eq(bucket_wait(&b, 1700001000), 0);
	/* Never more than a second's worth. */
	cr_assert_eq(bucket_wait(&b, 1ull << 60), 0);
	cr_assert_eq(b.level, 10);
}

Test(bucket, extremes)
{
	struct bucket b;

	bucket_init(&b, UINT64_MAX, 0);
	bucket_take(&b, UINT64_MAX);
	bucket_take(&b, UINT64_MAX);
	cr_assert_eq(b.level, -INT64_MAX);
	cr_assert_gt(bucket_wait(&b, 0), 0);
	cr_assert_eq(bucket_wait(&b, UINT64_MAX), 0);
	bucket_init(&b, 1, 0);
	bucket_take(&b, INT64_MAX);
	cr_assert_gt(bucket_wait(&b, 1), 1ull << 62);
	bucket_init(&b, 0, 0);
	bucket_take(&b, 5);
	cr_assert_eq(bucket_wait(&b, 0), 0);
}
