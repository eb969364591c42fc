/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs the tests that test=A,B,... names, in this order, and goes out by end=WAY. Each test gives
 * one line, "guest: NAME ok" or "guest: NAME FAIL why", and the last line is "guest: done".
 */
#include "end.h"
#include "guest.h"
#include "irq.h"

extern uint64_t start_info_address;
extern uint64_t bss_first_word, bss_last_word;

static const char *running = "start";
static char reason[256];
static unsigned n_failed;

void guest_main(void);

bool fail(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	format_text(reason, sizeof(reason), format, ap);
	va_end(ap);
	return false;
}

void power_off(const char *way)
{
	if (strcmp(way, "reset") == 0)
		end_reset_acpi();
	if (strcmp(way, "reset") == 0 || strcmp(way, "i8042") == 0)
		end_reset_i8042();
	if (strcmp(way, "triple") == 0)
		end_triple_fault();
	if (strcmp(way, "s5") == 0)
		end_s5();
	if (strcmp(way, "testdev") == 0)
		end_testdev(n_failed > 0);
	if (strcmp(way, "halt") != 0)
		print("guest: no way out by '%s'\n", way);
	for (;;)
		__asm__ volatile("cli; hlt" : : : "memory");
}

static void out(void) __attribute__((noreturn));
static void out(void)
{
	const char *way = option("end");

	print("guest: done\n");
	power_off(way && *way ? way : "s5");
}

void give_up(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	format_text(reason, sizeof(reason), format, ap);
	va_end(ap);
	n_failed++;
	print("guest: %s FAIL %s\n", running, reason);
	out();
}

static void run_test(const struct guest_test *test)
{
	running = test->name;
	reason[0] = '\0';
	if (test->run()) {
		print("guest: %s ok\n", test->name);
		return;
	}
	n_failed++;
	print("guest: %s FAIL %s\n", test->name, reason);
}

static void run_named(const char *name, size_t n)
{
	static char unknown[64];

	for (const struct guest_test *t = guest_tests; t->name; t++)
		if (strncmp(t->name, name, n) == 0 && !t->name[n]) {
			run_test(t);
			return;
		}
	n = n < sizeof(unknown) ? n : sizeof(unknown) - 1;
	memcpy(unknown, name, n);
	running = unknown;
	give_up("there is no such test");
}

/* A loader has to clear what the file does not hold, after a reset too: both ends are marked. */
static void check_bss(void)
{
	if (bss_first_word || bss_last_word)
		give_up("the loader has not cleared the memory behind the image");
	bss_first_word = bss_last_word = ~0ull;
}

void guest_main(void)
{
	const char *error = memory_init(start_info_address), *name;
	size_t n;

	irq_init();
	if (error)
		give_up("%s", error);
	check_bss();
	name = option("test");
	if (!name || !*name)
		name = "hello";
	for (; *name; name += n + (name[n] == ',')) {
		for (n = 0; name[n] && name[n] != ','; n++)
			;
		if (n > 0)
			run_named(name, n);
	}
	out();
}
