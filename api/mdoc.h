/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Writing mdoc(7), for the build-time program that makes manual pages from the contract. */
#include <stdio.h>

#include "common/macros.h"

/*
 * Prose: one sentence per line, `word` set in bold, what mdoc would take for a macro escaped. Ends
 * with a newline; a missing text (NULL) writes nothing.
 */
void mdoc_text(FILE *out, const char *text);
/* One argument of a macro, quoted. */
void mdoc_arg(FILE *out, const char *text);
/* Lines as they are, in a literal display. */
void mdoc_literal(FILE *out, const char *text);
void mdoc_printf(FILE *out, const char *format, ...) PRINTF_LIKE(2, 3);
/* .Dd to .Nd of a page: name and section, and what it is in one line. */
void mdoc_head(FILE *out, const char *date, const char *name, int section, const char *what);
