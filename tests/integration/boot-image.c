/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/integration/boot-image.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"

#define SECTOR     512
#define CD_SECTOR  2048
#define CD_CATALOG 19 /* sectors of an ISO, behind the three descriptors */
#define CD_IMAGE   20
#define CLUSTER    4096
#define IMAGE_MAX  (128u << 20)

static void put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value);
	put16(p + 2, value >> 16);
}

void boot_sector(uint8_t sector[512], const char *text)
{
	static const uint8_t code[] = {
		0xe8, 0x00, 0x00, /* call next: where are we? */
		0x5e,             /* pop si */
		0x0e, 0x1f,       /* ds = cs */
		0x83, 0xc6, 0x21, /* si += text - next */
		0xac,             /* lodsb */
		0x84, 0xc0,       /* end of the text? */
		0x74, 0x10,       /* then halt */
		0x88, 0xc3,       /* bl = al */
		0xba, 0xfd, 0x03, /* line status register */
		0xec, 0xa8, 0x20, /* room for a byte? */
		0x74, 0xfb,       /* not yet */
		0x88, 0xd8,       /* al = bl */
		0xba, 0xf8, 0x03, /* data register */
		0xee,             /* out */
		0xeb, 0xe9,       /* next byte */
		0xf4, 0xeb, 0xfd, /* hlt, for ever */
		0x90,
	};

	memset(sector, 0, SECTOR);
	memcpy(sector, code, sizeof(code));
	cr_assert_eq(sizeof(code), 3 + 0x21);
	cr_assert_lt(strlen(text), 256);
	memcpy(sector + sizeof(code), text, strlen(text));
	put16(sector + 510, 0xaa55);
}

/* Where the program's data lies in its one section. */
enum efi_data {
	EFI_NAME = 0x100,
	EFI_GUID = 0x120,
	EFI_SIZE = 0x130,
	EFI_TEXT = 0x140,
	EFI_COUNT = EFI_TEXT + 12
};

struct code {
	uint8_t *at;
	size_t n;
};

static void emit(struct code *c, const char *bytes, size_t n)
{
	memcpy(c->at + c->n, bytes, n);
	c->n += n;
}
#define EMIT(c, bytes) emit(c, bytes, sizeof(bytes) - 1)

/* An instruction that ends with the distance to its data. */
static void emit_data(struct code *c, const char *bytes, size_t n, enum efi_data data)
{
	emit(c, bytes, n);
	put32(c->at + c->n, (uint32_t)((size_t)data - c->n - 4));
	c->n += 4;
}
#define EMIT_DATA(c, bytes, data) emit_data(c, bytes, sizeof(bytes) - 1, data)

static void emit_variable(struct code *c)
{
	EMIT_DATA(c, "\x48\x8d\x0d", EFI_NAME);  /* rcx = name */
	EMIT_DATA(c, "\x48\x8d\x15", EFI_GUID);  /* rdx = vendor */
	EMIT_DATA(c, "\x48\x8d\x05", EFI_COUNT); /* 5th argument: the data */
	EMIT(c, "\x48\x89\x44\x24\x20");
}

static void emit_counter(struct code *c)
{
	EMIT(c, "\x53\x56\x48\x83\xec\x38"); /* save rbx and rsi, room for arguments */
	EMIT(c, "\x48\x89\xd3");             /* rbx = system table */
	EMIT(c, "\x48\x8b\x73\x58");         /* rsi = runtime services */
	emit_variable(c);
	EMIT(c, "\x45\x31\xc0");                /* r8 = 0: no attributes wanted */
	EMIT_DATA(c, "\x4c\x8d\x0d", EFI_SIZE); /* r9 = size */
	EMIT(c, "\xff\x56\x48");                /* GetVariable */
	EMIT_DATA(c, "\xfe\x05", EFI_COUNT);    /* one more */
	emit_variable(c);
	EMIT(c, "\x41\xb8\x03\0\0\0");          /* r8 = non-volatile, boot services */
	EMIT(c, "\x41\xb9\x02\0\0\0");          /* r9 = 2 bytes */
	EMIT(c, "\xff\x56\x58");                /* SetVariable */
	EMIT(c, "\x48\x8b\x4b\x40");            /* rcx = console */
	EMIT_DATA(c, "\x48\x8d\x15", EFI_TEXT); /* rdx = text */
	EMIT(c, "\xff\x51\x08\xf4\xeb\xfd");    /* OutputString, then halt */
}

static void put_utf16(uint8_t *p, const char *text)
{
	for (; *text; text++, p += 2)
		*p = (uint8_t)*text;
}

void efi_counter(uint8_t program[EFI_COUNTER_BYTES])
{
	uint8_t *pe = program + 0x40, *optional = pe + 24, *section = optional + 0xf0;
	struct code c = { .at = program + SECTOR };

	memset(program, 0, EFI_COUNTER_BYTES);
	memcpy(program, "MZ", 2);
	put32(program + 0x3c, 0x40);
	memcpy(pe, "PE", 2);
	put16(pe + 4, 0x8664); /* x86_64, one section */
	put16(pe + 6, 1);
	put16(pe + 20, 0xf0);
	put16(pe + 22, 0x22);
	put16(optional, 0x20b); /* PE32+ */
	put32(optional + 4, SECTOR);
	put32(optional + 16, 0x1000); /* entry */
	put32(optional + 20, 0x1000);
	put32(optional + 32, 0x1000); /* alignment in memory, in the file */
	put32(optional + 36, SECTOR);
	put32(optional + 56, 0x2000); /* size of image, of headers */
	put32(optional + 60, SECTOR);
	put16(optional + 68, 10); /* EFI application */
	put32(optional + 108, 16);
	memcpy(section, ".text", 5);
	put32(section + 8, SECTOR);
	put32(section + 12, 0x1000);
	put32(section + 16, SECTOR);
	put32(section + 20, SECTOR);
	put32(section + 36, 0xe0000020);
	emit_counter(&c);
	cr_assert_lt(c.n, (size_t)EFI_NAME);
	put_utf16(c.at + EFI_NAME, "VmdBoots");
	memcpy(c.at + EFI_GUID, "vmd-test-vendor!", 16);
	c.at[EFI_SIZE] = 2;
	put_utf16(c.at + EFI_TEXT, "BOOTS=0\r\n");
}

static void write_at(int fd, const void *data, size_t n, uint64_t offset)
{
	cr_assert_eq(pwrite(fd, data, n, (off_t)offset), (ssize_t)n);
}

static int create(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0, "%s", path);
	return fd;
}

void make_bios_disk(const char *path, const char *text)
{
	cleanup_close int fd = create(path);
	uint8_t sector[SECTOR];

	boot_sector(sector, text);
	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	write_at(fd, sector, sizeof(sector), 0);
}

static void put_entry(uint8_t *entry, const char *name, uint8_t attributes, unsigned cluster,
                      size_t bytes)
{
	memcpy(entry, name, 11);
	entry[11] = attributes;
	put16(entry + 26, cluster);
	put32(entry + 28, (uint32_t)bytes);
}

static void put_directory(uint8_t *cluster, unsigned self, unsigned parent)
{
	put_entry(cluster, ".          ", 0x10, self, 0);
	put_entry(cluster + 32, "..         ", 0x10, parent, 0);
}

/* FAT16: boot sector, one table, root directory, then \EFI, \EFI\BOOT and the program. */
void make_efi_disk(const char *path, const char *name, const void *program, size_t bytes)
{
	size_t used = 2 + (bytes + CLUSTER - 1) / CLUSTER;
	size_t clusters = used + 8 < 4200 ? 4200 : used + 8; /* fewer would be FAT12 */
	size_t table_sectors = ((clusters + 2) * 2 + SECTOR - 1) / SECTOR;
	size_t root = (1 + table_sectors) * SECTOR, data = root + 32 * SECTOR;
	size_t total = data / SECTOR + clusters * (CLUSTER / SECTOR);
	cleanup_free uint8_t *head = calloc(1, data + (size_t)2 * CLUSTER);
	cleanup_close int fd = create(path);
	uint8_t *table = head + SECTOR;

	cr_assert_lt(clusters, 65500);
	memcpy(head, "\xeb\x3c\x90VMDTEST ", 11);
	put16(head + 11, SECTOR);
	head[13] = CLUSTER / SECTOR;
	put16(head + 14, 1);
	head[16] = 1;
	put16(head + 17, 512);
	if (total < 65536)
		put16(head + 19, (unsigned)total);
	else
		put32(head + 32, (uint32_t)total);
	head[21] = 0xf8;
	put16(head + 22, (unsigned)table_sectors);
	head[38] = 0x29;
	memcpy(head + 43, "VMD        FAT16   ", 19);
	put16(head + 510, 0xaa55);
	put16(table, 0xfff8);
	for (unsigned i = 1; i < 4; i++) /* end marks of the reserved one and the directories */
		put16(table + (size_t)2 * i, 0xffff);
	for (size_t i = 4; i < used + 2; i++)
		put16(table + 2 * i, i + 1 < used + 2 ? (unsigned)i + 1 : 0xffff);
	put_entry(head + root, "EFI        ", 0x10, 2, 0);
	put_directory(head + data, 2, 0);
	put_entry(head + data + 64, "BOOT       ", 0x10, 3, 0);
	put_directory(head + data + CLUSTER, 3, 2);
	put_entry(head + data + CLUSTER + 64, name, 0x20, 4, bytes);
	cr_assert_eq(ftruncate(fd, (off_t)(total * SECTOR)), 0);
	write_at(fd, head, data + (size_t)2 * CLUSTER, 0);
	write_at(fd, program, bytes, data + (size_t)2 * CLUSTER);
}

/* sectors: of the image that BIOS loads; 0: the rest of the disc. */
static void make_iso(const char *path, uint8_t platform, unsigned sectors, const void *image,
                     size_t bytes)
{
	const size_t head_bytes = (size_t)CD_IMAGE * CD_SECTOR;
	cleanup_free uint8_t *head = calloc(1, head_bytes);
	uint8_t *first = head + (size_t)16 * CD_SECTOR, *boot = first + CD_SECTOR;
	uint8_t *last = boot + CD_SECTOR, *catalog = head + (size_t)CD_CATALOG * CD_SECTOR;
	uint32_t total = CD_IMAGE + (uint32_t)((bytes + CD_SECTOR - 1) / CD_SECTOR);
	cleanup_close int fd = create(path);
	unsigned sum = 0;

	memcpy(first, "\1CD001\1", 7);
	put32(first + 80, total);
	put32(first + 84, htobe32(total));
	put16(first + 128, CD_SECTOR);
	memcpy(boot, "\0CD001\1EL TORITO SPECIFICATION", 30);
	put32(boot + 71, CD_CATALOG);
	memcpy(last, "\377CD001\1", 7);
	catalog[0] = 1;
	catalog[1] = platform;
	put16(catalog + 30, 0xaa55);
	for (unsigned i = 0; i < 32; i += 2)
		sum += catalog[i] + ((unsigned)catalog[i + 1] << 8);
	put16(catalog + 28, 0x10000 - (sum & 0xffff));
	catalog[32] = 0x88; /* bootable, no emulation */
	put16(catalog + 38, sectors);
	put32(catalog + 40, CD_IMAGE);
	write_at(fd, head, head_bytes, 0);
	write_at(fd, image, bytes, head_bytes);
	cr_assert_eq(ftruncate(fd, (off_t)total * CD_SECTOR), 0);
}

void make_bios_iso(const char *path, const char *text)
{
	uint8_t sector[SECTOR];

	boot_sector(sector, text);
	make_iso(path, 0, 1, sector, sizeof(sector));
}

void make_efi_iso(const char *path, const char *image)
{
	cleanup_free char *data = NULL;
	size_t bytes;

	cr_assert_eq(fs_read_file(AT_FDCWD, image, IMAGE_MAX, &data, &bytes), 0);
	make_iso(path, 0xef, 0, data, bytes);
}
