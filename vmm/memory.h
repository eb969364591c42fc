/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The guest's RAM: one piece, seen by the guest below 3 GiB and above 4 GiB. It is private memory
 * of this process, which the kernel gives in huge pages; or a sealed memfd, where another process
 * maps it too (vhost-user) or huge pages are reserved ones. A restored guest has its snapshot file
 * mapped privately in its place.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "devices/guestmem.h"
#include "vmm/guest-config.h"

/* What the guest's physical addresses below 4 GiB are; the DSDT and the loaders know the same. */
#define LAYOUT_LOW_RAM_END  0xC0000000ull /* RAM goes on at 4 GiB */
#define LAYOUT_PCI_LOW      0xC0000000ull
#define LAYOUT_PCI_LOW_END  0xE0000000ull
#define LAYOUT_ECAM         0xE0000000ull /* one bus, 1 MiB */
#define LAYOUT_IOAPIC       0xFEC00000ull
#define LAYOUT_LAPIC        0xFEE00000ull
#define LAYOUT_IDENTITY_MAP 0xFFFBC000ull
#define LAYOUT_TSS          0xFFFBD000ull
#define LAYOUT_HIGH_RAM     0x100000000ull

struct vm_memory {
	struct guestmem mem;
	uint8_t *base; /* all of it, in order of guest addresses, aligned to 2 MiB */
	uint64_t bytes;
	int fd;      /* the memfd, or -EBADF: private */
	int backing; /* the snapshot file mapped privately, or -EBADF */
	uint64_t backing_offset;
	int pagemap; /* /proc/self/pagemap: tells which pages private memory has; or -EBADF */
	bool prealloc, hugetlb, transparent;
};

/* Makes and maps it; m->mem is ready for devices. */
int memory_init(struct vm_memory *m, const struct vmm_config *c, struct vmd_error *err);
void memory_deinit(struct vm_memory *m);
/* Gives it to KVM. 0 or negative errno. */
int memory_add_slots(const struct vm_memory *m, int vm_fd);
/* All zeroes again, and not taking up memory unless preallocated. vCPUs stopped. */
int memory_clear(struct vm_memory *m);
/*
 * RAM as it lies in fd from offset on. shared: into the memfd, which other processes have mapped
 * (the whole of it is read now). Otherwise fd is mapped privately (and kept), and nothing is read.
 */
int memory_restore(struct vm_memory *m, int fd, uint64_t offset, bool shared,
                   struct vmd_error *err);
/*
 * The next range that may hold something other than zeroes, from offset from on: *ret_start,
 * *ret_end, in bytes from base. 1, 0 when there is none, or negative errno.
 */
int memory_next_data(const struct vm_memory *m, uint64_t from, uint64_t *ret_start,
                     uint64_t *ret_end);
