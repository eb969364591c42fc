/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* JSON text into a fixed buffer, where nothing may be allocated. */
#include <stdbool.h>
#include <stddef.h>

#include "common/macros.h"

struct jsonw {
	char *data;
	size_t cap, len;
	bool full;
};
void jsonw_printf(struct jsonw *w, const char *format, ...) PRINTF_LIKE(2, 3);
/* A JSON string with its quotes; bytes that are not UTF-8 become '?'. */
void jsonw_string(struct jsonw *w, const char *text, size_t n);
