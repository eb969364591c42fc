/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF kernels with a Multiboot header (Multiboot Specification 0.6.96, sections 3.1 to 3.3): 32-bit
 * protected mode without paging, EAX holds a magic, EBX points to the information. kvm-unit-tests
 * and small kernels are such files.
 */
#include "config.h"

#include <stddef.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/boot-elf.h"

#define HEADER_MAGIC 0x1BADB002u

/* Flags of the header. The lower half are requirements: what we do not know we must refuse. */
enum {
	WANTS_PAGE_ALIGN = 1 << 0, /* modules begin at pages: ours does */
	WANTS_MEMORY = 1 << 1,
	WANTS_KNOWN = WANTS_PAGE_ALIGN | WANTS_MEMORY,
	WANTS_MASK = 0xFFFF,
	WANTS_ADDRESSES = 1 << 16 /* load by the header's addresses, not by ELF's */
};

/* Flags of the information. */
enum {
	HAS_MEMORY = 1 << 0,
	HAS_CMDLINE = 1 << 2,
	HAS_MODULES = 1 << 3,
	HAS_MAP = 1 << 6,
	HAS_LOADER_NAME = 1 << 9
};

enum {
	HEADER_WITHIN = 8192, /* of the file */
	CMDLINE_MAX = 4096 - 1
};

struct header {
	uint32_t magic, flags, checksum;
};

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table;
	uint32_t boot_loader_name, apm_table;
};

struct module {
	uint32_t start, end, string, reserved;
};

/* size does not count itself. */
struct range {
	uint32_t size;
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

static bool find_header(const uint8_t *head, size_t len, struct header *ret)
{
	len = MIN_OF(len, (size_t)HEADER_WITHIN);
	for (size_t at = 0; at + sizeof(*ret) <= len; at += 4) {
		memcpy(ret, head + at, sizeof(*ret));
		if (ret->magic == HEADER_MAGIC && ret->magic + ret->flags + ret->checksum == 0)
			return true;
	}
	return false;
}

int boot_multiboot_check(const uint8_t *head, size_t head_len, struct vmd_error *err)
{
	struct header h;
	uint32_t unknown;

	if (!find_header(head, head_len, &h))
		return error_set(
			err, ERROR_INVALID,
			"the kernel is an ELF file without a PVH entry or Multiboot header");
	unknown = h.flags & WANTS_MASK & ~(uint32_t)WANTS_KNOWN;
	if (unknown)
		return error_set(
			err, ERROR_UNSUPPORTED,
			"the kernel's Multiboot header demands what is not there: flags 0x%x",
			unknown);
	if (h.flags & WANTS_ADDRESSES)
		return error_set(err, ERROR_UNSUPPORTED,
		                 "the kernel's Multiboot header has addresses of its own; only ELF "
		                 "segments are loaded");
	return 0;
}

void boot_multiboot_info(const struct guestmem *mem, uint64_t initrd, uint64_t initrd_bytes)
{
	static const char name[] = "vmd-vmm";
	struct all {
		struct info info;
		struct module module;
		struct range map[BOOT_MAX_RANGES];
		char name[sizeof(name)];
	} *s = guestmem_at(mem, GPA(BOOT_START_INFO), sizeof(*s));
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(mem, map);
	const uint32_t at = BOOT_START_INFO;

	s->info = (struct info){
		.flags = HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MAP | HAS_LOADER_NAME,
		.mem_lower = BOOT_LOW_END >> 10,
		.mem_upper = (uint32_t)((mem->regions[0].bytes - BOOT_HIGH) >> 10),
		.cmdline = BOOT_CMDLINE,
		.mods_count = initrd_bytes ? 1 : 0,
		.mods_addr = at + offsetof(struct all, module),
		.mmap_length = n * (uint32_t)sizeof(s->map[0]),
		.mmap_addr = at + offsetof(struct all, map),
		.boot_loader_name = at + offsetof(struct all, name),
	};
	s->module = (struct module){ .start = (uint32_t)initrd,
		                     .end = (uint32_t)(initrd + initrd_bytes) };
	for (unsigned i = 0; i < n; i++)
		s->map[i] = (struct range){ sizeof(s->map[0]) - sizeof(s->map[0].size),
			                    map[i].start, map[i].bytes, map[i].type };
	memcpy(s->name, name, sizeof(name));
}
