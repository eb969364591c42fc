/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-id128.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/guest.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

enum {
	KEEP_JOBS = 1000,
	PROGRESS_INTERVAL_US = 100000,
	LINGER_US = 60000000, /* who was woken by the end of a job still reads it */
};
static const uint64_t keep_us = 86400000000u;

struct job {
	struct list link;
	struct vmd *vmd;
	char id[37], method[32], vm_uuid[37], vm_name[64], actor[32];
	enum job_state state;
	const char *stage;
	unsigned percent;
	uint64_t bytes_done, bytes_total, started_us, ended_us, told_us;
	char *result, *error; /* JSON text, or NULL */
	struct fiber *fiber;  /* NULL once ended, and for one that was interrupted */
	struct waitq ended;
};

struct job_table {
	struct list jobs;
	size_t count;
};

static const char *const state_names[] = {
	[JOB_RUNNING] = "running",
	[JOB_DONE] = "done",
	[JOB_FAILED] = "failed",
	[JOB_CANCELLED] = "cancelled",
};
static_assert(ARRAY_SIZE(state_names) == _JOB_STATE_MAX, "one name per state");

const char *job_state_name(enum job_state state)
{
	return state_names[state];
}

int jobs_new(struct vmd *vmd)
{
	vmd->jobs = calloc(1, sizeof(*vmd->jobs));
	if (!vmd->jobs)
		return -ENOMEM;
	list_init(&vmd->jobs->jobs);
	return 0;
}

static void job_free(struct job *job)
{
	list_del(&job->link);
	job->vmd->jobs->count--;
	free(job->result);
	free(job->error);
	free(job);
}

void jobs_free(struct vmd *vmd)
{
	struct job *job, *next;

	if (!vmd->jobs)
		return;
	list_for_each_safe(job, next, &vmd->jobs->jobs, link)
		job_free(job);
	free(vmd->jobs);
	vmd->jobs = NULL;
}

static struct job *job_alloc(struct vmd *vmd)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->vmd = vmd;
	job->stage = "";
	waitq_init(&job->ended);
	list_add_tail(&vmd->jobs->jobs, &job->link);
	vmd->jobs->count++;
	return job;
}

/* Ended jobs beyond the newest KEEP_JOBS, or older than a day, are forgotten. */
static void prune(struct vmd *vmd, struct store_txn *txn)
{
	uint64_t now = now_wall_us();
	struct job *job, *next;

	list_for_each_safe(job, next, &vmd->jobs->jobs, link) {
		bool old = job->ended_us && job->ended_us + keep_us < now;

		if (vmd->jobs->count <= KEEP_JOBS && !old)
			return; /* oldest first: the rest is younger */
		if (job->state == JOB_RUNNING || job->ended_us + LINGER_US > now)
			continue;
		store_delete(txn, "jobs", job->id);
		job_free(job);
	}
}

static void keep(struct job *job, struct store_txn *txn)
{
	cleanup_json json_t *value = job_to_json(job);

	if (value)
		store_put_json(txn, "jobs", job->id, value);
}

int job_new(struct vmd *vmd, const char *method, const char *vm_uuid, const char *actor,
            struct store_txn *txn, struct job **ret)
{
	struct guest *g = vm_uuid ? registry_find(vmd->guests, vm_uuid) : NULL;
	struct store_txn *own = txn ? NULL : store_txn_new(vmd->store);
	struct job *job = job_alloc(vmd);
	char text[SD_ID128_UUID_STRING_MAX];
	sd_id128_t id;

	if (!job || (!txn && !own) || sd_id128_randomize(&id) < 0) {
		if (job)
			job_free(job);
		store_txn_free(own);
		return -ENOMEM;
	}
	snprintf(job->id, sizeof(job->id), "%s", sd_id128_to_uuid_string(id, text));
	snprintf(job->method, sizeof(job->method), "%s", method);
	snprintf(job->vm_uuid, sizeof(job->vm_uuid), "%s", g ? g->uuid : "");
	snprintf(job->vm_name, sizeof(job->vm_name), "%s", g ? g->name : "");
	snprintf(job->actor, sizeof(job->actor), "%s", actor);
	job->started_us = now_wall_us();
	job->fiber = fiber_self();
	prune(vmd, txn ? txn : own);
	keep(job, txn ? txn : own);
	if (own)
		store_commit_async(own);
	*ret = job;
	return 0;
}

const char *job_id(const struct job *job)
{
	return job->id;
}

const char *job_method(const struct job *job)
{
	return job->method;
}

enum job_state job_state_of(const struct job *job)
{
	return job->state;
}

struct job *job_find(struct vmd *vmd, const char *id)
{
	struct job *job;

	list_for_each(job, &vmd->jobs->jobs, link)
		if (strcmp(job->id, id) == 0)
			return job;
	return NULL;
}

struct list *job_list_head(struct vmd *vmd)
{
	return &vmd->jobs->jobs;
}

struct job *job_from_link(struct list *link)
{
	return list_entry(link, struct job, link);
}

static void tell(struct job *job, struct store_txn *txn, const char *type, uint64_t *ret_seq)
{
	uint64_t seq = event_publish(job->vmd->events, txn,
	                             &(struct event){ .type = type,
	                                              .vm = job->vm_name[0] ? job->vm_name : NULL,
	                                              .uuid = job->vm_uuid[0] ? job->vm_uuid : NULL,
	                                              .actor = job->actor,
	                                              .data = job_to_json(job) });

	if (ret_seq)
		*ret_seq = seq;
}

void job_progress(struct job *job, const char *stage, unsigned percent, uint64_t bytes_done,
                  uint64_t bytes_total)
{
	uint64_t now = now_monotonic_us();
	bool new_stage;

	if (!job || job->state != JOB_RUNNING)
		return;
	new_stage = strcmp(stage, job->stage) != 0;
	job->stage = stage;
	job->percent = MIN_OF(percent, 100u);
	job->bytes_done = bytes_done;
	job->bytes_total = bytes_total;
	if (!new_stage && now - job->told_us < PROGRESS_INTERVAL_US)
		return;
	job->told_us = now;
	tell(job, NULL, "job.progress", NULL);
}

static char *error_text(const struct vmd_error *err)
{
	cleanup_json json_t *o =
		json_pack("{s:i, s:s, s:{s:s, s:s, s:s}}", "code", error_kind_code(err->kind),
	                  "message", err->message, "data", "kind", error_kind_name(err->kind),
	                  "hint", err->hint, "field", err->field);

	return o ? jsonx_dump(o) : NULL;
}

void job_finish(struct job *job, const json_t *result, const struct vmd_error *err)
{
	struct store_txn *txn = store_txn_new(job->vmd->store);
	uint64_t seq;

	job->fiber = NULL;
	job->ended_us = now_wall_us();
	job->state = !err ? JOB_DONE : err->kind == ERROR_CANCELLED ? JOB_CANCELLED : JOB_FAILED;
	if (err)
		job->error = error_text(err);
	else
		job->percent = 100;
	if (result)
		job->result = jsonx_dump(result);
	if (txn) {
		keep(job, txn);
		tell(job, txn, "job.done", &seq);
		store_commit_async(txn);
		event_flush(job->vmd->events, seq);
	}
	waitq_wake_all(&job->ended);
}

static json_t *text_or_null(const char *text)
{
	json_t *v = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

	return v ? v : json_null();
}

json_t *job_to_json(const struct job *job)
{
	return json_pack(
		"{s:s, s:s, s:s?, s:s?, s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:I, s:o, s:s}", "id",
		job->id, "method", job->method, "vm", job->vm_name[0] ? job->vm_name : NULL, "uuid",
		job->vm_uuid[0] ? job->vm_uuid : NULL, "state", job_state_name(job->state), "stage",
		job->stage, "percent", (int)job->percent, "bytes_done", (json_int_t)job->bytes_done,
		"bytes_total", (json_int_t)job->bytes_total, "result", text_or_null(job->result),
		"error", text_or_null(job->error), "started_us", (json_int_t)job->started_us,
		"ended_us", job->ended_us ? json_integer((json_int_t)job->ended_us) : json_null(),
		"actor", job->actor);
}

int job_wait(struct job *job, int64_t timeout_ms, struct vmd_error *err)
{
	while (job->state == JOB_RUNNING) {
		int r = waitq_wait(&job->ended, timeout_ms);

		if (r < 0)
			return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
			                 "job %s has not ended in time", job->id);
	}
	return 0;
}

int job_cancel(struct job *job, struct vmd_error *err)
{
	if (job->state != JOB_RUNNING)
		return error_set(err, ERROR_WRONG_STATE, "job %s is %s already", job->id,
		                 job_state_name(job->state));
	if (job->fiber)
		fiber_cancel(job->fiber);
	return 0;
}

void job_load(struct vmd *vmd, const char *id, const char *text, size_t len)
{
	cleanup_json json_t *o = json_loadb(text, len, 0, NULL);
	const json_t *result = json_object_get(o, "result"), *error = json_object_get(o, "error");
	struct job *job = o ? job_alloc(vmd) : NULL;

	if (!job) {
		log_warning("Job %s cannot be read", id);
		return;
	}
	snprintf(job->id, sizeof(job->id), "%s", id);
	snprintf(job->method, sizeof(job->method), "%s", jsonx_str(o, "method", ""));
	snprintf(job->vm_uuid, sizeof(job->vm_uuid), "%s", jsonx_str(o, "uuid", ""));
	snprintf(job->vm_name, sizeof(job->vm_name), "%s", jsonx_str(o, "vm", ""));
	snprintf(job->actor, sizeof(job->actor), "%s", jsonx_str(o, "actor", ""));
	for (int s = 0; s < _JOB_STATE_MAX; s++)
		if (strcmp(state_names[s], jsonx_str(o, "state", "")) == 0)
			job->state = (enum job_state)s;
	job->percent = (unsigned)jsonx_int(o, "percent", 0);
	job->started_us = (uint64_t)jsonx_int(o, "started_us", 0);
	job->ended_us = (uint64_t)jsonx_int(o, "ended_us", 0);
	job->result = json_is_null(result) ? NULL : jsonx_dump(result);
	job->error = json_is_null(error) ? NULL : jsonx_dump(error);
}

struct job *job_interrupted_of(struct vmd *vmd, const char *vm_uuid)
{
	struct job *job;

	list_for_each(job, &vmd->jobs->jobs, link)
		if (job->state == JOB_RUNNING && !job->fiber && strcmp(job->vm_uuid, vm_uuid) == 0)
			return job;
	return NULL;
}

static int compare_start(const void *a, const void *b)
{
	const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;

	return (x->started_us > y->started_us) - (x->started_us < y->started_us);
}

/* Jobs come from the store in no order; the list is kept oldest first. */
static void sort_jobs(struct job_table *t)
{
	struct job **all = calloc(t->count + 1, sizeof(*all));
	struct job *job;
	size_t n = 0;

	if (!all)
		return;
	list_for_each(job, &t->jobs, link)
		all[n++] = job;
	qsort(all, n, sizeof(*all), compare_start);
	list_init(&t->jobs);
	for (size_t i = 0; i < n; i++)
		list_add_tail(&t->jobs, &all[i]->link);
	free(all);
}

void jobs_settle(struct vmd *vmd)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct job *job;

	sort_jobs(vmd->jobs);
	(void)error_set(&err, ERROR_INTERNAL, "the daemon was restarted while the job was at work");
	error_hint(&err, "repeat the call");
	list_for_each(job, &vmd->jobs->jobs, link)
		if (job->state == JOB_RUNNING && !job->fiber &&
		    !registry_find(vmd->guests, job->vm_uuid))
			job_finish(job, NULL, &err);
}
