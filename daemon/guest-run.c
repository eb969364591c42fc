/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest-run.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "daemon/definition.h"
#include "daemon/engine.h"
#include "daemon/qmp.h"
#include "daemon/ram.h"
#include "daemon/shim.h"
#include "daemon/vmd.h"

void guest_run_free(struct guest_run *run)
{
	if (!run)
		return;
	qmp_free(run->qmp);
	guest_events_free(run->events);
	shim_free(run->shim);
	free(run->definition);
	free(run->exit);
	free(run);
}

static void on_qmp_event(void *userdata, const char *name, const json_t *data, uint64_t time_us)
{
	struct guest *g = userdata;
	struct guest_run *run = g->run;

	(void)time_us;
	if (!run)
		return;
	if (strcmp(name, "SHUTDOWN") == 0)
		snprintf(run->shutdown_reason, sizeof(run->shutdown_reason), "%s",
		         jsonx_str(data, "reason", "unknown"));
	else if (strcmp(name, "STOP") == 0 || strcmp(name, "RESUME") == 0)
		guest_status_changed(g, name[0] == 'S');
	if (strcmp(name, "GUEST_PANICKED") == 0)
		run->panicked = true;
	if (strcmp(name, "WATCHDOG") == 0)
		run->watchdog_fired = true;
	guest_event(g, name, data);
}

/* QMP ends a moment before the shim tells of the exit. Only an engine that outlives its QMP by more
 * than this is out of reach. */
enum {
	EXIT_GRACE_MS = 2000
};

static void after_qmp_closed(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;
	uint64_t end = now_monotonic_us() + EXIT_GRACE_MS * 1000u, now;

	while (g->run == run && !run->exited && (now = now_monotonic_us()) < end)
		if (waitq_wait(&g->changed, (int64_t)((end - now) / 1000) + 1) == -ECANCELED)
			break;
	/* A start under way fails by itself when its next command does. */
	if (g->run == run && !run->exited && guest_state_is_live(g->state) &&
	    g->state != GUEST_UNRESPONSIVE && g->state != GUEST_STARTING)
		(void)guest_apply(g, GUEST_EVENT_MUTE, "qmp-closed", "vmd", NULL);
	guest_unref(g);
}

static void on_qmp_closed(void *userdata, const char *reason)
{
	struct guest *g = userdata;

	if (!g->run)
		return;
	g->run->qmp_closed = true;
	guest_events_flush(g->run->events);
	log_debug("Guest '%s': QMP ended: %s", g->name, reason);
	waitq_wake_all(&g->changed);
	if (!g->run->exited && fiber_start("qmp-closed", after_qmp_closed, guest_ref(g)) < 0)
		guest_unref(g);
}

const struct qmp_ops guest_qmp_ops = { .on_event = on_qmp_event, .on_closed = on_qmp_closed };

static void on_shim_ready(void *userdata, enum shim_ready_level level, uint64_t time_us,
                          uint64_t since_start_us)
{
	struct guest *g = userdata;

	if (!g->run)
		return;
	g->run->ready_us[level] = since_start_us ? since_start_us : 1;
	registry_touch(g->vmd->guests);
	guest_publish(g, "vm.ready",
	              json_pack("{s:s, s:I, s:I}", "level", shim_ready_name(level), "time_us",
	                        (json_int_t)time_us, "since_start_us", (json_int_t)since_start_us));
	waitq_wake_all(&g->changed);
}

static void on_shim_exit(void *userdata, const struct shim_exit *exit)
{
	guest_on_exit(userdata, exit);
}

/* An engine that outlived its shim: nobody else will tell of its end. */
static void watch_orphan(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;
	int own = shim_pidfd(run->shim);
	cleanup_close int pidfd = own >= 0 ? fcntl(own, F_DUPFD_CLOEXEC, 0) : -EBADF;

	if (pidfd >= 0 && fiber_wait_fd(pidfd, EV_READ, -1) == 0 && g->run == run)
		guest_on_exit(g,
		              &(struct shim_exit){ .process = "engine", .time_us = now_wall_us() });
	guest_unref(g);
}

static void on_shim_lost(void *userdata, const struct shim_exit *exit)
{
	struct guest *g = userdata;

	if (!exit->known && exit->alive) {
		if (guest_state_is_live(g->state) && g->state != GUEST_UNRESPONSIVE)
			(void)guest_apply(g, GUEST_EVENT_MUTE, "shim-lost", "vmd", NULL);
		if (g->run && fiber_start("orphan", watch_orphan, guest_ref(g)) < 0)
			guest_unref(g);
		return;
	}
	guest_on_exit(g, exit);
}

static void on_shim_helper_exit(void *userdata, const struct shim_exit *exit)
{
	struct guest *g = userdata;
	char text[256];

	log_warning("Guest '%s': helper '%s' %s", g->name, exit->process,
	            shim_exit_text(exit, text, sizeof(text)));
	guest_publish(g, "vm.helper_exit",
	              json_pack("{s:s, s:s}", "process", exit->process, "text", text));
}

const struct shim_ops guest_shim_ops = {
	.on_exit = on_shim_exit,
	.on_ready = on_shim_ready,
	.on_helper_exit = on_shim_helper_exit,
	.on_lost = on_shim_lost,
};

int guest_qmp_fds(struct guest *g, const char *command, const json_t *args, const int *fds,
                  size_t n_fds, json_t **ret, struct vmd_error *err)
{
	bool ours;
	int r;

	if (!g->run || !g->run->qmp || g->run->exited)
		return error_set(err, ERROR_ENGINE_FAILED, "guest '%s' has no engine process",
		                 g->name);
	r = qmp_call(g->run->qmp, command, args, fds, n_fds, (int64_t)g->vmd->config.qmp_timeout_ms,
	             ret, err);
	/* A call that ran into its own deadline says nothing about the engine. */
	ours = fiber_deadline() && now_monotonic_us() >= fiber_deadline();
	if (r == -ETIMEDOUT && !ours && g->run && guest_state_is_live(g->state)) {
		guest_became_mute(g);
		error_hint(err,
		           "the engine process may be stopped or stuck: wait for it, or kill it");
	}
	if (r < 0)
		error_prefix(err, "guest '%s'", g->name);
	return r;
}

int guest_qmp(struct guest *g, const char *command, const json_t *args, json_t **ret,
              struct vmd_error *err)
{
	return guest_qmp_fds(g, command, args, NULL, 0, ret, err);
}

int guest_run_connect(struct guest *g, bool fresh, struct vmd_error *err)
{
	int fd = shim_take_qmp_fd(g->run->shim);

	if (fd < 0)
		return error_set_errno(err, -fd, "guest '%s' has no QMP socket", g->name);
	if (qmp_new(fd, fresh, &guest_qmp_ops, g, &g->run->qmp) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	vmd_watch_health(g->vmd);
	return 0;
}

int guest_wait_end(struct guest *g, int64_t timeout_ms)
{
	uint64_t end = now_monotonic_us() + (uint64_t)timeout_ms * 1000;

	while (g->run) {
		int64_t left = -1;
		int r;

		if (timeout_ms >= 0) {
			uint64_t now = now_monotonic_us();

			left = now >= end ? 0 : (int64_t)((end - now) / 1000) + 1;
			if (!left)
				return -ETIMEDOUT;
		}
		r = waitq_wait(&g->changed, left);
		if (r < 0)
			return r;
	}
	return 0;
}

void guest_set_hint(struct guest *g, const char *hint)
{
	if (g->run)
		snprintf(g->run->cause_hint, sizeof(g->run->cause_hint), "%s", hint);
}

/* Of a guest whose shim does not answer: engine and shim are known by the shim's record. */
static int kill_recorded(struct guest *g)
{
	struct guest_run *run = g->run;
	char dir[512];
	int r = shim_kill_recorded(guest_runtime_dir(g, dir, sizeof(dir)));

	if (r == 0 && g->run == run)
		guest_on_exit(g,
		              &(struct shim_exit){ .process = "engine", .time_us = now_wall_us() });
	return r;
}

int guest_force_end(struct guest *g, const char *hint, struct vmd_error *err)
{
	int r = 0;

	if (!g->run)
		return 0;
	if (!g->run->cause_hint[0])
		guest_set_hint(g, hint);
	if (!g->run->shim && !g->run->attaching)
		return 0; /* being launched: the start sees that it is not wanted any more */
	fiber_shield(true);
	if (!g->run->exited)
		r = g->run->shim ? shim_signal(g->run->shim, SIGKILL) : kill_recorded(g);
	if (r == 0 || r == -ESRCH)
		r = guest_wait_end(g, 10000);
	fiber_shield(false);
	if (r < 0 && r != -ETIMEDOUT)
		return error_set_errno(err, -r, "cannot end the engine of guest '%s'", g->name);
	if (r < 0)
		return error_set(
			err, ERROR_TIMEOUT,
			"guest '%s' did not end within 10 s of SIGKILL (stuck in the kernel?)",
			g->name);
	return 0;
}
