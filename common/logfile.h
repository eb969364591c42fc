/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Writing a log of lines with time stamps, rotated by size: NAME, NAME.1 ... (conlog.h reads it). A
 * full disk or a missing directory costs lines, nothing else.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct logfile {
	const char *dir, *name;
	uint64_t max_bytes;
	unsigned files;
	int fd;
	uint64_t size;
	uint64_t written; /* changes whenever a reader may find more */
	uint64_t lost;    /* bytes not written since the last success */
	int error;        /* errno of the last failure while lost */
	bool mid_line;
	size_t n;
	char buf[4096];
};
/* dir and name are borrowed. files: how many are kept, the one being written included. */
void logfile_init(struct logfile *l, const char *dir, const char *name, uint64_t max_bytes,
                  unsigned files);
/* Clean text (see textclean.h). Failures are counted and told in the log once it works again. */
void logfile_write(struct logfile *l, const char *text, size_t n, uint64_t time_us);
