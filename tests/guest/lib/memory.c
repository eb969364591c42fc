/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The memory map as the PVH loader tells it, and pages from it. */
#include "guest.h"

#define START_MAGIC   0x336EC578u
#define RANGES_MAX    64
#define MODULES_MAX   4
#define RAM           1
#define MAP_END       (512 * GIB)
#define PAGE_PRESENT  0x01
#define PAGE_FLAGS    0x03
#define PAGE_LARGE    0x83
#define TABLE_ENTRIES 512

struct start_info {
	uint32_t magic, version, flags, n_modules;
	uint64_t modules, cmdline, rsdp;
	/* From version 1 on: */
	uint64_t memmap;
	uint32_t memmap_entries, reserved;
};

struct start_module {
	uint64_t address, bytes, cmdline, reserved;
};

extern char image_end[], pml4_gigabytes[];
extern uint64_t page_root, pdpt_megabytes[TABLE_ENTRIES];

static struct memory_range ranges[RANGES_MAX];
static size_t n_ranges;
static struct start_module modules[MODULES_MAX];
static size_t n_modules;
static uint64_t rsdp, next_page;

const char *memory_init(uint64_t address)
{
	const struct start_info *info = (const void *)address;

	if (info->magic != START_MAGIC)
		return "the start info has a wrong magic number";
	if (info->version < 1 || info->memmap_entries == 0)
		return "the start info has no memory map";
	if (info->memmap_entries > RANGES_MAX || info->n_modules > MODULES_MAX)
		return "the start info has more ranges or modules than make sense";
	n_ranges = info->memmap_entries;
	memcpy(ranges, (const void *)info->memmap, n_ranges * sizeof(ranges[0]));
	n_modules = info->n_modules;
	memcpy(modules, (const void *)info->modules, n_modules * sizeof(modules[0]));
	rsdp = info->rsdp;
	options_init(info->cmdline ? (const char *)info->cmdline : "");
	next_page = ((uint64_t)image_end + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
	return NULL;
}

const struct memory_range *memory_map(size_t *n)
{
	*n = n_ranges;
	return ranges;
}

bool memory_is_ram(uint64_t address, uint64_t bytes)
{
	for (size_t i = 0; i < n_ranges; i++)
		if (ranges[i].type == RAM && address >= ranges[i].address &&
		    address - ranges[i].address < ranges[i].bytes &&
		    bytes <= ranges[i].bytes - (address - ranges[i].address))
			return true;
	return false;
}

uint64_t memory_end(void)
{
	uint64_t end = 0;

	for (size_t i = 0; i < n_ranges; i++)
		if (ranges[i].type == RAM && ranges[i].address + ranges[i].bytes > end)
			end = ranges[i].address + ranges[i].bytes;
	return end;
}

uint64_t memory_rsdp(void)
{
	return rsdp;
}

static bool skip_module(uint64_t bytes)
{
	for (size_t i = 0; i < n_modules; i++)
		if (next_page < modules[i].address + modules[i].bytes &&
		    modules[i].address < next_page + bytes) {
			next_page = (modules[i].address + modules[i].bytes + PAGE_BYTES - 1) &
			            ~(uint64_t)(PAGE_BYTES - 1);
			return true;
		}
	return false;
}

void *pages_alloc(size_t bytes)
{
	uint64_t size = (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1), address;

	while (skip_module(size))
		;
	if (!memory_is_ram(next_page, size))
		give_up("out of memory: %lu bytes at 0x%lx", size, next_page);
	address = next_page;
	next_page += size;
	return memset((void *)address, 0, size);
}

uint64_t pages_next(void)
{
	return next_page;
}

void memory_map_range(uint64_t address, uint64_t bytes)
{
	if (bytes > MAP_END || address > MAP_END - bytes)
		give_up("0x%lx is beyond what the guest can map", address);
	if (page_root == (uint64_t)pml4_gigabytes || bytes == 0)
		return;
	for (uint64_t gib = address >> 30; gib <= (address + bytes - 1) >> 30; gib++) {
		uint64_t *table;

		if (pdpt_megabytes[gib] & PAGE_PRESENT)
			continue;
		table = pages_alloc(PAGE_BYTES);
		for (uint64_t i = 0; i < TABLE_ENTRIES; i++)
			table[i] = ((gib << 30) + (i << 21)) | PAGE_LARGE;
		pdpt_megabytes[gib] = (uint64_t)table | PAGE_FLAGS;
	}
}
