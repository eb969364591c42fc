/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/macros.h"
#include "common/timeutil.h"

enum {
	OUT_MAX = 256 << 10,   /* waiting for a reader; events beyond are dropped */
	OUT_PAUSE = 128 << 10, /* no command is run while more waits; no reply is as long */
	BALLOON_MS = 1000,
	LAST_WORDS_MS = 1000
};

/* Written by the signal handler: somebody wants the process to end. */
static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	signalled = sig;
}

static void close_connection(struct control *c)
{
	/* Whoever controlled the guest is gone. The guest lives on. */
	cleanup_close_p(&c->fd);
	qmp_frame_reset(&c->frame);
	c->in_at = c->in_len = 0;
	free(c->out);
	c->out = NULL;
	c->out_len = 0;
	fd_close_many(c->received, c->n_received);
	c->n_received = 0;
}

/* seccomp main: sendmsg, recvmsg. */
static ssize_t send_some(struct control *c, const char *data, size_t len)
{
	ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		close_connection(c);
	return n;
}

static void flush(struct control *c)
{
	ssize_t n;

	if (c->fd < 0 || !c->out_len)
		return;
	n = send_some(c, c->out, c->out_len);
	if (n <= 0)
		return;
	c->out_len -= (size_t)n;
	memmove(c->out, c->out + n, c->out_len);
	if (!c->out_len) {
		free(c->out);
		c->out = NULL;
	}
}

/* A whole line, or nothing of it. */
static bool put_line(struct control *c, const char *text, size_t len)
{
	ssize_t sent = 0;

	if (c->fd < 0)
		return false;
	if (!c->out_len)
		sent = send_some(c, text, len);
	if (sent < 0 || c->out_len + len > OUT_MAX)
		return false;
	if ((size_t)sent == len)
		return true;
	if (!c->out)
		c->out = malloc(OUT_MAX);
	if (!c->out) {
		if (sent) /* cut in the middle: the peer cannot follow any more */
			close_connection(c);
		return false;
	}
	memcpy(c->out + c->out_len, text + sent, len - (size_t)sent);
	c->out_len += len - (size_t)sent;
	return true;
}

static bool put_json(struct control *c, json_t *message)
{
	cleanup_json json_t *owned = message;
	cleanup_free char *text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	char *line = text ? realloc(text, len + 3) : NULL;

	if (!line)
		return false;
	text = line;
	memcpy(line + len, "\r\n", 3);
	return put_line(c, line, len + 2);
}

void control_event(struct control *c, const char *name, json_t *data)
{
	uint64_t now = now_wall_us();
	json_t *event;

	if (!c || c->fd < 0 || !c->negotiated) {
		json_decref(data);
		return;
	}
	event = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds",
	                  (json_int_t)(now / 1000000u), "microseconds",
	                  (json_int_t)(now % 1000000u), "event", name);
	if (event && data)
		json_object_set_new(event, "data", data);
	if (!put_json(c, event))
		c->events_dropped++;
}

void control_warn(struct control *c, const struct vmd_error *err)
{
	fprintf(stderr, "vmd-vmm: %s\n", err->message);
	control_event(c, "X_VMD_ERROR", json_pack("{s:s}", "desc", err->message));
}

void control_tell_failure(struct control *c)
{
	struct vcpus *a = &c->machine->vcpus;
	struct vcpu_failure f;

	pthread_mutex_lock(&a->lock);
	f = a->failure;
	pthread_mutex_unlock(&a->lock);
	if (!f.valid)
		return;
	control_event(c, "X_VMD_VCPU_FAILED", control_failure(&f));
	/* A guest that faults again and again does not fill anybody's log. */
	if (c->failure_told_us && now_monotonic_us() - c->failure_told_us < 1000000)
		return;
	c->failure_told_us = now_monotonic_us();
	fprintf(stderr,
	        "vmd-vmm: processor %u: %s (exit %u): rip=%llx rsp=%llx cs=%x cr0=%llx cr2=%llx "
	        "cr3=%llx cr4=%llx efer=%llx rflags=%llx\n",
	        f.cpu, f.reason, f.exit_reason, f.regs.rip, f.regs.rsp, f.cs,
	        (unsigned long long)f.cr0, (unsigned long long)f.cr2, (unsigned long long)f.cr3,
	        (unsigned long long)f.cr4, (unsigned long long)f.efer, f.regs.rflags);
}

static void reply(struct control *c, const json_t *id, const char *member, json_t *value)
{
	json_t *message = json_pack("{s:o}", member, value);

	if (message && id)
		json_object_set(message, "id", (json_t *)id);
	/* Who waits for it would wait for ever. */
	if (!put_json(c, message))
		close_connection(c);
}

static void reply_error(struct control *c, const json_t *id, const char *class, const char *desc)
{
	reply(c, id, "error",
	      json_pack("{s:s, s:s}", "class", class ? class : "GenericError", "desc", desc));
}

static int negotiate(struct control *c, const json_t *args, struct vmd_error *err)
{
	if (json_object_size(args) != (json_object_get(args, "enable") ? 1 : 0) ||
	    json_array_size(json_object_get(args, "enable")))
		return error_set(err, ERROR_INVALID, "there are no such capabilities");
	c->negotiated = true;
	return 0;
}

static int check_request(const json_t *request, struct vmd_error *err)
{
	const json_t *args = json_object_get(request, "arguments");
	const char *key;
	json_t *value;

	if (!json_is_string(json_object_get(request, "execute")))
		return error_set(err, ERROR_INVALID, "QMP input lacks member 'execute'");
	if (args && !json_is_object(args))
		return error_set(err, ERROR_INVALID,
		                 "QMP input member 'arguments' must be an object");
	json_object_foreach((json_t *)request, key, value)
		if (strcmp(key, "execute") != 0 && strcmp(key, "arguments") != 0 &&
		    strcmp(key, "id") != 0)
			return error_set(err, ERROR_INVALID,
			                 "QMP input member '%.64s' is unexpected", key);
	return 0;
}

static void handle_request(struct control *c, const json_t *request)
{
	const char *name = jsonx_str(request, "execute", "");
	const json_t *args = json_object_get(request, "arguments");
	const json_t *id = json_object_get(request, "id");
	struct vmd_error err = VMD_ERROR_INIT;
	const char *class = NULL;
	json_t *value = NULL;
	int r = check_request(request, &err);

	if (r < 0) {
		reply_error(c, id, NULL, err.message);
		return;
	}
	if ((strcmp(name, "qmp_capabilities") == 0) == c->negotiated) {
		reply_error(
			c, id, "CommandNotFound",
			c->negotiated
				? "Capabilities negotiation is already complete, command ignored"
				: "Expecting capabilities negotiation with 'qmp_capabilities'");
		return;
	}
	if (!c->negotiated)
		r = negotiate(c, args, &err);
	else
		r = control_execute(c, name, args, &value, &class, &err);
	if (r < 0)
		reply_error(c, id, class, err.kind == ERROR_NONE ? strerror(-r) : err.message);
	else
		reply(c, id, "return", value ? value : json_object());
}

static void handle_message(struct control *c)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *request = jsonx_parse(c->frame.buf, c->frame.len, QMP_DEPTH_MAX, &err);

	qmp_frame_reset(&c->frame);
	if (request)
		handle_request(c, request);
	else
		reply_error(c, NULL, NULL, err.message);
}

static bool may_run_commands(const struct control *c)
{
	return c->fd >= 0 && !c->quitting && c->out_len <= OUT_PAUSE;
}

/* Commands that were sent without waiting for replies are run as fast as these are read, so that
 * each one has its reply. */
static void handle_input(struct control *c)
{
	while (c->in_at < c->in_len && may_run_commands(c)) {
		size_t used = 0;
		int r = qmp_frame_feed(&c->frame, c->in + c->in_at, c->in_len - c->in_at, &used);

		c->in_at += used;
		if (r > 0) {
			handle_message(c);
		} else if (r < 0) {
			reply_error(c, NULL, NULL,
			            r == -E2BIG ? "JSON value is too large or too deep"
			                        : "JSON parse error, expecting an object");
		}
	}
	/* What no command took does not wait for another one. */
	if (c->in_at == c->in_len && !c->frame.buf) {
		fd_close_many(c->received, c->n_received);
		c->n_received = 0;
	}
}

static void receive(struct control *c)
{
	int fds[CONTROL_MAX_FDS];
	size_t n_fds = 0;
	ssize_t n = fd_recv(c->fd, c->in, sizeof(c->in), fds, CONTROL_MAX_FDS, &n_fds);

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		close_connection(c);
		return;
	}
	if (n_fds) {
		fd_close_many(c->received, c->n_received);
		memcpy(c->received, fds, n_fds * sizeof(fds[0]));
		c->n_received = (unsigned)n_fds;
	}
	c->in_at = 0;
	c->in_len = (size_t)n;
	handle_input(c);
}

void control_init(struct control *c, struct machine *m, int fd)
{
	struct sigaction action = { .sa_handler = on_signal };

	*c = (struct control){ .machine = m, .fd = fd };
	for (unsigned i = 0; i < CONTROL_MAX_FDS; i++)
		c->named[i].fd = -EBADF;
	snapshot_init(&c->snapshot);
	m->control = c;
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGHUP, &action, NULL);
	(void)put_json(c, json_pack("{s:{s:{s:{s:i, s:i, s:i}, s:s}, s:[]}}", "QMP", "version",
	                            "qemu", "micro", 0, "minor", 2, "major", 7, "package",
	                            "vmd-vmm " PACKAGE_VERSION, "capabilities"));
}

void control_deinit(struct control *c)
{
	close_connection(c);
	for (unsigned i = 0; i < CONTROL_MAX_FDS; i++)
		cleanup_close_p(&c->named[i].fd);
	snapshot_deinit(&c->snapshot);
}

/* At most once a second while the guest gives up or takes back memory, as QEMU does. */
static bool watch_balloon(struct control *c)
{
	struct virtio_device *b = c->machine->balloon;
	uint64_t pages = b ? virtio_balloon_actual(b) : 0;

	if (pages == c->balloon_told)
		return false;
	c->balloon_told = pages;
	control_event(c, "BALLOON_CHANGE",
	              json_pack("{s:I}", "actual",
	                        (json_int_t)(c->machine->config->memory_bytes - pages * 4096)));
	return true;
}

/* What was said last, SHUTDOWN and its reason, should be heard; but nobody is waited for long. */
static void say_last_words(struct control *c)
{
	uint64_t end = now_monotonic_us() + LAST_WORDS_MS * 1000u;

	while (c->fd >= 0 && c->out_len && now_monotonic_us() < end) {
		struct pollfd p = { .fd = c->fd, .events = POLLOUT };

		(void)poll(&p, 1, LAST_WORDS_MS / 10);
		flush(c);
	}
}

/* Milliseconds until something is to be done by itself; -1: nothing. */
static int next_work_ms(const struct control *c)
{
	int reset = machine_reset_wait_ms(c->machine);

	if (snapshot_is_active(&c->snapshot) || (c->in_at < c->in_len && may_run_commands(c)))
		return 0;
	if (!c->machine->balloon)
		return reset;
	return reset < 0 ? BALLOON_MS : MIN_OF(reset, BALLOON_MS);
}

/* What the connection is ready for. The peer may read all its replies and hang up meanwhile. */
static void serve_connection(struct control *c, short revents)
{
	if (revents & (POLLOUT | POLLHUP | POLLERR))
		flush(c);
	if (c->in_at < c->in_len)
		handle_input(c);
	else if (c->fd >= 0 && (revents & (POLLIN | POLLHUP | POLLERR)))
		receive(c);
}

/* False when waiting itself failed. */
static bool wait_for_work(struct control *c, int timeout_ms, struct pollfd p[2])
{
	struct timespec ts = { 0 };
	sigset_t none;

	sigemptyset(&none);
	if (c->in_at == c->in_len && may_run_commands(c))
		p[1].events |= POLLIN;
	if (c->out_len)
		p[1].events |= POLLOUT;
	if (timeout_ms > 0)
		ts = (struct timespec){ timeout_ms / 1000, timeout_ms % 1000 * 1000000L };
	/* The signals that end the process are only let in here, so none is missed.
	 * seccomp main: ppoll. */
	return ppoll(p, 2, timeout_ms < 0 ? NULL : &ts, &none) >= 0 || errno == EINTR;
}

int control_turn(struct control *c, int timeout_ms)
{
	struct machine *m = c->machine;
	struct pollfd p[2] = { { .fd = m->event_fd, .events = POLLIN }, { .fd = c->fd } };

	if (!wait_for_work(c, timeout_ms, p))
		return -errno;
	if (signalled)
		machine_shut_down(m, false, "host-signal", 0);
	if (p[0].revents && m->status != MACHINE_SHUTDOWN)
		machine_handle_events(m);
	if (m->status != MACHINE_SHUTDOWN)
		machine_reset_if_due(m);
	serve_connection(c, p[1].revents);
	if (c->quitting)
		machine_shut_down(m, false, "host-qmp-quit", 0);
	if (snapshot_is_active(&c->snapshot))
		snapshot_step(&c->snapshot, m);
	if (m->balloon)
		(void)watch_balloon(c);
	return 0;
}

int control_run(struct control *c)
{
	struct machine *m = c->machine;

	while (m->status != MACHINE_SHUTDOWN)
		if (control_turn(c, next_work_ms(c)) < 0)
			break;
	say_last_words(c);
	return m->exit_status;
}
