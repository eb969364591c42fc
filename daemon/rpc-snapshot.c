/* SPDX-License-Identifier: GPL-2.0-or-later */
/* snapshot.create, list, get, restore, delete. */
#include "config.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/guest-change.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/rpc.h"
#include "daemon/snapshot.h"
#include "daemon/vmd.h"

static struct snapshot *snapshot_of_call(struct call *call, struct guest *g, struct vmd_error *err)
{
	const char *name = jsonx_str(call->params, "snapshot", "");
	struct snapshot *s = snapshot_find(call->vmd, g->uuid, name);

	if (!s) {
		(void)error_set(err, ERROR_NOT_FOUND, "guest '%s' has no snapshot '%.64s'", g->name,
		                name);
		error_hint(err, "snapshot.list tells the ones it has");
	}
	return s;
}

/* Disks are at rest, or can be brought to rest: anything between is another operation's. */
static int check_state(const struct guest *g, const char *verb, struct vmd_error *err)
{
	switch (g->state) {
	case GUEST_RUNNING:
	case GUEST_PAUSED:
	case GUEST_DEFINED:
	case GUEST_STOPPED:
	case GUEST_FAILED:
		return 0;
	default:
		return guest_refuse(g, verb, err);
	}
}

static int snapshot_create(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	const char *name = jsonx_str(call->params, "snapshot", "");
	struct snapshot *s = NULL;
	uint64_t pause_us = 0;
	int r = guest_change_begin(call, "snapshot", false, &c, err);

	if (r == 0)
		r = check_state(c.g, "snapshot", err);
	if (r < 0)
		return r;
	if (!is_object_name(name))
		return error_set_field(err, "snapshot", "'%.64s' is no snapshot name", name);
	if (snapshot_find(call->vmd, c.g->uuid, name))
		return error_set(err, ERROR_EXISTS, "guest '%s' has a snapshot '%s' already",
		                 c.g->name, name);
	if (call->dry_run) {
		guest_reply(call, c.g);
		return 0;
	}
	r = snapshot_take(c.g, name, jsonx_str(call->params, "description", ""), call->job,
	                  call->actor, &s, &pause_us, err);
	if (r < 0)
		return r;
	call_reply(call, json_pack("{s:o, s:I, s:I}", "snapshot", snapshot_json(s), "event",
	                           (json_int_t)c.g->last_event, "pause_us", (json_int_t)pause_us));
	return 0;
}

static int snapshot_list(struct call *call, struct vmd_error *err)
{
	const char *cursor = jsonx_str(call->params, "cursor", NULL);
	size_t limit = (size_t)jsonx_int(call->params, "limit", INT64_MAX);
	json_t *array = json_array(), *reply = json_pack("{s:o}", "snapshots", array);
	struct guest *g = guest_of_call(call, err);
	const struct snapshot *last = NULL;
	bool skipping = cursor != NULL;
	struct snapshot *s;

	if (!g || !reply) {
		json_decref(reply);
		return g ? error_set(err, ERROR_NO_SPACE, "out of memory") : -ENOENT;
	}
	list_for_each(s, &call->vmd->snapshots, link) {
		if (strcmp(s->vm_uuid, g->uuid) != 0)
			continue;
		if (skipping) {
			skipping = strcmp(cursor, s->uuid) != 0;
			continue;
		}
		if (json_array_size(array) == limit) {
			if (last)
				(void)jsonx_set(reply, "next", json_string(last->uuid));
			break;
		}
		json_array_append_new(array, snapshot_json(s));
		last = s;
	}
	if (skipping) {
		json_decref(reply);
		return call_cursor_gone(err);
	}
	call_reply(call, reply);
	return 0;
}

static int snapshot_get(struct call *call, struct vmd_error *err)
{
	struct guest *g = guest_of_call(call, err);
	struct snapshot *s = g ? snapshot_of_call(call, g, err) : NULL;

	if (!s)
		return -ENOENT;
	call_reply(call, snapshot_json(s));
	return 0;
}

static int restore(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	struct snapshot *s;
	int r = guest_change_begin(call, "restore", false, &c, err);

	if (r < 0)
		return r;
	s = snapshot_of_call(call, c.g, err);
	if (!s)
		return -ENOENT;
	if (c.g->state != GUEST_SUSPENDED && c.g->state != GUEST_UNRESPONSIVE)
		r = check_state(c.g, "restore", err);
	if (r == 0 && !call->dry_run)
		r = snapshot_restore(c.g, s, call->job, call->actor, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

static int delete (struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	struct snapshot *s;
	int r = guest_change_begin(call, "delete a snapshot of", false, &c, err);

	if (r < 0)
		return r;
	s = snapshot_of_call(call, c.g, err);
	if (!s)
		return -ENOENT;
	if (!call->dry_run)
		r = snapshot_delete(c.g, s, call->actor, err);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

enum {
	JOB = METHOD_JOB | METHOD_FIBER | METHOD_CHANGE
};

const struct method snapshot_methods[] = {
	{ "snapshot.create", ROLE_OPERATOR, JOB, snapshot_create },
	{ "snapshot.list", ROLE_VIEWER, METHOD_READ, snapshot_list },
	{ "snapshot.get", ROLE_VIEWER, METHOD_READ, snapshot_get },
	{ "snapshot.restore", ROLE_OPERATOR, JOB, restore },
	{ "snapshot.delete", ROLE_OPERATOR, JOB, delete },
	{ NULL, 0, 0, NULL },
};
