/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/strbuf.h"

#include <stdarg.h>
#include <string.h>

void strbuf_deinit(struct strbuf *s)
{
	free(s->data);
	*s = (struct strbuf)STRBUF_INIT;
}

char *strbuf_reserve(struct strbuf *s, size_t n)
{
	size_t need, cap;
	char *data;

	if (s->failed)
		return NULL;
	if (__builtin_add_overflow(s->len, n, &need) || __builtin_add_overflow(need, 1, &need)) {
		s->failed = true;
		return NULL;
	}
	if (need > s->cap) {
		cap = s->cap ? s->cap : 64;
		while (cap < need)
			cap = cap > SIZE_MAX / 2 ? need : cap * 2;
		data = realloc(s->data, cap);
		if (!data) {
			s->failed = true;
			return NULL;
		}
		s->data = data;
		s->cap = cap;
		s->data[s->len] = '\0';
	}
	return s->data + s->len;
}

void strbuf_grew(struct strbuf *s, size_t n)
{
	s->len += n;
	s->data[s->len] = '\0';
}

void strbuf_append(struct strbuf *s, const void *bytes, size_t len)
{
	char *p = strbuf_reserve(s, len);

	if (!p)
		return;
	if (len)
		memcpy(p, bytes, len);
	strbuf_grew(s, len);
}

void strbuf_append_str(struct strbuf *s, const char *text)
{
	strbuf_append(s, text, strlen(text));
}

void strbuf_append_char(struct strbuf *s, char c)
{
	strbuf_append(s, &c, 1);
}

void strbuf_printf(struct strbuf *s, const char *format, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, format);
	n = vsnprintf(NULL, 0, format, ap);
	va_end(ap);
	if (n < 0) {
		s->failed = true;
		return;
	}
	p = strbuf_reserve(s, (size_t)n);
	if (!p)
		return;
	va_start(ap, format);
	vsnprintf(p, (size_t)n + 1, format, ap);
	va_end(ap);
	strbuf_grew(s, (size_t)n);
}

void strbuf_append_json(struct strbuf *s, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	const char *run = text;

	strbuf_append_char(s, '"');
	for (const char *p = text;; p++) {
		unsigned char c = (unsigned char)*p;

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		strbuf_append(s, run, (size_t)(p - run));
		if (!c)
			break;
		if (c == '"' || c == '\\')
			strbuf_append(s, (char[]){ '\\', *p }, 2);
		else if (c == '\n')
			strbuf_append(s, "\\n", 2);
		else
			strbuf_append(s, (char[]){ '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] },
			              6);
		run = p + 1;
	}
	strbuf_append_char(s, '"');
}

void strbuf_consume(struct strbuf *s, size_t n)
{
	if (!n)
		return;
	memmove(s->data, s->data + n, s->len - n);
	s->len -= n;
	s->data[s->len] = '\0';
}

char *strbuf_steal(struct strbuf *s)
{
	char *data = NULL;

	if (!s->failed && strbuf_reserve(s, 0))
		data = TAKE_PTR(s->data);
	strbuf_deinit(s);
	return data;
}
