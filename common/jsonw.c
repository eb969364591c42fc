/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/jsonw.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void jsonw_printf(struct jsonw *w, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(w->data + w->len, w->cap - w->len, format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= w->cap - w->len)
		w->full = true;
	else
		w->len += (size_t)n;
}

/* Length of the valid UTF-8 sequence at p, or 0 (RFC 3629: shortest form, no surrogates). */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (len == 0 || len > n || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

static void put(struct jsonw *w, const char *bytes, size_t n)
{
	if (n >= w->cap - w->len) {
		w->full = true;
		return;
	}
	memcpy(w->data + w->len, bytes, n);
	w->len += n;
}

void jsonw_string(struct jsonw *w, const char *text, size_t n)
{
	put(w, "\"", 1);
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)text[i];
		size_t len = utf8_len((const unsigned char *)text + i, n - i);

		if (c == '"' || c == '\\') {
			char escape[2] = { '\\', (char)c };

			put(w, escape, 2);
		} else if (c == '\n' || c == '\t') {
			put(w, c == '\n' ? "\\n" : "\\t", 2);
		} else if (c < 0x20) {
			jsonw_printf(w, "\\u%04x", c);
		} else {
			put(w, len ? text + i : "?", len ? len : 1);
		}
		i += len ? len : 1;
	}
	put(w, "\"", 1);
}
