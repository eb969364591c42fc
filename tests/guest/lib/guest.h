/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What every bare guest stands on: a freestanding program in ring 0 of a virtual machine, with an
 * identity map, one stack per processor and no memory but what it takes itself.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)     (sizeof(a) / sizeof((a)[0]))
#define PAGE_BYTES        4096u
#define MIB               (1024ull * 1024)
#define GIB               (1024 * MIB)
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Ports and registers */
static inline uint8_t in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline uint16_t in16(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline uint32_t in32(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

/* Device memory. Plain moves, so that a monitor has nothing but mov to decode. */
static inline uint8_t mmio_read8(uint64_t a)
{
	uint8_t v;

	__asm__ volatile("movb (%1), %0" : "=q"(v) : "r"(a) : "memory");
	return v;
}
static inline uint16_t mmio_read16(uint64_t a)
{
	uint16_t v;

	__asm__ volatile("movw (%1), %0" : "=r"(v) : "r"(a) : "memory");
	return v;
}
static inline uint32_t mmio_read32(uint64_t a)
{
	uint32_t v;

	__asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(a) : "memory");
	return v;
}
static inline uint64_t mmio_read64(uint64_t a)
{
	uint64_t v;

	__asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(a) : "memory");
	return v;
}
static inline void mmio_write8(uint64_t a, uint8_t v)
{
	__asm__ volatile("movb %0, (%1)" : : "q"(v), "r"(a) : "memory");
}
static inline void mmio_write16(uint64_t a, uint16_t v)
{
	__asm__ volatile("movw %0, (%1)" : : "r"(v), "r"(a) : "memory");
}
static inline void mmio_write32(uint64_t a, uint32_t v)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(a) : "memory");
}
static inline void mmio_write64(uint64_t a, uint64_t v)
{
	__asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(a) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return (uint64_t)high << 32 | low;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr"
	                 :
	                 : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
	                 : "memory");
}

struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};
static inline struct cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_regs r;

	__asm__ volatile("cpuid"
	                 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
	                 : "a"(leaf), "c"(subleaf));
	return r;
}
static inline void cpu_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* string.c */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
/* Decimal or 0x hexadecimal, an optional K, M or G after it; stops at the first other character. */
uint64_t parse_number(const char *s);

/* console.c: the 16550 at 0x3F8. */
void console_write(const char *s, size_t n);
/* %s %c %d %u %x %p %%, with l, ll or z, a width and a leading 0. Any processor; a whole call is
 * not mixed with another's. */
void print(const char *format, ...) PRINTF_LIKE(1, 2);
size_t format_text(char *to, size_t size, const char *format, va_list ap);
/* -1 when nothing came. Does not wait. */
int console_getc(void);
/* One line without its end, cut at size - 1 bytes. Sleeps between looks; waits for ever. */
void console_read_line(char *line, size_t size);

/* options.c: the words NAME or NAME=VALUE of the kernel command line. */
void options_init(const char *cmdline);
/* The value ("" for a bare word), or NULL. The text lives for ever. */
const char *option(const char *name);
uint64_t option_number(const char *name, uint64_t otherwise);

/* memory.c */
struct memory_range {
	uint64_t address, bytes;
	uint32_t type; /* as in e820: 1 is RAM */
	uint32_t reserved;
};
/* Copies what the loader told, before anything is overwritten. NULL, or what is wrong with it. */
const char *memory_init(uint64_t start_info);
const struct memory_range *memory_map(size_t *n);
/* [address, address + bytes) is all RAM of one range. */
bool memory_is_ram(uint64_t address, uint64_t bytes);
/* Highest end of a RAM range. */
uint64_t memory_end(void);
uint64_t memory_rsdp(void);
/* Zeroed pages of RAM that nobody else uses, below 4 GiB; never given back, and never more than
 * there is: then the guest ends with a failure. */
void *pages_alloc(size_t bytes);
/* The first address that pages_alloc() has not given away: free memory from here on. */
uint64_t pages_next(void);
/* Makes the range readable and writable at its own address, up to 512 GiB. */
void memory_map_range(uint64_t address, uint64_t bytes);

/* How tests end. fail() keeps the reason for the result line and gives false. */
bool fail(const char *format, ...) PRINTF_LIKE(1, 2);
#define CHECK(condition)                                                               \
	do {                                                                           \
		if (!(condition))                                                      \
			return fail("%s:%d: %s", __FILE_NAME__, __LINE__, #condition); \
	} while (0)
#define TRY(call)                     \
	do {                          \
		if (!(call))          \
			return false; \
	} while (0)

struct guest_test {
	const char *name;
	bool (*run)(void);
};
/* The tests of this ELF file, up to a NULL name. */
extern const struct guest_test guest_tests[];

/* end.c: the ways out. */
void power_off(const char *way) __attribute__((noreturn));
/* Prints the result of the running test as failed and goes out. For what cannot go on. */
void give_up(const char *format, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
