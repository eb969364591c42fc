/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Descriptors: whole reads and writes, passing over Unix sockets. All descriptors are
 * close-on-exec. */
#include <stddef.h>
#include <sys/types.h>

#include "common/macros.h"

#define FDIO_MAX_FDS 32 /* most descriptors taken from one message; more are closed */

/* Writes all bytes of a blocking fd. 0, or negative errno. */
int fd_write_all(int fd, const void *data, size_t len) MUST_CHECK;
/* Reads up to len bytes until end of file. Bytes read, or negative errno. */
ssize_t fd_read_all(int fd, void *data, size_t len) MUST_CHECK;
int fd_set_nonblock(int fd, int on);
int fd_set_cloexec(int fd, int on);

/*
 * Sends len bytes with n_fds descriptors attached to the first byte (n_fds 0..FDIO_MAX_FDS).
 * MSG_NOSIGNAL. Bytes sent (may be short on a stream), or negative errno. The caller keeps its
 * descriptors.
 */
ssize_t fd_send(int sock, const void *data, size_t len, const int *fds, size_t n_fds) MUST_CHECK;

/*
 * Receives up to len bytes and up to max_fds descriptors; surplus descriptors are closed.
 * ret_fds[0..*ret_n) belong to the caller. Bytes (0: peer closed), or negative errno.
 */
ssize_t fd_recv(int sock, void *data, size_t len, int *ret_fds, size_t max_fds,
                size_t *ret_n) MUST_CHECK;
void fd_close_many(int *fds, size_t n);
