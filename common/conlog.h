/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Reading a guest's console log: DIR/console.log and the older, rotated console.log.1, .2 ... as
 * one text. Every line is "2026-11-23T09:47:06.123456Z text". A reader may follow the log while
 * it is written and rotated by somebody else.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/macros.h"

#define CONLOG_NAME      "console.log"
#define CONLOG_MAX_FILES 99
#define CONLOG_STAMP_LEN 28 /* with the blank */

struct conlog {
	int dir_fd, fd;
	bool timestamps;
	bool skip;          /* the current line is older than since */
	unsigned stamp_len; /* bytes of the current line's stamp seen; CONLOG_STAMP_LEN: all */
	char stamp[CONLOG_STAMP_LEN];
	char since[CONLOG_STAMP_LEN]; /* "" : everything */
};

/* Writes the stamp of a wall clock time, with the blank, without NUL. */
void conlog_stamp(char ret[CONLOG_STAMP_LEN], uint64_t time_us);

/*
 * Begins at the last `tail` lines (-1: at the oldest) and leaves out lines before since_us (0:
 * none). A log that does not exist yet is empty. dir_fd is duplicated. 0 or negative errno. Reads
 * files; may block.
 */
int conlog_open(struct conlog *c, int dir_fd, int64_t tail, uint64_t since_us,
                bool timestamps) MUST_CHECK;
/* Next bytes of text: > 0, 0 at the end for now (later calls may find more), or negative errno.
 * len must be at least 64. */
ssize_t conlog_read(struct conlog *c, char *buf, size_t len) MUST_CHECK;
void conlog_close(struct conlog *c);
