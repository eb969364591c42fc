/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loaders and the ACPI tables, on memory of our own. */
#include "config.h"

#include <asm/bootparam.h>
#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macros.h"
#include "vmm/acpi.h"
#include "vmm/boot.h"

TestSuite(vmm_boot, .timeout = 60);

enum {
	RAM_BYTES = 64 << 20,
	KERNEL_BYTES = 96 << 10,
	HEADER_AT = 0x1F1
};

static struct vmd_error err;
static struct guestmem mem;
static uint8_t *ram;

static void make_ram(void)
{
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(ram, MAP_FAILED);
	mem = (struct guestmem){ .n = 1, .regions = { { 0, RAM_BYTES, ram } } };
}

static void clear_ram(void)
{
	cr_assert_eq(madvise(ram, RAM_BYTES, MADV_DONTNEED), 0);
}

static int file_of(const void *data, size_t len)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	cr_assert_eq(write(fd, data, len), (ssize_t)len);
	return fd;
}

static int load(const void *data, size_t len, const char *cmdline, int initrd,
                struct boot_entry *entry)
{
	struct boot_files f = { .initrd_fd = initrd, .cmdline = cmdline, .ram_bytes = RAM_BYTES };
	int r;

	f.kernel_fd = file_of(data, len);
	err = (struct vmd_error)VMD_ERROR_INIT;
	r = boot_load(&f, &mem, entry, &err);
	close(f.kernel_fd);
	return r;
}

/* A bzImage as far as a loader looks at it. */
static uint8_t *bzimage(void)
{
	uint8_t *k = calloc(1, KERNEL_BYTES);
	struct setup_header h = { .setup_sects = 3,
		                  .boot_flag = 0xAA55,
		                  .header = 0x53726448,
		                  .version = 0x20F,
		                  .loadflags = LOADED_HIGH,
		                  .initrd_addr_max = 0x7FFFFFFF,
		                  .xloadflags = XLF_KERNEL_64,
		                  .cmdline_size = 255,
		                  .pref_address = 0x1000000,
		                  .init_size = 8 << 20 };

	memcpy(k + HEADER_AT, &h, sizeof(h));
	for (size_t i = 2048; i < KERNEL_BYTES; i++)
		k[i] = (uint8_t)(i * 7);
	return k;
}

Test(vmm_boot, bzimage_is_loaded_as_the_protocol_says, .init = make_ram)
{
	uint8_t *k = bzimage();
	char initrd[5000];
	int fd;
	struct boot_entry e;
	const struct boot_params *p = (const void *)(ram + BOOT_ZERO_PAGE);

	memset(initrd, 'i', sizeof(initrd));
	fd = file_of(initrd, sizeof(initrd));
	cr_assert_eq(load(k, KERNEL_BYTES, "console=ttyS0", fd, &e), 0, "%s", err.message);
	cr_assert_eq(e.mode, BOOT_64);
	cr_assert_eq(e.rip, 0x1000200);
	cr_assert_eq(e.rsi, BOOT_ZERO_PAGE);
	cr_assert_eq(memcmp(ram + 0x1000000, k + 2048, KERNEL_BYTES - 2048), 0);
	cr_assert_str_eq((char *)ram + p->hdr.cmd_line_ptr, "console=ttyS0");
	cr_assert_eq(p->hdr.ramdisk_size, sizeof(initrd));
	cr_assert_eq(p->hdr.ramdisk_image % 4096, 0);
	cr_assert_geq(p->hdr.ramdisk_image, 0x1000000 + (8 << 20));
	cr_assert_eq(memcmp(ram + p->hdr.ramdisk_image, initrd, sizeof(initrd)), 0);
	cr_assert_eq(p->e820_entries, 3);
	cr_assert_eq(p->acpi_rsdp_addr, BOOT_ACPI);
	close(fd);
	free(k);
}

Test(vmm_boot, bad_bzimages_are_refused, .init = make_ram)
{
	static const struct {
		size_t offset;
		uint64_t value;
		size_t bytes;
		const char *words;
	} cases[] = {
		{ offsetof(struct setup_header, boot_flag), 0, 2, "signature" },
		{ offsetof(struct setup_header, version), 0x204, 2, "too old" },
		{ offsetof(struct setup_header, xloadflags), 0, 2, "64-bit" },
		{ offsetof(struct setup_header, loadflags), 0, 1, "64-bit" },
		{ offsetof(struct setup_header, setup_sects), 255, 1, "cut short" },
		{ offsetof(struct setup_header, pref_address), 0, 8, "lie at" },
		{ offsetof(struct setup_header, pref_address), UINT64_MAX, 8, "lie at" },
		{ offsetof(struct setup_header, pref_address), 0x3FFF000, 8, "MiB of memory" },
		{ offsetof(struct setup_header, init_size), UINT32_MAX, 4, "MiB of memory" },
		{ offsetof(struct setup_header, cmdline_size), 3, 4, "command line" },
	};
	struct boot_entry e;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t *k = bzimage();

		memcpy(k + HEADER_AT + cases[i].offset, &cases[i].value, cases[i].bytes);
		cr_assert_lt(load(k, KERNEL_BYTES, "four", -EBADF, &e), 0, "case %zu", i);
		cr_assert(strstr(err.message, cases[i].words), "case %zu: %s", i, err.message);
		free(k);
	}
}

/* An ELF file with a segment and a note. */
struct small_elf {
	Elf64_Ehdr h;
	Elf64_Phdr p[2];
	struct {
		Elf64_Nhdr n;
		char name[4];
		uint32_t entry;
	} note;
	uint8_t code[64];
};

static struct small_elf elf(void)
{
	struct small_elf e = { .h = { .e_ident = { 0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
		                      .e_machine = EM_X86_64,
		                      .e_phoff = offsetof(struct small_elf, p),
		                      .e_phnum = 2,
		                      .e_phentsize = sizeof(Elf64_Phdr) },
		               .note = { .n = { .n_namesz = 4, .n_descsz = 4, .n_type = 18 },
		                         .name = "Xen",
		                         .entry = 0x200010 } };

	e.p[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
		               .p_offset = offsetof(struct small_elf, code),
		               .p_paddr = 0x200000,
		               .p_filesz = sizeof(e.code),
		               .p_memsz = 4096 };
	e.p[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
		               .p_offset = offsetof(struct small_elf, note),
		               .p_filesz = sizeof(e.note) };
	memset(e.code, 0xF4, sizeof(e.code));
	return e;
}

Test(vmm_boot, pvh_is_entered_at_its_note, .init = make_ram)
{
	struct small_elf k = elf();
	struct boot_entry e;
	const uint32_t *info = (const void *)(ram + BOOT_START_INFO);

	cr_assert_eq(load(&k, sizeof(k), "x", -EBADF, &e), 0, "%s", err.message);
	cr_assert_eq(e.mode, BOOT_32);
	cr_assert_eq(e.rip, 0x200010);
	cr_assert_eq(e.rbx, BOOT_START_INFO);
	cr_assert_eq(ram[0x200000], 0xF4);
	cr_assert_eq(ram[0x200040], 0);
	cr_assert_eq(info[0], 0x336EC578);
	cr_assert_eq(info[3], 0); /* no module */
	cr_assert_str_eq((char *)ram + BOOT_CMDLINE, "x");
	cr_assert_eq(ram[BOOT_RESET_VECTOR], 0xBA, "a kernel that falls back to the BIOS resets");
}

Test(vmm_boot, bad_elf_files_are_refused, .init = make_ram)
{
	struct small_elf k;
	struct boot_entry e;

#define REFUSED(change)                                                         \
	do {                                                                    \
		k = elf();                                                      \
		change;                                                         \
		cr_assert_lt(load(&k, sizeof(k), "x", -EBADF, &e), 0, #change); \
		cr_assert_neq(err.message[0], '\0', #change);                   \
	} while (0)
	REFUSED(k.h.e_machine = EM_AARCH64);
	REFUSED(k.h.e_ident[EI_CLASS] = 9);
	REFUSED(k.h.e_phnum = 0);
	REFUSED(k.h.e_phnum = 65535);
	REFUSED(k.h.e_phentsize = 1);
	REFUSED(k.h.e_phoff = UINT64_MAX - 8);
	REFUSED(k.p[0].p_paddr = 0);
	REFUSED(k.p[0].p_paddr = UINT64_MAX - 100);
	REFUSED(k.p[0].p_paddr = RAM_BYTES - 100);
	REFUSED(k.p[0].p_memsz = UINT64_MAX);
	REFUSED(k.p[0].p_filesz = 8192);
	REFUSED(k.p[0].p_offset = UINT64_MAX - 1);
	REFUSED(k.p[0].p_offset = 1 << 20);
	REFUSED(k.p[1].p_offset = UINT64_MAX - 1);
	REFUSED(k.p[1].p_filesz = 8);
	REFUSED(k.note.n.n_namesz = UINT32_MAX);
	REFUSED(k.note.n.n_descsz = UINT32_MAX - 2);
	REFUSED(k.note.n.n_type = 1);
	REFUSED(k.note.entry = 0x1000);
	REFUSED(k.note.entry = 0x201000);
}

/* The same file with a Multiboot header where its code is, and without a note. */
static struct small_elf multiboot(uint32_t flags)
{
	struct small_elf k = elf();
	uint32_t header[] = { 0x1BADB002, flags, 0u - (0x1BADB002 + flags) };

	k.p[1].p_type = PT_NULL;
	k.h.e_entry = 0x200000 + sizeof(header);
	memcpy(k.code, header, sizeof(header));
	return k;
}

Test(vmm_boot, multiboot_is_entered_with_its_information, .init = make_ram)
{
	struct small_elf k = multiboot(3);
	const uint32_t *info = (const void *)(ram + BOOT_START_INFO), *module;
	int initrd = file_of("NR_CPUS=1", 9);
	uint64_t range[2];
	struct boot_entry e;

	cr_assert_eq(load(&k, sizeof(k), "a b", initrd, &e), 0, "%s", err.message);
	cr_assert_eq(e.mode, BOOT_32);
	cr_assert_eq(e.rip, 0x20000C);
	cr_assert_eq(e.rax, 0x2BADB002);
	cr_assert_eq(e.rbx, BOOT_START_INFO);
	cr_assert_eq(info[0], 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
	cr_assert_eq(info[2], (RAM_BYTES >> 10) - 1024);
	cr_assert_str_eq((char *)ram + info[4], "a b");
	cr_assert_eq(info[5], 1);
	module = (const void *)(ram + info[6]);
	cr_assert_eq(module[1] - module[0], 9);
	cr_assert_eq(memcmp(ram + module[0], "NR_CPUS=1", 9), 0);
	cr_assert_eq(info[11], 3 * 24);
	cr_assert_eq(*(const uint32_t *)(ram + info[12]), 20);
	memcpy(range, ram + info[12] + 2 * 24 + 4, sizeof(range));
	cr_assert_eq(range[0], 1 << 20);
	cr_assert_eq(range[1], RAM_BYTES - (1 << 20));
	cr_assert_str_eq((char *)ram + info[16], "vmd-vmm");
	close(initrd);
}

Test(vmm_boot, multiboot_demands_are_not_ignored, .init = make_ram)
{
	struct boot_entry e;
	struct small_elf k = multiboot(4); /* a video mode */

	cr_assert_eq(load(&k, sizeof(k), "", -EBADF, &e), -EOPNOTSUPP);
	cr_assert(strstr(err.message, "flags 0x4"), "%s", err.message);
	k = multiboot(1u << 16); /* addresses of the header's own */
	cr_assert_eq(load(&k, sizeof(k), "", -EBADF, &e), -EOPNOTSUPP);
	k = multiboot(0);
	k.code[8] ^= 1; /* the checksum */
	cr_assert_eq(load(&k, sizeof(k), "", -EBADF, &e), -EINVAL);
	cr_assert(strstr(err.message, "without a PVH entry"), "%s", err.message);
	k = multiboot(0);
	k.h.e_entry = 0x201000;
	cr_assert_eq(load(&k, sizeof(k), "", -EBADF, &e), -EINVAL);
	cr_assert(strstr(err.message, "is not in it"), "%s", err.message);
}

Test(vmm_boot, any_damage_is_survived, .init = make_ram)
{
	struct small_elf k;
	uint8_t *b = bzimage();
	struct boot_entry e;

	srand(7);
	for (unsigned i = 0; i < 20000; i++) {
		k = elf();
		for (unsigned n = rand() % 4 + 1; n; n--)
			((uint8_t *)&k)[(unsigned)rand() % sizeof(k)] = (uint8_t)rand();
		(void)load(&k, (unsigned)rand() % (sizeof(k) + 1), "x", -EBADF, &e);
		if (i % 100 == 0)
			clear_ram();
	}
	for (unsigned i = 0; i < 2000; i++) {
		uint8_t *at = b + HEADER_AT + (unsigned)rand() % sizeof(struct setup_header);
		uint8_t was = *at;

		*at = (uint8_t)rand();
		(void)load(b, 4096, "x", -EBADF, &e);
		*at = was;
		if (i % 100 == 0)
			clear_ram();
	}
	free(b);
}

Test(vmm_boot, initrds_that_do_not_fit_are_refused, .init = make_ram)
{
	struct small_elf k = elf();
	int fd = memfd_create("initrd", MFD_CLOEXEC), pipes[2];
	struct boot_entry e;

	cr_assert_eq(ftruncate(fd, RAM_BYTES), 0);
	cr_assert_lt(load(&k, sizeof(k), "x", fd, &e), 0);
	cr_assert(strstr(err.message, "does not fit"), "%s", err.message);
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_assert_eq(load(&k, sizeof(k), "x", fd, &e), 0, "%s", err.message);
	close(fd);
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_lt(load(&k, sizeof(k), "x", pipes[0], &e), 0);
	cr_assert(strstr(err.message, "regular file"), "%s", err.message);
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

static const uint8_t *table_at(uint64_t gpa)
{
	const uint8_t *t = guestmem_at(&mem, GPA(gpa), 36);
	uint32_t len;

	cr_assert(t && gpa >= BOOT_ACPI && gpa < BOOT_ACPI_END);
	memcpy(&len, t + 4, 4);
	cr_assert_eq(sum(t, len), 0, "checksum of %.4s", (const char *)t);
	return t;
}

Test(vmm_boot, acpi_tables_are_whole, .init = make_ram)
{
	struct vmm_cpus cpus = { .count = 64, .sockets = 2, .cores = 16, .threads = 2 };
	struct acpi_config c = { .n_cpus = 64, .serial = true, .high = 1ull << 40 };
	const uint8_t *rsdp = ram + BOOT_ACPI, *xsdt, *fadt, *madt;
	uint64_t at;
	uint32_t len, flags;

	c.high_end = c.high + (16ull << 30);
	cpu_topology_init(&c.topology, &cpus);
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_eq(acpi_build(&c, &mem, &err), 0, "%s", err.message);
	cr_assert_eq(memcmp(rsdp, "RSD PTR ", 8), 0);
	cr_assert_eq(sum(rsdp, 20), 0);
	cr_assert_eq(sum(rsdp, 36), 0);
	memcpy(&at, rsdp + 24, 8);
	xsdt = table_at(at);
	cr_assert_eq(memcmp(xsdt, "XSDT", 4), 0);
	memcpy(&len, xsdt + 4, 4);
	cr_assert_eq(len, 36 + 4 * 8);
	for (unsigned i = 0; i < 4; i++) {
		memcpy(&at, xsdt + 36 + 8 * i, 8);
		(void)table_at(at);
	}
	memcpy(&at, xsdt + 36, 8);
	fadt = table_at(at);
	cr_assert_eq(memcmp(fadt, "FACP", 4), 0);
	memcpy(&flags, fadt + 112, 4);
	cr_assert(flags & 1 << 20, "hardware-reduced");
	memcpy(&at, fadt + 140, 8);
	cr_assert_eq(memcmp(table_at(at), "DSDT", 4), 0);
	memcpy(&at, xsdt + 44, 8);
	madt = table_at(at);
	cr_assert_eq(memcmp(madt, "APIC", 4), 0);
	cr_assert_eq(madt[44 + 8 * 63 + 2], 63); /* the last processor: uid and APIC id */
	cr_assert_eq(madt[44 + 8 * 63 + 3], 63);
}
