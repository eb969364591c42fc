/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/conlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

void conlog_stamp(char ret[CONLOG_STAMP_LEN], uint64_t time_us)
{
	time_t seconds = (time_t)(time_us / 1000000);
	char text[64];
	struct tm tm;

	(void)gmtime_r(&seconds, &tm);
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ ",
	         (tm.tm_year + 1900) % 10000, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
	         tm.tm_sec, (unsigned)(time_us % 1000000));
	memcpy(ret, text, CONLOG_STAMP_LEN);
}

static int open_index(const struct conlog *c, unsigned index)
{
	char name[sizeof(CONLOG_NAME) + 16] = CONLOG_NAME;
	int fd;

	if (index)
		snprintf(name, sizeof(name), CONLOG_NAME ".%u", index);
	fd = openat(c->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* Rotated files have no gaps: the oldest is the one before the first that is missing. */
static int open_oldest(const struct conlog *c)
{
	int fd = open_index(c, 0);

	for (unsigned i = 1; i <= CONLOG_MAX_FILES; i++) {
		int older = open_index(c, i);

		if (older < 0)
			break;
		if (fd >= 0)
			close(fd);
		fd = older;
	}
	return fd;
}

/*
 * Looks backwards through fd for the newline before the last *lines lines and seeks behind it. True
 * when found; else *lines is what is still missing.
 */
static bool seek_tail(int fd, int64_t *lines)
{
	off_t end = lseek(fd, 0, SEEK_END);
	off_t pos = end;
	char buf[4096];

	while (pos > 0) {
		size_t want = MIN_OF((size_t)pos, sizeof(buf));
		const char *p;
		ssize_t n;

		pos -= (off_t)want;
		n = pread(fd, buf, want, pos);
		if (n <= 0)
			break;
		for (size_t left = (size_t)n; (p = memrchr(buf, '\n', left)); left = p - buf) {
			off_t after = pos + (p - buf) + 1;

			if (after == end)
				continue; /* ends the last line, begins none */
			if (--*lines <= 0) {
				(void)lseek(fd, after, SEEK_SET);
				return true;
			}
		}
	}
	if (end > 0)
		--*lines; /* the file's first line */
	(void)lseek(fd, 0, SEEK_SET);
	return *lines <= 0;
}

/* At the end; within a line that has begun its rest counts as text, not as a stamp. */
static void seek_end(struct conlog *c, int fd)
{
	off_t end = lseek(fd, 0, SEEK_END);
	char last = '\n';

	if (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
		c->stamp_len = CONLOG_STAMP_LEN;
}

static int open_tail(struct conlog *c, int64_t lines)
{
	int fd = open_index(c, 0);

	if (fd < 0)
		return open_oldest(c);
	if (lines == 0) {
		seek_end(c, fd);
		return fd;
	}
	if (seek_tail(fd, &lines))
		return fd;
	for (unsigned i = 1; i <= CONLOG_MAX_FILES; i++) {
		int older = open_index(c, i);

		if (older < 0)
			break;
		close(fd);
		fd = older;
		if (seek_tail(fd, &lines))
			break;
	}
	return fd;
}

int conlog_open(struct conlog *c, int dir_fd, int64_t tail, uint64_t since_us, bool timestamps)
{
	memset(c, 0, sizeof(*c));
	c->fd = -EBADF;
	c->timestamps = timestamps;
	if (since_us)
		conlog_stamp(c->since, since_us);
	c->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
	if (c->dir_fd < 0)
		return -errno;
	c->fd = tail < 0 ? open_oldest(c) : open_tail(c, tail);
	if (c->fd < 0 && c->fd != -ENOENT) {
		int r = c->fd;

		conlog_close(c);
		return r;
	}
	return 0;
}

void conlog_close(struct conlog *c)
{
	cleanup_close_p(&c->dir_fd);
	cleanup_close_p(&c->fd);
}

/* The file that follows c->fd in time: 1 with *ret_fd, 0 when c->fd is the newest. */
static int open_next(const struct conlog *c, int *ret_fd)
{
	struct stat mine, st;

	if (c->fd < 0 || fstat(c->fd, &mine) < 0) {
		*ret_fd = open_index(c, 0);
		return *ret_fd >= 0;
	}
	for (unsigned i = 0; i <= CONLOG_MAX_FILES; i++) {
		cleanup_close int fd = open_index(c, i);

		if (fd < 0 || fstat(fd, &st) < 0)
			break;
		if (st.st_ino == mine.st_ino && st.st_dev == mine.st_dev) {
			if (i == 0)
				return 0;
			*ret_fd = open_index(c, i - 1);
			return *ret_fd >= 0;
		}
	}
	*ret_fd = open_oldest(c); /* ours was rotated away */
	return *ret_fd >= 0;
}

/* Copies what the options let through from in to out (which may be in itself); bytes copied. */
static size_t filter(struct conlog *c, const char *in, size_t len, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (c->stamp_len < CONLOG_STAMP_LEN && in[i] != '\n') {
			c->stamp[c->stamp_len++] = in[i];
			if (c->stamp_len < CONLOG_STAMP_LEN)
				continue;
			c->skip = memcmp(c->stamp, c->since, CONLOG_STAMP_LEN) < 0;
			if (c->timestamps && !c->skip) {
				memcpy(out + n, c->stamp, CONLOG_STAMP_LEN);
				n += CONLOG_STAMP_LEN;
			}
			continue;
		}
		if (!c->skip && (c->stamp_len == CONLOG_STAMP_LEN || !c->since[0]))
			out[n++] = in[i];
		if (in[i] == '\n')
			c->stamp_len = 0;
	}
	return n;
}

ssize_t conlog_read(struct conlog *c, char *buf, size_t len)
{
	bool last_look = false;

	for (;;) {
		/* A stamp begun by an earlier read is put out now: leave room for it. */
		ssize_t n =
			c->fd < 0 ? 0 : read(c->fd, buf + CONLOG_STAMP_LEN, len - CONLOG_STAMP_LEN);
		int next;

		if (n < 0)
			return -errno;
		if (n > 0) {
			n = (ssize_t)filter(c, buf + CONLOG_STAMP_LEN, (size_t)n, buf);
			if (n > 0)
				return n;
			last_look = false;
			continue;
		}
		if (open_next(c, &next) == 0)
			return 0;
		/* Lines may have come between the read and the rotation: look once more. */
		if (c->fd >= 0 && !last_look) {
			close(next);
			last_look = true;
			continue;
		}
		if (c->fd >= 0)
			close(c->fd);
		c->fd = next;
		c->stamp_len = 0;
		last_look = false;
	}
}
