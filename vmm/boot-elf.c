/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF kernels of both classes (System V ABI, chapters 4 and 5): their segments go to their physical
 * addresses. Entered as PVH (a note names the entry), else as Multiboot (a header near the
 * beginning).
 */
#include "config.h"

#include "vmm/boot-elf.h"

#include <elf.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/memory.h"

enum {
	MAX_SEGMENTS = 64,
	MAX_NOTES = 64 << 10,
	NOTE_PHYS32_ENTRY = 18,
	CMDLINE_MAX = 4096 - 1
};

/* What both classes of ELF say of a segment. */
struct segment {
	uint32_t type;
	uint64_t offset, paddr, file_bytes, memory_bytes;
};

struct elf {
	bool is_64;
	uint64_t entry, ph_offset;
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
	e->entry = e->is_64 ? h64.e_entry : h32.e_entry;
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

/* *ret_pvh: whether there is a PVH entry; then it is *ret_entry. */
static int load_segments(const struct boot_files *f, const struct elf *e, const uint8_t *head,
                         const struct guestmem *mem, uint64_t *ret_end, bool *ret_pvh,
                         uint64_t *ret_entry, struct vmd_error *err)
{
	*ret_pvh = false;
	for (unsigned i = 0; i < e->ph_n; i++) {
		struct segment s = read_segment(e, head, i);
		int r = 0;

		if (s.type == PT_LOAD && s.memory_bytes)
			r = load_segment(f, &s, mem, ret_end, err);
		else if (s.type == PT_NOTE && !*ret_pvh)
			r = search_notes(f, &s, mem, ret_entry, err);
		if (r < 0)
			return r;
		*ret_pvh |= r > 0;
	}
	return 0;
}

static int choose_entry(const struct elf *e, const uint8_t *head, size_t head_len, uint64_t end,
                        bool is_pvh, struct boot_entry *ret, struct vmd_error *err)
{
	int r;

	if (!is_pvh) {
		r = boot_multiboot_check(head, head_len, err);
		if (r < 0)
			return r;
		ret->rip = e->entry;
		ret->rax = BOOT_MULTIBOOT_MAGIC;
	}
	if (ret->rip < BOOT_HIGH || ret->rip >= end)
		return error_set(err, ERROR_INVALID, "the kernel's %s entry 0x%llx is not in it",
		                 is_pvh ? "PVH" : "Multiboot", (unsigned long long)ret->rip);
	return 0;
}

int boot_elf(const struct boot_files *f, const uint8_t *head, size_t head_len,
             const struct guestmem *mem, struct boot_entry *ret, struct vmd_error *err)
{
	uint64_t end = BOOT_HIGH, initrd, initrd_bytes;
	struct elf e = { 0 };
	bool is_pvh = false;
	int r = read_header(head, head_len, &e, err);

	*ret = (struct boot_entry){ .mode = BOOT_32, .rbx = BOOT_START_INFO };
	if (r == 0)
		r = load_segments(f, &e, head, mem, &end, &is_pvh, &ret->rip, err);
	if (r == 0)
		r = choose_entry(&e, head, head_len, end, is_pvh, ret, err);
	if (r == 0)
		r = boot_load_initrd(f, mem, end, LAYOUT_LOW_RAM_END, &initrd, &initrd_bytes, err);
	if (r == 0)
		r = boot_put_cmdline(f, mem, CMDLINE_MAX, err);
	if (r < 0)
		return r;
	(is_pvh ? boot_pvh_info : boot_multiboot_info)(mem, initrd, initrd_bytes);
	return 0;
}
