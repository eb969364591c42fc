/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* Starting a guest: the launch document, vmd-shim, its ready line, the engine's first word. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/shim-proto.h"
#include "common/timeutil.h"
#include "daemon/engine.h"
#include "daemon/scope.h"
#include "daemon/shim-private.h"

#define DEFAULT_TIMEOUT_MS 30000
#define KILL_TIMEOUT_MS    5000
#define FIRST_FD           5 /* 3: the document, 4: ready_fd */
#define READY_FD           4
#define MAX_READY_LINE     4096

/* A vmd-shim being started, until it is known to work. */
struct starting {
	const struct shim_params *params;
	const struct launch *launch;
	struct spawn_fd fds[SPAWN_MAX_FDS];
	size_t n_fds;
	int next_fd;
	int doc_fd, ready_fd, pidfd;
	int gate_fd, opened_fd; /* the shim waits until the first is closed, reading the second */
	uint64_t deadline_us;
};

static void starting_deinit(struct starting *st)
{
	cleanup_close_p(&st->doc_fd);
	cleanup_close_p(&st->ready_fd);
	cleanup_close_p(&st->pidfd);
	cleanup_close_p(&st->gate_fd);
	cleanup_close_p(&st->opened_fd);
}
#define cleanup_starting __attribute__((cleanup(starting_deinit)))

static int64_t time_left_ms(const struct starting *st)
{
	uint64_t now = now_monotonic_us();

	return now < st->deadline_us ? (int64_t)((st->deadline_us - now) / 1000) + 1 : 0;
}

/* ---- the launch document ---- */

/* Hands fd to the shim; the number it has there. */
static int pass_fd(struct starting *st, int fd)
{
	st->fds[st->n_fds++] = (struct spawn_fd){ fd, st->next_fd };
	return st->next_fd++;
}

static bool put_fd(struct starting *st, json_t *doc, const char *key, int fd)
{
	return fd < 0 || jsonx_set(doc, key, json_integer(pass_fd(st, fd)));
}

static json_t *proc_json(const struct launch_proc *p, int base)
{
	cleanup_json json_t *fds = json_array(), *doc = NULL;

	for (size_t i = 0; i < p->n_fds; i++)
		if (!fds || json_array_append_new(fds, json_pack("[i,i]", base + p->fds[i].source,
		                                                 p->fds[i].target)) < 0)
			return NULL;
	doc = json_pack("{s:s,s:O,s:O,s:b,s:b}", "name", p->name, "argv", p->argv, "fds", fds,
	                "vital", (int)p->vital, "jail", (int)p->jail);
	if (p->grace_ms && !jsonx_set(doc, "grace_ms", json_integer(p->grace_ms)))
		return NULL;
	return TAKE_PTR(doc);
}

static json_t *procs_json(struct starting *st)
{
	cleanup_json json_t *procs = json_array();
	int base = st->next_fd;

	for (size_t i = 0; i < st->launch->n_fds; i++)
		(void)pass_fd(st, st->launch->fds[i]);
	for (size_t i = 0; i < st->launch->n_procs; i++)
		if (!procs ||
		    json_array_append_new(procs, proc_json(&st->launch->procs[i], base)) < 0)
			return NULL;
	return TAKE_PTR(procs);
}

static json_t *build_doc(struct starting *st)
{
	const struct shim_params *p = st->params;
	cleanup_json json_t *doc = NULL;

	doc = json_pack("{s:i,s:s,s:s,s:s,s:s,s:i}", "version", SHIM_PROTO_VERSION, "uuid", p->uuid,
	                "name", p->name, "runtime_dir", p->runtime_dir, "state_dir", p->state_dir,
	                "ready_fd", READY_FD);
	if (!doc || !put_fd(st, doc, "lock_fd", p->lock_fd) ||
	    !put_fd(st, doc, "gate_fd", st->opened_fd) ||
	    !put_fd(st, doc, "qmp_fd", st->launch->qmp_fd) ||
	    !put_fd(st, doc, "console_fd", st->launch->console_fd) ||
	    !jsonx_set(doc, "procs", procs_json(st)))
		return NULL;
	if ((p->log_max_bytes &&
	     !jsonx_set(doc, "log_max_bytes", json_integer((json_int_t)p->log_max_bytes))) ||
	    (p->log_files && !jsonx_set(doc, "log_files", json_integer(p->log_files))) ||
	    (p->ring_bytes &&
	     !jsonx_set(doc, "ring_bytes", json_integer((json_int_t)p->ring_bytes))))
		return NULL;
	return TAKE_PTR(doc);
}

static int write_doc(struct starting *st, struct vmd_error *err)
{
	cleanup_json json_t *doc = build_doc(st);
	cleanup_free char *text = doc ? jsonx_dump(doc) : NULL;
	int r;

	if (!text)
		return error_set_errno(err, ENOMEM, "cannot write the launch document");
	st->doc_fd = memfd_create("vmd-launch", MFD_CLOEXEC);
	if (st->doc_fd < 0)
		return error_set_errno(err, errno, "cannot write the launch document");
	r = fd_write_all(st->doc_fd, text, strlen(text));
	return r < 0 ? error_set_errno(err, -r, "cannot write the launch document") : 0;
}

/* ---- vmd-shim itself ---- */

/* Shims are our children until we end: reaped whenever that is, also long after shim_free(). */
struct reaper {
	ev_io io;
	struct list link;
	int pidfd;
};

static struct list reapers = { &reapers, &reapers };

static void reaper_free(struct ev_loop *loop, struct reaper *reaper)
{
	list_del(&reaper->link);
	ev_ref(loop);
	ev_io_stop(loop, &reaper->io);
	close(reaper->pidfd);
	free(reaper);
}

static void on_shim_ended(struct ev_loop *loop, ev_io *w, int revents)
{
	struct reaper *reaper = w->data;
	struct proc_status status;

	(void)revents;
	if (proc_reap(reaper->pidfd, &status) != 0)
		reaper_free(loop, reaper);
}

void shim_leave_all(struct ev_loop *loop)
{
	while (!list_is_empty(&reapers))
		reaper_free(loop, list_entry(reapers.next, struct reaper, link));
}

static int watch_shim(int pidfd)
{
	struct reaper *reaper = calloc(1, sizeof(*reaper));

	if (!reaper)
		return -ENOMEM;
	reaper->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
	if (reaper->pidfd < 0) {
		free(reaper);
		return -errno;
	}
	reaper->io.data = reaper;
	ev_io_init(&reaper->io, on_shim_ended, reaper->pidfd, EV_READ);
	list_add_tail(&reapers, &reaper->link);
	ev_io_start(fiber_loop(), &reaper->io);
	ev_unref(fiber_loop()); /* does not keep the loop running */
	return 0;
}

/* Under a service manager, the shim starts nothing before it has left vmd's control group. */
static int make_gate(struct starting *st, struct vmd_error *err)
{
	int pipes[2];

	if (!scope_is_wanted())
		return 0;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "cannot start vmd-shim");
	st->opened_fd = pipes[0];
	st->gate_fd = pipes[1];
	return 0;
}

static void pass_gate(struct starting *st, pid_t pid)
{
	if (st->gate_fd < 0)
		return;
	scope_enter(pid, st->params->uuid, st->params->name);
	cleanup_close_p(&st->gate_fd);
}

static int spawn_shim(struct starting *st, struct vmd_error *err)
{
	const char *path = getenv("VMD_SHIM");
	char *argv[] = { (char *)"vmd-shim", (char *)(uintptr_t)st->params->name, NULL };
	struct spawn_spec spec = {
		.path = path ? path : VMD_LIBEXECDIR "/vmd-shim",
		.argv = argv,
		.fds = st->fds,
		.new_session = true,
		.null_stdio = true,
	};
	cleanup_close int wr = -EBADF;
	int pipes[2], r;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "cannot start vmd-shim");
	st->ready_fd = pipes[0];
	wr = pipes[1];
	(void)fd_set_nonblock(st->ready_fd, 1);
	st->fds[st->n_fds++] = (struct spawn_fd){ st->doc_fd, SHIM_LAUNCH_FD };
	st->fds[st->n_fds++] = (struct spawn_fd){ wr, READY_FD };
	st->fds[st->n_fds++] = (struct spawn_fd){ wr, 2 };
	spec.n_fds = st->n_fds;
	r = proc_spawn(&spec, &pid, &st->pidfd, err);
	if (r < 0) {
		if (err->kind == ERROR_NOT_FOUND) /* a program is missing, not a guest */
			err->kind = ERROR_ENGINE_FAILED;
		return r;
	}
	r = watch_shim(st->pidfd);
	if (r < 0) {
		(void)proc_signal(st->pidfd, SIGKILL);
		return error_set_errno(err, -r, "cannot start vmd-shim");
	}
	pass_gate(st, pid);
	return 0;
}

/* ---- the ready line ---- */

static int ready_error(const char *text, struct vmd_error *err)
{
	const char *line = strchr(text, '{');
	cleanup_json json_t *v = line ? jsonx_parse(line, strlen(line), 4, NULL) : NULL;

	if (v && jsonx_bool(v, "ok", false))
		return 0;
	if (v)
		return error_set(err, ERROR_ENGINE_FAILED, "%s (step '%s')",
		                 jsonx_str(v, "error", "vmd-shim failed"),
		                 jsonx_str(v, "step", "?"));
	return error_set(err, ERROR_ENGINE_FAILED, "vmd-shim ended before it was ready%s%.*s",
	                 text[0] ? ": " : "", (int)strcspn(text, "\n"), text);
}

static int read_ready(struct starting *st, struct vmd_error *err)
{
	char text[MAX_READY_LINE + 1];
	size_t len = 0;

	while (len < MAX_READY_LINE) {
		ssize_t n = read(st->ready_fd, text + len, MAX_READY_LINE - len);
		int r;

		if (n == 0)
			break;
		if (n > 0) {
			len += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		r = errno == EAGAIN ? fiber_wait_fd(st->ready_fd, EV_READ, time_left_ms(st))
		                    : -errno;
		if (r == -ETIMEDOUT)
			return error_set(err, ERROR_TIMEOUT, "vmd-shim was not ready in time");
		if (r < 0)
			return error_set_errno(err, -r, "cannot start vmd-shim");
	}
	text[len] = '\0';
	return ready_error(text, err);
}

/* ---- the engine ---- */

/* An engine that cannot reach its helper says so; why is what the helper said. */
static bool failed_helper(const struct shim *s, struct shim_exit *ret)
{
	json_t *msg;
	size_t i;

	json_array_foreach(s->held, i, msg)
		if (strcmp(jsonx_str(msg, "event", ""), "helper-exit") == 0 &&
		    shim_parse_exit(msg, ret) == 0 && (!ret->exited || ret->code))
			return true;
	return false;
}

static int engine_error(const struct shim *s, struct vmd_error *err)
{
	struct shim_exit helper;
	char text[320], why[320];

	(void)shim_exit_text(s->exit, text, sizeof(text));
	if (failed_helper(s, &helper))
		return error_set(err, ERROR_ENGINE_FAILED,
		                 "the engine ended while starting, after its helper '%s' %s (%s)",
		                 helper.process, shim_exit_text(&helper, why, sizeof(why)), text);
	return error_set(err, ERROR_ENGINE_FAILED, "the engine ended while starting: %s", text);
}

/* Data, or the end of file: then the engine's end follows, and this is of no more use. */
static void on_qmp(struct ev_loop *loop, ev_io *w, int revents)
{
	struct shim *s = w->data;

	(void)revents;
	ev_io_stop(loop, w);
	waitq_wake_all(&s->exit_wait);
}

/* Until the engine says something on QMP, or ends. */
static int wait_engine(struct starting *st, struct shim *s, struct vmd_error *err)
{
	char byte;
	int r = 0;

	if (s->exit)
		return engine_error(s, err);
	if (st->launch->qmp_fd < 0)
		return 0;
	if (s->qmp_fd < 0)
		return error_set(err, ERROR_ENGINE_FAILED, "vmd-shim gave no QMP connection");
	s->qmp_io.data = s;
	ev_io_init(&s->qmp_io, on_qmp, s->qmp_fd, EV_READ);
	ev_io_start(fiber_loop(), &s->qmp_io);
	while (r == 0 && !s->exit && recv(s->qmp_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
		r = s->sock < 0 ? -EPIPE : waitq_wait(&s->exit_wait, time_left_ms(st));
	ev_io_stop(fiber_loop(), &s->qmp_io);
	if (r == 0)
		return s->exit ? engine_error(s, err) : 0;
	if (r == -ETIMEDOUT)
		return error_set(err, ERROR_TIMEOUT, "the engine did not start in time");
	return error_set_errno(err, -r, "the engine did not start");
}

/* Nothing may be left of a guest that did not start. */
static void undo(struct starting *st, struct shim *s, struct vmd_error *err)
{
	fiber_shield(true);
	if (s->sock >= 0) {
		if (s->pidfd >= 0)
			(void)proc_signal(s->pidfd, SIGKILL);
		st->deadline_us = now_monotonic_us() + KILL_TIMEOUT_MS * 1000;
		while (!s->exit && s->sock >= 0 && waitq_wait(&s->exit_wait, time_left_ms(st)) == 0)
			;
		if (shim_release(s, NULL) == 0)
			s->hello_done = false;
	}
	/* The engine's death signal makes this hold for every process of the guest. */
	(void)proc_signal(st->pidfd, SIGKILL);
	if (fiber_wait_fd(st->pidfd, EV_READ, KILL_TIMEOUT_MS) < 0)
		error_hint(err, "vmd-shim of this guest cannot be killed");
	if (s->hello_done) /* else the socket may be another one's */
		shim_forget(st->params->runtime_dir);
	fiber_shield(false);
}

int shim_start(const struct shim_params *params, const struct launch *launch,
               const struct shim_ops *ops, void *userdata, struct shim **ret, struct vmd_error *err)
{
	cleanup_starting struct starting st = { .params = params,
		                                .launch = launch,
		                                .next_fd = FIRST_FD,
		                                .doc_fd = -EBADF,
		                                .ready_fd = -EBADF,
		                                .pidfd = -EBADF,
		                                .gate_fd = -EBADF,
		                                .opened_fd = -EBADF };
	int64_t timeout_ms = params->timeout_ms > 0 ? params->timeout_ms : DEFAULT_TIMEOUT_MS;
	cleanup_with(shim_free) struct shim *s = NULL;
	int r;

	st.deadline_us = now_monotonic_us() + (uint64_t)timeout_ms * 1000;
	r = shim_new(params->runtime_dir, params->uuid, ops, userdata, &s);
	if (r == 0 && !(s->held = json_array()))
		r = -ENOMEM;
	if (r < 0)
		return error_set_errno(err, -r, "cannot start the guest");
	s->starting = true;
	if ((r = make_gate(&st, err)) < 0 || (r = write_doc(&st, err)) < 0 ||
	    (r = spawn_shim(&st, err)) < 0)
		return r;
	if ((r = read_ready(&st, err)) < 0 || (r = shim_connect(s, time_left_ms(&st), err)) < 0 ||
	    (r = wait_engine(&st, s, err)) < 0) {
		undo(&st, s, err);
		return r;
	}
	s->starting = false;
	shim_publish(s);
	*ret = TAKE_PTR(s);
	return 0;
}
