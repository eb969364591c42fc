/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macros.h"
#include "vmm/kvm-stats.h"

TestSuite(vmm_kvm_stats, .timeout = 20);

#define NAME_BYTES 48

/* A file as the kernel shows it: a header, descriptors, values. */
struct file {
	struct kvm_stats_header h;
	struct {
		uint32_t flags;
		int16_t exponent;
		uint16_t size;
		uint32_t offset, bucket_size;
		char name[NAME_BYTES];
	} d[3];
	uint64_t values[4];
};

static struct file sound(void)
{
	return (struct file){
		.h = { .name_size = NAME_BYTES,
		       .num_desc = 3,
		       .desc_offset = offsetof(struct file, d),
		       .data_offset = offsetof(struct file, values) },
		.d = { { .size = 2, .offset = 0, .name = "exits" }, /* a histogram */
		       { .size = 1, .offset = 16, .name = "halt_wait_ns" },
		       { .size = 1, .offset = 24, .name = "halt_exits" } },
		.values = { 1, 2, 3000, 4 },
	};
}

static int file_of(const struct file *f, size_t bytes)
{
	int fd = memfd_create("stats", MFD_CLOEXEC);

	cr_assert_eq(write(fd, f, bytes), (ssize_t)bytes);
	return fd;
}

Test(vmm_kvm_stats, counters_are_found_by_name)
{
	struct file f = sound();
	int fd = file_of(&f, sizeof(f));
	struct kvm_stats_layout l;
	uint64_t v = 0;

	cr_assert_eq(kvm_stats_layout_read(fd, &l), 0);
	cr_assert_eq(kvm_stats_read(fd, &l, KVM_STAT_HALT_NS, &v), 0);
	cr_expect_eq(v, 3000);
	cr_assert_eq(kvm_stats_read(fd, &l, KVM_STAT_HALT_EXITS, &v), 0);
	cr_expect_eq(v, 4);
	cr_expect_eq(kvm_stats_read(fd, &l, KVM_STAT_EXITS, &v), -ENODATA, "not one number");
	cr_expect_eq(kvm_stats_read(fd, &l, KVM_STAT_HYPERCALLS, &v), -ENODATA);
	cr_expect_eq(kvm_stats_read(-EBADF, &l, KVM_STAT_HALT_NS, &v), -ENODATA);
	close(fd);
}

static void expect_nothing(const struct file *f, size_t bytes)
{
	int fd = file_of(f, bytes);
	struct kvm_stats_layout l;
	uint64_t v;

	cr_expect_eq(kvm_stats_layout_read(fd, &l), -EBADMSG);
	cr_expect_eq(kvm_stats_read(fd, &l, KVM_STAT_HALT_NS, &v), -ENODATA);
	close(fd);
}

Test(vmm_kvm_stats, what_makes_no_sense_is_nothing)
{
	struct file f = sound();

	expect_nothing(&f, sizeof(f.h) - 1);
	expect_nothing(&f, offsetof(struct file, d) + 100);
	f.h.name_size = 0;
	expect_nothing(&f, sizeof(f));
	f.h.name_size = 1 << 20;
	expect_nothing(&f, sizeof(f));
	f = sound();
	f.h.num_desc = UINT32_MAX;
	expect_nothing(&f, sizeof(f));
	f = sound();
	f.h.desc_offset = UINT32_MAX;
	expect_nothing(&f, sizeof(f));
}

Test(vmm_kvm_stats, kvm_counts_halts)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, cpu, fd;
	struct kvm_stats_layout l;
	uint64_t v = 1;

	if (kvm < 0 || (vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
		cr_skip_test("/dev/kvm cannot be used here");
	if (ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD) <= 0)
		cr_skip_test("this KVM has no files of counters");
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	cr_assert_geq(cpu, 0);
	fd = kvm_stats_open(cpu);
	cr_assert_geq(fd, 0, "%s", strerror(-fd));
	cr_assert_eq(kvm_stats_layout_read(fd, &l), 0);
	cr_assert_eq(kvm_stats_read(fd, &l, KVM_STAT_HALT_NS, &v), 0);
	cr_expect_eq(v, 0);
	close(fd);
	close(cpu);
	close(vm);
	close(kvm);
}
