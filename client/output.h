/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What vmctl prints: tables for people, the API's JSON for programs, guests' text made harmless. */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/strbuf.h"

struct ctx;

enum column_kind {
	COL_TEXT,
	COL_LONG,   /* text that is cut at the width of a terminal */
	COL_NUMBER, /* right-aligned */
	COL_SIZE,   /* bytes, integer or size string: "1.5 GiB" */
	COL_TIME,   /* wall microseconds: local date and time */
	COL_AGO,    /* wall microseconds: "3h" since then */
	COL_PERCENT,
	COL_FLAG, /* true: "yes", false: "" */
};

struct column {
	const char *field; /* member of the row, dotted path */
	const char *title;
	enum column_kind kind;
};

/*
 * A list: with -o json the whole result (or, with --fields, its rows cut to those members), with -q
 * the first column alone, else a table. rows is result's array; columns ends with a NULL field.
 * Returns an exit code (usage: a field that no row has).
 */
int out_list(struct ctx *ctx, const json_t *result, const json_t *rows,
             const struct column *columns);

/* One JSON value on stdout: indented at a terminal, one line otherwise. Returns EXIT_DONE. */
int out_json(struct ctx *ctx, const json_t *value);
/* One JSON value as one line, always (streams of events). */
void out_json_line(const json_t *value);

/*
 * value, or with --fields an object of only those members, in *ret (new reference). 0, or an exit
 * code after saying which field is unknown.
 */
int out_cut(struct ctx *ctx, const json_t *value, json_t **ret);
/* As out_json or, with --fields, only those members. */
int out_object(struct ctx *ctx, const json_t *value);

/* Member of value by dotted path such as "engine.name" or "disks.0.path"; borrowed or NULL. */
const json_t *json_path(const json_t *value, const char *path);

/* How a value is shown in a table cell; appends to s, already harmless. NULL appends nothing. */
void format_value(struct strbuf *s, const json_t *value, enum column_kind kind);

/* "title: value" line, title padded; left out when value is NULL or null. */
void out_pair(const char *title, const json_t *value, enum column_kind kind);
void out_pair_text(const char *title, const char *text);

/* "3m 12s", for people. */
const char *format_duration(char *buf, size_t len, uint64_t us);
/* "2026-01-31 12:00:00", local time. */
const char *format_time(char *buf, size_t len, uint64_t wall_us);

/*
 * Makes guests' text harmless for a terminal, chunk by chunk: escape sequences and C0/C1 controls
 * but newline and tab go, a carriage return before a newline goes, bytes that are no UTF-8 become
 * \xNN. Starts zeroed.
 */
struct cleaner {
	unsigned char state;
	unsigned char have, want; /* bytes of an unfinished UTF-8 sequence */
	unsigned char bytes[4];
};
void clean_text(struct cleaner *c, struct strbuf *out, const char *text, size_t len);
/* What is left at the end of the text (an unfinished sequence). */
void clean_finish(struct cleaner *c, struct strbuf *out);
/* One whole short string on one line: as clean_text, and newline and tab become a space. */
void clean_word(struct strbuf *out, const char *text);
/* text made harmless, on a stream. */
void put_clean(FILE *f, const char *text);
