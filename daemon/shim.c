/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/shim.h"

/*
 * The connection to one shim. Requests wait in fibers for the reply with their id; notifications
 * become callbacks. When the connection ends although nobody released the shim, a fiber finds out
 * what is left: the shim itself (then it connects again and nobody notices), an exit record, an
 * engine without a shim, or nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/procutil.h"
#include "common/shim-proto.h"
#include "common/timeutil.h"
#include "daemon/shim-private.h"

#define RECONNECT_TIMEOUT_MS 2000
#define ENGINE_DEATH_MS      5000 /* a killed shim takes its engine along; big guests need a while */
#define MAX_HELD             64

struct pending {
	struct list node;
	struct waitq q;
	json_int_t id;
	bool done;
	int result;
	json_t *reply;
	int fd; /* that came with the reply */
};

static void fail_pending(struct shim *s, int result)
{
	while (!list_is_empty(&s->pending)) {
		struct pending *p = list_entry(s->pending.next, struct pending, node);

		list_del(&p->node);
		p->done = true;
		p->result = result;
		waitq_wake_all(&p->q);
	}
}

static void disconnect(struct shim *s, int result)
{
	if (s->sock >= 0)
		ev_io_stop(fiber_loop(), &s->io);
	cleanup_close_p(&s->sock);
	fail_pending(s, result);
}

__attribute__((noinline)) void shim_unref(struct shim *s)
{
	if (--s->refs)
		return;
	free(s->exit);
	free(s->runtime_dir);
	free(s->uuid);
	free(s);
}

void shim_free(struct shim *s)
{
	if (!s)
		return;
	s->freed = true;
	disconnect(s, -ECANCELED);
	ev_timer_stop(fiber_loop(), &s->replay);
	json_decref(s->held);
	s->held = NULL;
	cleanup_close_p(&s->qmp_fd);
	cleanup_close_p(&s->pidfd);
	waitq_wake_all(&s->exit_wait);
	shim_unref(s);
}

/* ---- notifications ---- */

static void take_exit(struct shim *s, const json_t *v)
{
	struct shim_exit *exit = s->exit ? NULL : malloc(sizeof(*exit));

	if (!exit)
		return;
	if (shim_parse_exit(v, exit) < 0) {
		free(exit);
		return;
	}
	s->exit = exit;
	cleanup_close_p(&s->pidfd);
	waitq_wake_all(&s->exit_wait);
}

static void on_exit_event(struct shim *s, const json_t *msg)
{
	take_exit(s, json_object_get(msg, "exit"));
	if (!s->exit || s->exit_told)
		return;
	s->exit_told = true;
	s->ops->on_exit(s->userdata, s->exit);
}

static void on_ready_event(struct shim *s, const json_t *msg)
{
	const char *name = jsonx_str(msg, "level", "");
	uint64_t us = (uint64_t)MAX_OF(jsonx_int(msg, "since_start_us", 0), 1);

	for (unsigned i = 0; i < _SHIM_READY_MAX; i++) {
		if (strcmp(name, shim_ready_name(i)) != 0 || s->ready_us[i])
			continue;
		s->ready_us[i] = us;
		s->ops->on_ready(s->userdata, i, (uint64_t)jsonx_int(msg, "time_us", 0), us);
		return;
	}
}

static void on_helper_event(struct shim *s, const json_t *msg)
{
	struct shim_exit exit;

	if (shim_parse_exit(msg, &exit) == 0)
		s->ops->on_helper_exit(s->userdata, &exit);
}

static const struct {
	const char *name;
	void (*fn)(struct shim *s, const json_t *msg);
} events[] = {
	{ "exit", on_exit_event },
	{ "ready", on_ready_event },
	{ "helper-exit", on_helper_event },
};

static void on_event(struct shim *s, json_t *msg)
{
	const char *name = jsonx_str(msg, "event", "");

	if (s->held) {
		/* shim_start() must see at once that the engine has ended. */
		if (strcmp(name, "exit") == 0)
			take_exit(s, json_object_get(msg, "exit"));
		if (json_array_size(s->held) < MAX_HELD)
			(void)json_array_append(s->held, msg);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (strcmp(name, events[i].name) == 0)
			events[i].fn(s, msg);
}

static void on_replay(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct shim *s = w->data;
	json_t *held = TAKE_PTR(s->held);

	(void)revents;
	ev_timer_stop(loop, w);
	s->refs++;
	for (size_t i = 0; i < json_array_size(held) && !s->freed; i++)
		on_event(s, json_array_get(held, i));
	json_decref(held);
	shim_unref(s);
}

void shim_publish(struct shim *s)
{
	if (!s->held)
		return;
	s->replay.data = s;
	ev_timer_init(&s->replay, on_replay, 0., 0.);
	ev_timer_start(fiber_loop(), &s->replay);
}

/* ---- messages ---- */

static void on_reply(struct shim *s, json_t *msg, int *fd)
{
	json_int_t id = jsonx_int(msg, "id", -1);
	struct pending *p;

	list_for_each(p, &s->pending, node) {
		if (p->id != id)
			continue;
		list_del(&p->node);
		p->done = true;
		p->reply = json_incref(msg);
		p->fd = TAKE_FD(*fd);
		waitq_wake_all(&p->q);
		return;
	}
}

/* 1: a message was handled, 0: none is there, negative errno: the connection is of no use. */
static int read_one(struct shim *s)
{
	static char buf[SHIM_MESSAGE_MAX + 1];
	cleanup_json json_t *msg = NULL;
	cleanup_close int fd = -EBADF;
	size_t n_fds;
	ssize_t n;

	n = fd_recv(s->sock, buf, sizeof(buf), &fd, 1, &n_fds);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ECONNRESET;
	msg = n <= SHIM_MESSAGE_MAX ? jsonx_parse(buf, (size_t)n, 8, NULL) : NULL;
	if (!json_is_object(msg))
		return -EPROTO;
	if (json_object_get(msg, "event"))
		on_event(s, msg);
	else
		on_reply(s, msg, &fd);
	return 1;
}

static void on_lost(struct shim *s);

static void on_socket(struct ev_loop *loop, ev_io *w, int revents)
{
	struct shim *s = w->data;
	int r = 1;

	(void)loop;
	(void)revents;
	s->refs++;
	while (r > 0 && s->sock >= 0)
		r = read_one(s);
	if (r < 0 && s->sock >= 0) {
		disconnect(s, -EPIPE);
		if (!s->released && s->hello_done)
			on_lost(s);
	}
	shim_unref(s);
}

static int send_request(struct shim *s, json_t *req, int64_t timeout_ms)
{
	cleanup_free char *text = jsonx_dump(req);
	ssize_t n;

	if (!text)
		return -ENOMEM;
	for (;;) {
		int fd = s->sock, r;

		if (fd < 0)
			return -EPIPE;
		n = fd_send(fd, text, strlen(text), NULL, 0);
		if (n != -EAGAIN)
			return n < 0 ? (int)n : 0;
		r = fiber_wait_fd(fd, EV_WRITE, timeout_ms);
		if (r < 0)
			return r;
	}
}

static int reply_error(const json_t *reply, const char *op, struct vmd_error *err)
{
	const char *text = json_string_value(json_object_get(reply, "error"));
	int code = (int)jsonx_int(reply, "errno", EIO);

	if (!text)
		return 0;
	if (code == EBUSY || code == ESRCH)
		return error_set(err, ERROR_WRONG_STATE, "%s: %s", op, text);
	if (code == ENODEV)
		return error_set(err, ERROR_UNSUPPORTED, "%s: %s", op, text);
	if (code == EUSERS)
		return error_set(err, ERROR_NO_SPACE, "%s: %s", op, text);
	return error_set(err, error_kind_from_errno(code), "%s: %s", op, text);
}

int shim_request(struct shim *s, json_t *req, int64_t timeout_ms, json_t **ret_reply, int *ret_fd,
                 struct vmd_error *err)
{
	cleanup_json json_t *owned = req, *reply = NULL;
	struct pending p = { .id = ++s->next_id, .fd = -EBADF };
	cleanup_close int fd = -EBADF;
	const char *op = jsonx_str(req, "op", "?");
	int r;

	if (!jsonx_set(req, "id", json_integer(p.id)))
		return error_set_errno(err, ENOMEM, "shim %s", op);
	waitq_init(&p.q);
	list_init(&p.node);
	s->refs++; /* sending may wait */
	list_add_tail(&s->pending, &p.node);
	r = send_request(s, req, timeout_ms);
	shim_unref(s);
	while (r == 0 && !p.done)
		r = waitq_wait(&p.q, timeout_ms);
	if (p.done)
		r = p.result;
	list_del(&p.node);
	reply = p.reply;
	fd = p.fd;
	if (r == -ETIMEDOUT)
		return error_set(err, ERROR_TIMEOUT, "the guest's shim does not answer ('%s')", op);
	if (r < 0)
		return error_set_errno(err, -r, "cannot ask the guest's shim ('%s')", op);
	r = reply_error(reply, op, err);
	if (r < 0)
		return r;
	if (ret_fd)
		*ret_fd = TAKE_FD(fd);
	if (ret_reply)
		*ret_reply = TAKE_PTR(reply);
	return 0;
}

/* ---- connecting ---- */

int shim_new(const char *runtime_dir, const char *uuid, const struct shim_ops *ops, void *userdata,
             struct shim **ret)
{
	struct shim *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->refs = 1;
	s->sock = s->qmp_fd = s->pidfd = -EBADF;
	s->ops = ops;
	s->userdata = userdata;
	list_init(&s->pending);
	waitq_init(&s->exit_wait);
	s->runtime_dir = strdup(runtime_dir);
	s->uuid = strdup(uuid);
	if (!s->runtime_dir || !s->uuid) {
		shim_unref(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

static int open_socket(const char *runtime_dir)
{
	cleanup_close int dir = fs_open_dir(AT_FDCWD, runtime_dir), fd = -EBADF;
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (dir < 0)
		return dir;
	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/shim.sock", dir);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno; /* EAGAIN: its backlog is full */
	return TAKE_FD(fd);
}

/*
 * What happened before the first hello, as the notifications that nobody got: helpers that ended,
 * and, when the guest is being started, the levels it has reached.
 */
static void hold_hello(struct shim *s, const json_t *reply)
{
	const json_t *ready = json_object_get(reply, "ready");
	const json_t *time = json_object_get(reply, "ready_time");
	json_t *helper;
	size_t i;

	json_array_foreach(json_object_get(reply, "helpers"), i, helper) {
		if (jsonx_set(helper, "event", json_string("helper-exit")))
			(void)json_array_append(s->held, helper);
	}
	for (unsigned k = 0; k < _SHIM_READY_MAX && s->starting; k++)
		if (jsonx_int(ready, shim_ready_name(k), 0))
			(void)json_array_append_new(
				s->held,
				json_pack("{s:s,s:s,s:I,s:I}", "event", "ready", "level",
			                  shim_ready_name(k), "since_start_us",
			                  (json_int_t)jsonx_int(ready, shim_ready_name(k), 0),
			                  "time_us",
			                  (json_int_t)jsonx_int(time, shim_ready_name(k), 0)));
}

static int take_hello(struct shim *s, const json_t *reply, struct vmd_error *err)
{
	const json_t *ready = json_object_get(reply, "ready");

	if (jsonx_int(reply, "version", 0) < SHIM_PROTO_VERSION ||
	    strcmp(jsonx_str(reply, "uuid", ""), s->uuid) != 0 ||
	    strcmp(jsonx_str(reply, "boot_id", ""), proc_boot_id()) != 0)
		return error_set(err, ERROR_ENGINE_FAILED,
		                 "what answers at '%s/shim.sock' is not this guest's shim",
		                 s->runtime_dir);
	s->pid = (pid_t)jsonx_int(reply, "pid", 0);
	s->start_time = (uint64_t)jsonx_int(reply, "start_time", 0);
	s->console_bytes = (uint64_t)jsonx_int(reply, "console_bytes", 0);
	if (strcmp(jsonx_str(reply, "state", ""), "exited") == 0) {
		take_exit(s, json_object_get(reply, "exit"));
		if (!s->exit)
			return error_set(err, ERROR_ENGINE_FAILED,
			                 "the shim's exit record makes no sense");
	} else if (s->pidfd < 0) {
		/* -ESRCH: it has ended this moment, and the notification comes. */
		s->pidfd = proc_open_identity(s->pid, s->start_time);
	}
	if (s->held)
		hold_hello(s, reply);
	for (unsigned i = 0; i < _SHIM_READY_MAX && !s->starting; i++)
		if (!s->ready_us[i])
			s->ready_us[i] = (uint64_t)jsonx_int(ready, shim_ready_name(i), 0);
	return 0;
}

static int say_hello(struct shim *s, int64_t timeout_ms, struct vmd_error *err)
{
	cleanup_json json_t *reply = NULL;
	cleanup_close int fd = -EBADF;
	int r;

	r = shim_request(s, json_pack("{s:s}", "op", "hello"), timeout_ms, &reply, &fd, err);
	if (r < 0)
		return r;
	if (s->freed)
		return error_set(err, ERROR_CANCELLED, "the shim was let go");
	if (fd >= 0) {
		cleanup_close_p(&s->qmp_fd);
		s->qmp_fd = TAKE_FD(fd);
	}
	return take_hello(s, reply, err);
}

int shim_connect(struct shim *s, int64_t timeout_ms, struct vmd_error *err)
{
	int r = open_socket(s->runtime_dir);

	if (r < 0)
		return error_set_errno(err, -r, "cannot reach the guest's shim in '%s'",
		                       s->runtime_dir);
	s->sock = r;
	s->io.data = s;
	ev_io_init(&s->io, on_socket, s->sock, EV_READ);
	ev_io_start(fiber_loop(), &s->io);
	s->refs++;
	r = say_hello(s, timeout_ms, err);
	if (r < 0)
		disconnect(s, r);
	else
		s->hello_done = true;
	shim_unref(s);
	return r;
}

int shim_attach(const char *runtime_dir, const char *uuid, int64_t timeout_ms,
                const struct shim_ops *ops, void *userdata, struct shim **ret,
                struct vmd_error *err)
{
	cleanup_with(shim_free) struct shim *s = NULL;
	struct vmd_error why = VMD_ERROR_INIT;
	int r;

	r = shim_new(runtime_dir, uuid, ops, userdata, &s);
	if (r == 0 && !(s->held = json_array()))
		r = -ENOMEM;
	if (r < 0)
		return error_set_errno(err, -r, "cannot attach to the guest");
	r = shim_connect(s, timeout_ms, &why);
	if (r == 0) {
		s->exit_told = s->exit != NULL;
		shim_publish(s);
		*ret = TAKE_PTR(s);
		return 0;
	}
	if (r == -ETIMEDOUT || r == -ECANCELED || r == -ENOMEM)
		return error_set(err, why.kind, "%s", why.message);
	if (why.kind == ERROR_ENGINE_FAILED || shim_engine_lives(runtime_dir))
		return error_set(err, ERROR_ENGINE_FAILED, "the guest runs, but: %s", why.message);
	return error_set(err, ERROR_NOT_FOUND, "the guest's shim is gone: %s", why.message);
}

/* ---- a lost connection ---- */

/* The connection was cut by mishap, not by death: what changed meanwhile is told now. */
static bool reconnect(struct shim *s)
{
	uint64_t before[_SHIM_READY_MAX];

	memcpy(before, s->ready_us, sizeof(before));
	if (shim_connect(s, RECONNECT_TIMEOUT_MS, NULL) < 0)
		return false;
	for (unsigned i = 0; i < _SHIM_READY_MAX && !s->freed; i++)
		if (!before[i] && s->ready_us[i])
			s->ops->on_ready(s->userdata, i, now_wall_us(), s->ready_us[i]);
	if (!s->freed && s->exit && !s->exit_told) {
		s->exit_told = true;
		s->ops->on_exit(s->userdata, s->exit);
	}
	return true;
}

static void tell_lost(struct shim *s, bool alive)
{
	struct shim_exit exit = { .process = "engine", .time_us = now_wall_us() };

	if (s->freed || s->exit)
		return; /* it had ended before, and that was told */
	if (shim_last_exit(s->runtime_dir, &exit) < 0) {
		exit.known = false;
		exit.alive = alive;
	}
	if (!exit.alive) {
		s->exit = malloc(sizeof(exit));
		if (s->exit)
			*s->exit = exit;
		cleanup_close_p(&s->pidfd);
	}
	s->ops->on_lost(s->userdata, &exit);
}

static void lost_fiber(void *arg)
{
	struct shim *s = arg;
	cleanup_close int pidfd = -EBADF;

	fiber_shield(true);
	if (!s->freed && reconnect(s)) {
		shim_unref(s);
		return;
	}
	pidfd = s->pidfd >= 0 ? fcntl(s->pidfd, F_DUPFD_CLOEXEC, 0) : -EBADF;
	tell_lost(s, pidfd >= 0 && fiber_wait_fd(pidfd, EV_READ, ENGINE_DEATH_MS) == -ETIMEDOUT);
	shim_unref(s);
}

static void on_lost(struct shim *s)
{
	s->refs++;
	if (fiber_start("shim-lost", lost_fiber, s) < 0) {
		tell_lost(s, s->pidfd >= 0);
		shim_unref(s);
	}
}
