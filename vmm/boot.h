/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Puts a Linux kernel, its initrd, its command line and what tells of them into guest RAM, straight
 * from their descriptors. The files are the guest's owner's: hostile. RAM is all zeroes before.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "devices/guestmem.h"

/* Guest addresses below 1 MiB that the loaders use. */
#define BOOT_GDT          0x500u
#define BOOT_START_INFO   0x6000u /* ELF: start info, modules, memory map */
#define BOOT_ZERO_PAGE    0x7000u /* bzImage: boot_params */
#define BOOT_PAGES        0x9000u /* page tables, 3 pages */
#define BOOT_STACK        0x8FF0u
#define BOOT_CMDLINE      0x20000u
#define BOOT_LOW_END      0x9FC00u /* RAM below the old BIOS data area */
#define BOOT_ACPI         0xE0000u /* RSDP first; reserved up to 1 MiB */
#define BOOT_ACPI_END     0x100000u
#define BOOT_RESET_VECTOR 0xFFFF0u /* F000:FFF0 */
#define BOOT_HIGH         0x100000u

enum boot_mode {
	BOOT_64,
	BOOT_32
};

/* How the first processor begins. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rsi; /* BOOT_64: the zero page */
	uint64_t rax; /* BOOT_32: a magic, or 0 */
	uint64_t rbx; /* BOOT_32: the start info */
};

struct boot_files {
	int kernel_fd, initrd_fd; /* borrowed; initrd_fd may be -EBADF */
	const char *cmdline;
	uint64_t ram_bytes;
};

/* Finds out what the kernel is and loads it. -EINVAL with err on whatever is wrong with it. */
int boot_load(const struct boot_files *f, const struct guestmem *mem, struct boot_entry *ret,
              struct vmd_error *err);

struct boot_range {
	uint64_t start, bytes;
	uint32_t type; /* as in e820: 1 RAM, 2 reserved */
};
#define BOOT_MAX_RANGES 4
/* The guest's memory map. The number of ranges. */
unsigned boot_memory_map(const struct guestmem *mem, struct boot_range ret[BOOT_MAX_RANGES]);

/* For the loaders. Exactly len bytes from offset of fd to gpa; what names the file. */
int boot_read(int fd, uint64_t offset, const struct guestmem *mem, gpa_t gpa, uint64_t len,
              const char *what, struct vmd_error *err);
/* The size of a regular file, or -EINVAL. */
int boot_file_size(int fd, const char *what, uint64_t *ret, struct vmd_error *err);
/* As high as possible below limit and above floor, on a page. *ret_gpa and *ret_bytes are 0 without
 * an initrd. */
int boot_load_initrd(const struct boot_files *f, const struct guestmem *mem, uint64_t floor,
                     uint64_t limit, uint64_t *ret_gpa, uint64_t *ret_bytes, struct vmd_error *err);
/* Copies the command line with its NUL to BOOT_CMDLINE. max: most bytes without NUL. */
int boot_put_cmdline(const struct boot_files *f, const struct guestmem *mem, uint64_t max,
                     struct vmd_error *err);
/* The loaders. head: the first bytes of the kernel, head_len of them. */
int boot_bzimage(const struct boot_files *f, const uint8_t *head, size_t head_len,
                 const struct guestmem *mem, struct boot_entry *ret, struct vmd_error *err);
int boot_elf(const struct boot_files *f, const uint8_t *head, size_t head_len,
             const struct guestmem *mem, struct boot_entry *ret, struct vmd_error *err);
