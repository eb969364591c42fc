/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* The control socket: requests and notifications of common/shim-proto.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/shim-proto.h"
#include "common/timeutil.h"
#include "shim/shim.h"

#define HELPER_STDERR   512     /* of each helper's stderr in a message */
#define RELEASE_US      2000000 /* how long readers may still empty the ring after release */
#define ACCEPT_PAUSE_US 1000000

/* One message at a time is written here. */
static char message[SHIM_MESSAGE_MAX / 2];

struct reply {
	struct jsonw w;
	int fd;     /* to send along, or -EBADF */
	bool close; /* ours: close it after */
};

static struct jsonw message_begin(void)
{
	return (struct jsonw){ .data = message, .cap = sizeof(message) };
}

typedef int (*op_fn)(struct shim *s, struct client *c, const json_t *req, struct reply *reply);

static int socket_address(const struct shim *s, struct sockaddr_un *a)
{
	/* By the directory's descriptor: the path may be longer than an address can be. */
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	return snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/shim.sock", s->dir_fd);
}

/* True when another shim of this guest answers at the address. */
static bool is_taken(const struct sockaddr_un *a)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 &&
	       (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno == EAGAIN);
}

int control_listen(struct shim *s, struct vmd_error *err)
{
	cleanup_close int fd = -EBADF;
	struct sockaddr_un a;

	(void)socket_address(s, &a);
	if (is_taken(&a))
		return error_set(err, ERROR_BUSY, "another vmd-shim runs this guest");
	(void)unlinkat(s->dir_fd, "shim.sock", 0);
	(void)unlinkat(s->dir_fd, "exit.json", 0);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ||
	    fchmodat(s->dir_fd, "shim.sock", 0600, 0) < 0 || listen(fd, MAX_CLIENTS) < 0)
		return error_set_errno(err, errno, "cannot listen at '%s/shim.sock'",
		                       s->runtime_dir);
	s->listen_fd = TAKE_FD(fd);
	return 0;
}

static bool is_trusted(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
	       (cred.uid == 0 || cred.uid == geteuid());
}

void control_accept(struct shim *s)
{
	cleanup_close int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			s->accept_pause_us = now_monotonic_us() + ACCEPT_PAUSE_US;
		return;
	}
	for (size_t i = 0; i < MAX_CLIENTS && is_trusted(fd); i++) {
		struct client *c = &s->clients[i];

		if (c->used)
			continue;
		memset(c, 0, sizeof(*c));
		c->used = true;
		c->fd = TAKE_FD(fd);
		return;
	}
}

void control_close(struct client *c)
{
	cleanup_close_p(&c->fd);
	c->used = c->notify = false;
}

static void put_ready(struct jsonw *w, const char *key, const uint64_t us[N_LEVELS])
{
	const char *comma = "";

	jsonw_printf(w, ",\"%s\":{", key);
	for (unsigned i = 0; i < N_LEVELS; i++) {
		if (!us[i])
			continue;
		jsonw_printf(w, "%s\"%s\":%llu", comma, console_level_name(i),
		             (unsigned long long)us[i]);
		comma = ",";
	}
	jsonw_printf(w, "}");
}

static void put_helpers(struct shim *s, struct jsonw *w)
{
	const char *comma = "";

	jsonw_printf(w, ",\"helpers\":[");
	for (size_t i = 0; i + 1 < s->n_procs; i++) {
		if (s->procs[i].running)
			continue;
		jsonw_printf(w, "%s{", comma);
		child_exit_json(s, &s->procs[i], HELPER_STDERR, w);
		jsonw_printf(w, "}");
		comma = ",";
	}
	jsonw_printf(w, "]");
}

static int op_hello(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	const struct child *engine = shim_engine(s);
	struct jsonw *w = &reply->w;
	int unread = 0;

	(void)req;
	child_save_exit(s);
	c->notify = true;
	jsonw_printf(w,
	             ",\"version\":%d,\"uuid\":\"%s\",\"state\":\"%s\",\"pid\":%d,"
	             "\"start_time\":%llu,\"boot_id\":\"%s\",\"console_bytes\":%llu,\"exit\":",
	             SHIM_PROTO_VERSION, s->uuid, s->state >= SHIM_EXITED ? "exited" : "running",
	             engine->pid, (unsigned long long)engine->start_time, proc_boot_id(),
	             (unsigned long long)s->console.head);
	if (s->state >= SHIM_EXITED) {
		jsonw_printf(w, "{");
		child_exit_json(s, engine, TAIL_BYTES, w);
		jsonw_printf(w, "}");
	} else {
		jsonw_printf(w, "null");
	}
	put_ready(w, "ready", s->console.ready_us);
	put_ready(w, "ready_time", s->console.ready_wall_us);
	put_helpers(s, w);
	/* Everything that was due is in this reply. */
	c->exit_due = false;
	memset(c->ready_due, 0, sizeof(c->ready_due));
	memset(c->helper_due, 0, sizeof(c->helper_due));
	if (s->qmp_fd >= 0 &&
	    (s->state < SHIM_EXITED || (ioctl(s->qmp_fd, FIONREAD, &unread) == 0 && unread > 0)))
		reply->fd = s->qmp_fd;
	return 0;
}

static int op_signal(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {
		{ "KILL", SIGKILL }, { "TERM", SIGTERM }, { "STOP", SIGSTOP }, { "CONT", SIGCONT }
	};
	const char *name = jsonx_str(req, "signal", "");

	(void)c;
	jsonw_printf(&reply->w, ",\"ok\":true");
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (strcmp(name, signals[i].name) == 0)
			return shim_engine(s)->running
			               ? proc_signal(shim_engine(s)->pidfd, signals[i].number)
			               : -ESRCH;
	return -EINVAL;
}

static int op_console(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	(void)c;
	jsonw_printf(&reply->w, ",\"ok\":true");
	reply->close = true;
	return stream_open_console(s, jsonx_bool(req, "readonly", false),
	                           jsonx_bool(req, "replay", true),
	                           (uint64_t)MAX_OF(jsonx_int(req, "since_us", 0), 0), &reply->fd);
}

static int op_logs(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	(void)c;
	jsonw_printf(&reply->w, ",\"ok\":true");
	reply->close = true;
	return stream_open_logs(
		s, jsonx_int(req, "tail", -1), (uint64_t)MAX_OF(jsonx_int(req, "since_us", 0), 0),
		jsonx_bool(req, "timestamps", true), jsonx_bool(req, "follow", false), &reply->fd);
}

static int op_release(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	(void)c;
	(void)req;
	if (s->state < SHIM_EXITED)
		return -EBUSY;
	(void)unlinkat(s->dir_fd, "shim.sock", 0);
	(void)unlinkat(s->dir_fd, "shim.json", 0);
	(void)unlinkat(s->dir_fd, "exit.json", 0);
	s->state = SHIM_RELEASED;
	s->deadline_us = now_monotonic_us() + RELEASE_US;
	jsonw_printf(&reply->w, ",\"ok\":true");
	return 0;
}

static const struct {
	const char *name;
	op_fn fn;
} ops[] = {
	{ "hello", op_hello }, { "signal", op_signal },   { "console", op_console },
	{ "logs", op_logs },   { "release", op_release },
};

static const char *error_text(int r)
{
	switch (r) {
	case -ENOSYS:
		return "no such operation";
	case -EBADMSG:
		return "the request is malformed";
	case -EMSGSIZE:
		return "the request is too long";
	case -EBUSY:
		return "the engine still runs";
	case -ESRCH:
		return "the engine has ended";
	case -ENODEV:
		return "the guest has no console";
	case -EUSERS:
		return "too many readers of the console";
	}
	return strerror(-r);
}

static int run_op(struct shim *s, struct client *c, const json_t *req, struct reply *reply)
{
	const char *op = jsonx_str(req, "op", "");

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (strcmp(op, ops[i].name) == 0)
			return ops[i].fn(s, c, req, reply);
	return -ENOSYS;
}

static int send_message(struct client *c, const struct jsonw *w, int fd)
{
	ssize_t n;

	if (w->full)
		return -EMSGSIZE;
	n = fd_send(c->fd, w->data, w->len, &fd, fd >= 0);
	return n < 0 ? (int)n : 0;
}

static void answer(struct shim *s, struct client *c, const char *text, ssize_t n)
{
	struct reply reply = { .w = message_begin(), .fd = -EBADF };
	cleanup_json json_t *req = NULL;
	json_int_t id;
	int r;

	req = n <= SHIM_REQUEST_MAX ? jsonx_parse(text, (size_t)n, 4, NULL) : NULL;
	id = jsonx_int(req, "id", 0);
	jsonw_printf(&reply.w, "{\"id\":%lld", (long long)id);
	if (n > SHIM_REQUEST_MAX)
		r = -EMSGSIZE;
	else
		r = json_is_object(req) ? run_op(s, c, req, &reply) : -EBADMSG;
	if (r < 0) {
		reply.w.len = 0;
		jsonw_printf(&reply.w, "{\"id\":%lld,\"error\":", (long long)id);
		jsonw_string(&reply.w, error_text(r), strlen(error_text(r)));
		jsonw_printf(&reply.w, ",\"errno\":%d", -r);
		reply.fd = -EBADF;
	}
	jsonw_printf(&reply.w, "}");
	/* One who does not read its replies is no client. */
	if (send_message(c, &reply.w, reply.fd) < 0)
		control_close(c);
	if (reply.close)
		cleanup_close_p(&reply.fd);
}

void control_request(struct shim *s, struct client *c)
{
	char text[SHIM_REQUEST_MAX + 1];
	int fds[1];
	size_t n_fds;
	ssize_t n = fd_recv(c->fd, text, sizeof(text), fds, 0, &n_fds);

	if (n == -EAGAIN)
		return;
	if (n <= 0)
		control_close(c);
	else
		answer(s, c, text, n);
}

bool control_is_due(const struct client *c)
{
	bool due = c->exit_due;

	for (size_t i = 0; i < ARRAY_SIZE(c->ready_due); i++)
		due |= c->ready_due[i];
	for (size_t i = 0; i < ARRAY_SIZE(c->helper_due); i++)
		due |= c->helper_due[i];
	return due && c->notify;
}

/* Sends w and takes the mark away; false when there is no going on for now. */
static bool notify_one(struct client *c, struct jsonw *w, bool *due)
{
	int r;

	jsonw_printf(w, "}");
	r = send_message(c, w, -EBADF);
	if (r == -EAGAIN)
		return false;
	*due = false;
	if (r < 0)
		control_close(c);
	return r == 0;
}

void control_notify(struct shim *s, struct client *c)
{
	for (unsigned i = 0; i < N_LEVELS; i++) {
		struct jsonw w = message_begin();

		if (!c->ready_due[i])
			continue;
		jsonw_printf(&w,
		             "{\"event\":\"ready\",\"level\":\"%s\",\"time_us\":%llu,"
		             "\"since_start_us\":%llu",
		             console_level_name(i), (unsigned long long)s->console.ready_wall_us[i],
		             (unsigned long long)s->console.ready_us[i]);
		if (!notify_one(c, &w, &c->ready_due[i]))
			return;
	}
	for (size_t i = 0; i + 1 < s->n_procs; i++) {
		struct jsonw w = message_begin();

		if (!c->helper_due[i])
			continue;
		jsonw_printf(&w, "{\"event\":\"helper-exit\",");
		child_exit_json(s, &s->procs[i], HELPER_STDERR, &w);
		if (!notify_one(c, &w, &c->helper_due[i]))
			return;
	}
	if (c->exit_due) {
		struct jsonw w = message_begin();

		jsonw_printf(&w, "{\"event\":\"exit\",\"exit\":{");
		child_exit_json(s, shim_engine(s), TAIL_BYTES, &w);
		jsonw_printf(&w, "}");
		(void)notify_one(c, &w, &c->exit_due);
	}
}
