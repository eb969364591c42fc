/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bare guests of a few instructions, written out as ELF files with a PVH entry. */
#include "config.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"

enum {
	ENTRY = 0x100000,
	CODE_AT = 0x1000,
	NOTE_PHYS32_ENTRY = 18
};

/* 32-bit protected mode, flat segments, paging off. */
struct code {
	uint8_t bytes[256];
	size_t n;
};

static void put(struct code *c, const void *bytes, size_t n)
{
	memcpy(c->bytes + c->n, bytes, n);
	c->n += n;
}

static void put_u32(struct code *c, uint8_t opcode, uint32_t value)
{
	put(c, &opcode, 1);
	put(c, &value, 4);
}

/* mov dx, port; mov al, byte; out dx, al */
static void put_out(struct code *c, uint16_t port, char byte)
{
	const uint8_t bytes[] = { 0x66, 0xBA,          (uint8_t)port, (uint8_t)(port >> 8),
		                  0xB0, (uint8_t)byte, 0xEE };

	put(c, bytes, sizeof(bytes));
}

static void put_halt(struct code *c)
{
	put(c, "\xFA\xF4\xEB\xFC", 4); /* cli; hlt; jmp to the cli */
}

/* dec reg; jnz back to at. reg 1: ecx, 2: edx, 3: ebx */
static void put_loop(struct code *c, uint8_t reg, size_t at)
{
	uint8_t dec = (uint8_t)(0x48 + reg), jump[] = { 0x0F, 0x85 };
	int32_t back;

	put(c, &dec, 1);
	put(c, jump, 2);
	back = (int32_t)at - (int32_t)(c->n + 4);
	put(c, &back, 4);
}

static const char *write_elf(const char *name, const struct code *c)
{
	static char names[8][128];
	static unsigned next;
	char *path = names[next++ % 8];
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p[2];
		Elf64_Nhdr n;
		char owner[4];
		uint32_t entry, pad;
	} head = { 0 };
	uint8_t page[CODE_AT + sizeof(c->bytes)] = { 0 };

	memcpy(head.e.e_ident, ELFMAG, SELFMAG);
	head.e.e_ident[EI_CLASS] = ELFCLASS64;
	head.e.e_ident[EI_DATA] = ELFDATA2LSB;
	head.e.e_ident[EI_VERSION] = EV_CURRENT;
	head.e.e_type = ET_EXEC;
	head.e.e_machine = EM_X86_64;
	head.e.e_version = EV_CURRENT;
	head.e.e_entry = ENTRY;
	head.e.e_phoff = sizeof(head.e);
	head.e.e_ehsize = sizeof(head.e);
	head.e.e_phentsize = sizeof(head.p[0]);
	head.e.e_phnum = 2;
	head.p[0] = (Elf64_Phdr){ PT_LOAD, PF_R | PF_W | PF_X, CODE_AT,          ENTRY,
		                  ENTRY,   sizeof(c->bytes),   sizeof(c->bytes), 0x1000 };
	head.p[1] = (Elf64_Phdr){ PT_NOTE, PF_R, offsetof(__typeof__(head), n), 0, 0, 20, 20, 4 };
	head.n = (Elf64_Nhdr){ 4, 4, NOTE_PHYS32_ENTRY };
	memcpy(head.owner, "Xen", 4);
	head.entry = ENTRY;
	memcpy(page, &head, sizeof(head));
	memcpy(page + CODE_AT, c->bytes, sizeof(c->bytes));
	snprintf(path, sizeof(names[0]), "%s/%s.elf", paths.dir, name);
	if (fs_write_atomic(AT_FDCWD, path, page, sizeof(page), 0) < 0)
		bench_fail("cannot write '%s'", path);
	return path;
}

const char *guest_first(void)
{
	struct code c = { 0 };

	put_out(&c, 0x3F8, MARK);
	put_halt(&c);
	return write_elf("first", &c);
}

const char *guest_exits(uint32_t count)
{
	struct code c = { 0 };
	int32_t back;
	size_t at;

	put_out(&c, 0x3F8, MARK);
	put_u32(&c, 0xB9, count); /* mov ecx, count */
	put(&c, "\x66\xBA\xFD\x03", 4);
	at = c.n;
	put(&c, "\xEC", 1); /* in al, dx */
	put_loop(&c, 1, at);
	put_out(&c, 0x3F8, '2');
	put(&c, "\xE9", 1); /* jmp to the start */
	back = -(int32_t)(c.n + 4);
	put(&c, &back, 4);
	return write_elf("exits", &c);
}

const char *guest_ticks(unsigned mib)
{
	struct code c = { 0 };
	int32_t back;
	size_t at;

	put_u32(&c, 0xBF, 16u << 20);            /* mov edi, 16 MiB */
	put_u32(&c, 0xB9, mib ? mib * 256u : 1); /* mov ecx, pages */
	at = c.n;
	put(&c, "\x89\x0F", 2);           /* mov [edi], ecx */
	put(&c, "\x81\xC7\0\x10\0\0", 6); /* add edi, 4096 */
	put_loop(&c, 1, at);
	put_out(&c, 0x3F8, MARK);
	at = c.n;
	put_out(&c, 0x3F8, '.');
	put_u32(&c, 0xB9, 400);
	put_loop(&c, 1, c.n);
	put(&c, "\xE9", 1);
	back = (int32_t)at - (int32_t)(c.n + 4);
	put(&c, &back, 4);
	return write_elf("ticks", &c);
}
