/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the engine says of itself, and what that means for the state of its guest. */
#include "config.h"

#include <string.h>

#include "common/jsonx.h"
#include "daemon/guest-run.h"
#include "daemon/qmp.h"
#include "daemon/vmd.h"

/* Why vCPUs stand still, in QEMU's words (QMP RunState) and ours. */
static const char *pause_cause(const char *status, const char *otherwise)
{
	static const struct {
		const char *status, *cause;
	} causes[] = {
		{ "io-error", "io-error" },       { "internal-error", "internal-error" },
		{ "watchdog", "watchdog" },       { "guest-panicked", "guest-panic" },
		{ "shutdown", "guest-shutdown" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(causes); i++)
		if (strcmp(status, causes[i].status) == 0)
			return causes[i].cause;
	return otherwise;
}

bool guest_status_is_ours(const char *status)
{
	return strcmp(status, "paused") == 0 || strcmp(status, "postmigrate") == 0 ||
	       strcmp(status, "finish-migrate") == 0;
}

void guest_take_status(struct guest *g, const json_t *status, const char *cause, const char *actor)
{
	const char *word = jsonx_str(status, "status", "");

	if (!g->run || g->run->exited)
		return;
	if (g->run->unfinished_start)
		guest_finish_start(g, word);
	else if (!jsonx_bool(status, "running", false) && g->state != GUEST_PAUSED)
		(void)guest_apply(g, GUEST_EVENT_PAUSES, pause_cause(word, cause), actor, NULL);
	else if (jsonx_bool(status, "running", false) && g->state != GUEST_RUNNING)
		(void)guest_apply(g,
		                  g->state == GUEST_STOPPING ? GUEST_EVENT_STOP_GIVEN_UP
		                                             : GUEST_EVENT_RUNS,
		                  cause, actor, NULL);
}

/* Whether the state says otherwise than the last STOP or RESUME. */
static bool is_surprised(const struct guest *g)
{
	return (g->state == GUEST_RUNNING && g->run->stopped) ||
	       (g->state == GUEST_PAUSED && !g->run->stopped);
}

/* After whatever is at work on the guest: mostly that is what stopped or resumed it. */
static void look(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;
	cleanup_json json_t *status = NULL;

	if (fiber_mutex_lock(&g->lock) == 0) {
		if (g->run == run)
			run->looking = false;
		if (g->run == run && is_surprised(g) &&
		    guest_qmp(g, "query-status", NULL, &status, NULL) == 0 && g->run == run &&
		    is_surprised(g))
			guest_take_status(g, status, "engine", "guest");
		fiber_mutex_unlock(&g->lock);
	}
	guest_unref(g);
}

void guest_status_changed(struct guest *g, bool stopped)
{
	/* During a start nothing can be told yet: the guest may stop at once after its "cont". */
	bool early = stopped && g->state == GUEST_STARTING;

	g->run->stopped = stopped;
	if (g->run->looking || (!early && !is_surprised(g)))
		return;
	g->run->looking = true;
	if (fiber_start("look", look, guest_ref(g)) < 0) {
		g->run->looking = false;
		guest_unref(g);
	}
}

/* An engine that was mute is asked again and again until it answers or ends. */
enum {
	RECOVER_PAUSE_MS = 500
};

/* It answers. A "stop" that came too late for its caller is taken back: a call that failed must not
 * take effect after all. */
static int ask_again(struct guest *g, struct guest_run *run)
{
	int64_t timeout_ms = (int64_t)g->vmd->config.qmp_timeout_ms;
	cleanup_json json_t *status = NULL;
	int r = qmp_call(run->qmp, "query-status", NULL, NULL, 0, timeout_ms, &status, NULL);

	if (r < 0 || g->run != run || g->state != GUEST_UNRESPONSIVE)
		return r;
	if (run->ran_before_mute && guest_status_is_ours(jsonx_str(status, "status", "")) &&
	    qmp_call(run->qmp, "cont", NULL, NULL, 0, timeout_ms, NULL, NULL) == 0)
		(void)jsonx_set(status, "running", json_true());
	if (g->run == run && g->state == GUEST_UNRESPONSIVE)
		guest_take_status(g, status, "answers-again", "vmd");
	return 0;
}

static void recover(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;

	while (g->run == run && !run->exited && !run->qmp_closed &&
	       g->state == GUEST_UNRESPONSIVE) {
		if (ask_again(g, run) == 0)
			break;
		if (fiber_sleep_ms(RECOVER_PAUSE_MS) < 0)
			break;
	}
	if (g->run == run)
		run->recovering = false;
	guest_unref(g);
}

void guest_became_mute(struct guest *g)
{
	/* A start under way fails by itself, or is taken up by the adoption. */
	if (g->state == GUEST_STARTING && !g->run->unfinished_start)
		return;
	if (g->state != GUEST_UNRESPONSIVE) {
		g->run->ran_before_mute = g->state == GUEST_RUNNING;
		(void)guest_apply(g, GUEST_EVENT_MUTE, "no-answer", "vmd", NULL);
	}
	if (!g->run || g->run->recovering)
		return;
	g->run->recovering = true;
	if (fiber_start("recover", recover, guest_ref(g)) < 0) {
		g->run->recovering = false;
		guest_unref(g);
	}
}

static void ping(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;

	(void)guest_qmp(g, "query-status", NULL, NULL, NULL);
	if (g->run == run)
		run->ping_in_flight = false;
	guest_unref(g);
}

bool guest_health_check(struct vmd *vmd)
{
	bool any = false;
	struct guest *g;

	list_for_each(g, registry_list(vmd->guests), link) {
		any |= g->run != NULL;
		if (!g->run || !g->run->qmp || g->run->exited || g->run->ping_in_flight)
			continue;
		if (g->state != GUEST_RUNNING && g->state != GUEST_PAUSED)
			continue;
		g->run->ping_in_flight = true;
		if (fiber_start("health", ping, guest_ref(g)) < 0) {
			g->run->ping_in_flight = false;
			guest_unref(g);
		}
	}
	return any;
}
