/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lib/guest.h"
#include "lib/irq.h"
#include "tests.h"

bool test_hello(void)
{
	print("hello from a bare guest\n");
	return true;
}

/* Repeats each line until "end". */
bool test_echo(void)
{
	char line[256];

	print("echo: ready\n");
	for (;;) {
		console_read_line(line, sizeof(line));
		if (strcmp(line, "end") == 0)
			return true;
		print("echo: %s\n", line);
	}
}

/* Runs, does nothing, uses no processor time. */
bool test_idle(void)
{
	print("idle: ready\n");
	for (;;)
		__asm__ volatile("cli; hlt" : : : "memory");
}
