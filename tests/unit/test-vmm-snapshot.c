/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A saved guest, damaged in every way, against a machine that has no processor yet. Needs /dev/kvm.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "vmm/control.h"
#include "vmm/machine.h"

TestSuite(vmm_snapshot, .timeout = 120);

enum {
	MEMORY = 32 << 20,
	MARK_AT = 0x300000
};

static struct vmm_config config;
static struct machine machine;
static struct snapshot snapshot;
static struct vmd_error err;

/* The smallest kernel: it halts. Nobody enters it here. */
static int kernel(void)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p[2];
		Elf64_Nhdr n;
		char name[4];
		uint32_t entry;
		uint8_t code[16];
	} k = { .h = { .e_ident = { 0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
		       .e_machine = EM_X86_64,
		       .e_phoff = sizeof(Elf64_Ehdr),
		       .e_phnum = 2,
		       .e_phentsize = sizeof(Elf64_Phdr) },
		.n = { .n_namesz = 4, .n_descsz = 4, .n_type = 18 },
		.name = "Xen",
		.entry = 0x200000,
		.code = { 0xF4 } };
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	k.p[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
		               .p_offset = offsetof(__typeof__(k), code),
		               .p_paddr = 0x200000,
		               .p_filesz = 16,
		               .p_memsz = 16 };
	k.p[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
		               .p_offset = offsetof(__typeof__(k), n),
		               .p_filesz = 20 };
	cr_assert_eq(write(fd, &k, sizeof(k)), (ssize_t)sizeof(k));
	return fd;
}

static void realize(bool incoming)
{
	config = (struct vmm_config){
		.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC),
		.qmp_fd = -EBADF,
		.kernel_fd = kernel(),
		.initrd_fd = -EBADF,
		.console_fd = -EBADF,
		.memory_bytes = MEMORY,
		.incoming = incoming,
		.cpus = { .count = 2, .sockets = 1, .cores = 2, .threads = 1 }
	};
	if (config.kvm_fd < 0)
		cr_skip_test("there is no usable /dev/kvm");
	memset(&machine, 0, sizeof(machine));
	snapshot_init(&snapshot);
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_eq(machine_realize(&machine, &config, &err), 0, "%s", err.message);
}

static void discard(void)
{
	machine_free(&machine);
	snapshot_deinit(&snapshot);
	close(config.kvm_fd);
	close(config.kernel_fd);
}

/* A saved guest in a file of its own. */
static int save(void)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	realize(false);
	cr_assert_eq(machine_boot(&machine, &err), 0, "%s", err.message);
	memcpy(machine.memory.base + MARK_AT, "mark", 4);
	cr_assert_eq(snapshot_save(&snapshot, &machine, dup(fd), &err), 0, "%s", err.message);
	while (snapshot_is_active(&snapshot))
		snapshot_step(&snapshot, &machine);
	cr_assert_eq(snapshot.status, SNAPSHOT_COMPLETED, "%s", snapshot.error.message);
	discard();
	return fd;
}

static int load(int fd)
{
	err = (struct vmd_error)VMD_ERROR_INIT;
	return snapshot_load(&snapshot, &machine, dup(fd), &err);
}

static size_t state_bytes(int fd)
{
	uint64_t len;

	cr_assert_eq(pread(fd, &len, sizeof(len), 8), (ssize_t)sizeof(len));
	return 16 + (size_t)len;
}

Test(vmm_snapshot, memory_is_sparse_and_comes_back)
{
	int fd = save();
	struct stat st;

	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_size, (off_t)(SNAPSHOT_RAM_OFFSET + MEMORY));
	cr_assert_lt(st.st_blocks * 512, 1 << 20);
	realize(true);
	cr_assert_eq(load(fd), 0, "%s", err.message);
	cr_assert_eq(memcmp(machine.memory.base + MARK_AT, "mark", 4), 0);
	cr_assert_eq(machine.memory.base[0x200000], 0xF4);
	/* What the restored guest writes is its own. */
	machine.memory.base[MARK_AT] = 'M';
	cr_assert_eq(pread(fd, &(char){ 0 }, 1, (off_t)(SNAPSHOT_RAM_OFFSET + MARK_AT)), 1);
	cr_assert_eq(machine.status, MACHINE_PAUSED);
	discard();
	close(fd);
}

Test(vmm_snapshot, a_restored_guest_can_be_saved_again)
{
	int first = save(), second = memfd_create("second", MFD_CLOEXEC);
	char mark[4] = "";

	realize(true);
	cr_assert_eq(load(first), 0, "%s", err.message);
	machine.memory.base[MARK_AT] = 'M';
	machine.memory.base[MARK_AT + (4 << 20)] = 'n';
	cr_assert_eq(snapshot_save(&snapshot, &machine, dup(second), &err), 0, "%s", err.message);
	while (snapshot_is_active(&snapshot))
		snapshot_step(&snapshot, &machine);
	discard();
	cr_assert_eq(pread(second, mark, 4, (off_t)(SNAPSHOT_RAM_OFFSET + MARK_AT)), 4);
	cr_assert_eq(memcmp(mark, "Mark", 4), 0);
	cr_assert_eq(pread(second, mark, 1, (off_t)(SNAPSHOT_RAM_OFFSET + MARK_AT + (4 << 20))), 1);
	cr_assert_eq(mark[0], 'n');
	realize(true);
	cr_assert_eq(load(second), 0, "%s", err.message);
	discard();
	close(first);
	close(second);
}

static void expect_refused(int fd, const char *what, size_t at)
{
	cr_assert_lt(load(fd), 0, "%s at %zu was taken", what, at);
	cr_assert_neq(err.message[0], '\0', "%s at %zu", what, at);
	cr_assert_eq(machine.vcpus.v[0].fd, -EBADF, "%s at %zu: a processor was made", what, at);
	cr_assert_eq(machine.status, MACHINE_INMIGRATE);
}

Test(vmm_snapshot, any_changed_byte_is_refused_before_a_processor_exists)
{
	int fd = save();
	size_t len = state_bytes(fd);

	realize(true);
	for (size_t at = 0; at < len; at++) {
		uint8_t was, now;

		cr_assert_eq(pread(fd, &was, 1, (off_t)at), 1);
		now = was ^ (uint8_t)(1u << at % 8);
		cr_assert_eq(pwrite(fd, &now, 1, (off_t)at), 1);
		expect_refused(fd, "a changed byte", at);
		cr_assert_eq(pwrite(fd, &was, 1, (off_t)at), 1);
	}
	cr_assert_eq(load(fd), 0, "%s", err.message);
	discard();
	close(fd);
}

Test(vmm_snapshot, any_cut_is_refused_before_a_processor_exists)
{
	int fd = save();
	size_t len = state_bytes(fd);
	cleanup_free uint8_t *data = malloc(len);

	cr_assert_eq(pread(fd, data, len, 0), (ssize_t)len);
	/* Zeroes at the end are the same as a hole. */
	while (len && !data[len - 1])
		len--;
	realize(true);
	for (size_t at = 0; at < len; at += 7) {
		int cut = memfd_create("cut", MFD_CLOEXEC);

		cr_assert_eq(write(cut, data, at), (ssize_t)at);
		expect_refused(cut, "a cut", at);
		/* Of full length, but nothing where the rest was. */
		cr_assert_eq(ftruncate(cut, (off_t)(SNAPSHOT_RAM_OFFSET + MEMORY)), 0);
		expect_refused(cut, "a hole", at);
		close(cut);
	}
	cr_assert_eq(ftruncate(fd, (off_t)(SNAPSHOT_RAM_OFFSET + MEMORY - 4096)), 0);
	expect_refused(fd, "short memory", 0);
	discard();
	close(fd);
}

Test(vmm_snapshot, another_machine_refuses_it)
{
	int fd = save();

	realize(true);
	machine.vcpus.n = 1;
	expect_refused(fd, "another count of processors", 0);
	cr_assert(strstr(err.message, "2 processors, not 1"), "%s", err.message);
	machine.vcpus.n = 2;
	machine.vcpus.cpuid->entries[1].ecx ^= 1;
	expect_refused(fd, "another processor", 0);
	cr_assert(strstr(err.message, "another kind of processor"), "%s", err.message);
	discard();
	close(fd);
}
