/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonw.h"
#include "common/textclean.h"

TestSuite(textclean, .timeout = 10);

/* The result must not depend on where the bytes were cut. */
static void expect(const char *in, const char *want)
{
	size_t len = strlen(in);

	for (size_t piece = 1; piece <= len; piece++) {
		struct textclean t = { 0 };
		char out[8192];
		size_t n = 0;

		for (size_t at = 0; at < len; at += piece)
			n += textclean(&t, in + at, len - at < piece ? len - at : piece, out + n);
		out[n] = '\0';
		cr_assert_str_eq(out, want, "in pieces of %zu: '%s'", piece, out);
	}
}

Test(textclean, lines)
{
	expect("one\r\ntwo\n", "one\ntwo\n");
	expect("a\r\r\nb\n\rc\n", "a\nb\nc\n");
	expect("10%\r20%\r\n", "10%\n20%\n");
	expect("\r\n\r\n", "\n\n");
	expect("tab\there", "tab\there");
}

Test(textclean, sequences)
{
	expect("\033[1;31mred\033[0m", "red");
	expect("\033[2J\033[H\033[?25lx", "x");
	expect("\033]0;title\007x\033]2;other\033\\y", "xy");
	expect("\033(Bx\0337y\033cz", "xyz");
	expect("\033P1$r0m\033\\x", "x");
	expect("bell\007\b\177x", "bellx");
	expect("\033[12\nx", "\nx");
	expect("\033\033[1mx", "x");
	expect("gr\303\274n", "gr\303\274n");
}

Test(textclean, endless)
{
	static char in[10000], out[20000];
	struct textclean t = { 0 };
	size_t n;

	/* A sequence without end cannot swallow the rest of the console. */
	memset(in, '1', sizeof(in));
	memcpy(in, "\033]", 2);
	n = textclean(&t, in, sizeof(in), out);
	cr_assert_gt(n, 9000);
	/* A line without end is cut. */
	cr_assert_not_null(memchr(out, '\n', n));
}

Test(textclean, random_bytes)
{
	static char in[4096], out[2 * sizeof(in)];
	struct textclean t = { 0 };
	unsigned seed = 1;

	for (int i = 0; i < 2000; i++) {
		size_t n;

		for (size_t k = 0; k < sizeof(in); k++)
			in[k] = (char)(rand_r(&seed) >> 7);
		n = textclean(&t, in, sizeof(in), out);
		cr_assert_leq(n, sizeof(out));
		for (size_t k = 0; k < n; k++)
			cr_assert((unsigned char)out[k] >= 0x20 || out[k] == '\n' ||
			          out[k] == '\t');
	}
}

TestSuite(jsonw, .timeout = 10);

static void expect_string(const char *in, size_t len, const char *want)
{
	char data[256];
	struct jsonw w = { .data = data, .cap = sizeof(data) };
	json_t *v;

	jsonw_string(&w, in, len);
	cr_assert_not(w.full);
	v = json_loadb(data, w.len, JSON_DECODE_ANY, NULL);
	cr_assert_not_null(v, "%.*s", (int)w.len, data);
	cr_assert_str_eq(json_string_value(v), want);
	json_decref(v);
}

Test(jsonw, strings)
{
	expect_string("plain", 5, "plain");
	expect_string("a\"b\\c\nd\te\001", 10, "a\"b\\c\nd\te\001");
	expect_string("gr\303\274n \342\202\254 \360\237\220\247", 14,
	              "gr\303\274n \342\202\254 \360\237\220\247");
	expect_string("\377x\300\200", 4, "?x??");
	expect_string("\355\240\200", 3, "???"); /* a surrogate */
	expect_string("\342\202", 2, "??");      /* cut */
	expect_string("\364\220\200\200", 4, "????");
}

Test(jsonw, full)
{
	char data[8];
	struct jsonw w = { .data = data, .cap = sizeof(data) };

	jsonw_printf(&w, "%s", "1234567");
	cr_assert_not(w.full);
	cr_assert_eq(w.len, 7);
	jsonw_string(&w, "x", 1);
	cr_assert(w.full);
	cr_assert_leq(w.len, sizeof(data));
}
