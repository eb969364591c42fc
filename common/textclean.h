/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Escape sequences and control characters taken out of console bytes, over any cut. */
struct textclean {
	enum {
		TEXTCLEAN_PLAIN,
		TEXTCLEAN_ESCAPE,
		TEXTCLEAN_CSI,
		TEXTCLEAN_STRING /* OSC, DCS: until BEL or ESC \ */
	} state;
	bool cr;       /* a carriage return waits for what follows */
	unsigned skip; /* bytes of the sequence so far */
	unsigned column;
};
/* Clean text of n bytes into out (at least 2 * n bytes); bytes written. Lines end in '\n' only. */
size_t textclean(struct textclean *t, const char *in, size_t n, char *out);
