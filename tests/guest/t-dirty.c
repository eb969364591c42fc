/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory that changes all the time and can be proved at any moment: for snapshots and migration. */
#include "lib/guest.h"
#include "lib/irq.h"
#include "tests.h"

#define WORDS      8u /* that are written in each page, evenly spread */
#define STRIDE     (PAGE_BYTES / WORDS)
#define TICK_US    1000
#define LINE_BYTES 32

static uint64_t base, n_pages, counter;
static uint32_t *generations; /* of each page: how often it was written */

static uint64_t word_of(uint64_t page, uint32_t generation, unsigned word)
{
	return ((page << 32 | generation) * WORDS + word + 1) * 0x9E3779B97F4A7C15ull;
}

static void write_page(uint64_t page)
{
	generations[page]++;
	for (unsigned w = 0; w < WORDS; w++)
		mmio_write64(base + page * PAGE_BYTES + w * STRIDE,
		             word_of(page, generations[page], w));
}

static bool verify(void)
{
	uint64_t sum = 0, writes = 0;

	for (uint64_t page = 0; page < n_pages; page++) {
		writes += generations[page];
		for (unsigned w = 0; w < WORDS; w++) {
			uint64_t v = mmio_read64(base + page * PAGE_BYTES + w * STRIDE);

			if (v != word_of(page, generations[page], w))
				return fail("page %lu of generation %u holds 0x%lx in word %u",
				            page, generations[page], v, w);
			sum += v;
		}
	}
	if (writes != counter + n_pages)
		return fail("%lu writes in the pages, the counter is %lu", writes, counter);
	print("dirty: verified counter %lu sum 0x%lx\n", counter, sum);
	return true;
}

/* A line that has come in whole, or NULL. Does not wait. */
static const char *command(void)
{
	static char line[LINE_BYTES];
	static size_t n;
	int c;

	while ((c = console_getc()) >= 0) {
		if (c == '\n' || c == '\r') {
			line[n] = '\0';
			n = 0;
			return line;
		}
		if (n + 1 < sizeof(line))
			line[n++] = (char)c;
	}
	return NULL;
}

/*
 * mib=N of memory, of which rate=N pages are written each millisecond, at=ADDRESS where they begin.
 * Lines on the serial port: "count" prints the counter and the guest's time, "verify" proves all
 * pages, "end" proves them and ends.
 */
bool test_dirty(void)
{
	uint64_t mib = option_number("mib", 4), rate = option_number("rate", 4), next = 0;
	const char *line = "";

	n_pages = mib * MIB / PAGE_BYTES;
	generations = pages_alloc(n_pages * sizeof(*generations));
	base = option_number("at", (pages_next() + MIB - 1) & ~(MIB - 1));
	if (!memory_is_ram(base, n_pages * PAGE_BYTES))
		return fail("there are no %lu MiB of RAM at 0x%lx", mib, base);
	memory_map_range(base, n_pages * PAGE_BYTES);
	for (uint64_t page = 0; page < n_pages; page++)
		write_page(page);
	print("dirty: ready, %lu pages at 0x%lx\n", n_pages, base);
	for (;;) {
		for (uint64_t i = 0; i < rate; i++, counter++) {
			write_page(next);
			next = (next + 1) % n_pages;
		}
		line = command();
		if (line && strcmp(line, "end") == 0)
			return verify();
		if (line && strcmp(line, "verify") == 0)
			TRY(verify());
		if (line && strcmp(line, "count") == 0)
			print("dirty: counter %lu at %lu us\n", counter, now_ns() / 1000);
		sleep_us(TICK_US);
	}
}
