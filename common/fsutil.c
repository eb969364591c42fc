/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/fsutil.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"

/* The umask does not count: who asks for 0755 wants others to get in. */
static int make_one(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0)
		return errno == EEXIST ? 0 : -errno;
	return chmod(path, mode) < 0 ? -errno : 0;
}

int fs_mkdir_p(const char *path, mode_t mode)
{
	cleanup_free char *copy = strdup(path);
	int r;

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		r = make_one(copy, mode);
		if (r < 0)
			return r;
		*p = '/';
	}
	return make_one(copy, mode);
}

int fs_read_file(int dir_fd, const char *path, size_t max, char **ret_data, size_t *ret_len)
{
	cleanup_close int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	cleanup_free char *data = NULL;
	struct stat st;
	size_t cap;
	ssize_t n;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	/* /proc files say size 0: then read up to the limit. */
	cap = st.st_size > 0 ? (size_t)st.st_size : MIN_OF(max, (size_t)65536);
	if (cap > max)
		return -EFBIG;
	data = malloc(cap + 1);
	if (!data)
		return -ENOMEM;
	n = fd_read_all(fd, data, cap);
	if (n < 0)
		return (int)n;
	data[n] = '\0';
	if (ret_len)
		*ret_len = (size_t)n;
	*ret_data = TAKE_PTR(data);
	return 0;
}

static int sync_parent(int dir_fd, const char *path)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *parent = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	cleanup_close int fd = -EBADF;

	if (!parent)
		return -ENOMEM;
	fd = openat(dir_fd, *parent ? parent : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

static int write_temp(int dir_fd, const char *temp, const void *data, size_t len, int sync)
{
	cleanup_close int fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	if (r == 0 && sync && fsync(fd) < 0)
		r = -errno;
	return r;
}

int fs_write_atomic(int dir_fd, const char *path, const void *data, size_t len, int sync)
{
	static atomic_uint counter;
	cleanup_free char *temp = NULL;
	int r;

	if (asprintf(&temp, "%s.tmp-%d-%u", path, getpid(), atomic_fetch_add(&counter, 1)) < 0) {
		temp = NULL;
		return -ENOMEM;
	}
	r = write_temp(dir_fd, temp, data, len, sync);
	if (r == 0 && renameat(dir_fd, temp, dir_fd, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dir_fd, temp, 0);
		return r;
	}
	return sync ? sync_parent(dir_fd, path) : 0;
}

static int remove_entries(int fd)
{
	cleanup_dir DIR *dir = fdopendir(fd);
	struct dirent *e;
	int r = 0;

	if (!dir) {
		close(fd);
		return -errno;
	}
	while ((e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), e->d_name, 0) == 0)
			continue;
		if (errno == EISDIR || errno == EPERM)
			r = fs_remove_tree(dirfd(dir), e->d_name);
		else
			r = -errno;
		if (r < 0)
			return r;
	}
	return 0;
}

int fs_remove_tree(int dir_fd, const char *path)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r;

	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != ENOTDIR && errno != ELOOP)
			return -errno;
		return unlinkat(dir_fd, path, 0) < 0 && errno != ENOENT ? -errno : 0;
	}
	r = remove_entries(fd);
	if (r < 0)
		return r;
	return unlinkat(dir_fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int fs_open_dir(int dir_fd, const char *path)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int lock_whole(int fd, int command, int exclusive)
{
	struct flock lock = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, command, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

int fs_lock_ofd(int fd, int exclusive)
{
	return lock_whole(fd, F_OFD_SETLK, exclusive);
}

int fs_lock_process(int fd, int exclusive)
{
	return lock_whole(fd, F_SETLK, exclusive);
}
