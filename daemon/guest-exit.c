/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of an engine process: what it means for the guest, and whether it is started again. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/guest-run.h"
#include "daemon/qmp.h"
#include "daemon/shim.h"
#include "daemon/vmd.h"

struct verdict {
	bool crashed;
	char cause[256];
};

static void judge_exit(const struct guest_run *run, const struct shim_exit *exit, struct verdict *v)
{
	char text[sizeof(v->cause)];
	bool panicked, watchdog;

	if (!exit->known || !exit->exited) {
		v->crashed = !run->cause_hint[0];
		snprintf(v->cause, sizeof(v->cause), "%s",
		         run->cause_hint[0] ? run->cause_hint
		         : exit->known      ? shim_exit_text(exit, text, sizeof(text))
		                            : "lost with its shim");
		return;
	}
	if (exit->code != 0) {
		v->crashed = true;
		shim_exit_text(exit, v->cause, sizeof(v->cause));
		return;
	}
	/* A guest may panic or be reset by its watchdog and go on: only what ended it counts. */
	panicked = strcmp(run->shutdown_reason, "guest-panic") == 0;
	watchdog = run->watchdog_fired && !run->shutdown_reason[0];
	v->crashed = panicked || watchdog;
	if (panicked)
		snprintf(v->cause, sizeof(v->cause), "guest-panic");
	else if (watchdog)
		snprintf(v->cause, sizeof(v->cause), "watchdog");
	else if (run->cause_hint[0] && strncmp(run->shutdown_reason, "guest", 5) != 0)
		snprintf(v->cause, sizeof(v->cause), "%s", run->cause_hint);
	else
		snprintf(v->cause, sizeof(v->cause), "%s",
		         run->shutdown_reason[0] ? run->shutdown_reason : "exit");
}

static unsigned policy_delay_ms(const json_t *restart, unsigned attempt)
{
	uint64_t delay = (uint64_t)jsonx_int(restart, "backoff_ms", 1000);
	uint64_t cap = (uint64_t)jsonx_int(restart, "max_backoff_ms", 60000);

	for (unsigned i = 1; i < attempt && delay < cap; i++)
		delay *= 2;
	return (unsigned)MIN_OF(delay, cap);
}

static bool wants_restart(const json_t *definition, const struct guest *g, const struct verdict *v)
{
	const json_t *actions = json_object_get(definition, "actions");
	const char *policy = jsonx_str(json_object_get(definition, "restart"), "policy", "no");

	if (!g->want_running)
		return false;
	if (strcmp(v->cause, "guest-shutdown") == 0)
		return strcmp(jsonx_str(actions, "on_poweroff", "stop"), "restart") == 0 ||
		       strcmp(policy, "always") == 0;
	if (strcmp(v->cause, "guest-panic") == 0 &&
	    strcmp(jsonx_str(actions, "on_panic", ""), "restart") == 0)
		return true;
	if (strcmp(v->cause, "watchdog") == 0 &&
	    strcmp(jsonx_str(actions, "on_watchdog", ""), "restart") == 0)
		return true;
	return strcmp(policy, "always") == 0 || (v->crashed && strcmp(policy, "on-failure") == 0);
}

struct restart_plan {
	struct guest *g;
	unsigned delay_ms;
};

static void restart_fiber(void *arg)
{
	struct restart_plan *plan = arg;
	struct guest *g = plan->g;
	struct vmd_error err = VMD_ERROR_INIT;
	bool go;

	go = fiber_sleep_ms(plan->delay_ms) == 0 && fiber_mutex_lock(&g->lock) == 0;
	if (go) {
		if (g->restart_pending && !g->deleted && !g->vmd->stopping &&
		    !guest_state_is_live(g->state) &&
		    guest_start(g, false, "restart-policy", "vmd", &err) < 0)
			log_warning("Guest '%s' was not restarted: %s", g->name, err.message);
		fiber_mutex_unlock(&g->lock);
	}
	g->restart_pending = false;
	guest_unref(g);
	free(plan);
}

static void plan_restart(struct guest *g, const json_t *definition, uint64_t ran_us)
{
	const json_t *restart = json_object_get(definition, "restart");
	unsigned most = (unsigned)jsonx_int(restart, "max_restarts", 5);
	struct restart_plan *plan;

	/* A run of ten minutes or more counts as healthy: the count starts afresh. */
	if (ran_us > 600000000u)
		g->restarts = 0;
	if (most && g->restarts >= most) {
		log_warning("Guest '%s' is not restarted: %u restarts in a row", g->name,
		            g->restarts);
		guest_publish(g, "vm.restart_given_up",
		              json_pack("{s:i}", "restarts", (int)g->restarts));
		g->want_running = false;
		return;
	}
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		return;
	g->restarts++;
	plan->g = guest_ref(g);
	plan->delay_ms = policy_delay_ms(restart, g->restarts);
	g->restart_pending = true;
	guest_publish(g, "vm.restart_planned",
	              json_pack("{s:i, s:i}", "attempt", (int)g->restarts, "delay_ms",
	                        (int)plan->delay_ms));
	if (fiber_start("restart", restart_fiber, plan) < 0) {
		g->restart_pending = false;
		guest_unref(g);
		free(plan);
	}
}

/* The last QMP events may still lie in the socket: read to its end first, for at most a second. */
static void drain_qmp(struct guest *g)
{
	while (g->run->qmp && !g->run->qmp_closed)
		if (waitq_wait(&g->changed, 1000) < 0)
			return;
}

static void settle_state(struct guest *g, const struct verdict *v, struct guest_run *run)
{
	enum guest_event event = v->crashed ? GUEST_EVENT_CRASH : GUEST_EVENT_EXIT;

	if (g->state == GUEST_SUSPENDING && strcmp(run->cause_hint, "suspend") == 0)
		event = GUEST_EVENT_SUSPENDED;
	else if (g->state == GUEST_STARTING && strcmp(run->cause_hint, "start-failed") == 0)
		return; /* the start itself settles it, with the error that it has */
	(void)guest_apply(g, event, v->cause, "vmd", NULL);
}

/* Its end is durable: the shim may go, with all it left in the runtime directory. */
static void forget_process(struct guest *g, struct guest_run *run)
{
	struct vmd_error err = VMD_ERROR_INIT;
	char dir[512];

	if (run->shim && shim_release(run->shim, &err) < 0)
		log_debug("Guest '%s': %s", g->name, err.message);
	shim_forget(guest_runtime_dir(g, dir, sizeof(dir)));
}

static void exit_fiber(void *arg)
{
	struct guest *g = arg;
	cleanup_free struct shim_exit *exit = TAKE_PTR(g->run->exit);
	cleanup_json json_t *definition = json_loads(g->run->definition, 0, NULL);
	struct guest_run *run = g->run;
	struct verdict v = { 0 };
	uint64_t ran_us;

	fiber_shield(true);
	drain_qmp(g);
	judge_exit(run, exit, &v);
	ran_us = now_wall_us() - run->started_us;
	settle_state(g, &v, run);
	forget_process(g, run);
	/* Only now may another run take its place, in the same directories. */
	g->run = NULL;
	guest_run_free(run);
	waitq_wake_all(&g->changed);
	if (!g->vmd->stopping && !guest_state_is_live(g->state) && g->state != GUEST_SUSPENDED &&
	    wants_restart(definition, g, &v))
		plan_restart(g, definition, ran_us);
	fiber_shield(false);
	guest_unref(g);
}

static char *exit_record(const struct shim_exit *exit)
{
	cleanup_json json_t *o = json_pack("{s:b, s:b, s:i, s:i, s:b, s:I, s:s}", "known",
	                                   exit->known, "exited", exit->exited, "code", exit->code,
	                                   "signal", exit->signal, "core", exit->core, "time_us",
	                                   (json_int_t)exit->time_us, "stderr", exit->stderr_tail);

	return o ? jsonx_dump(o) : NULL;
}

void guest_on_exit(struct guest *g, const struct shim_exit *exit)
{
	struct guest_run *run = g->run;

	if (!run || run->exited)
		return;
	run->exit = malloc(sizeof(*exit));
	if (!run->exit) {
		log_error("Guest '%s': out of memory while settling its end", g->name);
		return;
	}
	*run->exit = *exit;
	run->exited = true;
	waitq_wake_all(&g->changed);
	free(g->exit_text);
	g->exit_text = exit_record(exit);
	if (fiber_start("exit", exit_fiber, guest_ref(g)) < 0) {
		log_error("Guest '%s': out of memory while settling its end", g->name);
		guest_unref(g);
	}
}
