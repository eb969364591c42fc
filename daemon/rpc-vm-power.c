/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm.start, stop, kill, reset, pause, resume, suspend, wait: what a guest does. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/guest-change.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/power.h"
#include "daemon/ram.h"
#include "daemon/rpc.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

/* A power verb in its turn; with dry_run it ends after the check that the state allows it. */
static int begin(struct call *call, const char *verb, enum guest_event event,
                 struct guest_change *c, struct vmd_error *err)
{
	int r = guest_change_begin(call, verb, false, c, err);

	if (r < 0)
		return r;
	if (guest_fsm_next(c->g->state, event) < 0)
		return guest_refuse(c->g, verb, err);
	if (call->dry_run)
		guest_reply(call, c->g);
	return call->dry_run ? 1 : 0;
}

static int vm_start(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = begin(call, "start", GUEST_EVENT_START, &c, err);

	if (r != 0)
		return r < 0 ? r : 0;
	c.g->restart_pending = false;
	c.g->restarts = 0;
	job_progress(call->job, "starting", 0, 0, 0);
	r = guest_start(c.g, jsonx_bool(call->params, "paused", false), "start", call->actor, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int check_stop_protection(const struct guest *g, const char *verb, struct vmd_error *err)
{
	cleanup_json json_t *definition = guest_definition(g);

	if (!jsonx_bool(json_object_get(definition, "protect"), "stop", false))
		return 0;
	(void)error_set(err, ERROR_DENIED, "guest '%s' is protected against %s", g->name, verb);
	error_hint(err, "lift it with vm.update {\"set\": {\"protect\": {\"stop\": false}}}");
	return -EACCES;
}

/* A stop or kill of a guest that is down and waits for its restart: there will be none. */
static int call_off_restart(struct call *call, struct guest *g, struct vmd_error *err)
{
	struct store_txn *txn = call->dry_run ? NULL : store_txn_new(g->vmd->store);
	int r;

	if (!call->dry_run) {
		if (!txn)
			return error_set(err, ERROR_NO_SPACE, "out of memory");
		g->want_running = g->restart_pending = false;
		(void)guest_put(g, txn, NULL, NULL, NULL);
		r = store_commit(txn, err);
		waitq_wake_all(&g->changed);
		if (r < 0)
			return r;
	}
	guest_reply(call, g);
	return 0;
}

static bool is_waiting_for_restart(const struct guest *g)
{
	return g->restart_pending && !guest_state_is_live(g->state);
}

static int vm_stop(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int64_t timeout_ms;
	int r = guest_change_begin(call, "stop", false, &c, err);

	if (r == 0 && !is_waiting_for_restart(c.g) &&
	    guest_fsm_next(c.g->state, GUEST_EVENT_STOP) < 0)
		r = guest_refuse(c.g, "stop", err);
	if (r == 0)
		r = check_stop_protection(c.g, "stop", err);
	if (r < 0)
		return r;
	if (is_waiting_for_restart(c.g))
		return call_off_restart(call, c.g, err);
	if (call->dry_run) {
		guest_reply(call, c.g);
		return 0;
	}
	timeout_ms = jsonx_int(call->params, "timeout_ms", (int64_t)power_stop_timeout_ms(c.g));
	r = power_stop(c.g, (uint64_t)timeout_ms, jsonx_bool(call->params, "force", true), "stop",
	               call->actor, call->job, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int discard_suspended(struct guest *g, const char *actor, struct vmd_error *err)
{
	int r;

	(void)guest_keep_saved(g, NULL);
	r = guest_apply(g, GUEST_EVENT_DISCARD, "kill", actor, err);
	if (r == 0)
		ram_drop_suspended(g);
	return r;
}

/* Until it is down: a start that has no process yet ends by itself. */
static int kill_live(struct guest *g, const char *actor, struct vmd_error *err)
{
	enum {
		END_MS = 10000
	};
	uint64_t end = now_monotonic_us() + END_MS * 1000u;
	int r;

	guest_set_hint(g, "kill");
	if (g->state != GUEST_STOPPING)
		(void)guest_apply(g, GUEST_EVENT_STOP, "kill", actor, NULL);
	r = guest_force_end(g, "kill", err);
	fiber_shield(true);
	while (r == 0 && guest_state_is_live(g->state)) {
		if (now_monotonic_us() >= end)
			r = error_set(err, ERROR_TIMEOUT, "the start of guest '%s' did not end",
			              g->name);
		else if (waitq_wait(&g->changed, END_MS) < 0)
			continue; /* the loop's head tells */
	}
	fiber_shield(false);
	return r;
}

/* Never waits for its turn: it ends whatever the holder of the turn is waiting for. */
static int vm_kill(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	bool live;
	int r = guest_change_begin_unlocked(call, "kill", &c, err);

	if (r < 0)
		return r;
	live = guest_state_is_live(c.g->state);
	if (c.g->state != GUEST_SUSPENDED && !live && !c.g->restart_pending)
		return guest_refuse(c.g, "kill", err);
	r = check_stop_protection(c.g, "kill", err);
	if (r < 0)
		return r;
	if (is_waiting_for_restart(c.g))
		return call_off_restart(call, c.g, err);
	if (!call->dry_run) {
		c.g->want_running = c.g->restart_pending = false;
		r = live ? kill_live(c.g, call->actor, err)
		         : discard_suspended(c.g, call->actor, err);
	}
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int vm_reset(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = guest_change_begin(call, "reset", false, &c, err);

	if (r < 0)
		return r;
	if (c.g->state != GUEST_RUNNING && c.g->state != GUEST_PAUSED)
		return guest_refuse(c.g, "reset", err);
	if (!call->dry_run)
		r = guest_qmp(c.g, "system_reset", NULL, NULL, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int vm_pause(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = guest_change_begin(call, "pause", false, &c, err);

	if (r < 0)
		return r;
	if (c.g->state != GUEST_RUNNING)
		return guest_refuse(c.g, "pause", err);
	if (!call->dry_run) {
		r = guest_qmp(c.g, "stop", NULL, NULL, err);
		if (r == 0)
			r = guest_apply(c.g, GUEST_EVENT_PAUSES, "pause", call->actor, err);
	}
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int vm_resume(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = guest_change_begin(call, "resume", false, &c, err);

	if (r < 0)
		return r;
	if (c.g->state != GUEST_PAUSED && c.g->state != GUEST_SUSPENDED)
		return guest_refuse(c.g, "resume", err);
	if (!call->dry_run && c.g->state == GUEST_SUSPENDED) {
		r = guest_start(c.g, false, "resume", call->actor, err);
	} else if (!call->dry_run) {
		r = guest_qmp(c.g, "cont", NULL, NULL, err);
		if (r == 0)
			r = guest_apply(c.g, GUEST_EVENT_RUNS, "resume", call->actor, err);
	}
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int vm_suspend(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = begin(call, "suspend", GUEST_EVENT_SUSPEND, &c, err);

	if (r != 0)
		return r < 0 ? r : 0;
	r = power_suspend(c.g, "suspend", call->actor, call->job, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static bool reached(const struct guest *g, const char *what)
{
	if (g->deleted)
		return strcmp(what, "deleted") == 0;
	for (int i = 0; i < _READY_MAX; i++)
		if (strcmp(what, ready_names[i]) == 0)
			return g->run && g->run->ready_us[i];
	if (strcmp(what, "stopped") == 0)
		return !guest_state_is_live(g->state) && !g->restart_pending;
	return strcmp(what, guest_state_name(g->state)) == 0;
}

static bool never_reached(const struct guest *g, const char *what)
{
	if (g->deleted)
		return true;
	if (guest_state_is_live(g->state) || g->restart_pending)
		return false;
	for (int i = 0; i < _READY_MAX; i++)
		if (strcmp(what, ready_names[i]) == 0)
			return true;
	return false;
}

static void reply_reached(struct call *call, const struct guest *g)
{
	cleanup_json json_t *fields = json_pack("[s,s,s,s]", "state", "cause", "ready", "exit");

	call_reply(call, guest_to_json(g, fields));
}

static int vm_wait(struct call *call, struct vmd_error *err)
{
	const char *what = jsonx_str(call->params, "for", "stopped");
	int64_t timeout_ms = jsonx_int(call->params, "timeout_ms", -1);
	uint64_t end = now_monotonic_us() + (uint64_t)timeout_ms * 1000;
	struct guest *g = guest_of_call(call, err);
	int r = 0;

	if (!g)
		return -ENOENT;
	guest_ref(g);
	while (r == 0 && !reached(g, what)) {
		uint64_t now = now_monotonic_us();

		if (never_reached(g, what)) {
			r = error_set(err, ERROR_WRONG_STATE,
			              "guest '%s' is %s, so it will not get to '%s'", g->name,
			              g->deleted ? "deleted" : guest_state_name(g->state), what);
			break;
		}
		if (timeout_ms >= 0 && now >= end)
			r = -ETIMEDOUT;
		else
			r = waitq_wait(&g->changed,
			               timeout_ms < 0 ? -1 : (int64_t)((end - now) / 1000) + 1);
		if (r == -ETIMEDOUT && timeout_ms >= 0 && now < end)
			r = 0; /* the loop's head tells */
		if (r < 0)
			(void)error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
			                "guest '%s' is %s and did not get to '%s' in time", g->name,
			                guest_state_name(g->state), what);
	}
	if (r == 0)
		reply_reached(call, g);
	guest_unref(g);
	return r;
}

enum {
	JOB = METHOD_JOB | METHOD_FIBER | METHOD_CHANGE,
	QUICK = METHOD_FIBER | METHOD_CHANGE
};

const struct method vm_power_methods[] = {
	{ "vm.start", ROLE_OPERATOR, JOB, vm_start },
	{ "vm.stop", ROLE_OPERATOR, JOB, vm_stop },
	{ "vm.kill", ROLE_OPERATOR, QUICK | METHOD_URGENT, vm_kill },
	{ "vm.reset", ROLE_OPERATOR, QUICK, vm_reset },
	{ "vm.pause", ROLE_OPERATOR, QUICK, vm_pause },
	{ "vm.resume", ROLE_OPERATOR, JOB, vm_resume },
	{ "vm.suspend", ROLE_OPERATOR, JOB, vm_suspend },
	{ "vm.wait", ROLE_VIEWER, METHOD_FIBER, vm_wait },
	{ NULL, 0, 0, NULL },
};
