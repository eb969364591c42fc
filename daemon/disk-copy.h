/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Copies of disk image files: a reflink where the file system can, else the allocated parts.
 * Blocks: for worker threads. */
#include <stdbool.h>
#include <stdint.h>

/*
 * Copies regular file or block device src to a new file dst (0600, fsynced). *ret_reflink tells
 * which way. 0 or negative errno; on failure dst is gone.
 */
int disk_copy_to_new(const char *src, const char *dst, bool *ret_reflink);

/*
 * Puts src's content in place of dst: a regular file is replaced by rename (mode and owner kept,
 * links followed), a block device is overwritten. Until the rename nothing of dst has changed.
 */
int disk_copy_over(const char *src, const char *dst);
/* The same for a regular file that may not be there yet (then 0600); links are not followed. */
int disk_copy_replace(const char *src, const char *dst);
