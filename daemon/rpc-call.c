/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls that may wait, each in a fiber. Before its handler runs, a change waits until no change of
 * the same guest that came earlier on the same connection is in flight. A call outlives its
 * connection when it changes something; else it is cancelled with it.
 */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/job.h"
#include "daemon/rpc-private.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

/* --- for handlers --- */

void call_reply(struct call *call, json_t *result)
{
	json_decref(call->result);
	call->result = result;
}

void call_reply_text(struct call *call, char *text, size_t len)
{
	free(call->result_text);
	call->result_text = text;
	call->result_len = len;
}

void call_reply_shared(struct call *call, struct shared_text *text)
{
	shared_text_unref(call->result_shared);
	call->result_shared = shared_text_ref(text);
}

int call_reply_fd(struct call *call, int fd)
{
	if (call->n_reply_fds == ARRAY_SIZE(call->reply_fds)) {
		fd_close_many(&fd, 1);
		return -E2BIG;
	}
	call->reply_fds[call->n_reply_fds] = fd;
	return (int)call->n_reply_fds++;
}

int call_path(struct call *call, const json_t *value, const char *field, const char **ret_path,
              int *ret_fd, struct vmd_error *err)
{
	int64_t n = jsonx_int(value, "fd", -1);
	int fd;

	*ret_path = json_string_value(value);
	*ret_fd = -EBADF;
	if (*ret_path)
		return 0;
	if (n < 0 || (uint64_t)n >= call->n_fds) {
		char place[96];

		snprintf(place, sizeof(place), "%.90s.fd", field);
		return error_set_field(err, place, "descriptor %lld did not come with the call",
		                       (long long)n);
	}
	fd = fcntl(call->fds[n], F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot take descriptor %lld", (long long)n);
	*ret_fd = fd;
	return 0;
}

int call_cursor_gone(struct vmd_error *err)
{
	int r = error_set_field(err, "cursor", "the entry that the cursor stands for is gone");

	error_hint(err, "begin again without a cursor");
	return r;
}

void call_record_key(struct call *call, struct store_txn *txn, const json_t *result)
{
	struct rpc_call *c;

	/* Only calls in fibers change anything, and only they have keys. */
	if (!fiber_self() || !json_object_get(call->params, "client_key"))
		return;
	c = container_of(call, struct rpc_call, call);
	if (c->key)
		key_put(c, txn, result);
}

/* Lets go of what the handler left in the call. */
void rpc_call_release(struct call *call)
{
	json_decref(call->result);
	free(call->result_text);
	shared_text_unref(call->result_shared);
	fd_close_many(call->reply_fds, call->n_reply_fds);
	call->result = NULL;
	call->result_text = NULL;
	call->result_shared = NULL;
	call->n_reply_fds = 0;
}

/* The result as a value (new reference). 0 or -ENOMEM. */
int rpc_call_json(struct call *call, json_t **ret)
{
	const struct shared_text *t = call->result_shared;

	if (call->result)
		*ret = json_incref(call->result);
	else if (call->result_text || t)
		*ret = jsonx_parse(t ? t->data : call->result_text, t ? t->len : call->result_len,
		                   RPC_MAX_DEPTH * 2, NULL);
	else
		*ret = json_object();
	return *ret ? 0 : -ENOMEM;
}

/* --- order --- */

static bool is_same_guest(const struct rpc_call *a, const struct rpc_call *b)
{
	struct rpc_guest one, other;

	for (size_t i = 0; i < ARRAY_SIZE(a->guest); i++)
		for (size_t j = 0; j < ARRAY_SIZE(b->guest); j++) {
			if (!a->guest[i] || !b->guest[j])
				continue;
			if (strcmp(a->guest[i], b->guest[j]) == 0)
				return true;
			/* One may be called by name, the other by uuid. */
			if (rpc_find_guest(a->rpc, a->guest[i], &one) &&
			    rpc_find_guest(a->rpc, b->guest[j], &other) &&
			    strcmp(one.uuid, other.uuid) == 0)
				return true;
		}
	return false;
}

static void collect_guests(struct rpc_call *c)
{
	const json_t *params = c->call.params;

	if (!(c->method->method->flags & METHOD_CHANGE) ||
	    (c->method->method->flags & METHOD_URGENT))
		return;
	c->guest[0] = jsonx_str(params, "vm", NULL);
	if (!c->guest[0])
		c->guest[0] = jsonx_str(json_object_get(params, "definition"), "name", NULL);
	if (c->guest[0])
		c->guest[1] = jsonx_str(params, "name", NULL); /* vm.rename */
}

static bool has_predecessor(const struct rpc_call *c)
{
	const struct rpc_call *other;

	if (!c->guest[0])
		return false;
	list_for_each(other, &c->rpc->calls, link) {
		if (other == c)
			return false;
		/* A job told by its id is on its own: who comes next meets it at the guest. */
		if (other->answered && other->call.job)
			continue;
		if (other->peer_serial == c->peer_serial && other->guest[0] &&
		    is_same_guest(other, c))
			return true;
	}
	return false;
}

static void wake_successors(struct rpc_call *c)
{
	struct rpc_call *other;

	if (!c->guest[0])
		return;
	list_for_each(other, &c->rpc->calls, link)
		if (other->peer_serial == c->peer_serial)
			waitq_wake_all(&other->turn);
}

static int wait_for_turn(struct rpc_call *c, struct vmd_error *err)
{
	while (has_predecessor(c)) {
		int r = waitq_wait(&c->turn, -1);

		if (r < 0)
			return error_set(err, error_kind_from_errno(-r),
			                 "gave up waiting for an earlier change of '%s'",
			                 c->guest[0]);
	}
	return 0;
}

/* --- one call --- */

static void log_change(const struct rpc_call *c, int r, const struct vmd_error *err)
{
	const char *guest = jsonx_str(c->call.params, "vm", c->guest[0]);
	const struct log_field fields[] = {
		{ "ACTOR", c->call.actor },
		{ "METHOD", c->call.method },
		{ "GUEST", guest },
		{ "JOB", c->call.job ? job_id(c->call.job) : NULL },
		{ "KIND", r < 0 ? error_kind_name(err->kind) : NULL },
		{ NULL, NULL },
	};

	if (c->call.dry_run)
		return;
	if (r < 0)
		log_fields(LOG_NOTICE, fields, "Change '%s' failed: %s", c->call.method,
		           err->message);
	else
		log_fields(LOG_INFO, fields, "Change '%s' done", c->call.method);
}

static void answer_job(struct rpc_call *c)
{
	cleanup_json json_t *reply = json_pack("{s:o}", "job", job_to_json(c->call.job));

	if (c->id && !c->answered)
		rpc_reply_json(c->exchange->peer, c->exchange, c->id, reply);
	c->answered = true;
	wake_successors(c);
}

/* The job of a METHOD_JOB call. With wait: false it is durable before its id is told. */
static int begin_job(struct rpc_call *c, struct vmd_error *err)
{
	struct vmd *vmd = c->call.vmd;
	bool wait = jsonx_bool(c->call.params, "wait", true);
	struct store_txn *txn = NULL;
	struct rpc_guest guest = { 0 };
	int r;

	(void)rpc_find_guest(c->rpc, jsonx_str(c->call.params, "vm", ""), &guest);
	txn = store_txn_new(vmd->store);
	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	r = job_new(vmd, c->call.method, guest.uuid, c->call.actor, txn, &c->call.job);
	if (r < 0) {
		store_txn_free(txn);
		return error_set_errno(err, -r, "cannot make a job");
	}
	if (c->key)
		(void)key_job(c, txn);
	if (wait) {
		store_commit_async(txn);
		return 0;
	}
	r = store_commit(txn, err);
	if (r == 0)
		answer_job(c);
	return r;
}

/* What happens after the turn came: job, handler. */
static int run_handler(struct rpc_call *c, struct vmd_error *err)
{
	int r = 0;

	if ((c->method->method->flags & METHOD_JOB) && !c->call.dry_run)
		r = begin_job(c, err);
	if (r == 0)
		r = c->method->method->handler(&c->call, err);
	if (r < 0 && err->kind == ERROR_NONE)
		(void)error_set_errno(err, -r, "'%s' failed", c->call.method);
	return r;
}

static void end_job(struct rpc_call *c, int r, const struct vmd_error *err)
{
	cleanup_json json_t *result = NULL;

	if (!c->call.job)
		return;
	if (r == 0)
		(void)rpc_call_json(&c->call, &result);
	job_finish(c->call.job, result, r < 0 ? err : NULL);
}

static void answer(struct rpc_call *c, int r, const struct vmd_error *err)
{
	struct peer *p = c->exchange->peer;

	if (!c->id || c->answered)
		return;
	c->answered = true;
	if (r < 0)
		rpc_reply_error(p, c->exchange, c->id, err, jsonx_str(c->call.params, "vm", NULL));
	else
		rpc_reply_result(p, c->exchange, c->id, &c->call);
}

static void call_end(struct rpc_call *c)
{
	list_del(&c->link);
	wake_successors(c);
	c->rpc->n_calls--;
	if (c->method->method->flags & METHOD_CHANGE)
		c->rpc->n_changes--;
	exchange_unref(c->exchange);
	if (c->call.peer)
		peer_call_end(c->call.peer);
	rpc_call_release(&c->call);
	json_decref(c->call.params);
	free(c->id);
	free(c);
}

static void call_main(void *arg)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct rpc_call *c = arg;
	bool change = c->method->method->flags & METHOD_CHANGE;
	int r;

	c->fiber = fiber_self();
	fiber_set_deadline(c->deadline);
	r = wait_for_turn(c, &err);
	if (r == 0 && change)
		r = key_begin(c, &err);
	if (r > 0) { /* a repeat: the first one's answer is in the call */
		answer(c, 0, NULL);
		call_end(c);
		return;
	}
	if (r == 0)
		r = run_handler(c, &err);
	end_job(c, r, &err);
	if (change)
		log_change(c, r, &err);
	if (c->key)
		key_end(c, r == 0);
	answer(c, r, &err);
	call_end(c);
}

static struct rpc_call *call_new(struct rpc *rpc, struct peer *p, struct exchange *ex,
                                 const struct rpc_method *m, json_t *params, const char *id)
{
	struct rpc_call *c = calloc(1, sizeof(*c));
	int64_t timeout = jsonx_int(params, "timeout_ms", -1);

	if (c && id)
		c->id = strdup(id);
	if (!c || (id && !c->id)) {
		free(c);
		return NULL;
	}
	c->rpc = rpc;
	c->method = m;
	c->exchange = ex;
	c->peer_serial = p->serial;
	c->call.vmd = p->vmd;
	c->call.method = m->method->name;
	c->call.params = json_incref(params);
	c->call.role = p->who.role;
	c->call.uid = p->who.uid;
	memcpy(c->call.actor, p->actor, sizeof(c->call.actor));
	c->call.fds = ex->fds;
	c->call.n_fds = ex->n_fds;
	c->call.dry_run = jsonx_bool(params, "dry_run", false);
	c->call.peer = p;
	waitq_init(&c->turn);
	collect_guests(c);
	if (timeout >= 0 && !(m->contract->flags & CONTRACT_OWN_TIMEOUT))
		c->deadline = now_monotonic_us() + (uint64_t)timeout * 1000u;
	return c;
}

void rpc_call_start(struct rpc *rpc, struct peer *p, struct exchange *ex,
                    const struct rpc_method *m, json_t *params, const char *id)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct rpc_call *c = NULL;

	if (rpc->n_calls >= RPC_MAX_FIBERS)
		(void)error_set(&err, ERROR_BUSY, "%u calls are in flight already", rpc->n_calls);
	else if (rpc->vmd->stopping && (m->method->flags & METHOD_CHANGE))
		(void)error_set(&err, ERROR_BUSY, "the daemon is leaving, try again soon");
	else if (!(c = call_new(rpc, p, ex, m, params, id)))
		(void)error_set(&err, ERROR_NO_SPACE, "out of memory");
	if (!c) {
		if (id)
			rpc_reply_error(p, ex, id, &err, NULL);
		return;
	}
	list_add_tail(&rpc->calls, &c->link);
	rpc->n_calls++;
	if (m->method->flags & METHOD_CHANGE)
		rpc->n_changes++;
	ex->refs++;
	peer_call_begin(p);
	if (fiber_start(m->method->name, call_main, c) == 0)
		return; /* c may be gone */
	(void)error_set(&err, ERROR_NO_SPACE, "out of memory");
	answer(c, -ENOMEM, &err);
	call_end(c);
}

/* A job goes on without its reply; everything else is asked to stop. */
void rpc_call_cancel(struct rpc *rpc, struct peer *p, const char *id)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct rpc_call *c;

	list_for_each(c, &rpc->calls, link) {
		if (c->call.peer != p || !c->id || c->answered || strcmp(c->id, id) != 0)
			continue;
		if (c->call.job) {
			(void)error_set(&err, ERROR_CANCELLED,
			                "the wait for job %s was cancelled, the job goes on",
			                job_id(c->call.job));
			snprintf(err.job, sizeof(err.job), "%s", job_id(c->call.job));
			answer(c, -ECANCELED, &err);
		} else if (c->fiber) {
			fiber_cancel(c->fiber);
		}
		return;
	}
}

void rpc_peer_gone(struct peer *p)
{
	struct rpc_call *c;

	rpc_end_events(p);
	list_for_each(c, &p->vmd->rpc->calls, link) {
		if (c->call.peer != p)
			continue;
		c->call.peer = NULL;
		c->exchange->peer = NULL;
		if (!(c->method->method->flags & METHOD_CHANGE) && c->fiber)
			fiber_cancel(c->fiber);
	}
}
