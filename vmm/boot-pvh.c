/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernels with the note XEN_ELFNOTE_PHYS32_ENTRY: 32-bit protected mode without paging, EBX points
 * to a start info (Xen's public/arch-x86/hvm/start_info.h) that names the rest.
 */
#include "config.h"

#include "vmm/boot-elf.h"

#define START_MAGIC 0x336EC578u

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct start_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct start_range {
	uint64_t addr, size;
	uint32_t type, reserved;
};

void boot_pvh_info(const struct guestmem *mem, uint64_t initrd, uint64_t initrd_bytes)
{
	struct {
		struct start_info info;
		struct start_module module;
		struct start_range map[BOOT_MAX_RANGES];
	} *s = guestmem_at(mem, GPA(BOOT_START_INFO), sizeof(*s));
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(mem, map);
	uint64_t module = BOOT_START_INFO + sizeof(s->info);

	s->info = (struct start_info){ .magic = START_MAGIC,
		                       .version = 1,
		                       .nr_modules = initrd_bytes ? 1 : 0,
		                       .modlist_paddr = initrd_bytes ? module : 0,
		                       .cmdline_paddr = BOOT_CMDLINE,
		                       .rsdp_paddr = BOOT_ACPI,
		                       .memmap_paddr = module + sizeof(s->module),
		                       .memmap_entries = n };
	s->module = (struct start_module){ .paddr = initrd, .size = initrd_bytes };
	for (unsigned i = 0; i < n; i++)
		s->map[i] = (struct start_range){ map[i].start, map[i].bytes, map[i].type, 0 };
}
