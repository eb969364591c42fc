/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Jobs: long work with stage, percent, bytes, result and cancel, that outlives its connection and
 * is told truly after a daemon restart. Records are store objects of kind "jobs", kept for a day or
 * the newest 1,000. All functions: loop thread.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/list.h"

struct job;
struct store_txn;
struct vmd;

enum job_state {
	JOB_RUNNING,
	JOB_DONE,
	JOB_FAILED,
	JOB_CANCELLED,
	_JOB_STATE_MAX,
};
const char *job_state_name(enum job_state state);

int jobs_new(struct vmd *vmd);
void jobs_free(struct vmd *vmd);

/*
 * New running job for method on a guest (vm_uuid may be NULL), owned by the running fiber:
 * job_cancel cancels that one. Its record goes into txn when given, so that intent and job are
 * durable together; else it is written without waiting. The table owns the job; 0 or -ENOMEM.
 */
int job_new(struct vmd *vmd, const char *method, const char *vm_uuid, const char *actor,
            struct store_txn *txn, struct job **ret);
const char *job_id(const struct job *job);
enum job_state job_state_of(const struct job *job);
const char *job_method(const struct job *job);
/* By id; NULL when it was never there or has been forgotten. */
struct job *job_find(struct vmd *vmd, const char *id);
/* Newest last; for job.list. */
struct list *job_list_head(struct vmd *vmd);
struct job *job_from_link(struct list *link);

/* Told as a job.progress event, at most ten a second per job; percent 0..100, bytes 0 when unknown.
 * job may be NULL. stage is a static string. */
void job_progress(struct job *job, const char *stage, unsigned percent, uint64_t bytes_done,
                  uint64_t bytes_total);
/* Ends the job with a result (borrowed, may be NULL) or an error; wakes waiters, tells job.done. */
void job_finish(struct job *job, const json_t *result, const struct vmd_error *err);
/* As the API shows it; new reference. */
json_t *job_to_json(const struct job *job);
/* Waits (fiber) until the job has ended: 0; -ETIMEDOUT, -ECANCELED with err. */
int job_wait(struct job *job, int64_t timeout_ms, struct vmd_error *err);
/* Asks the job's fiber to stop; -ESTALE with err when it has ended. */
int job_cancel(struct job *job, struct vmd_error *err);

/*
 * From store_open: a job found on disk. One still running there was cut off by a daemon's death:
 * the reconcile of its guest decides with job_finish what became of it; jobs_settle ends the rest.
 */
void job_load(struct vmd *vmd, const char *id, const char *text, size_t len);
struct job *job_interrupted_of(struct vmd *vmd, const char *vm_uuid);
void jobs_settle(struct vmd *vmd);
