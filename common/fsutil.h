/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Files and directories. Everything created is private to the owner (umask 077 modes). May block.
 */
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/macros.h"

/* mkdir -p with mode for every part that is missing. 0 or negative errno. */
int fs_mkdir_p(const char *path, mode_t mode) MUST_CHECK;

/*
 * Whole small file as a NUL-terminated string for the caller to free; -EFBIG past max bytes. dir_fd
 * and path as for openat(2); a symbolic link as last part is refused. *ret_len may be NULL.
 */
int fs_read_file(int dir_fd, const char *path, size_t max, char **ret_data,
                 size_t *ret_len) MUST_CHECK;

/*
 * Replaces path by data: temporary file beside it, fsync when sync is set, rename, fsync of the
 * directory when sync is set. On failure the old file is untouched and the temporary is gone.
 */
int fs_write_atomic(int dir_fd, const char *path, const void *data, size_t len,
                    int sync) MUST_CHECK;

/* Removes a directory tree below dir_fd without following links. -ENOENT counts as done. */
int fs_remove_tree(int dir_fd, const char *path);

/* open(2) of a directory, O_PATH not set. fd or negative errno. */
int fs_open_dir(int dir_fd, const char *path) MUST_CHECK;

/*
 * Takes an open-file-description lock (fcntl F_OFD_SETLK) over the whole file; exclusive needs a
 * writable fd. 0; -EAGAIN when somebody else holds it; other negative errno.
 */
int fs_lock_ofd(int fd, int exclusive) MUST_CHECK;

/*
 * The same as a lock of this process (fcntl F_SETLK): no child inherits it, and it ends with the
 * process however that ends. It also ends when the process closes any descriptor of the file, and
 * does not keep the process itself from locking again.
 */
int fs_lock_process(int fd, int exclusive) MUST_CHECK;
