/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/object.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/macros.h"

#define ENVELOPE_MAX 128

static const char *const kinds[] = { "guests", "jobs", "snapshots", "disks", "keys" };

bool object_kind_ok(const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i], kind) == 0)
			return true;
	return false;
}

const char *object_kind(size_t n)
{
	return n < ARRAY_SIZE(kinds) ? kinds[n] : NULL;
}

bool object_id_ok(const char *id)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "_-.";
	size_t n = strlen(id);

	return n >= 1 && n <= 128 && id[0] != '.' && strspn(id, chars) == n;
}

void object_path(char buf[OBJECT_PATH_MAX], const char *kind, const char *id, const char *suffix)
{
	snprintf(buf, OBJECT_PATH_MAX, "%s/%s/%.*s.json%s", kind, id, (int)strlen(kind) - 1, kind,
	         suffix);
}

static uint64_t object_sum(const char *text, size_t len, unsigned version, uint64_t generation)
{
	return XXH3_64bits_withSeed(text, len, generation ^ (uint64_t)version << 56);
}

void object_deinit(struct object *o)
{
	free(o->data);
	*o = (struct object){ .data = NULL };
}

/* The first line of a file of our version, without its newline. */
static void format_envelope(char buf[ENVELOPE_MAX], const char *text, size_t len,
                            uint64_t generation)
{
	snprintf(buf, ENVELOPE_MAX,
	         "{\"vmd\":%d,\"generation\":%" PRIu64 ",\"xxh3\":\"%016" PRIx64 "\"}",
	         OBJECT_VERSION, generation, object_sum(text, len, OBJECT_VERSION, generation));
}

/* Checks the envelope in o->data and finds the value in it. */
static int object_check(struct object *o, size_t file_len)
{
	char *newline = memchr(o->data, '\n', file_len);
	char want[ENVELOPE_MAX];
	uint64_t sum;
	unsigned version;

	if (!newline || o->data[file_len - 1] != '\n' || newline == o->data + file_len - 1)
		return -EBADMSG;
	*newline = '\0';
	if (sscanf(o->data, "{\"vmd\":%u,\"generation\":%" SCNu64 ",\"xxh3\":\"%16" SCNx64,
	           &version, &o->generation, &sum) != 3)
		return -EBADMSG;
	o->text = newline + 1;
	o->len = (size_t)(o->data + file_len - 1 - o->text);
	if (sum != object_sum(o->text, o->len, version, o->generation))
		return -EBADMSG;
	if (version > OBJECT_VERSION)
		return -EPROTONOSUPPORT;
	format_envelope(want, o->text, o->len, o->generation);
	o->data[file_len - 1] = '\0';
	return strcmp(o->data, want) == 0 ? 0 : -EBADMSG;
}

int object_read(int dir_fd, const char *path, struct object *ret)
{
	struct object o = { .data = NULL };
	size_t len;
	int r = fs_read_file(dir_fd, path, OBJECT_MAX_BYTES, &o.data, &len);

	if (r == -ENOTDIR)
		return -ENOENT;
	if (r == -ELOOP || r == -EISDIR || r == -EFBIG)
		return -EBADMSG;
	if (r < 0)
		return r;
	r = object_check(&o, len);
	if (r < 0) {
		object_deinit(&o);
		return r;
	}
	*ret = o;
	return 0;
}

int object_write(int dir_fd, const char *path, const char *text, size_t len, uint64_t generation,
                 bool sync)
{
	cleanup_close int fd =
		openat(dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	char envelope[ENVELOPE_MAX];
	struct iovec iov[3] = { { .iov_base = envelope },
		                { (void *)(uintptr_t)text, len },
		                { (void *)(uintptr_t) "\n", 1 } };
	ssize_t n;

	if (fd < 0)
		return -errno;
	format_envelope(envelope, text, len, generation);
	strcat(envelope, "\n");
	iov[0].iov_len = strlen(envelope);
	do {
		n = writev(fd, iov, ARRAY_SIZE(iov));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n != iov[0].iov_len + len + 1)
		return -ENOSPC; /* a regular file takes all, or the disk is full */
	return sync && fsync(fd) < 0 ? -errno : 0;
}
