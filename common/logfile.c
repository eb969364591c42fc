/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/conlog.h"
#include "common/macros.h"

void logfile_init(struct logfile *l, const char *dir, const char *name, uint64_t max_bytes,
                  unsigned files)
{
	l->dir = dir;
	l->name = name;
	l->max_bytes = max_bytes;
	l->files = files;
	l->fd = -EBADF;
}

static void fail(struct logfile *l, int error, size_t lost)
{
	l->error = error;
	l->lost += lost;
	l->n = 0;
	cleanup_close_p(&l->fd);
}

/* The file is opened anew after each failure: by then the directory may be another one. */
static int open_file(struct logfile *l)
{
	cleanup_close int dir = -EBADF, fd = -EBADF;
	struct stat st;
	char last;

	dir = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	fd = openat(dir, l->name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
	            0600);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	l->mid_line = st.st_size > 0 && pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
	l->size = (uint64_t)st.st_size;
	l->fd = TAKE_FD(fd);
	return 0;
}

static int rotate(struct logfile *l)
{
	cleanup_close int dir = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char from[64], to[64];

	if (dir < 0)
		return -errno;
	if (l->files <= 1 && unlinkat(dir, l->name, 0) < 0 && errno != ENOENT)
		return -errno;
	for (unsigned i = l->files - 1; l->files > 1 && i > 0; i--) {
		snprintf(to, sizeof(to), "%s.%u", l->name, i);
		snprintf(from, sizeof(from), "%s.%u", l->name, i - 1);
		if (renameat(dir, i == 1 ? l->name : from, dir, to) < 0 && errno != ENOENT)
			return -errno;
	}
	cleanup_close_p(&l->fd);
	return open_file(l);
}

static void flush(struct logfile *l)
{
	ssize_t n;

	if (l->n == 0 || l->fd < 0)
		return;
	do {
		n = write(l->fd, l->buf, l->n);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		l->size += (uint64_t)n;
		l->written++;
	}
	if (n != (ssize_t)l->n) {
		fail(l, n < 0 ? errno : ENOSPC, l->n - (size_t)(n > 0 ? n : 0));
		return;
	}
	l->n = 0;
}

static void append(struct logfile *l, const char *bytes, size_t n)
{
	while (n && l->fd >= 0) {
		size_t part = MIN_OF(n, sizeof(l->buf) - l->n);

		memcpy(l->buf + l->n, bytes, part);
		l->n += part;
		bytes += part;
		n -= part;
		if (l->n == sizeof(l->buf))
			flush(l);
	}
	l->lost += n;
}

/* After a failure: tells what is missing, on lines of its own. */
static int recover(struct logfile *l, uint64_t time_us)
{
	uint64_t lost = l->lost;
	char note[128], stamp[CONLOG_STAMP_LEN];
	int len, r;

	r = open_file(l);
	if (r < 0)
		return r;
	if (lost == 0)
		return 0;
	conlog_stamp(stamp, time_us);
	len = snprintf(note, sizeof(note), "%s%.*s[vmd: %llu bytes lost: %s]\n",
	               l->mid_line ? "\n" : "", CONLOG_STAMP_LEN, stamp, (unsigned long long)lost,
	               strerror(l->error));
	l->lost = 0;
	append(l, note, (size_t)len);
	flush(l);
	if (l->lost) { /* failed again: the note itself is not counted */
		l->lost = lost;
		return -l->error;
	}
	l->mid_line = false;
	return 0;
}

static void write_part(struct logfile *l, const char *text, size_t n, uint64_t time_us)
{
	char stamp[CONLOG_STAMP_LEN];

	if (!l->mid_line) {
		if (l->size + l->n >= l->max_bytes) {
			int r;

			flush(l);
			r = l->fd < 0 ? -l->error : rotate(l);
			if (r < 0) {
				fail(l, -r, n);
				return;
			}
		}
		conlog_stamp(stamp, time_us);
		append(l, stamp, sizeof(stamp));
	}
	append(l, text, n);
	l->mid_line = text[n - 1] != '\n';
}

void logfile_write(struct logfile *l, const char *text, size_t n, uint64_t time_us)
{
	if (l->max_bytes == 0 || n == 0)
		return;
	if (l->fd < 0) {
		int r = recover(l, time_us);

		if (r < 0) {
			fail(l, -r, n);
			return;
		}
		if (l->mid_line) { /* left by an earlier shim */
			append(l, "\n", 1);
			l->mid_line = false;
		}
	}
	while (n && l->fd >= 0) {
		const char *end = memchr(text, '\n', n);
		size_t part = end ? (size_t)(end - text) + 1 : n;

		write_part(l, text, part, time_us);
		text += part;
		n -= part;
	}
	if (l->fd < 0)
		l->lost += n;
	flush(l);
}
