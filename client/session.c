/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/session.h"

#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "client/die.h"
#include "client/rpcclient.h"
#include "common/fsutil.h"
#include "common/procutil.h"
#include "common/timeutil.h"

enum {
	START_LIMIT_MS = 30000
};

static const char *env_path(const char *name)
{
	const char *v = getenv(name);

	return v && v[0] == '/' ? v : NULL;
}

static char *session_dir(void)
{
	const char *base = env_path("XDG_RUNTIME_DIR");

	if (base)
		return xasprintf("%s/vmd", base);
	base = env_path("TMPDIR");
	return xasprintf("%s/vmd-%u", base ? base : "/tmp", (unsigned)geteuid());
}

int session_socket(const char *explicit_path, char **ret_path, bool *ret_session,
                   struct vmd_error *err)
{
	const char *path = explicit_path ? explicit_path : getenv("VMD_SOCKET");
	cleanup_free char *dir = NULL;

	*ret_session = false;
	if (path) {
		if (!*path)
			return error_set(err, ERROR_INVALID, "the socket's path is empty");
		*ret_path = xstrdup(path);
		return 0;
	}
	if (geteuid() == 0) {
		*ret_path = xstrdup("/run/vmd/vmd.sock");
		return 0;
	}
	dir = session_dir();
	*ret_path = xasprintf("%s/vmd.sock", dir);
	*ret_session = true;
	return 0;
}

/* The directory must be ours alone: in /tmp somebody else could have made it first. */
static int own_directory(const char *dir, struct vmd_error *err)
{
	struct stat st;
	int r = fs_mkdir_p(dir, 0700);

	if (r < 0)
		return error_set_errno(err, -r, "cannot make '%s'", dir);
	if (lstat(dir, &st) < 0)
		return error_set_errno(err, errno, "cannot look at '%s'", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return error_set(err, ERROR_DENIED,
		                 "'%s' is not a directory of ours alone (mode 0700)", dir);
	return 0;
}

static char *find_vmd(void)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *path;

	if (n > 0) {
		self[n] = '\0';
		path = xasprintf("%s/vmd", dirname(self));
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	if (access(VMD_SBINDIR "/vmd", X_OK) == 0)
		return xstrdup(VMD_SBINDIR "/vmd");
	return xstrdup("vmd");
}

/* A datagram socket with a name the kernel chose, for sd_notify(3). */
static int notify_socket(char ret_name[64], struct vmd_error *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sa);
	size_t n;

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return error_set_errno(err, errno, "cannot make a socket");
	n = MIN_OF(len - offsetof(struct sockaddr_un, sun_path) - 1, (size_t)62);
	ret_name[0] = '@';
	memcpy(ret_name + 1, sa.sun_path + 1, n);
	ret_name[n + 1] = '\0';
	return TAKE_FD(fd);
}

/* True once a datagram of our own user says READY=1. */
static bool read_ready(int fd)
{
	char text[1024];
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = { text, sizeof(text) - 1 };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = control.buf,
		              .msg_controllen = sizeof(control.buf) };
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	struct ucred cred;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS)
		return false;
	memcpy(&cred, CMSG_DATA(c), sizeof(cred));
	text[n] = '\0';
	return cred.uid == geteuid() && strstr(text, "READY=1");
}

/* 1 ready, 0 the daemon has ended, -ETIMEDOUT. */
static int wait_ready(int notify_fd, int pidfd)
{
	uint64_t deadline = now_monotonic_us() + START_LIMIT_MS * 1000u;

	for (;;) {
		struct pollfd p[2] = { { .fd = notify_fd, .events = POLLIN },
			               { .fd = pidfd, .events = POLLIN } };
		uint64_t now = now_monotonic_us();

		if (now >= deadline)
			return -ETIMEDOUT;
		if (poll(p, 2, (int)((deadline - now) / 1000) + 1) <= 0)
			continue;
		if (p[0].revents && read_ready(notify_fd))
			return 1;
		if (p[1].revents)
			return 0;
	}
}

/* Where the daemon's stderr goes: $XDG_STATE_HOME/vmd/vmd.log. Where there can be none, a file in
 * memory keeps what it says until it is ready. */
static int open_log(char **ret_path)
{
	const char *base = env_path("XDG_STATE_HOME"), *home = env_path("HOME");
	cleanup_free char *dir = NULL;
	int fd;

	*ret_path = NULL;
	if (base)
		dir = xasprintf("%s/vmd", base);
	else if (home)
		dir = xasprintf("%s/.local/state/vmd", home);
	if (dir && fs_mkdir_p(dir, 0700) == 0) {
		cleanup_free char *path = xasprintf("%s/vmd.log", dir);

		fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd >= 0) {
			*ret_path = TAKE_PTR(path);
			return fd;
		}
	}
	return memfd_create("vmd.log", MFD_CLOEXEC);
}

/* "2026-01-31T12:00:00.000Z vmd: err: why" or "<3>why": only why. */
static const char *skip_stamp(const char *line)
{
	static const char *const marks[] = { "vmd: err: ", "vmd: crit: ", "vmd: " };

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		const char *found = strstr(line, marks[i]);

		if (found && found - line < 40)
			return found + strlen(marks[i]);
	}
	return line;
}

/* What the daemon said last, in text; empty if nothing. */
static void read_last_line(int log_fd, off_t from, char *text, size_t len)
{
	cleanup_free char *all = xcalloc(1, len);
	struct stat st;
	ssize_t n = 0;
	char *line;

	if (log_fd >= 0 && fstat(log_fd, &st) == 0 && st.st_size > from)
		n = pread(log_fd, all, len - 1, MAX_OF(from, st.st_size - (off_t)len + 1));
	while (n > 0 && all[n - 1] == '\n')
		n--;
	all[MAX_OF(n, 0)] = '\0';
	line = strrchr(all, '\n');
	snprintf(text, len, "%s", skip_stamp(line ? line + 1 : all));
}

/* Started in /, since a daemon that stands in a directory keeps its file system busy. */
static int spawn_vmd(char *vmd, const char *notify_name, int log_fd, int *ret_pidfd,
                     struct vmd_error *err)
{
	cleanup_close int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *argv[] = { vmd, (char[]){ "--session" }, NULL };
	struct spawn_fd fds[] = { { log_fd, STDERR_FILENO } };
	struct spawn_spec spec = { .path = vmd,
		                   .argv = argv,
		                   .fds = fds,
		                   .n_fds = log_fd >= 0,
		                   .new_session = true,
		                   .null_stdio = true };
	pid_t pid;
	int r;

	setenv("NOTIFY_SOCKET", notify_name, 1);
	if (here >= 0)
		(void)!chdir("/");
	r = proc_spawn(&spec, &pid, ret_pidfd, err);
	if (here >= 0)
		(void)!fchdir(here);
	unsetenv("NOTIFY_SOCKET");
	return r;
}

static int run_daemon(struct vmd_error *err)
{
	cleanup_close int notify_fd = -EBADF, log_fd = -EBADF, pidfd = -EBADF;
	cleanup_free char *vmd = find_vmd(), *log_path = NULL;
	char name[64], why[512];
	struct stat st = { 0 };
	int r;

	notify_fd = notify_socket(name, err);
	if (notify_fd < 0)
		return notify_fd;
	log_fd = open_log(&log_path);
	if (log_fd >= 0)
		(void)fstat(log_fd, &st);
	r = spawn_vmd(vmd, name, log_fd, &pidfd, err);
	if (r < 0)
		return r;
	r = wait_ready(notify_fd, pidfd);
	if (r > 0)
		return 0;
	read_last_line(log_fd, st.st_size, why, sizeof(why));
	(void)error_set(err, r == 0 ? ERROR_INTERNAL : ERROR_TIMEOUT,
	                "the session daemon %s%s%.300s",
	                r == 0 ? "ended while it started" : "was not ready within 30 s",
	                *why ? ": " : "", why);
	error_hint(err, "it is '%s'; %s%s", vmd, log_path ? "its log is " : "it has no log",
	           log_path ? log_path : "");
	return -ENOTCONN;
}

static bool answers(const char *socket_path)
{
	cleanup_rpc struct rpc *rpc = NULL;

	return rpc_connect(socket_path, &rpc, NULL) == 0;
}

int session_start(const char *socket_path, struct vmd_error *err)
{
	cleanup_free char *dir = session_dir(), *lock_path = xasprintf("%s/start.lock", dir);
	cleanup_close int lock = -EBADF;
	int r = own_directory(dir, err);

	if (r < 0)
		return -ENOTCONN;
	/* One starter at a time; who waited here finds the daemon running. */
	lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0 || flock(lock, LOCK_EX) < 0) {
		(void)error_set_errno(err, errno, "cannot lock '%s'", lock_path);
		return -ENOTCONN;
	}
	if (answers(socket_path))
		return 0;
	return run_daemon(err) < 0 ? -ENOTCONN : 0;
}
