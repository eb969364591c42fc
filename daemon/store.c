/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The store's interface, opening and closing. How it works inside: store-internal.h. */
#include "config.h"

#include "daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"
#include "daemon/store-internal.h"

#define THREAD_STACK (256u << 10)

static void store_free(struct store *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->journals); i++)
		journal_close(&s->journals[i]);
	for (size_t i = 0; i < STORE_BUCKETS; i++) {
		struct store_deleted *d, *tmp;

		list_for_each_safe(d, tmp, &s->deleted[i], link)
			store_deleted_free(d);
	}
	for (size_t i = 0; i < s->n_refused; i++)
		free(s->refused[i]);
	free(s->refused);
	json_decref(s->events);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->ckpt_work);
	pthread_cond_destroy(&s->done);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->object_lock);
	cleanup_close_p(&s->dir_fd);
	cleanup_close_p(&s->lock_fd); /* the lock goes last */
	free(s->frozen);
	free(s->dir);
	free(s);
}

static struct store *store_new(const char *dir, const struct store_tuning *tuning)
{
	struct store *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return NULL;
	s->dir_fd = s->lock_fd = -EBADF;
	s->tuning = *tuning;
	s->next_seq = 1;
	s->journals[0] = s->journals[1] = (struct journal)JOURNAL_INIT;
	list_init(&s->queue);
	list_init(&s->finished);
	for (size_t i = 0; i < STORE_BUCKETS; i++)
		list_init(&s->deleted[i]);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->object_lock, NULL);
	pthread_cond_init(&s->work, &attr);
	pthread_cond_init(&s->ckpt_work, &attr);
	pthread_cond_init(&s->done, &attr);
	pthread_condattr_destroy(&attr);
	s->dir = strdup(dir);
	if (!s->dir) {
		store_free(s);
		return NULL;
	}
	return s;
}

/* Opens the directory and takes the lock, before anything is changed. */
static int lock_dir(struct store *s, struct vmd_error *err)
{
	bool readonly = false;
	int r = fs_open_dir(AT_FDCWD, s->dir);

	if (r == -ENOENT) {
		r = fs_mkdir_p(s->dir, 0700);
		if (r == 0)
			r = fs_open_dir(AT_FDCWD, s->dir);
	}
	if (r < 0)
		return error_set_errno(err, -r, "cannot open the state directory '%s'", s->dir);
	s->dir_fd = r;
	s->lock_fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0 && errno == EROFS) {
		s->lock_fd = openat(s->dir_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		readonly = true; /* nobody can change anything there: a shared lock will do */
	}
	if (s->lock_fd < 0)
		return error_set_errno(err, errno, "cannot open '%s/lock'", s->dir);
	/* Not a lock that children inherit: one that was not at its exec yet when the daemon was
	 * killed would keep the next daemon out. Nobody else opens this file. */
	r = fs_lock_process(s->lock_fd, !readonly);
	if (r == -EAGAIN)
		return error_set(err, ERROR_BUSY, "another vmd uses the state directory '%s'",
		                 s->dir);
	if (r < 0)
		return error_set_errno(err, -r, "cannot lock '%s/lock'", s->dir);
	return 0;
}

static int open_journals(struct store *s, struct vmd_error *err)
{
	static const char *const names[] = { "journal.0", "journal.1" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int r = journal_open(&s->journals[i], s->dir_fd, names[i]);

		if (r == -EPROTONOSUPPORT && !s->frozen &&
		    asprintf(&s->frozen, "'%s/%s' was written by a newer vmd", s->dir, names[i]) <
		            0)
			return error_set_errno(err, ENOMEM, "cannot open '%s'", s->dir);
		if (r < 0 && r != -EPROTONOSUPPORT)
			return error_set_errno(err, -r, "cannot open '%s/%s'", s->dir, names[i]);
	}
	if (s->frozen)
		log_error("State is read-only: %s", s->frozen);
	return 0;
}

/* Reads the journals that count into the table, in the order of their epochs. */
static int read_journals(struct store *s, struct store_table *table)
{
	struct journal *low = &s->journals[0], *high = &s->journals[1], *order[2];
	uint64_t limit = UINT64_MAX;

	if (low->epoch > high->epoch) {
		low = &s->journals[1];
		high = &s->journals[0];
	}
	order[0] = low;
	order[1] = high;
	s->next_epoch = MAX_OF(high->epoch + 1, now_wall_us());
	if (high->epoch)
		limit = high->first_seq;
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		struct journal *j = order[i];
		char *data;
		int r;

		if (!j->epoch || j->epoch < high->base_epoch)
			continue;
		r = journal_read(j, j == high ? UINT64_MAX : limit, false, &data);
		if (r < 0)
			return r;
		if (j != high && j->last_seq + 1 != limit)
			log_error("'%s': transactions %llu to %llu are damaged in the journal",
			          s->dir, (unsigned long long)j->last_seq + 1,
			          (unsigned long long)limit - 1);
		table->last_event = 0;
		r = store_table_add(table, j, data, s->events);
		if (r < 0)
			return r;
		j->last_event = table->last_event;
		j->used = j->last_seq >= j->first_seq;
		s->next_seq = MAX_OF(s->next_seq, j->last_seq + 1);
	}
	return 0;
}

/* Recovers: journals into the object files, then all objects to the caller. */
static int recover(struct store *s, store_load_fn on_load, void *userdata, struct vmd_error *err)
{
	struct store_table table = { .n = 0 };
	int r, applied = -EROFS;

	s->events = json_array();
	r = s->events ? read_journals(s, &table) : -ENOMEM;
	if (r < 0) {
		error_set_errno(err, -r, "cannot read the journal in '%s'", s->dir);
		store_table_deinit(&table);
		return r;
	}
	if (!s->frozen) {
		applied = store_table_apply(s, &table, true);
		store_sweep(s);
	}
	if (applied == 0)
		for (size_t i = 0; i < ARRAY_SIZE(s->journals); i++)
			s->journals[i].recovered = true;
	else if (!s->frozen) {
		log_error("State is read-only: cannot write to '%s': %s", s->dir,
		          strerror(-applied));
		snprintf(s->degraded, sizeof(s->degraded), "cannot write to '%.180s': %s", s->dir,
		         strerror(-applied));
	}
	r = store_load(s, applied == 0 ? NULL : &table, on_load, userdata);
	store_table_deinit(&table);
	return r < 0 ? error_set_errno(err, -r, "cannot load objects from '%s'", s->dir) : 0;
}

/* New files get their space at start-up, not in the first commit. */
static void preallocate(struct store *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->journals); i++)
		if (!s->journals[i].used && !s->journals[i].readonly &&
		    s->journals[i].size < s->tuning.journal_bytes)
			(void)journal_reserve(&s->journals[i], s->tuning.journal_bytes);
}

static int start_threads(struct store *s, struct vmd_error *err)
{
	sigset_t all, saved;
	pthread_attr_t attr;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	r = pthread_create(&s->committer, &attr, store_committer_main, s);
	s->committer_runs = r == 0;
	if (r == 0) {
		r = pthread_create(&s->checkpointer, &attr, store_checkpointer_main, s);
		s->checkpointer_runs = r == 0;
	}
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	pthread_attr_destroy(&attr);
	if (r)
		return error_set_errno(err, r, "cannot start the store's threads");
	(void)pthread_setname_np(s->committer, "vmd-commit");
	(void)pthread_setname_np(s->checkpointer, "vmd-checkpoint");
	return 0;
}

int store_open_tuned(const char *state_dir, const struct store_tuning *tuning,
                     store_load_fn on_load, void *userdata, struct store **ret,
                     struct vmd_error *err)
{
	struct store *s = store_new(state_dir, tuning);
	int r;

	if (!s)
		return error_set_errno(err, ENOMEM, "cannot open '%s'", state_dir);
	r = lock_dir(s, err);
	if (r == 0)
		r = open_journals(s, err);
	if (r == 0)
		r = recover(s, on_load, userdata, err);
	if (r == 0 && !s->frozen)
		preallocate(s);
	if (r == 0)
		r = start_threads(s, err);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

int store_open(const char *state_dir, store_load_fn on_load, void *userdata, struct store **ret,
               struct vmd_error *err)
{
	static const struct store_tuning tuning = { .journal_bytes = STORE_JOURNAL_BYTES,
		                                    .idle_ms = STORE_IDLE_MS };

	return store_open_tuned(state_dir, &tuning, on_load, userdata, ret, err);
}

/* All journals are free: an empty one that says so spares the next start the replay. */
static void mark_clean(struct store *s)
{
	uint64_t epoch = s->next_epoch;
	struct journal *j = &s->journals[0];

	if (j->epoch > s->journals[1].epoch)
		j = &s->journals[1]; /* the newest header stays until the new one is durable */
	if (journal_reserve(j, s->tuning.journal_bytes) == 0)
		(void)journal_start(j, epoch, epoch, s->next_seq);
}

static void stop_threads(struct store *s)
{
	bool clean = false;

	if (s->committer_runs) {
		pthread_mutex_lock(&s->lock);
		s->stop_committer = true;
		pthread_cond_signal(&s->work);
		pthread_mutex_unlock(&s->lock);
		pthread_join(s->committer, NULL);
	}
	if (!s->checkpointer_runs)
		return;
	pthread_mutex_lock(&s->lock);
	if (s->active) {
		s->active = NULL;
		clean = store_checkpoint_wait(s) == 0;
	}
	s->stop_checkpointer = true;
	pthread_cond_signal(&s->ckpt_work);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->checkpointer, NULL);
	if (clean)
		mark_clean(s);
}

void store_close(struct store *s)
{
	if (!s)
		return;
	stop_threads(s);
	if (s->async_started) {
		ev_ref(fiber_loop());
		ev_async_stop(fiber_loop(), &s->async);
	}
	store_free(s);
}

int store_dir_fd(const struct store *s)
{
	return s->dir_fd;
}

const char *store_dir(const struct store *s)
{
	return s->dir;
}

json_t *store_take_events(struct store *s)
{
	return TAKE_PTR(s->events);
}

void store_set_event_sink(struct store *s, const struct store_event_sink *sink)
{
	pthread_mutex_lock(&s->lock);
	while (s->ckpt_ended < s->ckpt_wanted) /* it may be calling the old one */
		pthread_cond_wait(&s->done, &s->lock);
	s->sink = sink ? *sink : (struct store_event_sink){ .sync = NULL };
	pthread_mutex_unlock(&s->lock);
}

/* On the loop: the fibers whose transactions are done go on. */
static void on_async(struct ev_loop *loop, ev_async *w, int revents)
{
	struct store *s = container_of(w, struct store, async);

	(void)loop;
	(void)revents;
	pthread_mutex_lock(&s->lock);
	while (!list_is_empty(&s->finished)) {
		struct store_txn *t = list_entry(s->finished.next, struct store_txn, link);

		list_del(&t->link);
		t->finished = true;
		fiber_unpark(t->fiber);
	}
	pthread_mutex_unlock(&s->lock);
}

static void start_async(struct store *s)
{
	if (s->async_started)
		return;
	ev_async_init(&s->async, on_async);
	ev_async_start(fiber_loop(), &s->async);
	ev_unref(fiber_loop()); /* no reason for the loop to live */
	s->async_started = true;
}

static void enqueue(struct store *s, struct store_txn *t)
{
	static const char zeros[8] = "\n\n\n\n\n\n\n\n";

	strbuf_append(&t->payload, zeros, -t->payload.len % 8);
	pthread_mutex_lock(&s->lock);
	if (list_is_empty(&s->queue))
		pthread_cond_signal(&s->work);
	list_add_tail(&s->queue, &t->link);
	pthread_mutex_unlock(&s->lock);
}

/* Can the transaction be tried at all? */
static int check_txn(const struct store_txn *t, struct vmd_error *err)
{
	if (!t || t->error == -ENOMEM || strbuf_failed(&t->payload))
		return error_set_errno(err, ENOMEM, "cannot write state");
	if (t->error == -EOPNOTSUPP)
		return error_set(err, ERROR_UNSUPPORTED,
		                 "the file of '%s' cannot be used by this version of vmd", t->bad);
	if (t->error)
		return error_set(err, ERROR_INTERNAL, "'%s' is no name for an object", t->bad);
	if (t->store->frozen)
		return error_set(err, ERROR_UNSUPPORTED, "state is read-only: %s",
		                 t->store->frozen);
	if (t->payload.len > STORE_TXN_MAX)
		return error_set(err, ERROR_NO_SPACE, "a change of %zu bytes is too large to store",
		                 t->payload.len);
	return 0;
}

/* Takes the result of a finished transaction. */
static int take_result(struct store_txn *t, struct vmd_error *err)
{
	int r = t->result;

	if (r < 0 && err && err->kind == ERROR_NONE)
		*err = t->result_error;
	store_txn_free(t);
	return r;
}

int store_commit_sync(struct store_txn *t, struct vmd_error *err)
{
	int r = check_txn(t, err);
	struct store *s;

	if (r < 0 || !t->payload.len) {
		store_txn_free(t);
		return r;
	}
	s = t->store;
	enqueue(s, t);
	pthread_mutex_lock(&s->lock);
	while (!t->finished)
		pthread_cond_wait(&s->done, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return take_result(t, err);
}

int store_commit(struct store_txn *t, struct vmd_error *err)
{
	int r;

	if (!fiber_self())
		return store_commit_sync(t, err);
	r = check_txn(t, err);
	if (r < 0 || !t->payload.len) {
		store_txn_free(t);
		return r;
	}
	start_async(t->store);
	t->fiber = fiber_self();
	enqueue(t->store, t);
	while (!t->finished)
		fiber_park();
	return take_result(t, err);
}

void store_commit_async(struct store_txn *t)
{
	struct vmd_error err = VMD_ERROR_INIT;

	if (check_txn(t, &err) < 0 || !t->payload.len) {
		if (err.kind)
			log_error("Change lost: %s", err.message);
		store_txn_free(t);
		return;
	}
	t->async = true;
	enqueue(t->store, t);
}

const char *store_degraded(const struct store *s)
{
	struct store *w = (struct store *)(uintptr_t)s;

	if (s->frozen)
		return s->frozen;
	pthread_mutex_lock(&w->lock);
	memcpy(w->degraded_copy, s->degraded, sizeof(w->degraded_copy));
	pthread_mutex_unlock(&w->lock);
	return s->degraded_copy[0] ? s->degraded_copy : NULL;
}

/* Makes a directory durably. 0 also when it is there. */
static int make_dir(int parent_fd, const char *name)
{
	if (mkdirat(parent_fd, name, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	return fsync(parent_fd) < 0 ? -errno : 0;
}

int store_object_dir(struct store *s, const char *kind, const char *id)
{
	cleanup_close int kind_fd = -EBADF;
	int fd, r;

	if (!object_kind_ok(kind) || !object_id_ok(id))
		return -EINVAL;
	r = make_dir(s->dir_fd, kind);
	if (r < 0)
		return r;
	kind_fd = openat(s->dir_fd, kind, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (kind_fd < 0)
		return -errno;
	r = make_dir(kind_fd, id);
	if (r < 0)
		return r;
	fd = openat(kind_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}
