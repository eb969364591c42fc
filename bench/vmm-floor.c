/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor of bench/vmm: sets up KVM, enters the guest, answers its serial port, and nothing else.
 * Usage: vmm-floor ELF-FILE MEMORY-IN-MIB [FD]. What the guest sends goes to descriptor 8. FD: a
 * file that is its memory, mapped privately.
 */
#include "config.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	CONSOLE_FD = 8,
	SERIAL = 0x3F8,
	LINE_STATUS = 0x3FD
};

static int check(int r, const char *what)
{
	if (r < 0) {
		perror(what);
		exit(1);
	}
	return r;
}

static uint8_t *map_memory(size_t bytes, int fd)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (at == MAP_FAILED)
		check(-1, "mmap");
	return at;
}

/* The first segment, and its address as the entry. */
static uint64_t load(const char *path, uint8_t *memory)
{
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p;
	} head;
	int fd = check(open(path, O_RDONLY | O_CLOEXEC), path);

	check(pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) ? 0 : -1, path);
	check(pread(fd, memory + head.p.p_paddr, head.p.p_filesz, (off_t)head.p.p_offset) > 0 ? 0
	                                                                                      : -1,
	      path);
	close(fd);
	return head.e.e_entry;
}

static void set_entry(int cpu, uint64_t entry)
{
	struct kvm_regs regs = { .rip = entry, .rflags = 2 };
	struct kvm_segment code = { .limit = 0xFFFFFFFF,
		                    .selector = 0x10,
		                    .type = 11,
		                    .present = 1,
		                    .db = 1,
		                    .s = 1,
		                    .g = 1 };
	struct kvm_segment data = code;
	struct kvm_sregs s;

	data.selector = 0x18;
	data.type = 3;
	check(ioctl(cpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 |= 1;
	check(ioctl(cpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	check(ioctl(cpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void run(int cpu, struct kvm_run *r)
{
	for (;;) {
		uint8_t *data = (uint8_t *)r + r->io.data_offset;

		check(ioctl(cpu, KVM_RUN, 0), "KVM_RUN");
		data = (uint8_t *)r + r->io.data_offset;
		if (r->exit_reason != KVM_EXIT_IO)
			break;
		if (r->io.direction == KVM_EXIT_IO_IN)
			*data = r->io.port == LINE_STATUS ? 0x60 : 0xFF;
		else if (r->io.port == SERIAL && write(CONSOLE_FD, data, 1) != 1)
			break;
	}
	(void)pause(); /* halted, and measured as it is */
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 2 ? strtoul(argv[2], NULL, 10) << 20 : 0;
	struct kvm_userspace_memory_region slot = { .memory_size = bytes };
	uint8_t *memory;
	uint64_t entry;
	void *r;
	int kvm, vm, cpu;

	if (!bytes)
		return 64;
	kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	memory = map_memory(bytes, argc > 3 ? (int)strtol(argv[3], NULL, 10) : -1);
	entry = load(argv[1], memory);
	slot.userspace_addr = (uintptr_t)memory;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	cpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	r = mmap(NULL,
	         (size_t)check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"),
	         PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	if (r == MAP_FAILED)
		check(-1, "mmap of the vCPU");
	set_entry(cpu, entry);
	run(cpu, r);
	return 0;
}
