/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/output.h"

/* Where in an ECMA-48 escape sequence the text stands. */
enum clean_state {
	PLAIN,
	ESCAPE,        /* after ESC */
	ESCAPE_MIDDLE, /* ESC and intermediate bytes 0x20-0x2f */
	CONTROL,       /* CSI: ends with 0x40-0x7e */
	STRING,        /* OSC, DCS, SOS, PM, APC: ends with BEL or ST */
	STRING_ESCAPE, /* ESC inside a string */
};

static void put_hex(struct strbuf *out, const unsigned char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "\\x%02x", bytes[i]);
}

static enum clean_state after_escape(unsigned char b)
{
	if (b == '[')
		return CONTROL;
	if (b == ']' || b == 'P' || b == 'X' || b == '^' || b == '_')
		return STRING;
	if (b >= 0x20 && b <= 0x2f)
		return ESCAPE_MIDDLE;
	return PLAIN;
}

/* The state after a byte inside an escape sequence; nothing of it is printed. */
static enum clean_state in_escape(enum clean_state s, unsigned char b)
{
	if (b == 0x18 || b == 0x1a) /* CAN, SUB break a sequence off */
		return PLAIN;
	switch (s) {
	case ESCAPE:
		return after_escape(b);
	case ESCAPE_MIDDLE:
		return b >= 0x30 || b == '\n' ? PLAIN : ESCAPE_MIDDLE;
	case CONTROL:
		return (b >= 0x40 && b <= 0x7e) || b == '\n' ? PLAIN : CONTROL;
	case STRING:
		return b == 0x07 || b == '\n' ? PLAIN : b == 0x1b ? STRING_ESCAPE : STRING;
	default:
		return b == '\\' || b == '\n' ? PLAIN : STRING;
	}
}

static unsigned sequence_length(unsigned char b)
{
	if (b >= 0xc2 && b <= 0xdf)
		return 2;
	if (b >= 0xe0 && b <= 0xef)
		return 3;
	if (b >= 0xf0 && b <= 0xf4)
		return 4;
	return 0;
}

/* Second-byte limits that exclude overlong forms, surrogates and values past U+10FFFF. */
static bool second_fits(unsigned char first, unsigned char second)
{
	if (first == 0xe0)
		return second >= 0xa0;
	if (first == 0xed)
		return second < 0xa0;
	if (first == 0xf0)
		return second >= 0x90;
	if (first == 0xf4)
		return second < 0x90;
	return true;
}

static void put_sequence(struct cleaner *c, struct strbuf *out)
{
	/* U+0080..U+009F are controls, too; U+202A..E and U+2066..9 turn the reading direction. */
	bool control = c->bytes[0] == 0xc2 && c->bytes[1] < 0xa0;
	bool bidi = c->bytes[0] == 0xe2 &&
	            ((c->bytes[1] == 0x80 && c->bytes[2] >= 0xaa && c->bytes[2] <= 0xae) ||
	             (c->bytes[1] == 0x81 && c->bytes[2] >= 0xa6 && c->bytes[2] <= 0xa9));

	if (control || bidi)
		put_hex(out, c->bytes, c->have);
	else
		strbuf_append(out, c->bytes, c->have);
	c->have = c->want = 0;
}

static void put_plain(struct cleaner *c, struct strbuf *out, unsigned char b)
{
	if (b == 0x1b) {
		c->state = ESCAPE;
	} else if (b == '\n' || b == '\t' || (b >= 0x20 && b < 0x7f)) {
		strbuf_append_char(out, (char)b);
	} else if (b >= 0x80) {
		c->want = (unsigned char)sequence_length(b);
		c->bytes[0] = b;
		c->have = 1;
		if (!c->want) {
			put_hex(out, c->bytes, 1);
			c->have = 0;
		}
	}
}

static void put_byte(struct cleaner *c, struct strbuf *out, unsigned char b)
{
	if (c->have) {
		bool fits = (b & 0xc0) == 0x80 && (c->have > 1 || second_fits(c->bytes[0], b));

		if (fits) {
			c->bytes[c->have++] = b;
			if (c->have == c->want)
				put_sequence(c, out);
			return;
		}
		put_hex(out, c->bytes, c->have);
		c->have = c->want = 0;
	}
	if (c->state == PLAIN) {
		put_plain(c, out, b);
		return;
	}
	c->state = (unsigned char)in_escape(c->state, b);
	if (b == '\n' && c->state == PLAIN)
		strbuf_append_char(out, '\n');
}

void clean_text(struct cleaner *c, struct strbuf *out, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		put_byte(c, out, (unsigned char)text[i]);
}

void clean_finish(struct cleaner *c, struct strbuf *out)
{
	put_hex(out, c->bytes, c->have);
	*c = (struct cleaner){ 0 };
}

void clean_word(struct strbuf *out, const char *text)
{
	struct cleaner c = { 0 };
	size_t from = out->len;

	clean_text(&c, out, text, strlen(text));
	clean_finish(&c, out);
	for (size_t i = from; i < out->len; i++)
		if (out->data[i] == '\n' || out->data[i] == '\t')
			out->data[i] = ' ';
}

void put_clean(FILE *f, const char *text)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	struct cleaner c = { 0 };

	clean_text(&c, &s, text, strlen(text));
	clean_finish(&c, &s);
	if (s.data)
		fputs(s.data, f);
}
