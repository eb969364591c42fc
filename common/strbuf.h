/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A growing byte string. Every append returns nothing: a failed allocation is remembered and told
 * by strbuf_failed() or strbuf_steal(), so callers check once at the end. data is NUL-terminated
 * whenever it is not NULL. Not thread safe.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "common/macros.h"

struct strbuf {
	char *data;
	size_t len;
	size_t cap;
	bool failed;
};

#define STRBUF_INIT          \
	{                    \
		.data = NULL \
	}

void strbuf_deinit(struct strbuf *s);
void strbuf_append(struct strbuf *s, const void *bytes, size_t len);
void strbuf_append_str(struct strbuf *s, const char *text);
void strbuf_append_char(struct strbuf *s, char c);
void strbuf_printf(struct strbuf *s, const char *format, ...) PRINTF_LIKE(2, 3);
/* Appends text as a JSON string with quotes (RFC 8259 section 7); text must be valid UTF-8. */
void strbuf_append_json(struct strbuf *s, const char *text);
/* Makes room for n more bytes and returns where they go, or NULL. Follow with strbuf_grew(). */
char *strbuf_reserve(struct strbuf *s, size_t n);
void strbuf_grew(struct strbuf *s, size_t n);
/* Removes n bytes from the front. */
void strbuf_consume(struct strbuf *s, size_t n);
static inline bool strbuf_failed(const struct strbuf *s)
{
	return s->failed;
}
/* Hands the string over to the caller (free()); NULL if an append failed. The buffer is empty
 * after. */
char *strbuf_steal(struct strbuf *s);

#define cleanup_strbuf __attribute__((cleanup(strbuf_deinit)))
