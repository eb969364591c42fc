/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deleted objects: the directory is moved to $STATE/trash in one rename as soon as the deletion is
 * durable, so that the id can be used anew at once; the checkpointer removes it from there. What a
 * crash leaves in the trash goes at the next start.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/log.h"
#include "daemon/store-internal.h"

int store_trash(struct store *s, const char *kind, const char *id, uint64_t seq)
{
	char from[OBJECT_PATH_MAX], to[OBJECT_PATH_MAX];

	snprintf(from, sizeof(from), "%s/%s", kind, id);
	snprintf(to, sizeof(to), "trash/%s.%s.%" PRIu64, kind, id, seq);
	if (renameat(s->dir_fd, from, s->dir_fd, to) == 0)
		return 1;
	if (errno == ENOENT && faccessat(s->dir_fd, from, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (errno == ENOENT && mkdirat(s->dir_fd, "trash", 0700) == 0 &&
	    renameat(s->dir_fd, from, s->dir_fd, to) == 0)
		return 1;
	/* A name left from a try that a crash cut short. */
	if ((errno == EEXIST || errno == ENOTEMPTY) && fs_remove_tree(s->dir_fd, to) == 0 &&
	    renameat(s->dir_fd, from, s->dir_fd, to) == 0)
		return 1;
	return -errno;
}

static void sweep_dir(struct store *s, const char *name)
{
	int fd = openat(s->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_dir DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(dir))) {
		int r;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		r = fs_remove_tree(dirfd(dir), e->d_name);
		if (r < 0)
			log_warning("Cannot remove '%s/%s/%s': %s", s->dir, name, e->d_name,
			            strerror(-r));
	}
}

void store_sweep(struct store *s)
{
	sweep_dir(s, "trash");
	sweep_dir(s, "tmp");
}
