/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fiber_run_program: a child process as one waiting call. */
#include "config.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/strbuf.h"
#include "daemon/fiber-private.h"
#include "daemon/fiber.h"

#define PROGRAM_FDS_MAX 62

/* Takes what is in the pipe. 1: more may come, 0: end of file. */
static int drain(int fd, struct strbuf *out, size_t max_output)
{
	char buf[4096];

	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n > 0)
			strbuf_append(out, buf,
			              MIN_OF((size_t)n, max_output - MIN_OF(out->len, max_output)));
		else if (n < 0 && errno == EINTR)
			continue;
		else
			return n < 0 && errno == EAGAIN;
	}
}

/* Waits for the end of the child, taking its output meanwhile. A grandchild that keeps the pipe
 * open does not hold us. */
static int follow(int pidfd, int out_fd, struct strbuf *out, size_t max_output,
                  struct proc_status *ret_status)
{
	int r;

	for (;;) {
		struct fiber_fd fds[] = { { .fd = pidfd, .events = EV_READ },
			                  { .fd = out_fd, .events = EV_READ } };

		r = fiber_wait_fds(fds, ARRAY_SIZE(fds), -1);
		if (r < 0)
			return r;
		if (out_fd >= 0 && drain(out_fd, out, max_output) == 0)
			out_fd = -EBADF;
		if (fds[0].ready) {
			r = proc_reap(pidfd, ret_status);
			if (r)
				return r < 0 ? r : 0;
		}
	}
}

static int start(const struct spawn_spec *spec, int out_fd, int *ret_pidfd, struct vmd_error *err)
{
	struct spawn_fd fds[PROGRAM_FDS_MAX + 2];
	struct spawn_spec with_output = *spec;
	pid_t pid;

	if (out_fd < 0)
		return proc_spawn(spec, &pid, ret_pidfd, err);
	if (spec->n_fds > PROGRAM_FDS_MAX)
		return error_set_errno(err, E2BIG, "cannot start '%s'", spec->path);
	if (spec->n_fds)
		memcpy(fds, spec->fds, spec->n_fds * sizeof(fds[0]));
	for (int target = 1; target <= 2; target++)
		fds[with_output.n_fds++] = (struct spawn_fd){ .source = out_fd, .target = target };
	with_output.fds = fds;
	return proc_spawn(&with_output, &pid, ret_pidfd, err);
}

int fiber_run_program(const struct spawn_spec *spec, size_t max_output, char **ret_output,
                      struct proc_status *ret_status, struct vmd_error *err)
{
	cleanup_close int rd = -EBADF, wr = -EBADF, pidfd = -EBADF;
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	int pipes[2], r;

	if (ret_output) {
		if (pipe2(pipes, O_CLOEXEC) < 0)
			return error_set_errno(err, errno, "cannot start '%s'", spec->path);
		rd = pipes[0];
		wr = pipes[1];
		r = fd_set_nonblock(rd, 1);
		if (r < 0)
			return error_set_errno(err, -r, "cannot start '%s'", spec->path);
	}
	r = start(spec, wr, &pidfd, err);
	if (r < 0)
		return r;
	cleanup_close_p(&wr);
	r = follow(pidfd, rd, &out, max_output, ret_status);
	if (r < 0) {
		struct proc_status killed;

		(void)proc_signal(pidfd, SIGKILL);
		fiber_shield(true);
		(void)follow(pidfd, -EBADF, NULL, 0, &killed);
		fiber_shield(false);
		(void)error_set_errno(err, -r, "'%s' was ended before it was done", spec->path);
		return r;
	}
	if (!ret_output)
		return 0;
	*ret_output = strbuf_steal(&out);
	return *ret_output ? 0 : error_set_errno(err, ENOMEM, "output of '%s'", spec->path);
}
