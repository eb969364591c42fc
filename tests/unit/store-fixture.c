/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/unit/store-fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "daemon/store-internal.h"

ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __real_pwritev(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __real_writev(int fd, const struct iovec *iov, int n);
ssize_t __real_write(int fd, const void *data, size_t len);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_syncfs(int fd);
int __real_renameat(int old_dir, const char *old_path, int new_dir, const char *new_path);
int __real_unlinkat(int dir, const char *path, int flags);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __real_ftruncate(int fd, off_t len);

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int n);
ssize_t __wrap_write(int fd, const void *data, size_t len);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_syncfs(int fd);
int __wrap_renameat(int old_dir, const char *old_path, int new_dir, const char *new_path);
int __wrap_unlinkat(int dir, const char *path, int flags);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_ftruncate(int fd, off_t len);

static struct {
	pthread_mutex_t lock;
	struct fixture_faults faults;
	char dirs[4][64];
	size_t n_dirs;
	struct {
		const char *call;
		unsigned n;
	} counts[16];
} fix = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* This thread holds the lock: the hook's own calls are not looked at. */
static __thread bool inside;

/* Takes the lock; with a negative errno when the call is to fail. */
static int begin(const char *call)
{
	int e = 0;

	if (inside)
		return 0;
	pthread_mutex_lock(&fix.lock);
	for (size_t i = 0; i < ARRAY_SIZE(fix.counts); i++) {
		if (!fix.counts[i].call)
			fix.counts[i].call = call;
		if (strcmp(fix.counts[i].call, call) == 0) {
			fix.counts[i].n++;
			break;
		}
	}
	inside = true;
	if (fix.faults.before)
		e = fix.faults.before(call, fix.faults.userdata);
	inside = false;
	return e;
}

static void end(void)
{
	if (!inside)
		pthread_mutex_unlock(&fix.lock);
}

#define WRAPPED(type, name, fail, ...)                            \
	({                                                        \
		int e_ = begin(#name);                            \
		type r_ = e_ ? fail : __real_##name(__VA_ARGS__); \
		int errno_ = e_ ? e_ : errno;                     \
		end();                                            \
		errno = errno_;                                   \
		r_;                                               \
	})

static ssize_t half_write(int fd, const void *data, size_t len, off_t offset)
{
	if (fix.faults.half && offset >= 0)
		(void)!__real_pwrite(fd, data, len / 2, offset);
	else if (fix.faults.half)
		(void)!__real_write(fd, data, len / 2);
	return -1;
}

static ssize_t half_writev(int fd, const struct iovec *iov, int n, off_t offset)
{
	if (fix.faults.half && offset >= 0)
		(void)!__real_pwritev(fd, iov, n > 1 ? n - 1 : n, offset);
	else if (fix.faults.half)
		(void)!__real_writev(fd, iov, n > 1 ? n - 1 : n);
	return -1;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset)
{
	return WRAPPED(ssize_t, pwrite, half_write(fd, data, len, offset), fd, data, len, offset);
}

ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	return WRAPPED(ssize_t, pwritev, half_writev(fd, iov, n, offset), fd, iov, n, offset);
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int n)
{
	if (fd <= STDERR_FILENO)
		return __real_writev(fd, iov, n);
	return WRAPPED(ssize_t, writev, half_writev(fd, iov, n, -1), fd, iov, n);
}

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	if (fd <= STDERR_FILENO)
		return __real_write(fd, data, len);
	return WRAPPED(ssize_t, write, half_write(fd, data, len, -1), fd, data, len);
}

int __wrap_fsync(int fd)
{
	return WRAPPED(int, fsync, -1, fd);
}

int __wrap_fdatasync(int fd)
{
	return WRAPPED(int, fdatasync, -1, fd);
}

int __wrap_syncfs(int fd)
{
	return WRAPPED(int, syncfs, -1, fd);
}

int __wrap_renameat(int old_dir, const char *old_path, int new_dir, const char *new_path)
{
	return WRAPPED(int, renameat, -1, old_dir, old_path, new_dir, new_path);
}

int __wrap_unlinkat(int dir, const char *path, int flags)
{
	return WRAPPED(int, unlinkat, -1, dir, path, flags);
}

int __wrap_mkdirat(int dir, const char *path, mode_t mode)
{
	return WRAPPED(int, mkdirat, -1, dir, path, mode);
}

int __wrap_ftruncate(int fd, off_t len)
{
	return WRAPPED(int, ftruncate, -1, fd, len);
}

void fixture_set_faults(const struct fixture_faults *f)
{
	pthread_mutex_lock(&fix.lock);
	fix.faults = f ? *f : (struct fixture_faults){ .before = NULL };
	pthread_mutex_unlock(&fix.lock);
}

unsigned fixture_count(const char *call)
{
	unsigned n = 0;

	pthread_mutex_lock(&fix.lock);
	for (size_t i = 0; i < ARRAY_SIZE(fix.counts) && fix.counts[i].call; i++)
		if (strcmp(fix.counts[i].call, call) == 0)
			n = fix.counts[i].n;
	pthread_mutex_unlock(&fix.lock);
	return n;
}

const char *fixture_dir(void)
{
	char *dir = fix.dirs[fix.n_dirs++];

	/* In memory where possible: these tests sync some ten thousand times. */
	snprintf(dir, sizeof(fix.dirs[0]), "%s/vmd-test-XXXXXX",
	         faccessat(AT_FDCWD, "/dev/shm", W_OK, 0) == 0 ? "/dev/shm" : "/tmp");
	return mkdtemp(dir);
}

void fixture_fini(void)
{
	fixture_set_faults(NULL);
	while (fix.n_dirs)
		(void)fs_remove_tree(AT_FDCWD, fix.dirs[--fix.n_dirs]);
}

const char *fixture_path(const char *dir, const char *format, ...)
{
	static char paths[64][512];
	static unsigned turn;
	char *p = paths[turn++ % ARRAY_SIZE(paths)];
	size_t n = (size_t)snprintf(p, sizeof(paths[0]), "%s/", dir);
	va_list ap;

	va_start(ap, format);
	vsnprintf(p + n, sizeof(paths[0]) - n, format, ap);
	va_end(ap);
	return p;
}

static void copy_file(int from_dir, const char *name, int to_dir)
{
	static char data[1 << 16];
	cleanup_close int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC);
	cleanup_close int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	while ((n = read(from, data, sizeof(data))) > 0)
		if (__real_write(to, data, (size_t)n) != n)
			abort();
}

/* Closes both. */
static void copy_dir(int from, int to)
{
	cleanup_dir DIR *dir = fdopendir(from);
	struct dirent *e;

	while ((e = readdir(dir))) {
		struct stat st;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    strcmp(e->d_name, "lock") == 0 ||
		    fstatat(from, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISDIR(st.st_mode)) {
			(void)__real_mkdirat(to, e->d_name, 0700);
			copy_dir(openat(from, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
			         openat(to, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		} else {
			copy_file(from, e->d_name, to);
		}
	}
	close(to);
}

void fixture_copy(const char *from, const char *to)
{
	bool was = inside;

	if (!was)
		pthread_mutex_lock(&fix.lock);
	inside = true;
	(void)fs_remove_tree(AT_FDCWD, to);
	(void)mkdir(to, 0700);
	copy_dir(open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
	         open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	inside = was;
	if (!was)
		pthread_mutex_unlock(&fix.lock);
}

void fixture_on_load(void *userdata, const char *kind, const char *id, const char *text, size_t len)
{
	char key[300];

	if (!userdata)
		return;
	snprintf(key, sizeof(key), "%s/%s", kind, id);
	if (json_object_get(userdata, key))
		abort(); /* loaded twice */
	(void)json_object_set_new(userdata, key, json_stringn(text, len));
}

json_t *fixture_load(const char *dir)
{
	static const struct store_tuning tuning = { .journal_bytes = 16384, .idle_ms = 10000 };
	json_t *objects = json_object();
	struct store *s;

	if (store_open_tuned(dir, &tuning, fixture_on_load, objects, &s, NULL) < 0) {
		json_decref(objects);
		return NULL;
	}
	store_close(s);
	return objects;
}
