/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest-change.h"

#include <stdio.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/job.h"
#include "daemon/vmd.h"

/* The registered name nearest to a mistyped one, or NULL. */
static const char *nearest_name(struct registry *r, const char *name)
{
	const char *best = NULL;
	unsigned best_distance = 3;
	struct guest *g;

	list_for_each(g, registry_list(r), link) {
		unsigned d = word_distance(name, g->name, 2);

		if (d < best_distance) {
			best_distance = d;
			best = g->name;
		}
	}
	return best;
}

struct guest *guest_of_call(struct call *call, struct vmd_error *err)
{
	const char *name = jsonx_str(call->params, "vm", "");
	struct guest *g = registry_find(call->vmd->guests, name);
	const char *near;

	if (g)
		return g;
	(void)error_set(err, ERROR_NOT_FOUND, "there is no guest '%.64s'", name);
	if (err)
		snprintf(err->field, sizeof(err->field), "vm");
	near = nearest_name(call->vmd->guests, name);
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	else
		error_hint(err, "vm.list tells the guests there are");
	return NULL;
}

static int check_right(const struct call *call, const struct guest *g, const char *verb,
                       struct vmd_error *err)
{
	if (call->role == ROLE_ADMIN || call->uid == g->owner)
		return 0;
	(void)error_set(err, ERROR_DENIED, "cannot %s guest '%s': it belongs to uid %u", verb,
	                g->name, g->owner);
	error_hint(err, "ask its owner, or use an account of the admin group");
	return -EACCES;
}

static int check_generation(const struct call *call, const struct guest *g, struct vmd_error *err)
{
	int64_t want = jsonx_int(call->params, "if_generation", -1);

	if (want < 0 || (uint64_t)want == g->generation)
		return 0;
	(void)error_set(err, ERROR_CONFLICT, "guest '%s' is at generation %llu, not %lld", g->name,
	                (unsigned long long)g->generation, (long long)want);
	error_hint(err, "read it again with vm.get and repeat the change");
	return -EILSEQ;
}

int guest_change_begin_unlocked(struct call *call, const char *verb, struct guest_change *c,
                                struct vmd_error *err)
{
	struct guest *g = guest_of_call(call, err);
	int r;

	if (!g)
		return -ENOENT;
	r = check_right(call, g, verb, err);
	if (r == 0)
		r = check_generation(call, g, err);
	if (r < 0)
		return r;
	c->g = guest_ref(g);
	return 0;
}

int guest_change_begin(struct call *call, const char *verb, bool refuse_when_busy,
                       struct guest_change *c, struct vmd_error *err)
{
	struct guest *g = guest_of_call(call, err);
	int r;

	if (!g)
		return -ENOENT;
	r = check_right(call, g, verb, err);
	if (r < 0)
		return r;
	if (refuse_when_busy && g->job) {
		(void)error_set(err, ERROR_BUSY, "cannot %s guest '%s': job %s is at work on it",
		                verb, g->name, job_id(g->job));
		error_hint(err, "wait for the job, or cancel it");
		if (err)
			snprintf(err->job, sizeof(err->job), "%s", job_id(g->job));
		return -EBUSY;
	}
	c->g = guest_ref(g);
	r = fiber_mutex_lock(&g->lock);
	if (r < 0)
		return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
		                 "gave up waiting for the turn to %s guest '%s'", verb, g->name);
	c->locked = true;
	if (g->deleted)
		return error_set(err, ERROR_NOT_FOUND, "guest '%s' was deleted meanwhile", g->name);
	r = check_generation(call, g, err);
	if (r == 0)
		g->job = call->job;
	return r;
}

void guest_change_end(struct guest_change *c)
{
	if (!c->g)
		return;
	if (c->locked) {
		c->g->job = NULL;
		fiber_mutex_unlock(&c->g->lock);
	}
	guest_unref(c->g);
	c->g = NULL;
	c->locked = false;
}

json_t *guest_change_json(const struct guest *g)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:s}", "uuid", g->uuid, "name", g->name,
	                 "generation", (json_int_t)g->generation, "event",
	                 (json_int_t)g->last_event, "state", guest_state_name(g->state));
}

void guest_reply(struct call *call, const struct guest *g)
{
	call_reply(call, guest_change_json(g));
}
