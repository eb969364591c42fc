/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/timeutil.h"
#include "tests/unit/blk-fixture.h"

TestSuite(virtio_blk_host, .init = blk_setup, .fini = blk_teardown, .timeout = 60);

static atomic_int last_error;

static void on_error(void *arg, bool write, int error)
{
	cr_assert_eq(arg, &g);
	cr_assert(write);
	atomic_store(&last_error, error);
}

/* Read-only: the guest is told, and writes do not reach the file however they are sent. */
Test(virtio_blk_host, readonly)
{
	struct virtio_blk_config c = { .readonly = true, .discard = true };
	uint64_t f;

	close(blk_disk_file("disk", O_RDWR));
	c.fd = blk_disk_file("disk", O_RDONLY);
	f = blk_start(&c);
	cr_assert(f >> F_RO & 1);
	cr_assert_not(f >> F_DISCARD & 1);
	cr_assert_eq(blk_request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(blk_request(T_ZEROES, 0, 16), S_UNSUPP);
	cr_assert_eq(blk_request(T_FLUSH, 0, 0), S_OK);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	vguest_deinit(&g);

	/* It is the definition that counts, not what the descriptor could do. */
	vguest_init(&g);
	c.fd = blk_disk_file("disk", O_RDWR);
	blk_start(&c);
	memset(vguest_at(&g, data_gpa), 0xff, 512);
	cr_assert_eq(blk_request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, data_gpa), 0);
}

/* The host fails a write: the guest gets an error, the owner the reason. */
Test(virtio_blk_host, host_error)
{
	struct virtio_blk_config c = { .on_error = on_error, .on_error_arg = &g };

	close(blk_disk_file("disk", O_RDWR));
	c.fd = blk_disk_file("disk", O_RDONLY); /* EBADF, as good an error as any */
	blk_start(&c);
	cr_assert_eq(blk_request(T_OUT, 0, 512), S_IOERR);
	cr_assert_eq(last_error, EBADF);
	cr_assert_eq(vguest_stat(&g, "write", "errors"), 1);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
}

/* A full file system. */
ParameterizedTestParameters(virtio_blk_host, no_space)
{
	static bool ways[] = { false, true };

	return cr_make_param_array(bool, ways, 2);
}

ParameterizedTest(bool *no_io_uring, virtio_blk_host, no_space)
{
	struct virtio_blk_config c = { .on_error = on_error,
		                       .on_error_arg = &g,
		                       .discard = true,
		                       .no_io_uring = *no_io_uring };
	uint8_t range[16] = { 0 };
	struct stat st;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", blk_dir, "tmpfs", 0, "size=256k") < 0) {
		cr_skip_test("no mount namespace: %s", strerror(errno));
		return;
	}
	c.fd = blk_disk_file("disk", O_RDWR);
	blk_start(&c);
	cr_assert_eq(blk_request(T_OUT, 0, 128 * 1024), S_OK);
	cr_assert_eq(blk_request(T_OUT, 1024, 1024 * 1024), S_IOERR);
	cr_assert_eq(last_error, ENOSPC);
	cr_assert_eq(fstat(c.fd, &st), 0);
	cr_assert_eq(st.st_size, DISK_BYTES);
	/* tmpfs cannot zero without giving blocks back: it is written, and there is no space. */
	atomic_store(&last_error, 0);
	range[9] = 0x20; /* 8192 sectors from 0 on */
	memcpy(vguest_at(&g, data_gpa), range, 16);
	cr_assert_eq(blk_request(T_ZEROES, 0, 16), S_IOERR);
	cr_assert_eq(last_error, ENOSPC);
	range[12] = 1; /* as holes there is */
	memcpy(vguest_at(&g, data_gpa), range, 16);
	cr_assert_eq(blk_request(T_ZEROES, 0, 16), S_OK);
	vguest_reset(&g);
	cr_assert_eq(umount2(blk_dir, MNT_DETACH), 0);
}

/* The file becomes shorter under us: an error, and it does not grow back. */
Test(virtio_blk_host, truncated)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };

	blk_start(&c);
	cr_assert_eq(ftruncate(c.fd, 4096), 0);
	cr_assert_eq(blk_request(T_IN, 4, 8192), S_IOERR);
	cr_assert_eq(blk_request(T_IN, 0, 4096), S_OK);
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
Test(virtio_blk_host, durability)
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
		struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR),
			                       .cache = modes[i].cache,
			                       .no_io_uring = true };

		blk_start_without(&c, modes[i].without);
		cr_assert_eq(blk_request(T_OUT, 0, 4096), S_OK);
		expect_calls(modes[i].writes, modes[i].durable, 0);
		memcpy(vguest_at(&g, data_gpa), range, 16);
		cr_assert_eq(blk_request(T_ZEROES, 0, 16), S_OK);
		expect_calls(0, 0, modes[i].zero_syncs);
		cr_assert_eq(blk_request(T_FLUSH, 0, 0), S_OK);
		expect_calls(0, 0, modes[i].flush_syncs);
		if (!modes[i].without && modes[i].cache != BLK_CACHE_UNSAFE) {
			virtio_config_write(g.d, 32, &off, 1); /* the guest turns its cache off */
			cr_assert_eq(blk_request(T_OUT, 0, 4096), S_OK);
			expect_calls(0, 1, 0);
		}
		vguest_deinit(&g);
		vguest_init(&g);
	}
}

/* 5.2.5.2: the write cache, as the guest sees and sets it. */
Test(virtio_blk_host, write_cache)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR) };
	uint8_t off = 0, on = 1;
	uint64_t capacity;

	blk_start(&c);
	cr_assert_eq(blk_config_byte(32), 1);
	virtio_config_write(g.d, 32, &off, 1);
	cr_assert_eq(blk_config_byte(32), 0);
	virtio_config_write(g.d, 0, &on, 1); /* capacity is not the guest's */
	virtio_config_read(g.d, 0, &capacity, 8);
	cr_assert_eq(capacity, SECTORS);
	cr_assert_eq(blk_request(T_OUT, 0, 4096), S_OK);
	vguest_reset(&g);
	vguest_start(&g, g.d, ~(1ull << F_FLUSH), 1, 0);
	cr_assert_eq(blk_config_byte(32), 0);
	vguest_reset(&g);
	vguest_deinit(&g);

	vguest_init(&g);
	c = (struct virtio_blk_config){ .fd = blk_disk_file("disk", O_RDWR),
		                        .cache = BLK_CACHE_WRITETHROUGH };
	blk_start(&c);
	cr_assert_eq(blk_config_byte(32), 0);
	virtio_config_write(g.d, 32, &on, 1);
	cr_assert_eq(blk_config_byte(32), 0);
}

/* Rates hold over time, and every request is answered. */
Test(virtio_blk_host, limits)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR),
		                       .limits = { .write_ops_per_s = 50,
		                                   .read_bytes_per_s = 1u << 20 } };
	uint64_t begin = now_monotonic_us(), took;

	blk_start(&c);
	for (unsigned i = 0; i < 75; i++)
		cr_assert_eq(blk_request(T_OUT, 0, 512), S_OK);
	took = now_monotonic_us() - begin;
	/* 50 at once, then 25 at 50 per second. */
	cr_assert_geq(took, 450000);
	/* Reads have their own limit, of bytes: 1 MiB is the burst, 512 KiB more are half a second.
	 */
	begin = now_monotonic_us();
	for (unsigned i = 0; i < 25; i++)
		cr_assert_eq(blk_request(T_IN, 0, 65536), S_OK);
	took = now_monotonic_us() - begin;
	cr_assert_geq(took, 450000);
}

/* A write that waits for its limit does not keep a read waiting. */
Test(virtio_blk_host, limits_apart)
{
	struct virtio_blk_config c = { .fd = blk_disk_file("disk", O_RDWR),
		                       .limits = { .write_bytes_per_s = 512 } };
	struct vguest_buf bufs[] = { { 0, 16, false }, { 0, 4096, false }, { 0, 1, true } };
	uint16_t head;
	uint64_t h;

	blk_start(&c);
	cr_assert_eq(blk_request(T_OUT, 0, 4096), S_OK); /* a debt of seven seconds */
	h = vguest_alloc(&g, 32);
	bufs[0].gpa = h;
	bufs[1].gpa = data_gpa;
	bufs[2].gpa = h + 16;
	blk_header(h, T_OUT, 0);
	head = vguest_add(&g, 0, bufs, 3);
	vguest_kick(&g, 0);
	cr_assert_eq(blk_request(T_IN, 0, 512), S_OK);
	cr_assert_not(vguest_poll(&g, 0, &head, NULL));
	/* A pause completes it: nothing is ever lost. */
	virtio_device_pause(g.d);
	cr_assert(vguest_poll(&g, 0, &head, NULL));
	cr_assert_eq(*(uint8_t *)vguest_at(&g, h + 16), S_OK);
	virtio_device_resume(g.d);
}
