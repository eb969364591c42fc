/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/power.h"

#include <stdio.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/ram.h"
#include "daemon/vmd.h"

uint64_t power_stop_timeout_ms(const struct guest *g)
{
	cleanup_json json_t *definition = guest_definition(g);

	return (uint64_t)jsonx_int(definition, "stop_timeout_ms",
	                           (int64_t)g->vmd->config.stop_timeout_ms);
}

/* A guest that is still booting may miss the button: press it again until it reacts. */
static int ask_power_off(struct guest *g, uint64_t timeout_ms, struct vmd_error *err)
{
	enum {
		AGAIN_MS = 3000
	};
	uint64_t end = now_monotonic_us() + timeout_ms * 1000;

	for (;;) {
		uint64_t now = now_monotonic_us();
		int r;

		if (now >= end)
			return -ETIMEDOUT;
		if (g->run && !g->run->exited) {
			r = guest_qmp(g, "system_powerdown", NULL, NULL, err);
			if (r < 0 && g->run && !g->run->exited)
				return r;
		}
		r = guest_wait_end(g, (int64_t)MIN_OF((end - now) / 1000, (uint64_t)AGAIN_MS));
		if (r != -ETIMEDOUT || now_monotonic_us() >= end)
			return r;
	}
}

/* Paused guests cannot react to a button, so they run for it. */
static int stop_softly(struct guest *g, enum guest_state was, uint64_t timeout_ms)
{
	if (was == GUEST_UNRESPONSIVE || !timeout_ms)
		return -ETIMEDOUT;
	if (was == GUEST_PAUSED && guest_qmp(g, "cont", NULL, NULL, NULL) < 0)
		return -ETIMEDOUT;
	return ask_power_off(g, timeout_ms, NULL);
}

static void progress(struct job *job, const char *stage, unsigned percent)
{
	if (job)
		job_progress(job, stage, percent, 0, 0);
}

/* The soft part was called off: whoever is still there goes on as the engine says. */
static bool give_up(struct guest *g, const char *cause, const char *actor)
{
	cleanup_json json_t *status = NULL;

	if (!g->run || g->run->exited)
		return false;
	guest_set_hint(g, "");
	g->want_running = true;
	fiber_shield(true);
	if (g->state == GUEST_STOPPING && guest_qmp(g, "query-status", NULL, &status, NULL) == 0 &&
	    g->state == GUEST_STOPPING)
		guest_take_status(g, status, cause, actor);
	fiber_shield(false);
	return true;
}

int power_stop(struct guest *g, uint64_t timeout_ms, bool force, const char *cause,
               const char *actor, struct job *job, struct vmd_error *err)
{
	enum guest_state was = g->state;
	int r;

	g->want_running = false;
	guest_set_hint(g, cause);
	r = guest_apply(g, GUEST_EVENT_STOP, cause, actor, err);
	if (r < 0 && g->state != GUEST_STOPPING)
		return r;
	progress(job, "asking the guest", 0);
	r = g->run ? stop_softly(g, was, timeout_ms) : 0;
	if (r == -ECANCELED && give_up(g, "cancelled", actor))
		return error_set(err, ERROR_CANCELLED, "the stop of guest '%s' was called off",
		                 g->name);
	if (!g->run)
		return 0;
	if (!force) {
		(void)give_up(g, "timeout", actor);
		(void)error_set(err, ERROR_TIMEOUT, "guest '%s' did not power off within %llu ms",
		                g->name, (unsigned long long)timeout_ms);
		error_hint(err, "give it more time, or let it be forced");
		return -ETIMEDOUT;
	}
	progress(job, "ending the process", 50);
	return guest_force_end(g, cause, err);
}

/* Back to what it did before a suspend that failed. */
static void undo_suspend(struct guest *g, bool was_running, const char *actor)
{
	bool runs;

	if (!g->run || (g->state != GUEST_SUSPENDING && g->state != GUEST_UNRESPONSIVE))
		return;
	guest_set_hint(g, "");
	/* Mute in the middle of it: what ran before runs on as soon as it answers. */
	if (g->state == GUEST_UNRESPONSIVE)
		g->run->ran_before_mute = was_running;
	if (g->state != GUEST_SUSPENDING)
		return;
	fiber_shield(true);
	runs = was_running && guest_qmp(g, "cont", NULL, NULL, NULL) == 0;
	(void)guest_apply(g, runs ? GUEST_EVENT_RUNS : GUEST_EVENT_PAUSES, "suspend-failed", actor,
	                  NULL);
	fiber_shield(false);
}

static int suspend_steps(struct guest *g, struct job *job, struct vmd_error *err)
{
	int r = guest_qmp(g, "stop", NULL, NULL, err);

	if (r == 0)
		r = ram_save_suspended(g, job, err);
	if (r == 0 && fiber_is_cancelled()) {
		ram_drop_suspended(g);
		r = error_set(err, ERROR_CANCELLED, "the suspend of guest '%s' was called off",
		              g->name);
	}
	/* The image is durable: from here on the process is not needed any more. */
	if (r == 0)
		r = guest_force_end(g, "suspend", err);
	if (r == 0 && g->state != GUEST_SUSPENDED)
		r = error_set(err, ERROR_CANCELLED, "guest '%s' was killed while it was suspended",
		              g->name);
	return r;
}

int power_suspend(struct guest *g, const char *cause, const char *actor, struct job *job,
                  struct vmd_error *err)
{
	bool was_running = g->state == GUEST_RUNNING;
	struct vmd_error local = VMD_ERROR_INIT;
	int r = guest_fsm_next(g->state, GUEST_EVENT_SUSPEND) >= 0 && g->run ? ram_check(g, &local)
	                                                                     : 0;

	if (r < 0) {
		if (err)
			*err = local;
		return r;
	}
	r = guest_apply(g, GUEST_EVENT_SUSPEND, cause, actor, err);
	if (r == 0)
		r = suspend_steps(g, job, err);
	if (r < 0)
		undo_suspend(g, was_running, actor);
	else
		g->want_running = false;
	return r;
}

int power_host_shutdown(struct guest *g, struct vmd_error *err)
{
	cleanup_json json_t *definition = guest_definition(g);
	const char *action = jsonx_str(definition, "on_host_shutdown", "stop");
	struct vmd_error unsaved = VMD_ERROR_INIT;

	if (!g->run || strcmp(action, "leave") == 0)
		return 0;
	if (strcmp(action, "suspend") == 0 && guest_fsm_next(g->state, GUEST_EVENT_SUSPEND) >= 0 &&
	    ram_check(g, &unsaved) == 0)
		return power_suspend(g, "host-shutdown", "vmd", NULL, err);
	return power_stop(g, strcmp(action, "kill") == 0 ? 0 : power_stop_timeout_ms(g), true,
	                  "host-shutdown", "vmd", NULL, err);
}
