/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of an engine process: what it means for the guest, and whether it is started again. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "daemon/guest-run.h"
#include "daemon/qmp.h"
#include "daemon/ram.h"
#include "daemon/shim.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

struct verdict {
	bool crashed;
	bool given_up; /* the policy wants a restart, but there were too many */
	char cause[256];
};

static void judge_exit(const struct guest_run *run, const struct shim_exit *exit, bool this_boot,
                       struct verdict *v)
{
	char text[sizeof(v->cause)];
	bool panicked, watchdog;

	if (!exit->known || !exit->exited) {
		/* SIGKILL is how we end it; by any other signal it fell while it was being ended.
		 */
		bool ours = run->cause_hint[0] && (!exit->known || exit->signal == SIGKILL);

		v->crashed = !ours;
		snprintf(v->cause, sizeof(v->cause), "%s",
		         ours          ? run->cause_hint
		         : exit->known ? shim_exit_text(exit, text, sizeof(text))
		         : this_boot   ? "lost with its shim"
		                       : "the host was restarted");
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

static const json_t *restart_policy(const json_t *definition)
{
	return json_object_get(definition, "restart");
}

static unsigned policy_delay_ms(const json_t *restart, unsigned attempt)
{
	uint64_t delay = (uint64_t)jsonx_int(restart, "backoff_ms", 1000);
	uint64_t cap = (uint64_t)jsonx_int(restart, "max_backoff_ms", 60000);

	for (unsigned i = 1; i < attempt && delay < cap; i++)
		delay *= 2;
	return (unsigned)MIN_OF(delay, cap);
}

/* The actions are those the engine was started with; the policy is the present one. */
static bool wants_restart(const struct guest *g, const struct guest_run *run,
                          const json_t *definition, const struct verdict *v)
{
	cleanup_json json_t *used = json_loads(run->definition, 0, NULL);
	const json_t *actions = json_object_get(used, "actions");
	const char *policy = jsonx_str(restart_policy(definition), "policy", "no");

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

/* One more restart, unless there were too many in a row; durable with the next change of state. */
static void count_restart(struct guest *g, const json_t *definition, uint64_t ran_us)
{
	unsigned most = (unsigned)jsonx_int(restart_policy(definition), "max_restarts", 5);

	/* A run of ten minutes or more counts as healthy: the count starts afresh. */
	if (ran_us > 600000000u)
		g->restarts = 0;
	g->restart_pending = !most || g->restarts < most;
	if (g->restart_pending)
		g->restarts++;
	else
		g->want_running = false;
}

static void tell_restart(struct guest *g, unsigned delay_ms)
{
	if (g->restart_pending) {
		guest_publish(g, "vm.restart_planned",
		              json_pack("{s:i, s:i}", "attempt", (int)g->restarts, "delay_ms",
		                        (int)delay_ms));
		return;
	}
	log_warning("Guest '%s' is not restarted: %u restarts in a row", g->name, g->restarts);
	guest_publish(g, "vm.restart_given_up", json_pack("{s:i}", "restarts", (int)g->restarts));
	waitq_wake_all(&g->changed);
}

/* One attempt in the guest's turn. Whether another one is due. */
static bool try_restart(struct guest *g, const json_t *definition)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct store_txn *txn;

	if (!g->restart_pending || g->deleted || g->vmd->stopping || guest_state_is_live(g->state))
		return false;
	g->restart_pending = false;
	if (guest_start(g, false, "restart-policy", "vmd", &err) == 0 || g->deleted)
		return false;
	log_warning("Guest '%s' was not restarted: %s", g->name, err.message);
	if (err.kind == ERROR_CANCELLED || guest_state_is_live(g->state))
		return false;
	g->want_running = true;
	count_restart(g, definition, 0);
	txn = store_txn_new(g->vmd->store);
	if (txn) {
		(void)guest_put(g, txn, NULL, NULL, NULL);
		store_commit_async(txn);
	}
	return true;
}

static void restart_fiber(void *arg)
{
	struct guest *g = arg;
	cleanup_json json_t *definition = guest_definition(g);
	unsigned plan = ++g->restart_plan;
	bool more = true;

	while (more) {
		unsigned delay_ms = policy_delay_ms(restart_policy(definition), g->restarts);

		tell_restart(g, delay_ms);
		if (!g->restart_pending || fiber_sleep_ms(delay_ms) < 0 ||
		    fiber_mutex_lock(&g->lock) < 0)
			break;
		more = g->restart_plan == plan && try_restart(g, definition);
		fiber_mutex_unlock(&g->lock);
	}
	guest_unref(g);
}

void guest_go_on_restarting(struct guest *g)
{
	if (fiber_start("restart", restart_fiber, guest_ref(g)) < 0) {
		g->restart_pending = false;
		guest_unref(g);
	}
}

/* The last QMP events may still lie in the socket: read to its end first, for at most a second. */
static void drain_qmp(struct guest *g)
{
	while (g->run->qmp && !g->run->qmp_closed)
		if (waitq_wait(&g->changed, 1000) < 0)
			return;
}

/* What the end is for the state machine: a suspend image that is whole is what the guest is now. */
static enum guest_event end_event(struct guest *g, const struct verdict *v)
{
	if (g->state == GUEST_SUSPENDING && ram_suspended_is_whole(g))
		return GUEST_EVENT_SUSPENDED;
	if ((g->state == GUEST_STARTING || g->state == GUEST_UNRESPONSIVE) && g->saved_definition &&
	    !g->start.may_have_run)
		return GUEST_EVENT_UNDO_SUSPENDED;
	return v->crashed ? GUEST_EVENT_CRASH : GUEST_EVENT_EXIT;
}

static void settle_state(struct guest *g, struct verdict *v, struct guest_run *run)
{
	cleanup_json json_t *definition = guest_definition(g);
	enum guest_event event;
	bool keep_image;

	if (g->state == GUEST_STARTING && strcmp(run->cause_hint, "start-failed") == 0)
		return; /* the start itself settles it, with the error that it has */
	event = end_event(g, v);
	keep_image = event == GUEST_EVENT_SUSPENDED || event == GUEST_EVENT_UNDO_SUSPENDED;
	if (event == GUEST_EVENT_SUSPENDED)
		(void)guest_keep_saved(g, run->definition);
	else if (!keep_image)
		(void)guest_keep_saved(g, NULL);
	if (keep_image) {
		g->want_running = false;
	} else if (wants_restart(g, run, definition, v)) {
		count_restart(g, definition, now_wall_us() - run->started_us);
		v->given_up = !g->restart_pending;
	}
	(void)guest_apply(g, event,
	                  event == GUEST_EVENT_SUSPENDED && run->cause_hint[0] == '\0' ? "suspend"
	                                                                               : v->cause,
	                  "vmd", NULL);
	if (!keep_image)
		ram_drop_suspended(g);
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
	struct guest_run *run = g->run;
	cleanup_free struct shim_exit *exit = TAKE_PTR(run->exit);
	bool this_boot = strcmp(g->started_boot, proc_boot_id()) == 0;
	struct verdict v = { 0 };

	fiber_shield(true);
	drain_qmp(g);
	judge_exit(run, exit, this_boot, &v);
	settle_state(g, &v, run);
	forget_process(g, run);
	/* Only now may another run take its place, in the same directories. */
	g->run = NULL;
	guest_run_free(run);
	waitq_wake_all(&g->changed);
	if (g->restart_pending)
		guest_go_on_restarting(g);
	else if (v.given_up)
		tell_restart(g, 0);
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
