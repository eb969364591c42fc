/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * As much of Criterion as the tests of devices use, for builds with ThreadSanitizer, under which
 * Criterion itself does not run (it wants memory where the sanitizer has its own). Each test is a
 * forked child; the output is TAP.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct plain_suite {
	const char *suite;
	void (*init)(void), (*fini)(void);
	double timeout;
	int signal;
	struct plain_suite *next;
};

struct plain_test {
	const char *suite, *name;
	void (*run)(void);
	void (*init)(void), (*fini)(void);
	double timeout;
	int signal;
	struct plain_test *next;
};

/* Every test program is one file, so these are one per program. */
static struct plain_suite *plain_suites;
static struct plain_test *plain_tests;
static bool plain_failed;

static inline void plain_check(bool good, bool fatal, const char *what, const char *file, int line,
                               const char *format, ...)
{
	va_list ap;

	if (good)
		return;
	plain_failed = true;
	printf("# %s:%d: %s: ", file, line, what);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	if (fatal)
		_exit(1);
}

#define PLAIN(good, fatal, what, ...) \
	plain_check(good, fatal, what, __FILE__, __LINE__, " " __VA_ARGS__)

#define cr_expect(c, ...)           PLAIN((c), false, #c, __VA_ARGS__)
#define cr_assert(c, ...)           PLAIN((c), true, #c, __VA_ARGS__)
#define cr_expect_not(c, ...)       PLAIN(!(c), false, "not " #c, __VA_ARGS__)
#define cr_expect_null(c, ...)      PLAIN(!(c), false, "null " #c, __VA_ARGS__)
#define cr_assert_not_null(c, ...)  PLAIN((c), true, "not null " #c, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)     PLAIN((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)    PLAIN((a) >= (b), true, #a " >= " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)     PLAIN((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)     PLAIN((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)    PLAIN((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)     PLAIN((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)    PLAIN((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)    PLAIN((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)    PLAIN((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) PLAIN(!strcmp((a), (b)), false, #a " == " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) \
	PLAIN(!memcmp((a), (b), (n)), false, #a " == " #b, __VA_ARGS__)

#define TestSuite(s, ...)                                                           \
	static struct plain_suite plain_suite_##s = { .suite = #s, ##__VA_ARGS__ }; \
	__attribute__((constructor)) static void plain_add_suite_##s(void)          \
	{                                                                           \
		plain_suite_##s.next = plain_suites;                                \
		plain_suites = &plain_suite_##s;                                    \
	}                                                                           \
	struct plain_swallow_semicolon

#define Test(s, n, ...)                                                            \
	static void plain_run_##s##_##n(void);                                     \
	static struct plain_test plain_test_##s##_##n = {                          \
		.suite = #s, .name = #n, .run = plain_run_##s##_##n, ##__VA_ARGS__ \
	};                                                                         \
	__attribute__((constructor)) static void plain_add_##s##_##n(void)         \
	{                                                                          \
		plain_test_##s##_##n.next = plain_tests;                           \
		plain_tests = &plain_test_##s##_##n;                               \
	}                                                                          \
	static void plain_run_##s##_##n(void)

static inline void plain_child(const struct plain_test *t, const struct plain_suite *s)
{
	void (*init)(void) = t->init ? t->init : s ? s->init : NULL;
	void (*fini)(void) = t->fini ? t->fini : s ? s->fini : NULL;

	/* Generous: a sanitizer is slow. */
	alarm(600);
	if (init)
		init();
	t->run();
	if (fini)
		fini();
	fflush(stdout);
	/* exit(), so that the sanitizer reports and sets its own status. */
	exit(plain_failed ? 1 : 0);
}

static inline bool plain_run(const struct plain_test *t)
{
	const struct plain_suite *s = plain_suites;
	int status;
	pid_t pid;

	while (s && strcmp(s->suite, t->suite) != 0)
		s = s->next;
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		plain_child(t, s);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	return t->signal ? WIFSIGNALED(status) && WTERMSIG(status) == t->signal
	                 : WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
	unsigned n = 0, bad = 0;

	for (const struct plain_test *t = plain_tests; t; t = t->next) {
		bool good = plain_run(t);

		bad += !good;
		printf("%sok %u - %s::%s\n", good ? "" : "not ", ++n, t->suite, t->name);
	}
	printf("1..%u\n", n);
	return bad ? 1 : 0;
}
