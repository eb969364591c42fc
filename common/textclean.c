/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/textclean.h"

#define MAX_SEQUENCE 256  /* a longer one is no escape sequence but noise */
#define MAX_COLUMN   4000 /* longer lines are cut in two */

/* One byte inside a sequence; true when it belongs to it. */
static bool in_sequence(struct textclean *t, unsigned char c)
{
	if (++t->skip > MAX_SEQUENCE) {
		t->state = TEXTCLEAN_PLAIN;
		return false;
	}
	switch (t->state) {
	case TEXTCLEAN_ESCAPE:
		if (c == '[')
			t->state = TEXTCLEAN_CSI;
		else if (c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_')
			t->state = TEXTCLEAN_STRING;
		else if (c != 0x1b &&
		         (c < 0x20 || c > 0x2f)) /* 0x20..0x2f: one more byte follows */
			t->state = TEXTCLEAN_PLAIN;
		return c >= 0x20 || c == 0x1b;
	case TEXTCLEAN_CSI:
		if (c >= 0x40 && c <= 0x7e)
			t->state = TEXTCLEAN_PLAIN;
		else if (c < 0x20)
			t->state = c == 0x1b ? TEXTCLEAN_ESCAPE : TEXTCLEAN_PLAIN;
		return c >= 0x20 || c == 0x1b;
	case TEXTCLEAN_STRING:
		if (c == '\n')
			t->state = TEXTCLEAN_PLAIN;
		else if (c == 0x07)
			t->state = TEXTCLEAN_PLAIN;
		else if (c == 0x1b)
			t->state = TEXTCLEAN_ESCAPE; /* the backslash that follows ends it */
		return c != '\n';
	case TEXTCLEAN_PLAIN:
		break;
	}
	return false;
}

size_t textclean(struct textclean *t, const char *in, size_t n, char *out)
{
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)in[i];

		if (t->state != TEXTCLEAN_PLAIN && in_sequence(t, c))
			continue;
		if (c == 0x1b) {
			t->state = TEXTCLEAN_ESCAPE;
			t->skip = 0;
			continue;
		}
		if (c == '\r') {
			t->cr = true;
			continue;
		}
		if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
			continue;
		/* Text after a lone CR overwrites the line on a terminal: here it is a new one. */
		if (c != '\n' && ((t->cr && t->column) || t->column >= MAX_COLUMN)) {
			out[len++] = '\n';
			t->column = 0;
		}
		t->cr = false;
		out[len++] = (char)c;
		t->column = c == '\n' ? 0 : t->column + 1;
	}
	return len;
}
