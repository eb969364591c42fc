/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* One line on the terminal (stderr) that says how far a job is, drawn over itself. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct progress;

struct progress_state {
	char stage[64];
	unsigned percent;
	uint64_t bytes_done, bytes_total;
};

/* doing is borrowed: "starting". Nothing is drawn in the first 300 ms. */
struct progress *progress_new(const char *doing);
void progress_free(struct progress *p);
/* Takes over what a job.progress event's data tells. */
void progress_read(struct progress_state *s, const json_t *data);
/* name may be NULL. p may be NULL: draws nothing. */
void progress_draw(struct progress *p, const char *name, size_t done, size_t n,
                   const struct progress_state *s);
void progress_clear(struct progress *p);
/* The line without control bytes, for a given width. Returns buf. */
const char *progress_line(char *buf, size_t len, const char *doing, const char *name, size_t done,
                          size_t n, const struct progress_state *s, uint64_t elapsed_us);
