/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The committer: takes all waiting transactions, writes them as records with one write and one
 * fdatasync, then tells the waiters. After a failed write or fdatasync the file is not trusted any
 * more: what was being written is written once more under a new epoch in the other file, whose
 * header (first seq) voids every trace of the first try. When that fails too, the transactions
 * fail, and the next commit tries again: a degraded store heals by itself.
 */
#include "config.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"
#include "daemon/store-internal.h"

#define GROUP_MAX ((size_t)IOV_MAX / 2)
#define GROW_STEP (1u << 20)
#define RETRY_US  100000u
#define GROWN_MAX 8u /* a journal this many times its size waits for the checkpoint */

/* A journal in which a new epoch can begin, or NULL. lock held. */
static struct journal *free_journal(struct store *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->journals); i++)
		if (!s->journals[i].used && s->active != &s->journals[i])
			return &s->journals[i];
	return NULL;
}

/* The active journal (if any) retires; its records wait for a checkpoint. */
static void retire(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	s->active = NULL;
	pthread_mutex_unlock(&s->lock);
}

static void forget_deleted(struct store *s)
{
	pthread_mutex_lock(&s->object_lock);
	for (size_t i = 0; i < STORE_BUCKETS; i++) {
		struct store_deleted *d, *tmp;

		list_for_each_safe(d, tmp, &s->deleted[i], link) {
			list_del(&d->link);
			store_deleted_free(d);
		}
	}
	pthread_mutex_unlock(&s->object_lock);
}

/*
 * Begins a new epoch in a free file and has the other one checkpointed. When nothing was tried yet
 * (no space for the file) the active journal stays in use; when the new header may be on disk, the
 * active one must not go on, since the header voids what would be written to it.
 */
static int switch_to(struct store *s, struct journal *j)
{
	struct journal *other = j == &s->journals[0] ? &s->journals[1] : &s->journals[0];
	uint64_t epoch = s->next_epoch++, base_epoch;
	int r = journal_reserve(j, s->tuning.journal_bytes);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	s->active = NULL;
	base_epoch = other->used ? other->epoch : epoch;
	pthread_mutex_unlock(&s->lock);
	r = journal_start(j, epoch, base_epoch, s->next_seq);
	if (r < 0)
		return r;
	forget_deleted(s);
	pthread_mutex_lock(&s->lock);
	j->used = true;
	s->active = j;
	if (other->used)
		store_checkpoint_kick(s);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/*
 * No file is free since object files cannot be written (a full disk, mostly): the newest journal
 * takes what it has room for, so that deletions can make space.
 */
static int resume_newest(struct store *s)
{
	struct journal *j = &s->journals[s->journals[1].epoch > s->journals[0].epoch];
	int r;

	if (!j->used || j->last_seq + 1 != s->next_seq)
		return -ENOSPC;
	r = journal_resume(j);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	s->active = j;
	j->recovered = false;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* Has an active journal, if need be after a checkpoint that frees one. */
static int ensure_active(struct store *s)
{
	struct journal *j;
	int r = 0;

	if (s->active)
		return 0;
	pthread_mutex_lock(&s->lock);
	j = free_journal(s);
	if (!j) {
		r = store_checkpoint_wait(s);
		j = free_journal(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (j)
		return switch_to(s, j);
	return resume_newest(s) == 0 ? 0 : r < 0 ? r : -EAGAIN;
}

/* Bytes that a transaction finds in the active journal: the last of them are for deletions. */
static uint64_t room_for(const struct store *s, const struct store_txn *t)
{
	uint64_t left = s->active->size - s->active->tail;
	uint64_t reserve = list_is_empty(&t->deletes) ? s->active->size / 8 : 0;

	return left > reserve ? left - reserve : 0;
}

/* Makes room for the transaction: in the active journal, by the other file, by growing this one. */
static int make_room(struct store *s, const struct store_txn *t)
{
	uint64_t bytes = journal_record_bytes(t->payload.len);
	struct journal *j;
	uint64_t need;
	int r = ensure_active(s);

	if (r < 0 || bytes <= room_for(s, t))
		return r;
	pthread_mutex_lock(&s->lock);
	j = s->active->tail > JOURNAL_DATA_START ? free_journal(s) : NULL;
	if (!j && s->active->size > GROWN_MAX * s->tuning.journal_bytes) {
		if (store_checkpoint_wait(s) == -EAGAIN) {
			log_error("The event ring does not take events, some may be lost");
			s->events_may_go = true;
			(void)store_checkpoint_wait(s);
		}
		j = free_journal(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (j) {
		r = switch_to(s, j);
		if (r < 0 && !s->active)
			return r;
	}
	if (bytes <= room_for(s, t))
		return 0;
	need = (s->active->size + bytes + bytes / 4 + 4095) & ~(uint64_t)4095;
	r = journal_grow(s->active, MAX_OF(need, s->active->size + GROW_STEP));
	return r < 0 ? journal_grow(s->active, need) : 0;
}

/* How many transactions fit into the active journal; the first does. */
static size_t count_group(struct store *s, struct list *batch)
{
	struct store_txn *t;
	uint64_t bytes = 0;
	size_t n = 0;

	list_for_each(t, batch, link) {
		bytes += journal_record_bytes(t->payload.len);
		if (n == GROUP_MAX || bytes > room_for(s, t))
			break;
		n++;
	}
	return n;
}

static struct journal_record *make_records(struct list *group, size_t n)
{
	struct journal_record *records = calloc(n, sizeof(*records));
	struct store_txn *t;
	size_t i = 0;

	if (!records)
		return NULL;
	list_for_each(t, group, link) {
		if (i == n)
			break;
		records[i].payload = t->payload.data;
		records[i++].len = (uint32_t)t->payload.len;
	}
	return records;
}

static bool is_space_error(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EFBIG;
}

/* What was deleted takes room until it is swept: a full disk is full only after that. */
static int make_room_of_trash(struct store *s, const struct store_txn *t)
{
	int r = make_room(s, t);
	bool swept;

	if (!is_space_error(r))
		return r;
	pthread_mutex_lock(&s->lock);
	swept = store_sweep_wait(s);
	pthread_mutex_unlock(&s->lock);
	return swept ? make_room(s, t) : r;
}

/*
 * Writes the first transactions of the list, as many as fit; *n of them. After a failure the same
 * once more in the other file.
 */
static int write_group(struct store *s, struct list *group, size_t *n)
{
	struct store_txn *t = list_entry(group->next, struct store_txn, link);
	size_t i = 0;
	int r = 0;

	for (int attempt = 0; attempt < 2; attempt++) {
		struct journal_record *records;
		int room = make_room_of_trash(s, t);

		*n = 1;
		if (room < 0)
			return r < 0 ? r : room;
		*n = count_group(s, group);
		records = make_records(group, *n);
		if (!records)
			return -ENOMEM;
		r = journal_append(s->active, records, *n);
		free(records);
		if (r == 0 || r == -ENOMEM)
			break;
		log_error("Cannot write the journal in '%s': %s", s->dir, strerror(-r));
		journal_neutralise(s->active);
		retire(s);
	}
	if (r < 0)
		return r;
	i = 0;
	list_for_each(t, group, link)
		if (i++ < *n)
			t->seq = s->next_seq++;
	return 0;
}

/* The deletions of a durable transaction take effect on the directories. */
static void apply_deletes(struct store *s, struct store_txn *t)
{
	struct store_deleted *d, *tmp;
	bool trashed = false;

	if (list_is_empty(&t->deletes))
		return;
	pthread_mutex_lock(&s->object_lock);
	list_for_each_safe(d, tmp, &t->deletes, link) {
		int r = store_trash(s, d->kind, d->id, t->seq);

		/* The checkpoint of the deletion tries again. */
		if (r < 0)
			log_warning("Cannot remove '%s/%s/%s': %s", s->dir, d->kind, d->id,
			            strerror(-r));
		trashed |= r > 0;
		d->seq = t->seq;
		list_del(&d->link);
		list_add_tail(&s->deleted[store_bucket(d->kind, d->id)], &d->link);
	}
	pthread_mutex_unlock(&s->object_lock);
	if (!trashed)
		return;
	pthread_mutex_lock(&s->lock);
	s->sweep = true;
	pthread_cond_signal(&s->ckpt_work);
	pthread_mutex_unlock(&s->lock);
}

static void store_set_error(const struct store *s, struct vmd_error *err, int r)
{
	bool space = is_space_error(r) || r == -ENOMEM;

	error_set(err, space ? ERROR_NO_SPACE : ERROR_INTERNAL, "cannot write state to '%s': %s",
	          s->dir, strerror(-r));
	error_hint(err, "nothing was changed; %s, then try again",
	           space ? "make space" : "repair the file system");
}

static void set_degraded(struct store *s, int r)
{
	bool was = s->degraded[0];

	if (r < 0)
		snprintf(s->degraded, sizeof(s->degraded), "cannot write to '%.180s': %s", s->dir,
		         strerror(-r));
	else
		s->degraded[0] = '\0';
	if (was != (r < 0))
		log_fields(r < 0 ? LOG_ERR : LOG_NOTICE, NULL, "%s%s",
		           r < 0 ? "State is read-only: " : "State can be written again",
		           s->degraded);
}

/* Ends the first n transactions of the list with r. */
static void finish_group(struct store *s, struct list *group, size_t n, int r)
{
	bool loop = false;

	if (r == 0) {
		struct store_txn *t;
		size_t i = 0;

		list_for_each(t, group, link)
			if (i++ < n)
				apply_deletes(s, t);
	}
	pthread_mutex_lock(&s->lock);
	set_degraded(s, r);
	while (n--) {
		struct store_txn *t = list_entry(group->next, struct store_txn, link);

		list_del(&t->link);
		if (t->async) {
			store_txn_free(t);
			continue;
		}
		if (r < 0)
			store_set_error(s, &t->result_error, r);
		t->result = r;
		if (t->fiber) {
			list_add_tail(&s->finished, &t->link);
			loop = true;
		} else {
			t->finished = true;
		}
	}
	if (loop)
		ev_async_send(fiber_loop(), &s->async);
	pthread_cond_broadcast(&s->done);
	pthread_mutex_unlock(&s->lock);
}

/* Retires the active journal when it is half full, or asks again for the checkpoint it waits for.
 */
static void rotate(struct store *s)
{
	struct journal *j;
	bool kick;

	if (!s->active || s->active->tail < MIN_OF(s->tuning.journal_bytes, s->active->size) / 2)
		return;
	pthread_mutex_lock(&s->lock);
	j = free_journal(s);
	kick = !j && s->ckpt_ended == s->ckpt_wanted && now_monotonic_us() >= s->retry_ckpt_us;
	if (kick) {
		s->retry_ckpt_us = now_monotonic_us() + RETRY_US;
		store_checkpoint_kick(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (j)
		(void)switch_to(s, j);
}

static void commit_batch(struct store *s, struct list *batch)
{
	while (!list_is_empty(batch)) {
		size_t n;
		int r = write_group(s, batch, &n);

		finish_group(s, batch, n, r);
		rotate(s);
	}
}

/* Waits for work; lock held. False when the time is right for a checkpoint instead. */
static bool wait_for_work(struct store *s)
{
	struct timespec until;
	bool dirty = s->active && s->active->tail > JOURNAL_DATA_START;

	if (!dirty) {
		pthread_cond_wait(&s->work, &s->lock);
		return true;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += s->tuning.idle_ms / 1000;
	until.tv_nsec += (long)(s->tuning.idle_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return pthread_cond_timedwait(&s->work, &s->lock, &until) != ETIMEDOUT;
}

/* Nothing came for a while: the object files are brought up to date. One try; then we sleep. */
static void idle_checkpoint(struct store *s)
{
	struct journal *j = free_journal(s);

	if (!j)
		(void)store_checkpoint_wait(s);
	j = free_journal(s);
	pthread_mutex_unlock(&s->lock);
	if (j)
		(void)switch_to(s, j);
	pthread_mutex_lock(&s->lock);
}

static void splice(struct list *to, struct list *from)
{
	*to = *from;
	to->next->prev = to->prev->next = to;
	list_init(from);
}

void *store_committer_main(void *arg)
{
	struct store *s = arg;
	bool tried_idle = false;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct list batch;

		if (list_is_empty(&s->queue)) {
			if (s->stop_committer)
				break;
			if (tried_idle)
				pthread_cond_wait(&s->work, &s->lock);
			else if (!wait_for_work(s)) {
				tried_idle = true;
				if (list_is_empty(&s->queue))
					idle_checkpoint(s);
			}
			continue;
		}
		tried_idle = false;
		splice(&batch, &s->queue);
		pthread_mutex_unlock(&s->lock);
		commit_batch(s, &batch);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
