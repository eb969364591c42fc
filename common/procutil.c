/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/procutil.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* In the child: moves sources out of the way of all targets, then into place. No allocation. */
static int place_fds(const struct spawn_spec *spec, int *moved, int status_fd)
{
	int top = status_fd + 1;

	for (size_t i = 0; i < spec->n_fds; i++)
		top = MAX_OF(top, spec->fds[i].target + 1);
	for (size_t i = 0; i < spec->n_fds; i++) {
		moved[i] = fcntl(spec->fds[i].source, F_DUPFD_CLOEXEC, top);
		if (moved[i] < 0)
			return -errno;
	}
	return 0;
}

static int install_fds(const struct spawn_spec *spec, const int *moved)
{
	for (size_t i = 0; i < spec->n_fds; i++)
		if (dup2(moved[i], spec->fds[i].target) < 0)
			return -errno;
	return 0;
}

static int open_null_stdio(const struct spawn_spec *spec)
{
	for (int fd = 0; fd <= 2; fd++) {
		bool named = false;
		int null;

		for (size_t i = 0; i < spec->n_fds; i++)
			named |= spec->fds[i].target == fd;
		if (named)
			continue;
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (null < 0)
			return -errno;
		if (null != fd && (dup2(null, fd) < 0 || close(null) < 0))
			return -errno;
		if (null == fd && fcntl(fd, F_SETFD, 0) < 0)
			return -errno;
	}
	return 0;
}

static void reset_signals(void)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_fail(int status_fd, int r)
{
	ssize_t n = write(status_fd, &r, sizeof(r));

	_exit(n == sizeof(r) ? 127 : 126);
}

static _Noreturn void run_child(const struct spawn_spec *spec, int status_fd, pid_t parent)
{
	int moved[SPAWN_MAX_FDS];
	int r;

	reset_signals();
	if (spec->new_session)
		(void)setsid();
	if (spec->death_signal) {
		(void)prctl(PR_SET_PDEATHSIG, spec->death_signal);
		if (getppid() != parent)
			_exit(127); /* the parent died before the request took hold */
	}
	r = place_fds(spec, moved, status_fd);
	if (r < 0)
		child_fail(status_fd, r);
	/* The status pipe must not lie on a target number. */
	status_fd = fcntl(status_fd, F_DUPFD_CLOEXEC, 512);
	if (status_fd < 0)
		_exit(126);
	(void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	if (spec->null_stdio && (r = open_null_stdio(spec)) < 0)
		child_fail(status_fd, r);
	r = install_fds(spec, moved);
	if (r < 0)
		child_fail(status_fd, r);
	if (spec->confine && (r = spec->confine(spec->confine_arg)) < 0)
		child_fail(status_fd, r);
	execvpe(spec->path, spec->argv, spec->envp ? spec->envp : environ);
	child_fail(status_fd, -errno);
}

/* Nothing of the caller is copied, so its size does not matter. Its thread waits until the exec, as
 * it would for the status anyway; run_child() never returns, and allocates nothing. */
static pid_t start_child(const struct spawn_spec *spec, int status_fd, pid_t parent)
{
	pid_t pid = vfork();

	if (pid == 0)
		run_child(spec, status_fd, parent);
	return pid;
}

int proc_spawn(const struct spawn_spec *spec, pid_t *ret_pid, int *ret_pidfd, struct vmd_error *err)
{
	cleanup_close int rd = -EBADF, wr = -EBADF, pidfd = -EBADF;
	pid_t parent = getpid(), pid;
	int pipes[2], child_errno = 0;
	sigset_t all, saved;
	ssize_t n;

	if (spec->n_fds > SPAWN_MAX_FDS)
		return error_set_errno(err, E2BIG, "cannot start '%s'", spec->path);
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "cannot start '%s'", spec->path);
	rd = pipes[0];
	wr = pipes[1];
	/* No handler of ours may run in the child between fork and exec. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pid = start_child(spec, wr, parent);
	if (pid < 0)
		child_errno = -errno;
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (pid < 0)
		return error_set_errno(err, -child_errno, "cannot start '%s'", spec->path);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	cleanup_close_p(&wr);
	do {
		n = read(rd, &child_errno, sizeof(child_errno));
	} while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(child_errno) || pidfd < 0) {
		if (pidfd >= 0)
			(void)proc_signal(pidfd, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		return error_set_errno(err, n > 0 ? -child_errno : ENFILE, "cannot start '%s'",
		                       spec->path);
	}
	*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

int proc_reap(int pidfd, struct proc_status *ret)
{
	siginfo_t info = { 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
		return -errno;
	if (info.si_pid == 0)
		return 0;
	ret->exited = info.si_code == CLD_EXITED;
	ret->core = info.si_code == CLD_DUMPED;
	ret->code = info.si_status;
	return 1;
}

int proc_signal(int pidfd, int sig)
{
	return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

uint64_t proc_start_time(pid_t pid)
{
	cleanup_free char *data = NULL;
	unsigned long long start;
	char path[32];
	char *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (fs_read_file(AT_FDCWD, path, 4096, &data, NULL) < 0)
		return 0;
	p = strrchr(data, ')'); /* the command name may hold anything */
	if (!p || sscanf(p + 1,
	                 " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d"
	                 " %*d %llu",
	                 &start) != 1)
		return 0;
	return start;
}

const char *proc_boot_id(void)
{
	static char id[37];
	cleanup_free char *data = NULL;

	if (!id[0] &&
	    fs_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &data, NULL) == 0)
		snprintf(id, sizeof(id), "%.36s", data);
	return id;
}

int proc_open_identity(pid_t pid, uint64_t start_time)
{
	cleanup_close int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		return -errno;
	if (proc_start_time(pid) != start_time)
		return -ESRCH;
	return TAKE_FD(fd);
}
