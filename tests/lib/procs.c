/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/procs.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/procutil.h"

#define PROCS_MAX 512

/* Does /proc/PID/NAME, a list of zero-ended strings, hold text? */
static bool file_mentions(pid_t pid, const char *name, const char *text)
{
	cleanup_close int fd = -EBADF;
	static char data[262144];
	size_t len = 0;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	while (len < sizeof(data) && (n = read(fd, data + len, sizeof(data) - len)) > 0)
		len += (size_t)n;
	return memmem(data, len, text, strlen(text)) != NULL;
}

static bool has_open_file(pid_t pid, const char *dir)
{
	cleanup_dir DIR *d = NULL;
	struct dirent *entry;
	char path[320], target[512];

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	while (d && (entry = readdir(d))) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, entry->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n > 0 && (size_t)n >= strlen(dir) && memcmp(target, dir, strlen(dir)) == 0)
			return true;
	}
	return false;
}

static bool is_zombie(pid_t pid)
{
	cleanup_file FILE *f = NULL;
	char path[64], state = '?';

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	/* The name in parentheses has no parenthesis of its own in anything we start. */
	return f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state == 'Z';
}

size_t procs_of(const char *dir, pid_t *pids, size_t max)
{
	cleanup_dir DIR *d = opendir("/proc");
	struct dirent *entry;
	size_t count = 0;

	while (d && count < max && (entry = readdir(d))) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (pid <= 0 || pid == getpid() || is_zombie(pid))
			continue;
		if (file_mentions(pid, "environ", dir) || file_mentions(pid, "cmdline", dir) ||
		    has_open_file(pid, dir))
			pids[count++] = pid;
	}
	return count;
}

void procs_kill_all(const char *dir)
{
	pid_t pids[PROCS_MAX];

	for (int round = 0; round < 500; round++) {
		size_t n = procs_of(dir, pids, PROCS_MAX);

		if (n == 0)
			return;
		for (size_t i = 0; i < n; i++) {
			cleanup_close int pidfd =
				proc_open_identity(pids[i], proc_start_time(pids[i]));

			if (pidfd >= 0)
				proc_signal(pidfd, SIGKILL);
		}
		poll(NULL, 0, 20); /* dying takes a moment */
	}
}
