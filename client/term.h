/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The terminal in raw mode, given back on every way out: return, signals, stop and continue. */
#include <signal.h>
#include <stdbool.h>

/* Makes stdin raw if it is a terminal; false when it is none. A signal that ends vmctl gives the
 * terminal back first; SIGPIPE becomes EPIPE. */
bool term_raw(void);

/*
 * From now on ^C (of a terminal that is not raw), SIGTERM and SIGHUP do not end the process but are
 * told by term_ended(), for what has to be tidied up. They arrive during ppoll() with
 * term_wait_mask(), which is NULL (no other mask) without this call.
 */
void term_catch_end(void);
/* The signal that asked for the end, or 0. */
int term_ended(void);
const sigset_t *term_wait_mask(void);

/* Gives it back; harmless when it is not raw. */
void term_restore(void);
/* "^]", "^a", a single character or "none" to its code (-1 for none); -EINVAL for others. */
int term_escape_parse(const char *text, int *ret_code);
/* How the code is called for people: "^]". Static text. */
const char *term_escape_name(int code);
