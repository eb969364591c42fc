/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF kernels with the note XEN_ELFNOTE_PHYS32_ENTRY: 32-bit protected mode without paging, EBX
 * points to a start info (Xen's public/arch-x86/hvm/start_info.h) that names the rest.
 */
#include "config.h"

#include <elf.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/boot.h"
#include "vmm/memory.h"

enum {
	MAX_SEGMENTS = 64,
	MAX_NOTES = 64 << 10,
	NOTE_PHYS32_ENTRY = 18,
	CMDLINE_MAX = 4096 - 1
};

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

/* What both classes of ELF say of a segment. */
struct segment {
	uint32_t type;
	uint64_t offset, paddr, file_bytes, memory_bytes;
};

struct elf {
	bool is_64;
	uint64_t ph_offset;
	unsigned ph_n, ph_bytes;
};

static int read_header(const uint8_t *head, size_t len, struct elf *e, struct vmd_error *err)
{
	Elf64_Ehdr h64;
	Elf32_Ehdr h32;
	bool is_x86;

	if (len < sizeof(h64))
		return error_set(err, ERROR_INVALID, "the kernel is cut short");
	memcpy(&h64, head, sizeof(h64));
	memcpy(&h32, head, sizeof(h32));
	e->is_64 = h64.e_ident[EI_CLASS] == ELFCLASS64;
	is_x86 = e->is_64 ? h64.e_machine == EM_X86_64 : h32.e_machine == EM_386;
	if (h64.e_ident[EI_DATA] != ELFDATA2LSB || !is_x86 ||
	    (!e->is_64 && h64.e_ident[EI_CLASS] != ELFCLASS32))
		return error_set(err, ERROR_INVALID, "the kernel is an ELF file, not for x86");
	e->ph_offset = e->is_64 ? h64.e_phoff : h32.e_phoff;
	e->ph_n = e->is_64 ? h64.e_phnum : h32.e_phnum;
	e->ph_bytes = e->is_64 ? h64.e_phentsize : h32.e_phentsize;
	if (e->ph_bytes != (e->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || !e->ph_n ||
	    e->ph_n > MAX_SEGMENTS || e->ph_offset > len ||
	    (uint64_t)e->ph_n * e->ph_bytes > len - e->ph_offset)
		return error_set(err, ERROR_INVALID,
		                 "the kernel's program headers are not what they should be");
	return 0;
}

static struct segment read_segment(const struct elf *e, const uint8_t *head, unsigned i)
{
	const uint8_t *at = head + e->ph_offset + i * e->ph_bytes;
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (e->is_64) {
		memcpy(&p64, at, sizeof(p64));
		return (struct segment){ p64.p_type, p64.p_offset, p64.p_paddr, p64.p_filesz,
			                 p64.p_memsz };
	}
	memcpy(&p32, at, sizeof(p32));
	return (struct segment){ p32.p_type, p32.p_offset, p32.p_paddr, p32.p_filesz, p32.p_memsz };
}

/* Memory is zero already, so what is beyond the file's part needs no work. */
static int load_segment(const struct boot_files *f, const struct segment *s,
                        const struct guestmem *mem, uint64_t *end, struct vmd_error *err)
{
	if (s->file_bytes > s->memory_bytes)
		return error_set(err, ERROR_INVALID,
		                 "a segment of the kernel has more bytes than room");
	if (s->paddr < BOOT_HIGH || s->paddr >= LAYOUT_LOW_RAM_END ||
	    !guestmem_at(mem, GPA(s->paddr), s->memory_bytes))
		return error_set(err, ERROR_INVALID,
		                 "a segment of the kernel does not fit: %llu bytes at 0x%llx are "
		                 "not guest memory from 1 MiB on",
		                 (unsigned long long)s->memory_bytes, (unsigned long long)s->paddr);
	*end = MAX_OF(*end, s->paddr + s->memory_bytes);
	return boot_read(f->kernel_fd, s->offset, mem, GPA(s->paddr), s->file_bytes, "kernel", err);
}

/* Walks a note segment of len bytes; 1 when the entry was found. */
static int find_entry(const uint8_t *notes, size_t len, uint64_t *ret)
{
	size_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		size_t name, value, next;

		memcpy(&n, notes + at, sizeof(n));
		if (n.n_namesz > len || n.n_descsz > len)
			return 0;
		name = at + sizeof(n);
		value = name + ((n.n_namesz + 3u) & ~3u);
		next = value + ((n.n_descsz + 3u) & ~3u);
		if (value > len || n.n_descsz > len - value)
			return 0;
		if (n.n_type == NOTE_PHYS32_ENTRY && n.n_namesz == 4 &&
		    memcmp(notes + name, "Xen", 4) == 0 && n.n_descsz >= 4) {
			*ret = 0;
			memcpy(ret, notes + value, MIN_OF(n.n_descsz, 8u));
			return 1;
		}
		if (next > len)
			return 0;
		at = next;
	}
	return 0;
}

/* The notes are read to where the command line goes later: no memory of ours, as large as it is. */
static int search_notes(const struct boot_files *f, const struct segment *s,
                        const struct guestmem *mem, uint64_t *ret, struct vmd_error *err)
{
	uint64_t len = MIN_OF(s->file_bytes, (uint64_t)MAX_NOTES);
	uint8_t *at = guestmem_at(mem, GPA(BOOT_CMDLINE), len);
	int r = boot_read(f->kernel_fd, s->offset, mem, GPA(BOOT_CMDLINE), len, "kernel", err);

	if (r == 0)
		r = find_entry(at, len, ret);
	memset(at, 0, len);
	return r;
}

static int load_segments(const struct boot_files *f, const struct elf *e, const uint8_t *head,
                         const struct guestmem *mem, uint64_t *ret_end, uint64_t *ret_entry,
                         struct vmd_error *err)
{
	bool found = false;

	for (unsigned i = 0; i < e->ph_n; i++) {
		struct segment s = read_segment(e, head, i);
		int r = 0;

		if (s.type == PT_LOAD && s.memory_bytes)
			r = load_segment(f, &s, mem, ret_end, err);
		else if (s.type == PT_NOTE && !found)
			r = search_notes(f, &s, mem, ret_entry, err);
		if (r < 0)
			return r;
		found |= r > 0;
	}
	if (!found)
		return error_set(err, ERROR_INVALID,
		                 "the kernel is an ELF file without a PVH entry");
	if (*ret_entry < BOOT_HIGH || *ret_entry >= *ret_end)
		return error_set(err, ERROR_INVALID, "the kernel's PVH entry 0x%llx is not in it",
		                 (unsigned long long)*ret_entry);
	return 0;
}

static void put_start_info(const struct guestmem *mem, uint64_t initrd, uint64_t initrd_bytes)
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

int boot_pvh(const struct boot_files *f, const uint8_t *head, size_t head_len,
             const struct guestmem *mem, struct boot_entry *ret, struct vmd_error *err)
{
	uint64_t end = BOOT_HIGH, entry = 0, initrd, initrd_bytes;
	struct elf e = { 0 };
	int r = read_header(head, head_len, &e, err);

	if (r == 0)
		r = load_segments(f, &e, head, mem, &end, &entry, err);
	if (r == 0)
		r = boot_load_initrd(f, mem, end, LAYOUT_LOW_RAM_END, &initrd, &initrd_bytes, err);
	if (r == 0)
		r = boot_put_cmdline(f, mem, CMDLINE_MAX, err);
	if (r < 0)
		return r;
	put_start_info(mem, initrd, initrd_bytes);
	*ret = (struct boot_entry){ .mode = BOOT_32, .rip = entry, .rbx = BOOT_START_INFO };
	return 0;
}
