/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macros.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/boot-elf.h"
#include "vmm/boot.h"
#include "vmm/memory.h"

/*
 * The loaders: any file, or a kernel that is right but for some bytes, with an initrd of any size
 * and memory of some sizes. What is refused has a reason. What is loaded is entered where the file
 * was put, finds its initrd whole, on a page, clear of the kernel, in what the memory map calls RAM
 * and the command line whole. The pages around RAM kill whoever leaves it.
 *
 * Kinds: 0 any file, 1 bzImage, 2 and 3 ELF of 64 and 32 bits; with 32 an ELF file has a Multiboot
 * header and no note.
 *
 * Input: kind, memory, length of the command line, initrd's pages and bytes, then the file, or the
 * changes to a good one: (position:2, value:1) ...
 */

#define GUARD        4096u
#define MAX_RAM      (64ull << 20)
#define HIGH_BYTES   (2ull << 20)
#define KERNEL_BYTES 8192u
#define HEADER_AT    0x1F1u
#define CMDLINE_MAX  2047u

static uint8_t *low, *high; /* RAM from 0 and from 4 GiB on, each between pages that kill */
static struct guestmem mem;
static char cmdline[CMDLINE_MAX + 1];

struct small_elf {
	union {
		Elf64_Ehdr h64;
		Elf32_Ehdr h32;
	};
	union {
		Elf64_Phdr p64[3];
		Elf32_Phdr p32[3];
	};
	struct {
		Elf64_Nhdr n;
		char name[4];
		uint32_t entry;
	} notes[2];
	struct {
		uint32_t magic, flags, checksum;
	} multiboot;
	uint8_t code[64];
};

enum {
	KIND_NO_INITRD = 8,
	KIND_PIPE = 16,
	KIND_MULTIBOOT = 32
};

#define HEADER_MAGIC 0x1BADB002u

/* Above what is accessible there is only what kills. */
static void make_ram(uint64_t bytes, bool with_high)
{
	if (!low) {
		low = mmap(NULL, MAX_RAM + 2 * GUARD, PROT_NONE,
		           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		high = mmap(NULL, HIGH_BYTES + 2 * GUARD, PROT_NONE,
		            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		FUZZ_CHECK(low != MAP_FAILED && high != MAP_FAILED);
		low += GUARD;
		high += GUARD;
	}
	FUZZ_CHECK(mprotect(low, MAX_RAM, PROT_NONE) == 0);
	FUZZ_CHECK(madvise(low, MAX_RAM, MADV_DONTNEED) == 0);
	FUZZ_CHECK(mprotect(low, bytes, PROT_READ | PROT_WRITE) == 0);
	mem = (struct guestmem){ .n = 1, .regions = { { 0, bytes, low } } };
	if (!with_high)
		return;
	mem.regions[mem.n++] = (struct guestmem_region){ LAYOUT_HIGH_RAM, HIGH_BYTES, high };
	FUZZ_CHECK(mprotect(high, HIGH_BYTES, PROT_READ | PROT_WRITE) == 0);
}

static size_t good_bzimage(uint8_t *k)
{
	struct setup_header h = { .setup_sects = 3,
		                  .boot_flag = 0xAA55,
		                  .header = 0x53726448,
		                  .version = 0x20F,
		                  .loadflags = LOADED_HIGH,
		                  .initrd_addr_max = 0x7FFFFFFF,
		                  .xloadflags = XLF_KERNEL_64,
		                  .cmdline_size = 2047,
		                  .pref_address = 0x1000000 - 0x400000,
		                  .init_size = 2 << 20 };

	memset(k, 0x5A, KERNEL_BYTES);
	memset(k, 0, 2048);
	memcpy(k + HEADER_AT, &h, sizeof(h));
	return KERNEL_BYTES;
}

/* In place of the notes; the program header that was theirs is one of nothing. */
static void make_multiboot(struct small_elf *e, bool is_64)
{
	memset(e->notes, 0, sizeof(e->notes));
	e->multiboot.magic = HEADER_MAGIC;
	e->multiboot.flags = 3;
	e->multiboot.checksum = -(HEADER_MAGIC + 3);
	if (is_64) {
		e->p64[2].p_type = PT_NULL;
		e->h64.e_entry = 0x200010;
	} else {
		e->p32[2].p_type = PT_NULL;
		e->h32.e_entry = 0x200010;
	}
}

static size_t good_elf(uint8_t *k, bool is_64)
{
	struct small_elf *e = (struct small_elf *)(void *)k;
	static const uint8_t ident[] = { 0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB };

	memset(e, 0, sizeof(*e));
	memcpy(e->h64.e_ident, ident, sizeof(ident));
	e->h64.e_machine = is_64 ? EM_X86_64 : EM_386;
	if (is_64) {
		e->h64.e_phoff = offsetof(struct small_elf, p64);
		e->h64.e_phnum = 3;
		e->h64.e_phentsize = sizeof(Elf64_Phdr);
	} else {
		e->h32.e_ident[EI_CLASS] = ELFCLASS32;
		e->h32.e_phoff = offsetof(struct small_elf, p32);
		e->h32.e_phnum = 3;
		e->h32.e_phentsize = sizeof(Elf32_Phdr);
	}
	for (unsigned i = 0; i < 3; i++) {
		uint32_t type = i == 2 ? PT_NOTE : PT_LOAD,
			 at = i == 2 ? offsetof(struct small_elf, notes)
		                     : offsetof(struct small_elf, code),
			 to = 0x200000 + i * 0x100000, bytes = i == 2 ? sizeof(e->notes) : 64;

		if (is_64)
			e->p64[i] = (Elf64_Phdr){ .p_type = type,
				                  .p_offset = at,
				                  .p_paddr = to,
				                  .p_filesz = bytes,
				                  .p_memsz = 4096 };
		else
			e->p32[i] = (Elf32_Phdr){ .p_type = type,
				                  .p_offset = at,
				                  .p_paddr = to,
				                  .p_filesz = bytes,
				                  .p_memsz = 4096 };
	}
	for (unsigned i = 0; i < 2; i++) {
		e->notes[i].n = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 4, .n_type = i ? 18 : 6 };
		memcpy(e->notes[i].name, "Xen", 4);
		e->notes[i].entry = 0x200010;
	}
	memset(e->code, 0xF4, sizeof(e->code));
	return sizeof(*e);
}

static int file_of(const void *data, size_t len)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	FUZZ_CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
	return fd;
}

static int make_kernel(struct fuzz_input *in, uint8_t kind)
{
	static uint8_t k[KERNEL_BYTES + 65536];
	size_t len;

	if (kind % 4 == 0)
		return file_of(in->at, in->left);
	len = kind % 4 == 1 ? good_bzimage(k) : good_elf(k, kind % 4 == 2);
	if (kind % 4 != 1 && kind & KIND_MULTIBOOT)
		make_multiboot((struct small_elf *)(void *)k, kind % 4 == 2);
	while (in->left) {
		size_t at = fuzz_take(in, 2), value = fuzz_take(in, 1);

		if (at < len)
			k[at] = (uint8_t)value;
		else if (at == 0xFFFF)
			len -= MIN_OF(len, value * 32);
	}
	return file_of(k, len);
}

static int make_initrd(uint64_t bytes, uint8_t kind)
{
	int fd, ends[2];

	if (kind & KIND_NO_INITRD)
		return -EBADF;
	if (kind & KIND_PIPE) {
		FUZZ_CHECK(pipe2(ends, O_CLOEXEC) == 0);
		close(ends[1]);
		return ends[0];
	}
	fd = file_of("first", 5);
	/* A hole, as what is between is of no interest; sizes up to more than memory. */
	FUZZ_CHECK(ftruncate(fd, (off_t)bytes) == 0);
	if (bytes > 10)
		FUZZ_CHECK(pwrite(fd, "last!", 5, (off_t)bytes - 5) == 5);
	return fd;
}

static void check_initrd(uint64_t at, uint64_t bytes, uint64_t want)
{
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(&mem, map), inside = 0;
	const uint8_t *p = guestmem_at(&mem, GPA(at), bytes);

	FUZZ_CHECK(bytes == want);
	if (!bytes)
		return;
	FUZZ_CHECK(p && at % 4096 == 0 && at >= BOOT_HIGH);
	for (unsigned i = 0; i < n; i++)
		inside += map[i].type == 1 && at >= map[i].start &&
		          at + bytes <= map[i].start + map[i].bytes;
	FUZZ_CHECK(inside == 1);
	if (bytes > 10)
		FUZZ_CHECK(!memcmp(p, "first", 5) && !memcmp(p + bytes - 5, "last!", 5));
}

static void check_bzimage(uint64_t initrd_bytes)
{
	const struct boot_params *p = guestmem_at(&mem, GPA(BOOT_ZERO_PAGE), sizeof(*p));
	uint64_t at = p->hdr.ramdisk_image, from = p->hdr.pref_address;

	FUZZ_CHECK(guestmem_at(&mem, GPA(from), p->hdr.init_size));
	check_initrd(at, p->hdr.ramdisk_size, initrd_bytes);
	FUZZ_CHECK(!initrd_bytes || at >= from + p->hdr.init_size);
	FUZZ_CHECK(!initrd_bytes || at + initrd_bytes - 1 <= p->hdr.initrd_addr_max);
	FUZZ_CHECK(p->hdr.cmd_line_ptr == BOOT_CMDLINE && strlen(cmdline) <= p->hdr.cmdline_size);
	FUZZ_CHECK(p->e820_entries == mem.n + 2 && p->acpi_rsdp_addr == BOOT_ACPI);
}

static void check_pvh(uint64_t initrd_bytes)
{
	const uint32_t *info = guestmem_at(&mem, GPA(BOOT_START_INFO), 40);
	const uint64_t *module = guestmem_at(&mem, GPA(BOOT_START_INFO + 56), 16);
	uint64_t at;

	FUZZ_CHECK(info[0] == 0x336EC578 && info[3] == (initrd_bytes != 0));
	memcpy(&at, info + 4, 8);
	if (!initrd_bytes)
		return;
	module = guestmem_at(&mem, GPA(at), 32);
	check_initrd(module[0], module[1], initrd_bytes);
}

/* Multiboot Specification 0.6.96, section 3.3: the words of the information that we fill. */
static void check_multiboot(const struct boot_entry *entry, uint64_t initrd_bytes)
{
	const uint32_t *info = guestmem_at(&mem, GPA(entry->rbx), 72), *module;
	uint32_t map_bytes, at;
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(&mem, map);

	FUZZ_CHECK(info && info[0] == (1 | 4 | 8 | 64 | 512) && info[1] == BOOT_LOW_END / 1024);
	FUZZ_CHECK(info[2] == (mem.regions[0].bytes - BOOT_HIGH) / 1024);
	FUZZ_CHECK(!strcmp(guestmem_at(&mem, GPA(info[4]), strlen(cmdline) + 1), cmdline));
	FUZZ_CHECK(info[5] == (initrd_bytes != 0));
	map_bytes = info[11];
	at = info[12];
	FUZZ_CHECK(map_bytes == n * 24 && at >= entry->rbx + 88 &&
	           at + map_bytes <= BOOT_ZERO_PAGE);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *p = guestmem_at(&mem, GPA(at + i * 24), 24);

		FUZZ_CHECK(p[0] == 20 && !memcmp(p + 4, &map[i].start, 8) &&
		           !memcmp(p + 12, &map[i].bytes, 8) && p[20] == map[i].type);
	}
	if (!initrd_bytes)
		return;
	module = guestmem_at(&mem, GPA(info[6]), 16);
	check_initrd(module[0], module[1] - module[0], initrd_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t sizes[] = { 16ull << 20, 17ull << 20, 64ull << 20, 8ull << 20 };
	struct fuzz_input in = { data, size };
	struct vmd_error err = VMD_ERROR_INIT;
	uint8_t kind = (uint8_t)fuzz_take(&in, 1), memory = (uint8_t)fuzz_take(&in, 1);
	size_t words = fuzz_take(&in, 2) % (CMDLINE_MAX + 1);
	uint64_t initrd_bytes = fuzz_take(&in, 2) * 4096;
	struct boot_files f = { .cmdline = cmdline };
	struct boot_entry entry;
	int r;

	initrd_bytes += fuzz_take(&in, 1);
	make_ram(sizes[memory & 3], memory & 4);
	f.ram_bytes = mem.regions[0].bytes;
	memset(cmdline, 'w', words);
	cmdline[words] = 0;
	f.initrd_fd = make_initrd(initrd_bytes, kind);
	f.kernel_fd = make_kernel(&in, kind);
	r = boot_load(&f, &mem, &entry, &err);
	FUZZ_CHECK((r < 0) == (err.kind != ERROR_NONE) && (r == 0 || *err.message));
	if (f.initrd_fd < 0)
		initrd_bytes = 0;
	if (r == 0) {
		FUZZ_CHECK(guestmem_at(&mem, GPA(entry.rip), 1) && entry.rip >= BOOT_HIGH);
		FUZZ_CHECK(!strcmp(guestmem_at(&mem, GPA(BOOT_CMDLINE), words + 1), cmdline));
		if (entry.mode == BOOT_64)
			check_bzimage(initrd_bytes);
		else if (entry.rax == BOOT_MULTIBOOT_MAGIC)
			check_multiboot(&entry, initrd_bytes);
		else
			check_pvh(initrd_bytes);
	}
	close(f.kernel_fd);
	if (f.initrd_fd >= 0)
		close(f.initrd_fd);
	return 0;
}
