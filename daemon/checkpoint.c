/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checkpoints: the values of retired journals go into the object files, after which the journals
 * are free. The same code recovers after a crash, so it may be cut off and repeated anywhere: a
 * file whose generation is not older than the journal's word is left alone.
 *
 * Order on disk: new value into $STATE/tmp, fsync; old file becomes .prev, the new one takes its
 * place; directories fsynced; only then may the journal be used again. Many objects at once are
 * synced by one syncfs() instead.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/log.h"
#include "daemon/store-internal.h"

#define SYNC_EACH_MAX 32u /* more objects than this: syncfs */

static void temp_path(char buf[OBJECT_PATH_MAX], const struct store_entry *e)
{
	snprintf(buf, OBJECT_PATH_MAX, "tmp/%s.%s", e->kind, e->id);
}

static int make_dir(struct store *s, const char *path)
{
	return mkdirat(s->dir_fd, path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* Generation of the object file now on disk: 0 when there is no good one. -EPROTONOSUPPORT: it is
 * a newer vmd's. */
static int disk_generation(struct store *s, const struct store_entry *e, uint64_t *ret)
{
	char path[OBJECT_PATH_MAX];
	struct object o;
	int r;

	object_path(path, e->kind, e->id, "");
	r = object_read(s->dir_fd, path, &o);
	*ret = 0;
	if (r == 0) {
		*ret = o.generation;
		object_deinit(&o);
	}
	return r == -ENOENT || r == -EBADMSG ? 0 : r;
}

/* First pass: temporaries for the objects that are older on disk. */
static int prepare_entry(struct store *s, struct store_entry *e, bool sync)
{
	char temp[OBJECT_PATH_MAX];
	int r = disk_generation(s, e, &e->old_generation);

	e->write = false;
	if (r == -EPROTONOSUPPORT)
		return 0; /* refused without being touched */
	if (r < 0)
		return r;
	if (!e->text || e->old_generation >= e->seq)
		return 0;
	temp_path(temp, e);
	if (unlinkat(s->dir_fd, temp, 0) < 0 && errno != ENOENT)
		return -errno;
	r = object_write(s->dir_fd, temp, e->text, e->len, e->seq, sync);
	e->write = r == 0;
	return r;
}

/* Was the object deleted by a later journal than those that are being brought in? object_lock held.
 */
static bool deleted_since(struct store *s, const struct store_entry *e)
{
	struct store_deleted *d;

	list_for_each(d, &s->deleted[store_bucket(e->kind, e->id)], link)
		if (d->seq > e->seq && strcmp(d->id, e->id) == 0 && strcmp(d->kind, e->kind) == 0)
			return true;
	return false;
}

static int place_file(struct store *s, const struct store_entry *e)
{
	char temp[OBJECT_PATH_MAX], path[OBJECT_PATH_MAX], prev[OBJECT_PATH_MAX];
	char dir[OBJECT_PATH_MAX];
	int r;

	snprintf(dir, sizeof(dir), "%s/%s", e->kind, e->id);
	temp_path(temp, e);
	object_path(path, e->kind, e->id, "");
	object_path(prev, e->kind, e->id, ".prev");
	r = make_dir(s, e->kind);
	if (r == 0)
		r = make_dir(s, dir);
	if (r < 0)
		return r;
	/* A rotten file is no generation to fall back to. */
	if (e->old_generation && renameat(s->dir_fd, path, s->dir_fd, prev) < 0 && errno != ENOENT)
		return -errno;
	return renameat(s->dir_fd, temp, s->dir_fd, path) < 0 ? -errno : 0;
}

/* Second pass: files and directories take their places. */
static int place_entry(struct store *s, struct store_entry *e, bool recovering)
{
	char temp[OBJECT_PATH_MAX];
	int r = 0;

	pthread_mutex_lock(&s->object_lock);
	if (deleted_since(s, e)) {
		temp_path(temp, e);
		if (e->write)
			(void)unlinkat(s->dir_fd, temp, 0);
		e->write = false;
	} else {
		/* The directory of a life that ended: its file is older than the deletion. After a
		 * crash one without a file goes too, when the deletion was the last word; while we
		 * run that may be the next life's. */
		if (e->old_generation ? e->old_generation < e->deleted_seq : recovering && !e->text)
			r = store_trash(s, e->kind, e->id, e->seq);
		if (r > 0)
			e->old_generation = 0;
		if (r >= 0 && e->write)
			r = place_file(s, e);
	}
	pthread_mutex_unlock(&s->object_lock);
	return MIN_OF(r, 0);
}

static int sync_path(struct store *s, const char *path)
{
	cleanup_close int fd = openat(s->dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

/* What an earlier try that was cut off has put in place is in the page cache at best. */
static int sync_entry(struct store *s, const struct store_entry *e)
{
	char path[OBJECT_PATH_MAX];
	int r = 0;

	if (!e->text)
		return 0;
	object_path(path, e->kind, e->id, "");
	if (!e->write)
		r = sync_path(s, path);
	snprintf(path, sizeof(path), "%s/%s", e->kind, e->id);
	return r == 0 ? sync_path(s, path) : r;
}

/* Last pass: files and directories, from below. */
static int sync_entries(struct store *s, const struct store_table *t)
{
	const char *kind;
	int r = 0;

	for (size_t i = 0; i < t->n && r == 0; i++)
		r = sync_entry(s, &t->entries[i]);
	for (size_t i = 0; (kind = object_kind(i)) && r == 0; i++)
		r = sync_path(s, kind);
	if (r == 0)
		r = sync_path(s, "trash");
	return r == 0 ? sync_path(s, ".") : r;
}

int store_table_apply(struct store *s, struct store_table *t, bool recovering)
{
	bool sync_each = t->n <= SYNC_EACH_MAX;
	int r;

	if (!t->n)
		return 0;
	r = make_dir(s, "tmp");
	if (r == 0)
		r = make_dir(s, "trash");
	for (size_t i = 0; i < t->n && r == 0; i++)
		r = prepare_entry(s, &t->entries[i], sync_each);
	for (size_t i = 0; i < t->n && r == 0; i++)
		r = place_entry(s, &t->entries[i], recovering);
	if (r < 0)
		return r;
	if (sync_each)
		return sync_entries(s, t);
	return syncfs(s->dir_fd) < 0 ? -errno : 0;
}

/* Reads the retired journals (copies, in the order of epochs) into the table and applies it. */
static int checkpoint(struct store *s, struct journal *const *journals, size_t n,
                      const struct store_event_sink *sink)
{
	struct store_table table = { .n = 0 };
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		char *data;

		if (journals[i]->recovered) {
			table.last_event = MAX_OF(table.last_event, journals[i]->last_event);
			continue;
		}
		r = journal_read(journals[i], UINT64_MAX, true, &data);
		if (r == 0)
			r = store_table_add(&table, journals[i], data, NULL);
	}
	if (r == 0)
		r = store_table_apply(s, &table, false);
	if (r == 0 && sink->sync && table.last_event)
		r = sink->sync(sink->userdata, table.last_event);
	store_table_deinit(&table);
	return r;
}

/* One request; lock held, released while files are written. */
static int run_checkpoint(struct store *s)
{
	struct store_event_sink sink = s->sink;
	struct journal copies[2], *sorted[2];
	size_t n = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(s->journals); i++) {
		if (!s->journals[i].used || s->active == &s->journals[i])
			continue;
		copies[i] = s->journals[i];
		sorted[n++] = &copies[i];
	}
	if (n == 0)
		return 0;
	if (n == 2 && copies[0].epoch > copies[1].epoch) {
		sorted[0] = &copies[1];
		sorted[1] = &copies[0];
	}
	if (s->events_may_go)
		sink.sync = NULL;
	s->events_may_go = false;
	pthread_mutex_unlock(&s->lock);
	r = checkpoint(s, sorted, n, &sink);
	if (r < 0 && r != -EAGAIN)
		log_error("Cannot write object files in '%s': %s", s->dir, strerror(-r));
	malloc_trim(0);
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n && r == 0; i++)
		s->journals[sorted[i] - copies].used = false;
	return r;
}

uint64_t store_checkpoint_kick(struct store *s)
{
	pthread_cond_signal(&s->ckpt_work);
	return ++s->ckpt_wanted;
}

int store_checkpoint_wait(struct store *s)
{
	uint64_t number = store_checkpoint_kick(s);

	while (s->ckpt_ended < number)
		pthread_cond_wait(&s->done, &s->lock);
	return s->ckpt_result;
}

bool store_sweep_wait(struct store *s)
{
	bool pending = s->sweep || s->sweeping;

	while ((s->sweep || s->sweeping) && !s->stop_checkpointer)
		pthread_cond_wait(&s->done, &s->lock);
	return pending;
}

void *store_checkpointer_main(void *arg)
{
	struct store *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->stop_checkpointer) {
		if (s->ckpt_ended < s->ckpt_wanted) {
			uint64_t number = s->ckpt_wanted;

			s->ckpt_result = run_checkpoint(s);
			s->ckpt_ended = number;
			s->sweep = true;
			pthread_cond_broadcast(&s->done);
		} else if (s->sweep) {
			s->sweep = false;
			s->sweeping = true;
			pthread_mutex_unlock(&s->lock);
			store_sweep(s);
			pthread_mutex_lock(&s->lock);
			s->sweeping = false;
			pthread_cond_broadcast(&s->done);
		} else {
			pthread_cond_wait(&s->ckpt_work, &s->lock);
		}
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
