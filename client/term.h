/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The terminal in raw mode, given back on every way out: return, signals, stop and continue. */
#include <stdbool.h>

/* Makes stdin raw if it is a terminal; false when it is none. A signal that ends vmctl gives the
 * terminal back first; SIGPIPE becomes EPIPE. */
bool term_raw(void);
/* Gives it back; harmless when it is not raw. */
void term_restore(void);
/* "^]", "^a", a single character or "none" to its code (-1 for none); -EINVAL for others. */
int term_escape_parse(const char *text, int *ret_code);
/* How the code is called for people: "^]". Static text. */
const char *term_escape_name(int code);
