/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/qmp-frame.h"

TestSuite(vmm_qmp, .timeout = 20);

/* How many messages and errors are in text, fed in pieces of that size. */
static void count(const char *text, size_t len, size_t piece, unsigned *messages, unsigned *errors)
{
	struct qmp_frame f = { 0 };

	*messages = *errors = 0;
	while (len) {
		size_t n = piece < len ? piece : len, used = 0;
		int r = qmp_frame_feed(&f, text, n, &used);

		cr_assert(used > 0 && used <= n);
		text += used;
		len -= used;
		if (r > 0) {
			cr_assert_eq(f.buf[0], '{');
			qmp_frame_reset(&f);
			++*messages;
		} else if (r < 0) {
			++*errors;
		}
	}
	qmp_frame_reset(&f);
}

static void expect(const char *text, unsigned messages, unsigned errors)
{
	for (size_t piece = 1; piece <= strlen(text); piece++) {
		unsigned m, e;

		count(text, strlen(text), piece, &m, &e);
		cr_assert_eq(m, messages, "%s in pieces of %zu: %u messages", text, piece, m);
		cr_assert_eq(e, errors, "%s in pieces of %zu: %u errors", text, piece, e);
	}
}

Test(vmm_qmp, messages_end_where_they_end)
{
	expect("{}", 1, 0);
	expect("  {\"a\":1}\r\n{\"b\":[{}]} {}", 3, 0);
	expect("{\"a\":\"}{\\\"}\"}\n", 1, 0);
	expect("{\"a\":\"\\\\\"}{}", 2, 0);
	expect("{\"a\"", 0, 0);
	expect("{\"a\":{\"b\"\xFF{\"c\":1}", 1, 0);
}

Test(vmm_qmp, rubbish_is_one_error_per_line)
{
	expect("xyz\n{}", 1, 1);
	expect("[]{}\n{}\n", 1, 1);
	expect("]]]]\n\n{}", 1, 1);
	expect("junk\xFF{}", 1, 1);
}

Test(vmm_qmp, depth_and_length_are_bounded)
{
	enum {
		LONG = QMP_MESSAGE_MAX + 2
	};
	char deep[QMP_DEPTH_MAX + 16], *big = malloc(LONG);
	unsigned m, e;

	memset(deep, '[', sizeof(deep));
	deep[0] = '{';
	count(deep, sizeof(deep), 3, &m, &e);
	cr_assert(m == 0 && e == 1);
	memset(big, ' ', LONG);
	big[0] = '{';
	big[LONG - 1] = '\n';
	count(big, LONG, 4096, &m, &e);
	cr_assert(m == 0 && e == 1);
	memset(big, ' ', LONG);
	big[0] = '{';
	big[QMP_MESSAGE_MAX - 1] = '}';
	count(big, LONG, 4096, &m, &e);
	cr_assert(m == 1 && e == 0);
	free(big);
}

Test(vmm_qmp, anything_is_survived)
{
	char text[512];
	unsigned m, e;

	srand(3);
	for (unsigned i = 0; i < 20000; i++) {
		for (size_t k = 0; k < sizeof(text); k++)
			text[k] = "{}[]\"\\ \n:,1\xFF"[(unsigned)rand() % 12];
		count(text, sizeof(text), 1 + (unsigned)rand() % 64, &m, &e);
	}
}
