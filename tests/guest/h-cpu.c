/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processors that never leave the guest by themselves, and those that leave it for good. */
#include "hostile.h"
#include "lib/guest.h"
#include "lib/smp.h"

#define NOWHERE 0xD0000000ull /* in the hole below 4 GiB, beyond the BARs */
#define ROUND   (1u << 16)

static struct {
	volatile uint64_t n;
	uint64_t pad[7];
} beats[CPUS_MAX];

static void beat(void *arg)
{
	volatile uint64_t *n = arg;

	__asm__ volatile("cli" : : : "memory");
	for (;;)
		++*n;
}

static void beat_once(void *arg)
{
	volatile uint64_t *n = arg;

	++*n;
}

/* Until each processor has gone on since: those that spin by themselves, the others are woken. */
static void see_all_move(unsigned cpus, unsigned spinning)
{
	static uint64_t seen[CPUS_MAX];

	for (unsigned i = 1; i < cpus; i++) {
		seen[i] = beats[i].n;
		if (i > spinning)
			smp_run(i, beat_once, (void *)&beats[i].n);
	}
	for (unsigned i = 1; i < cpus; i++)
		while (beats[i].n == seen[i])
			cpu_relax();
}

/*
 * All processors (or spinning=N besides the first) spin with interrupts off; the first one looks at
 * the serial port from time to time. At each line it is told once more that all of them move; "end"
 * ends it.
 */
bool test_spin(void)
{
	unsigned cpus = smp_start();
	unsigned spinning = (unsigned)option_number("spinning", CPUS_MAX);
	char line[8] = "";
	size_t len = 0;

	for (unsigned i = 1; i < cpus && i <= spinning; i++)
		smp_run(i, beat, (void *)&beats[i].n);
	see_all_move(cpus, spinning);
	print("spin: %u processors\n", cpus);
	__asm__ volatile("cli" : : : "memory");
	while (strcmp(line, "end") != 0) {
		int c = console_getc();

		if (c == '\n') {
			see_all_move(cpus, spinning);
			print("spin: all move\n");
			len = 0;
		} else if (c >= 0 && len + 1 < sizeof(line)) {
			line[len++] = (char)c;
			line[len] = '\0';
		} else {
			for (unsigned i = 0; i < ROUND; i++)
				++beats[0].n;
		}
	}
	return true;
}

/* Instructions are fetched from where no memory is: no monitor can run that. */
bool test_nowhere(void)
{
	print("nowhere: now\n");
	__asm__ volatile("jmp *%0" : : "r"(NOWHERE));
	return fail("there is code where no memory is");
}
