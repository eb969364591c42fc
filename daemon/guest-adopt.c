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
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/qmp.h"
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

/* Finishes the job that the last daemon left running on this guest, by what became of it. */
static void settle_job(struct guest *g, bool done)
{
	struct job *job = job_interrupted_of(g->vmd, g->uuid);
	struct vmd_error err = VMD_ERROR_INIT;

	if (!job)
		return;
	if (done) {
		job_finish(job, NULL, NULL);
		return;
	}
	(void)error_set(&err, ERROR_INTERNAL, "the daemon was restarted while the job was at work");
	error_hint(&err, "guest '%s' is %s now; repeat the call if that is not what you want",
	           g->name, guest_state_name(g->state));
	job_finish(job, NULL, &err);
}

static void apply_engine_status(struct guest *g)
{
	cleanup_json json_t *status = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	bool running;

	if (guest_qmp(g, "query-status", NULL, &status, &err) < 0) {
		if (g->run && !g->run->exited && g->state != GUEST_UNRESPONSIVE)
			(void)guest_apply(g, GUEST_EVENT_MUTE, "no-answer", "vmd", NULL);
		return;
	}
	running = jsonx_bool(status, "running", false);
	/* A start that was cut off before its vCPUs ran is finished; a half-done save is called
	 * off. */
	if (!running && (g->state == GUEST_STARTING || g->state == GUEST_SUSPENDING) &&
	    guest_qmp(g, "cont", NULL, NULL, &err) == 0)
		running = true;
	if (running && g->state != GUEST_RUNNING)
		(void)guest_apply(g,
		                  g->state == GUEST_STOPPING ? GUEST_EVENT_STOP_GIVEN_UP
		                                             : GUEST_EVENT_RUNS,
		                  "adopted", "vmd", NULL);
	else if (!running && g->state != GUEST_PAUSED)
		(void)guest_apply(g, GUEST_EVENT_PAUSES, "adopted", "vmd", NULL);
	settle_job(g, g->state == GUEST_RUNNING);
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

void guest_adopt(struct guest *g)
{
	if (!guest_state_is_live(g->state)) {
		guest_run_free(g->run);
		g->run = NULL;
		settle_job(g, false);
		return;
	}
	if (fiber_mutex_lock(&g->lock) < 0)
		return;
	if (!g->run)
		g->run = calloc(1, sizeof(*g->run));
	if (g->run && !g->run->definition)
		g->run->definition = strdup(g->definition);
	if (g->run && g->run->definition)
		attach(g);
	fiber_mutex_unlock(&g->lock);
}
