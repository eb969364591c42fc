/* SPDX-License-Identifier: GPL-2.0-or-later */
/* job.list, get, wait, cancel. */
#include "config.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "daemon/guest.h"
#include "daemon/job.h"
#include "daemon/rpc.h"
#include "daemon/vmd.h"

static struct job *job_of_call(struct call *call, struct vmd_error *err)
{
	const char *id = jsonx_str(call->params, "job", "");
	struct job *job = job_find(call->vmd, id);

	if (!job) {
		(void)error_set(err, ERROR_NOT_FOUND, "there is no job '%.64s'", id);
		error_hint(err, "jobs are kept for a day, the newest 1,000 of them");
	}
	return job;
}

struct job_query {
	const char *vm, *state, *cursor;
	size_t limit;
};

static bool matches(const struct job_query *q, const json_t *job)
{
	if (q->state && strcmp(q->state, jsonx_str(job, "state", "")) != 0)
		return false;
	return !q->vm || strcmp(q->vm, jsonx_str(job, "vm", "")) == 0 ||
	       strcmp(q->vm, jsonx_str(job, "uuid", "")) == 0;
}

static int list(struct call *call, struct vmd_error *err)
{
	const json_t *p = call->params;
	struct job_query q = { .vm = jsonx_str(p, "vm", NULL),
		               .state = jsonx_str(p, "state", NULL),
		               .cursor = jsonx_str(p, "cursor", NULL),
		               .limit = (size_t)jsonx_int(p, "limit", INT64_MAX) };
	json_t *array = json_array(), *reply = json_pack("{s:o}", "jobs", array);
	struct list *head = job_list_head(call->vmd);
	bool skipping = q.cursor != NULL;

	if (!reply)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	for (struct list *l = head->prev; l != head; l = l->prev) {
		cleanup_json json_t *job = job_to_json(job_from_link(l));

		if (skipping) {
			skipping = strcmp(q.cursor, job_id(job_from_link(l))) != 0;
			continue;
		}
		if (!matches(&q, job))
			continue;
		if (json_array_size(array) == q.limit) {
			const json_t *last = json_array_get(array, q.limit - 1);

			(void)json_object_set(reply, "next", json_object_get(last, "id"));
			break;
		}
		json_array_append(array, job);
	}
	if (skipping) {
		json_decref(reply);
		return call_cursor_gone(err);
	}
	call_reply(call, reply);
	return 0;
}

static int get(struct call *call, struct vmd_error *err)
{
	struct job *job = job_of_call(call, err);

	if (!job)
		return -ENOENT;
	call_reply(call, job_to_json(job));
	return 0;
}

static int wait_job(struct call *call, struct vmd_error *err)
{
	struct job *job = job_of_call(call, err);
	int r;

	if (!job)
		return -ENOENT;
	r = job_wait(job, -1, err);
	if (r == 0)
		call_reply(call, job_to_json(job));
	return r;
}

/* Who may change the guest may cancel its job; a job of no guest belongs to who began it. */
static bool may_cancel(const struct call *call, const struct job *job)
{
	cleanup_json json_t *value = job_to_json(job);
	const char *uuid = jsonx_str(value, "uuid", NULL);
	const struct guest *g = uuid ? registry_find(call->vmd->guests, uuid) : NULL;

	return call->role == ROLE_ADMIN || (g && g->owner == call->uid) ||
	       strcmp(jsonx_str(value, "actor", ""), call->actor) == 0;
}

static int cancel(struct call *call, struct vmd_error *err)
{
	struct job *job = job_of_call(call, err);
	int r;

	if (!job)
		return -ENOENT;
	if (!may_cancel(call, job))
		return error_set(err, ERROR_DENIED, "job %s is not yours", job_id(job));
	r = call->dry_run ? 0 : job_cancel(job, err);
	if (r == 0)
		call_reply(call, job_to_json(job));
	return r;
}

const struct method job_methods[] = {
	{ "job.list", ROLE_VIEWER, METHOD_READ, list },
	{ "job.get", ROLE_VIEWER, METHOD_READ, get },
	{ "job.wait", ROLE_VIEWER, METHOD_FIBER, wait_job },
	{ "job.cancel", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, cancel },
	{ NULL, 0, 0, NULL },
};
