/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/boot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/macros.h"
#include "devices/acpi-power.h"
#include "vmm/memory.h"

enum {
	HEAD_BYTES = 8192, /* a Multiboot header may be that far in */
	PAGE_BYTES = 4096
};

unsigned boot_memory_map(const struct guestmem *mem, struct boot_range ret[BOOT_MAX_RANGES])
{
	unsigned n = 0;

	ret[n++] = (struct boot_range){ 0, BOOT_LOW_END, 1 };
	ret[n++] = (struct boot_range){ BOOT_ACPI, BOOT_ACPI_END - BOOT_ACPI, 2 };
	ret[n++] = (struct boot_range){ BOOT_HIGH, mem->regions[0].bytes - BOOT_HIGH, 1 };
	for (size_t i = 1; i < mem->n; i++)
		ret[n++] = (struct boot_range){ mem->regions[i].gpa, mem->regions[i].bytes, 1 };
	return n;
}

int boot_read(int fd, uint64_t offset, const struct guestmem *mem, gpa_t gpa, uint64_t len,
              const char *what, struct vmd_error *err)
{
	uint8_t *at = guestmem_at(mem, gpa, len);
	uint64_t done = 0;

	if (!at)
		return error_set(err, ERROR_INVALID,
		                 "the %s does not fit: %llu bytes at 0x%llx are not guest memory",
		                 what, (unsigned long long)len, (unsigned long long)gpa.v);
	if (offset > INT64_MAX - len)
		return error_set(err, ERROR_INVALID, "the %s is cut short", what);
	while (done < len) {
		/* seccomp main: pread64 (a reset loads the kernel again). */
		ssize_t n = pread(fd, at + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "cannot read the %s", what);
		if (n == 0)
			return error_set(err, ERROR_INVALID, "the %s is cut short", what);
		done += (uint64_t)n;
	}
	return 0;
}

int boot_file_size(int fd, const char *what, uint64_t *ret, struct vmd_error *err)
{
	struct stat st;

	/* seccomp main: newfstatat. */
	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "cannot look at the %s", what);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_INVALID, "the %s is not a regular file", what);
	*ret = (uint64_t)st.st_size;
	return 0;
}

int boot_load_initrd(const struct boot_files *f, const struct guestmem *mem, uint64_t floor,
                     uint64_t limit, uint64_t *ret_gpa, uint64_t *ret_bytes, struct vmd_error *err)
{
	uint64_t bytes = 0, gpa;
	int r;

	*ret_gpa = *ret_bytes = 0;
	if (f->initrd_fd < 0)
		return 0;
	r = boot_file_size(f->initrd_fd, "initrd", &bytes, err);
	if (r < 0 || !bytes)
		return r;
	limit = MIN_OF(limit, mem->regions[0].bytes) & ~(uint64_t)(PAGE_BYTES - 1);
	if (limit < floor || bytes > limit - floor)
		return error_set(
			err, ERROR_INVALID,
			"the initrd of %llu bytes does not fit: %llu bytes of guest memory "
			"are left beside the kernel",
			(unsigned long long)bytes,
			(unsigned long long)(limit < floor ? 0 : limit - floor));
	gpa = (limit - bytes) & ~(uint64_t)(PAGE_BYTES - 1);
	if (gpa < floor)
		return error_set(err, ERROR_INVALID, "the initrd does not fit beside the kernel");
	r = boot_read(f->initrd_fd, 0, mem, GPA(gpa), bytes, "initrd", err);
	if (r == 0) {
		*ret_gpa = gpa;
		*ret_bytes = bytes;
	}
	return r;
}

int boot_put_cmdline(const struct boot_files *f, const struct guestmem *mem, uint64_t max,
                     struct vmd_error *err)
{
	size_t len = strlen(f->cmdline);
	char *at = guestmem_at(mem, GPA(BOOT_CMDLINE), len + 1);

	if (len > max || len + 1 > BOOT_LOW_END - BOOT_CMDLINE || !at)
		return error_set(err, ERROR_INVALID,
		                 "the command line has %zu bytes where the kernel takes %llu", len,
		                 (unsigned long long)max);
	memcpy(at, f->cmdline, len + 1);
	return 0;
}

/*
 * What a processor finds where a PC's firmware begins: code that asks for a reset. Linux goes there
 * in real mode when all else is done, and on hardware-reduced ACPI it tries no port before that.
 */
static void put_reset_vector(const struct guestmem *mem)
{
	static const uint8_t code[] = {
		0xBA,
		ACPI_RESET_PORT & 0xFF,
		ACPI_RESET_PORT >> 8, /* mov dx, port */
		0xB0,
		ACPI_RESET_VALUE, /* mov al, value */
		0xEE,             /* out dx, al */
		0xF4,
		0xEB,
		0xFD, /* hlt, for ever */
	};

	memcpy(guestmem_at(mem, GPA(BOOT_RESET_VECTOR), sizeof(code)), code, sizeof(code));
}

int boot_load(const struct boot_files *f, const struct guestmem *mem, struct boot_entry *ret,
              struct vmd_error *err)
{
	uint8_t head[HEAD_BYTES];
	ssize_t n;

	if (mem->regions[0].bytes < VMM_MIN_MEMORY)
		return error_set(err, ERROR_INVALID, "the guest has too little memory");
	do
		n = pread(f->kernel_fd, head, sizeof(head), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_set_errno(err, errno, "cannot read the kernel");
	put_reset_vector(mem);
	if (n >= 4 && memcmp(head, "\177ELF", 4) == 0)
		return boot_elf(f, head, (size_t)n, mem, ret, err);
	if (n >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0)
		return boot_bzimage(f, head, (size_t)n, mem, ret, err);
	(void)error_set(err, ERROR_INVALID, "the kernel is neither a bzImage nor an ELF file");
	return -EINVAL;
}
