/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * client_key: a change with a key is done once. A key belongs to a user and a method; its record
 * (store objects of kind "keys", kept for a day or the newest KEEP_KEYS) holds a digest of the
 * parameters and the result. A change that fails leaves no record: its repeat runs again.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/job.h"
#include "daemon/rpc-private.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

#define KEEP_KEYS 4096
#define KEEP_US   (86400u * 1000000ull)
#define BUCKETS   512

struct key {
	struct list bucket;
	struct list age;  /* oldest first */
	char id[37];      /* uuid made from name */
	char digest[33];  /* of the parameters */
	char job[37];     /* of a job method, or "" */
	char *name;       /* "<uid> <method> <client_key>" */
	char *result;     /* JSON text once done; NULL before, and for a job cut off by a restart */
	uint64_t time_us; /* wall clock */
	bool running;     /* a call is at it in this life of the daemon */
	bool put;         /* the record with the result went into the change's own transaction */
	unsigned refs;    /* the table's and the waiters' */
	struct waitq done;
};

struct key_table {
	struct list buckets[BUCKETS];
	struct list age;
	size_t n;
};

static void key_unref(struct key *k)
{
	if (--k->refs)
		return;
	free(k->name);
	free(k->result);
	free(k);
}

static void key_remove(struct key_table *t, struct key *k)
{
	list_del(&k->bucket);
	list_del(&k->age);
	t->n--;
	key_unref(k);
}

static struct key_table *table_of(struct vmd *vmd)
{
	struct key_table *t = vmd->keys;

	if (t)
		return t;
	t = vmd->keys = malloc(sizeof(*t));
	if (!t)
		return NULL;
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&t->buckets[i]);
	list_init(&t->age);
	t->n = 0;
	return t;
}

void key_table_free(struct key_table *t)
{
	if (!t)
		return;
	while (!list_is_empty(&t->age))
		key_remove(t, list_entry(t->age.next, struct key, age));
	free(t);
}

static struct list *bucket_of(struct key_table *t, const char *id)
{
	return &t->buckets[XXH3_64bits(id, 36) % BUCKETS];
}

static struct key *find(struct key_table *t, const char *id)
{
	struct list *bucket = bucket_of(t, id);
	struct key *k;

	list_for_each(k, bucket, bucket)
		if (strcmp(k->id, id) == 0)
			return k;
	return NULL;
}

static void insert(struct key_table *t, struct key *k)
{
	struct list *after = t->age.prev;

	/* Nearly always the youngest; only those loaded come in any order. */
	while (after != &t->age && list_entry(after, struct key, age)->time_us > k->time_us)
		after = after->prev;
	list_add_tail(after->next, &k->age);
	list_add_tail(bucket_of(t, k->id), &k->bucket);
	t->n++;
}

static struct key *key_new(const char *id, const char *name, const char *digest)
{
	struct key *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->refs = 1;
	k->name = strdup(name);
	if (!k->name) {
		free(k);
		return NULL;
	}
	snprintf(k->id, sizeof(k->id), "%s", id);
	snprintf(k->digest, sizeof(k->digest), "%s", digest);
	k->time_us = now_wall_us();
	list_init(&k->bucket);
	list_init(&k->age);
	waitq_init(&k->done);
	return k;
}

/* Forgets what is too old or too many. */
static void prune(struct vmd *vmd)
{
	struct key_table *t = vmd->keys;
	struct store_txn *txn = NULL;
	uint64_t now = now_wall_us();

	while (!list_is_empty(&t->age)) {
		struct key *k = list_entry(t->age.next, struct key, age);

		/* A clock that was set back makes no key old. */
		if (k->running || (t->n <= KEEP_KEYS && now < k->time_us + KEEP_US))
			break;
		if (!txn)
			txn = store_txn_new(vmd->store);
		if (!txn)
			break;
		store_delete(txn, "keys", k->id);
		key_remove(t, k);
	}
	if (txn)
		store_commit_async(txn);
}

void rpc_key_load(struct vmd *vmd, const char *id, const char *text, size_t len)
{
	cleanup_json json_t *v = jsonx_parse(text, len, RPC_MAX_DEPTH * 2, NULL);
	const char *name = jsonx_str(v, "name", NULL), *digest = jsonx_str(v, "digest", NULL);
	const json_t *result = json_object_get(v, "result");
	struct key_table *t = table_of(vmd);
	struct key *k;

	if (!t || !name || !digest || find(t, id))
		return;
	k = key_new(id, name, digest);
	if (!k)
		return;
	k->time_us = (uint64_t)jsonx_int(v, "time_us", 0);
	snprintf(k->job, sizeof(k->job), "%s", jsonx_str(v, "job", ""));
	if (result)
		k->result = jsonx_dump(result);
	insert(t, k);
}

/* --- names and digests --- */

static void hex(XXH128_hash_t h, char out[33])
{
	snprintf(out, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}

static void make_id(const char *name, char out[37])
{
	char h[33];

	hex(XXH3_128bits(name, strlen(name)), h);
	snprintf(out, 37, "%.8s-%.4s-8%.3s-8%.3s-%.12s", h, h + 8, h + 13, h + 17, h + 20);
}

/* Of the parameters that say what to do, not of those that say how to wait for it. */
static int make_digest(const json_t *params, char out[33])
{
	cleanup_json json_t *copy = json_copy((json_t *)(uintptr_t)params);
	cleanup_free char *text = NULL;

	if (!copy)
		return -ENOMEM;
	(void)json_object_del(copy, "client_key");
	(void)json_object_del(copy, "timeout_ms");
	(void)json_object_del(copy, "wait");
	text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		return -ENOMEM;
	hex(XXH3_128bits(text, strlen(text)), out);
	return 0;
}

/* --- a call with a key --- */

static int reply_job(struct rpc_call *c, const struct key *k)
{
	struct job *job = job_find(c->call.vmd, k->job);
	json_t *value = job ? job_to_json(job)
	                    : json_pack("{s:s, s:s, s:s}", "id", k->job, "method", c->call.method,
	                                "state", "done");

	call_reply(&c->call, json_pack("{s:o}", "job", value));
	return 1;
}

/* A key whose job a restart of the daemon cut off: what became of the job? 0: run it again. */
static int settle(struct rpc_call *c, struct key *k, struct vmd_error *err)
{
	struct job *job = k->job[0] ? job_find(c->call.vmd, k->job) : NULL;
	cleanup_json json_t *value = NULL;
	const json_t *result;
	int r;

	if (!job)
		return 0;
	r = job_wait(job, -1, err);
	if (r < 0)
		return r;
	value = job_to_json(job);
	result = json_object_get(value, "result");
	if (strcmp(jsonx_str(value, "state", ""), "done") != 0)
		return 0;
	k->result = result ? jsonx_dump(result) : NULL;
	return k->result ? 1 : 0;
}

static int reply_result(struct rpc_call *c, const struct key *k, struct vmd_error *err)
{
	char *text = strdup(k->result);

	if (!text)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply_text(&c->call, text, strlen(text));
	return 1;
}

/* The answer of a key that is known: 1, 0 when the call has to run after all, or negative. */
static int repeat(struct rpc_call *c, struct key *k, struct vmd_error *err)
{
	int r = 1;

	if (k->job[0] && !jsonx_bool(c->call.params, "wait", true) && (k->running || k->result))
		return reply_job(c, k);
	k->refs++;
	if (k->running) {
		r = waitq_wait(&k->done, -1);
		if (r < 0)
			(void)error_set(err, error_kind_from_errno(-r),
			                "gave up waiting for the first call with this client_key");
	} else if (!k->result) {
		r = settle(c, k, err);
	}
	if (r >= 0)
		r = k->result ? reply_result(c, k, err) : 0;
	key_unref(k);
	return r;
}

static int take(struct rpc_call *c, const char *name, const char *digest, struct vmd_error *err)
{
	struct key_table *t = table_of(c->call.vmd);
	struct key *k;
	char id[37];
	int r;

	if (!t)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	make_id(name, id);
	while ((k = find(t, id))) {
		if (strcmp(k->name, name) != 0 || strcmp(k->digest, digest) != 0) {
			(void)error_set(err, ERROR_CONFLICT,
			                "client_key was used before with other parameters");
			error_hint(err, "choose a new key for a new change");
			return -EILSEQ;
		}
		r = repeat(c, k, err);
		if (r)
			return r;
		/* It failed; who comes first runs it again. */
		k = find(t, id);
		if (k && !k->running)
			key_remove(t, k);
	}
	prune(c->call.vmd);
	k = key_new(id, name, digest);
	if (!k)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	k->running = true;
	insert(t, k);
	c->key = k;
	return 0;
}

/*
 * Before a change runs. 0: run it (c->key is set when it has a key); 1: a repeat, the answer is in
 * the call; negative with err: a conflict, or gave up waiting for the first one. Waits.
 */
int key_begin(struct rpc_call *c, struct vmd_error *err)
{
	const char *key = jsonx_str(c->call.params, "client_key", NULL);
	char name[256], digest[33];

	if (!key || c->call.dry_run)
		return 0;
	snprintf(name, sizeof(name), "%u %s %s", c->call.uid, c->call.method, key);
	if (make_digest(c->call.params, digest) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	return take(c, name, digest, err);
}

static void put_record(struct key *k, struct store_txn *txn, const json_t *result)
{
	cleanup_json json_t *record =
		json_pack("{s:s, s:s, s:s, s:I}", "name", k->name, "digest", k->digest, "job",
	                  k->job, "time_us", (json_int_t)k->time_us);

	if (record && result)
		(void)json_object_set(record, "result", (json_t *)(uintptr_t)result);
	store_put_json(txn, "keys", k->id, record);
}

/* The record with its result, in the change's own transaction. */
void key_put(struct rpc_call *c, struct store_txn *txn, const json_t *result)
{
	put_record(c->key, txn, result);
	c->key->put = true;
}

/* The record with the job's id, in the transaction of the job. */
bool key_job(struct rpc_call *c, struct store_txn *txn)
{
	snprintf(c->key->job, sizeof(c->key->job), "%s", job_id(c->call.job));
	put_record(c->key, txn, NULL);
	return true;
}

static void record_result(struct rpc_call *c, const json_t *result)
{
	struct store_txn *txn = store_txn_new(c->call.vmd->store);
	struct vmd_error err = VMD_ERROR_INIT;

	if (!txn)
		return;
	put_record(c->key, txn, result);
	/* The change is done: its record must not be left out because the caller went away. */
	fiber_shield(true);
	if (store_commit(txn, &err) < 0)
		log_warning("Cannot keep a client_key of user %u: %s", c->call.uid, err.message);
	fiber_shield(false);
}

/* After a change with a key: done, or failed and thus free again. Waits. */
void key_end(struct rpc_call *c, bool done)
{
	cleanup_json json_t *result = NULL;
	struct key *k = c->key;

	if (done && rpc_call_json(&c->call, &result) == 0) {
		k->result = jsonx_dump(result);
		if (!k->put)
			record_result(c, result);
	}
	k->running = false;
	c->key = NULL;
	waitq_wake_all(&k->done);
	if (!k->result) {
		bool kept = k->job[0] || k->put;
		struct store_txn *txn = kept ? store_txn_new(c->call.vmd->store) : NULL;

		if (txn) {
			store_delete(txn, "keys", k->id);
			store_commit_async(txn);
		}
		key_remove(c->call.vmd->keys, k);
	}
}
