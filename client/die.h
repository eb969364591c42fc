/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* vmctl lives for one command: out of memory ends it with a message and exit code 1. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"

_Noreturn void die_no_memory(void);

static inline void *xrealloc(void *old, size_t size)
{
	void *p = realloc(old, size);

	if (!p)
		die_no_memory();
	return p;
}

static inline void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		die_no_memory();
	return p;
}

static inline char *xstrdup(const char *s)
{
	char *p = strdup(s);

	if (!p)
		die_no_memory();
	return p;
}

/* A formatted string for the caller to free. */
char *xasprintf(const char *format, ...) PRINTF_LIKE(1, 2);

/* As json_pack(), but never NULL: a string that is no UTF-8 ends vmctl with a message and 64. */
json_t *xpack(const char *format, ...);
/* Steals value into object[key]. */
void xset(json_t *object, const char *key, json_t *value);
/* A JSON string. */
json_t *xstring(const char *text);
