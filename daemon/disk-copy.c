/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/disk-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"

/* One run of allocated bytes; copy_file_range(2) keeps the copying in the kernel. */
static int copy_range(int src, int dst, off_t from, off_t to)
{
	while (from < to) {
		off_t in = from, out = from;
		ssize_t n = copy_file_range(src, &in, dst, &out, (size_t)(to - from), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* the source shrank */
		from += n;
	}
	return 0;
}

static int copy_with_buffer(int src, int dst)
{
	enum {
		CHUNK = 1 << 20
	};
	cleanup_free char *buf = malloc(CHUNK);

	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = fd_read_all(src, buf, CHUNK);
		int r;

		if (n <= 0)
			return (int)n;
		r = fd_write_all(dst, buf, (size_t)n);
		if (r < 0)
			return r;
	}
}

static int copy_sparse(int src, int dst, off_t size)
{
	off_t at = 0;

	if (ftruncate(dst, size) < 0)
		return -errno;
	while (at < size) {
		off_t data = lseek(src, at, SEEK_DATA), hole;
		int r;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(src, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		r = copy_range(src, dst, data, hole);
		if (r < 0)
			return r;
		at = hole;
	}
	return 0;
}

static int copy_content(int src, int dst, bool *ret_reflink)
{
	struct stat from, to;

	if (fstat(src, &from) < 0 || fstat(dst, &to) < 0)
		return -errno;
	*ret_reflink = false;
	if (!S_ISREG(from.st_mode) || !S_ISREG(to.st_mode))
		return copy_with_buffer(src, dst);
	if (ioctl(dst, FICLONE, src) == 0) {
		*ret_reflink = true;
		return 0;
	}
	return copy_sparse(src, dst, from.st_size);
}

int disk_copy_to_new(const char *src, const char *dst, bool *ret_reflink)
{
	cleanup_close int in = open(src, O_RDONLY | O_CLOEXEC);
	cleanup_close int out = -EBADF;
	int r;

	if (in < 0)
		return -errno;
	out = open(dst, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		return -errno;
	r = copy_content(in, out, ret_reflink);
	if (r == 0 && fsync(out) < 0)
		r = -errno;
	if (r < 0)
		(void)unlink(dst);
	return r;
}

static int copy_to_device(const char *src, const char *dst)
{
	cleanup_close int in = open(src, O_RDONLY | O_CLOEXEC);
	cleanup_close int out = open(dst, O_WRONLY | O_CLOEXEC);
	int r;

	if (in < 0 || out < 0)
		return -errno;
	r = copy_with_buffer(in, out);
	return r == 0 && fsync(out) < 0 ? -errno : r;
}

/* The copy takes dst's place in one step, with the owner and mode of like when there is one. */
static int replace(const char *src, const char *dst, const struct stat *like)
{
	cleanup_free char *temp = NULL;
	bool reflink;
	int r;

	if (asprintf(&temp, "%s.vmd-restore", dst) < 0) {
		temp = NULL;
		return -ENOMEM;
	}
	(void)unlink(temp); /* of a restore that a power cut ended */
	r = disk_copy_to_new(src, temp, &reflink);
	if (r < 0)
		return r;
	if ((like && (chown(temp, like->st_uid, like->st_gid) < 0 ||
	              chmod(temp, like->st_mode & 07777) < 0)) ||
	    rename(temp, dst) < 0) {
		r = -errno;
		(void)unlink(temp);
	}
	return r;
}

int disk_copy_over(const char *src, const char *dst)
{
	cleanup_free char *real = realpath(dst, NULL);
	struct stat st;

	if (!real || stat(real, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) ? replace(src, real, &st) : copy_to_device(src, real);
}

int disk_copy_replace(const char *src, const char *dst)
{
	return replace(src, dst, NULL);
}
