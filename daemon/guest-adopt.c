/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reconciling a loaded guest with the world: its shim, if any, knows the truth. Nothing that goes
 * wrong here ends a guest; what cannot be asked is "unresponsive", not "stopped".
 */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/guest-change.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/qmp.h"
#include "daemon/ram.h"
#include "daemon/shim.h"
#include "daemon/vmd.h"

struct lock_probe {
	char path[560];
	bool held;
};

static int probe_lock(void *arg)
{
	struct lock_probe *p = arg;
	cleanup_close int fd = open(p->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	p->held = fd >= 0 && fs_lock_ofd(fd, 1) == -EAGAIN;
	return 0;
}

/* Whether any process still holds the guest's lock file: then the engine lives, shim or no shim. */
static bool engine_lives(struct guest *g)
{
	struct lock_probe p = { .held = false };
	char state[512];

	guest_state_dir(g, state, sizeof(state));
	snprintf(p.path, sizeof(p.path), "%s/lock", state);
	(void)work_run(probe_lock, &p);
	return p.held;
}

/* Whether the guest is now what the call wanted. */
static bool is_achieved(const struct guest *g, const char *method)
{
	static const struct {
		const char *method;
		unsigned states;
	} wanted[] = {
		{ "vm.start", 1u << GUEST_RUNNING | 1u << GUEST_PAUSED },
		{ "vm.resume", 1u << GUEST_RUNNING },
		{ "vm.suspend", 1u << GUEST_SUSPENDED },
		{ "vm.stop", 1u << GUEST_STOPPED | 1u << GUEST_FAILED },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (strcmp(method, wanted[i].method) == 0)
			return wanted[i].states >> g->state & 1;
	return false;
}

/* Ends the jobs that the last daemon left on this guest, by what became of it. */
static void settle_jobs(struct guest *g)
{
	struct job *job;

	while ((job = job_interrupted_of(g->vmd, g->uuid))) {
		cleanup_json json_t *result = guest_change_json(g);
		struct vmd_error err = VMD_ERROR_INIT;

		if (is_achieved(g, job_method(job))) {
			job_finish(job, result, NULL);
			continue;
		}
		(void)error_set(&err, ERROR_INTERNAL,
		                "the daemon was restarted while the job was at work");
		error_hint(&err,
		           "guest '%s' is %s now; repeat the call if that is not what you want",
		           g->name, guest_state_name(g->state));
		job_finish(job, NULL, &err);
	}
}

/* A memory transfer that the last daemon began would pause the guest once more at its end. */
static void end_migration(struct guest *g)
{
	cleanup_json json_t *info = NULL;
	const char *status;

	if (guest_qmp(g, "query-migrate", NULL, &info, NULL) < 0)
		return;
	status = jsonx_str(info, "status", "");
	if (strcmp(status, "setup") == 0 || strcmp(status, "active") == 0 ||
	    strcmp(status, "device") == 0)
		(void)guest_qmp(g, "migrate_cancel", NULL, NULL, NULL);
}

static int query_status(struct guest *g, json_t **ret)
{
	int r = guest_qmp(g, "query-status", NULL, ret, NULL);

	if (r < 0 && g->run && !g->run->exited && g->state != GUEST_UNRESPONSIVE)
		(void)guest_apply(g, GUEST_EVENT_MUTE, "no-answer", "vmd", NULL);
	return r;
}

/* An operation of the last daemon had stopped the vCPUs for itself: it is called off. */
static bool was_running(const struct guest *g)
{
	return g->state == GUEST_RUNNING ||
	       (g->state == GUEST_SUSPENDING && g->settled_state == GUEST_RUNNING);
}

static void apply_engine_status(struct guest *g)
{
	cleanup_json json_t *status = NULL;

	if (query_status(g, &status) < 0)
		return;
	if (!g->run->unfinished_start)
		end_migration(g);
	if (g->state == GUEST_SUSPENDING)
		ram_drop_suspended(g);
	if (was_running(g) && guest_status_is_ours(jsonx_str(status, "status", "")) &&
	    guest_qmp(g, "cont", NULL, NULL, NULL) == 0)
		(void)jsonx_set(status, "running", json_true());
	if (g->state == GUEST_STOPPING && strcmp(g->run->cause_hint, "kill") == 0) {
		(void)guest_force_end(g, "kill", NULL);
		return;
	}
	if (g->state == GUEST_STOPPING) {
		guest_set_hint(g, "");
		g->want_running = true;
	}
	guest_take_status(g, status, "adopted", "vmd");
}

static void adopt_live(struct guest *g)
{
	const struct shim_exit *exit = shim_exited(g->run->shim);
	struct vmd_error err = VMD_ERROR_INIT;
	int r;

	g->run->pid = shim_pid(g->run->shim);
	for (int i = 0; i < _READY_MAX; i++)
		g->run->ready_us[i] = shim_ready_us(g->run->shim, (enum shim_ready_level)i);
	r = guest_run_connect(g, false, &err);
	if (exit) {
		/* It ended while nobody looked; its last QMP events are still to be read. */
		guest_on_exit(g, exit);
		return;
	}
	if (r < 0) {
		log_warning("Guest '%s': %s", g->name, err.message);
		if (g->state != GUEST_UNRESPONSIVE)
			(void)guest_apply(g, GUEST_EVENT_MUTE, "no-qmp", "vmd", NULL);
		return;
	}
	apply_engine_status(g);
}

static void attach(struct guest *g);

/* A shim that did not answer is asked again and again: its guest may only have been stopped. */
static void attach_again(void *arg)
{
	enum {
		AGAIN_MS = 1000
	};
	struct guest *g = arg;
	struct guest_run *run = g->run;

	while (fiber_sleep_ms(AGAIN_MS) == 0) {
		if (fiber_mutex_lock(&g->lock) < 0)
			break;
		if (g->run == run && run && !run->shim && !g->vmd->stopping)
			attach(g);
		else
			run = NULL;
		fiber_mutex_unlock(&g->lock);
		if (!run || run != g->run || run->shim)
			break;
	}
	guest_unref(g);
}

/* No shim answers. With the lock held the engine lives and is only out of reach. */
static void settle_lost(struct guest *g, int why, const struct vmd_error *err)
{
	struct shim_exit exit = { .process = "engine", .time_us = now_wall_us() };
	char dir[512];

	if (why == -ETIMEDOUT || why == -EREMOTEIO || engine_lives(g)) {
		if (g->state == GUEST_UNRESPONSIVE && g->run->attaching)
			return;
		log_warning("Guest '%s' cannot be reached: %s", g->name, err->message);
		if (g->state != GUEST_UNRESPONSIVE)
			(void)guest_apply(g, GUEST_EVENT_MUTE, "no-shim", "vmd", NULL);
		g->run->attaching = true;
		if (fiber_start("attach", attach_again, guest_ref(g)) < 0)
			guest_unref(g);
		return;
	}
	if (shim_last_exit(guest_runtime_dir(g, dir, sizeof(dir)), &exit) < 0)
		log_warning("Guest '%s' is gone and left no exit record", g->name);
	guest_on_exit(g, &exit);
}

static void attach(struct guest *g)
{
	enum {
		ATTACH_MS = 1000
	};
	struct vmd_error err = VMD_ERROR_INIT;
	char dir[512];
	int r = shim_attach(guest_runtime_dir(g, dir, sizeof(dir)), g->uuid, ATTACH_MS,
	                    &guest_shim_ops, g, &g->run->shim, &err);

	if (r == 0)
		adopt_live(g);
	else
		settle_lost(g, r, &err);
}

static void adopt(struct guest *g)
{
	if (!g->run)
		g->run = calloc(1, sizeof(*g->run));
	if (g->run && !g->run->definition)
		g->run->definition = strdup(g->definition);
	if (!g->run || !g->run->definition)
		return;
	g->run->unfinished_start = g->state == GUEST_STARTING;
	attach(g);
	/* An end that nobody saw is settled before anybody asks. */
	if (g->run && g->run->exited && guest_wait_end(g, -1) < 0)
		log_debug("Guest '%s': its end is not settled yet", g->name);
}

static void ignore_exit(void *userdata UNUSED, const struct shim_exit *exit UNUSED)
{
}

static void ignore_ready(void *userdata UNUSED, enum shim_ready_level level UNUSED,
                         uint64_t time_us UNUSED, uint64_t since_start_us UNUSED)
{
}

/*
 * The last daemon may have died when the end of the guest was durable and its shim, which waits for
 * that, not yet released. Nothing else would ever do it, and the guest could not be started again.
 */
static void release_left_shim(struct guest *g)
{
	static const struct shim_ops nothing = { .on_exit = ignore_exit,
		                                 .on_ready = ignore_ready,
		                                 .on_helper_exit = ignore_exit,
		                                 .on_lost = ignore_exit };
	enum {
		LEFT_MS = 1000
	};
	cleanup_with(shim_free) struct shim *shim = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	char dir[512], path[544];

	guest_runtime_dir(g, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/shim.sock", dir);
	if (access(path, F_OK) < 0 ||
	    shim_attach(dir, g->uuid, LEFT_MS, &nothing, NULL, &shim, &err) < 0)
		return;
	if (!shim_exited(shim))
		log_warning("Guest '%s' is %s, yet a process of it runs", g->name,
		            guest_state_name(g->state));
	else if (shim_release(shim, &err) < 0)
		log_warning("Guest '%s': its shim does not go: %s", g->name, err.message);
	else
		shim_forget(dir);
}

void guest_adopt(struct guest *g)
{
	if (fiber_mutex_lock(&g->lock) < 0)
		return;
	if (guest_state_is_live(g->state)) {
		adopt(g);
	} else {
		guest_run_free(g->run);
		g->run = NULL;
		release_left_shim(g);
		if (g->restart_pending)
			guest_go_on_restarting(g);
	}
	settle_jobs(g);
	fiber_mutex_unlock(&g->lock);
}
