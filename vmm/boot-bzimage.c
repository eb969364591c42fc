/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Linux bzImage (Documentation/arch/x86/boot.rst): the protected-mode part is loaded as it is and
 * entered at its 64-bit entry point, with a zero page, an e820 map and an identity mapping.
 */
#include "config.h"

#include <asm/bootparam.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/boot.h"

enum {
	HEADER_AT = 0x1F1,
	ENTRY_64 = 0x200,
	LOADER_UNDEFINED = 0xFF,
	VERSION_MIN = 0x20C, /* the first with xloadflags */
	MAPPED_MIB = 1024
};

static int check_header(const struct setup_header *h, uint64_t file_bytes, uint64_t *ret_skip,
                        struct vmd_error *err)
{
	/* 0 stands for 4, as in the oldest kernels. */
	*ret_skip = ((uint64_t)(h->setup_sects ? h->setup_sects : 4) + 1) * 512;
	if (h->boot_flag != 0xAA55)
		return error_set(err, ERROR_INVALID, "the kernel has no boot signature");
	if (h->version < VERSION_MIN)
		return error_set(err, ERROR_INVALID,
		                 "the kernel's boot protocol %u.%02u is too old", h->version >> 8,
		                 h->version & 0xFF);
	if (!(h->xloadflags & XLF_KERNEL_64) || !(h->loadflags & LOADED_HIGH))
		return error_set(err, ERROR_INVALID, "the kernel is not one for 64-bit x86");
	if (*ret_skip >= file_bytes)
		return error_set(err, ERROR_INVALID, "the kernel is cut short");
	return 0;
}

/* Where it goes: its preferred address. It needs init_size bytes from there on. */
static int place(const struct setup_header *h, const struct guestmem *mem, uint64_t payload,
                 uint64_t *ret_gpa, uint64_t *ret_end, struct vmd_error *err)
{
	uint64_t need = MAX_OF(payload, (uint64_t)h->init_size);

	if (h->pref_address < BOOT_HIGH || h->pref_address >= (uint64_t)MAPPED_MIB << 20 ||
	    (h->pref_address & 0xFFF))
		return error_set(err, ERROR_INVALID, "the kernel wants to lie at 0x%llx",
		                 (unsigned long long)h->pref_address);
	if (!guestmem_at(mem, GPA(h->pref_address), need))
		return error_set(err, ERROR_INVALID,
		                 "the kernel needs %llu MiB of memory to unpack itself at %llu MiB",
		                 (unsigned long long)(need >> 20),
		                 (unsigned long long)(h->pref_address >> 20));
	*ret_gpa = h->pref_address;
	*ret_end = h->pref_address + need;
	return 0;
}

static void put_memory_map(struct boot_params *p, const struct guestmem *mem)
{
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(mem, map);

	for (unsigned i = 0; i < n; i++)
		p->e820_table[i] = (struct boot_e820_entry){ .addr = map[i].start,
			                                     .size = map[i].bytes,
			                                     .type = map[i].type };
	p->e820_entries = (uint8_t)n;
}

/* The first GiB mapped to itself by 2 MiB pages, and the descriptors that the protocol asks for. */
static void put_tables(const struct guestmem *mem)
{
	uint64_t *pml4 = guestmem_at(mem, GPA(BOOT_PAGES), 3 * 4096), *pdpt = pml4 + 512,
		 *pd = pdpt + 512, *gdt = guestmem_at(mem, GPA(BOOT_GDT), 32);

	pml4[0] = (BOOT_PAGES + 0x1000) | 3;
	pdpt[0] = (BOOT_PAGES + 0x2000) | 3;
	for (uint64_t i = 0; i < MAPPED_MIB / 2; i++)
		pd[i] = i << 21 | 0x83;
	gdt[2] = 0x00AF9B000000FFFFull; /* __BOOT_CS, 0x10 */
	gdt[3] = 0x00CF93000000FFFFull; /* __BOOT_DS, 0x18 */
}

int boot_bzimage(const struct boot_files *f, const uint8_t *head, size_t head_len,
                 const struct guestmem *mem, struct boot_entry *ret, struct vmd_error *err)
{
	uint64_t size, skip, gpa = 0, end = 0, initrd, initrd_bytes;
	struct setup_header h;
	struct boot_params *p;
	int r = boot_file_size(f->kernel_fd, "kernel", &size, err);

	if (r < 0)
		return r;
	if (head_len < HEADER_AT + sizeof(h))
		return error_set(err, ERROR_INVALID, "the kernel is cut short");
	memcpy(&h, head + HEADER_AT, sizeof(h));
	r = check_header(&h, size, &skip, err);
	if (r == 0)
		r = place(&h, mem, size - skip, &gpa, &end, err);
	if (r == 0)
		r = boot_read(f->kernel_fd, skip, mem, GPA(gpa), size - skip, "kernel", err);
	if (r == 0)
		r = boot_load_initrd(f, mem, end, (uint64_t)h.initrd_addr_max + 1, &initrd,
		                     &initrd_bytes, err);
	if (r == 0)
		r = boot_put_cmdline(f, mem, h.cmdline_size, err);
	if (r < 0)
		return r;
	p = guestmem_at(mem, GPA(BOOT_ZERO_PAGE), sizeof(*p));
	memset(p, 0, sizeof(*p));
	p->hdr = h;
	p->hdr.type_of_loader = LOADER_UNDEFINED;
	p->hdr.cmd_line_ptr = BOOT_CMDLINE;
	p->hdr.ramdisk_image = (uint32_t)initrd;
	p->hdr.ramdisk_size = (uint32_t)initrd_bytes;
	p->acpi_rsdp_addr = BOOT_ACPI;
	put_memory_map(p, mem);
	put_tables(mem);
	*ret = (struct boot_entry){ .mode = BOOT_64, .rip = gpa + ENTRY_64, .rsi = BOOT_ZERO_PAGE };
	return 0;
}
