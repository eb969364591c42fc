/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "daemon/disk-copy.h"
#include "daemon/event.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/ram.h"
#include "daemon/snapshot.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

struct check {
	char path[560];
	uint64_t bytes;
	char checksum[17];
};

static int sum_one(void *arg)
{
	struct check *c = arg;

	return file_checksum(c->path, &c->bytes, c->checksum);
}

struct put {
	char src[560], dst[512];
};

static int verify_file(const char *dir, const json_t *entry, struct vmd_error *err)
{
	struct check c;
	int r;

	snprintf(c.path, sizeof(c.path), "%.500s/%s", dir, jsonx_str(entry, "file", ""));
	r = work_run(sum_one, &c);
	if (r == -ENOENT) /* the snapshot is there, so that is no "not found" */
		return error_set(err, ERROR_INVALID, "'%s' is missing", c.path);
	if (r < 0)
		return error_set_errno(err, -r, "cannot read '%s'", c.path);
	if (c.bytes != (uint64_t)jsonx_int(entry, "bytes", -1))
		return error_set(err, ERROR_INVALID, "'%s' has %llu bytes, its manifest says %lld",
		                 c.path, (unsigned long long)c.bytes,
		                 (long long)jsonx_int(entry, "bytes", -1));
	if (strcmp(c.checksum, jsonx_str(entry, "xxh3", "")) != 0)
		return error_set(err, ERROR_INVALID, "'%s' is damaged: its checksum is %s, not %s",
		                 c.path, c.checksum, jsonx_str(entry, "xxh3", ""));
	return 0;
}

static int verify_all(const char *dir, const json_t *manifest, struct job *job,
                      struct vmd_error *err)
{
	static const char *const lists[] = { "disks", "files" };
	const json_t *memory = json_object_get(manifest, "memory");
	char ram[560];
	json_t *entry;
	size_t i;

	job_progress(job, "checking", 5, 0, 0);
	for (size_t k = 0; k < ARRAY_SIZE(lists); k++)
		json_array_foreach(json_object_get(manifest, lists[k]), i, entry) {
			int r = verify_file(dir, entry, err);

			if (r < 0)
				return r;
		}
	if (!json_is_object(memory))
		return 0;
	snprintf(ram, sizeof(ram), "%.500s/%s", dir, jsonx_str(memory, "file", ""));
	return ram_verify(ram, (uint64_t)jsonx_int(memory, "bytes", 0),
	                  jsonx_str(memory, "xxh3", ""), err);
}

static int put_one(void *arg)
{
	struct put *c = arg;

	return disk_copy_over(c->src, c->dst);
}

static int put_disks(const char *dir, const json_t *manifest, struct job *job,
                     struct vmd_error *err)
{
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(manifest, "disks"), i, entry) {
		struct put c;
		int r;

		snprintf(c.src, sizeof(c.src), "%.470s/%s", dir, jsonx_str(entry, "file", ""));
		snprintf(c.dst, sizeof(c.dst), "%s", jsonx_str(entry, "path", ""));
		job_progress(job, "restoring disks", 40, 0, 0);
		r = work_run(put_one, &c);
		if (r < 0) {
			(void)error_set_errno(err, -r, "cannot put disk '%s' back", c.dst);
			error_hint(err, "the snapshot is intact: repeat the restore");
			return r;
		}
	}
	return 0;
}

struct state_put {
	char dir[400], snapshot_dir[512];
	const json_t *files;
	const char *name; /* of the file that failed */
};

static int make_parent(const char *path)
{
	cleanup_free char *dir = strndup(path, (size_t)(strrchr(path, '/') - path));

	return dir ? fs_mkdir_p(dir, 0700) : -ENOMEM;
}

/* In a worker: what the snapshot has takes its place, what it does not have goes. */
static int put_state_files(void *arg)
{
	struct state_put *p = arg;
	char src[560], dst[440];
	int r = 0;

	for (size_t i = 0; r == 0 && (p->name = snapshot_state_file(i)); i++) {
		const char *file = NULL;
		json_t *entry;
		size_t k;

		json_array_foreach(p->files, k, entry)
			if (strcmp(jsonx_str(entry, "name", ""), p->name) == 0)
				file = jsonx_str(entry, "file", "");
		snprintf(dst, sizeof(dst), "%s/%s", p->dir, p->name);
		if (file) {
			snprintf(src, sizeof(src), "%s/%s", p->snapshot_dir, file);
			r = make_parent(dst);
			if (r == 0)
				r = disk_copy_replace(src, dst);
		} else if (unlink(dst) < 0 && errno != ENOENT && errno != ENOTDIR) {
			r = -errno;
		}
	}
	return r;
}

static int put_state(struct guest *g, const char *dir, const json_t *manifest,
                     struct vmd_error *err)
{
	struct state_put p = { .files = json_object_get(manifest, "files") };
	int r;

	if (!json_is_array(p.files))
		return 0; /* of a version that did not hold them */
	guest_state_dir(g, p.dir, sizeof(p.dir));
	snprintf(p.snapshot_dir, sizeof(p.snapshot_dir), "%s", dir);
	r = work_run(put_state_files, &p);
	if (r == 0)
		return 0;
	(void)error_set_errno(err, -r, "cannot put '%s' of guest '%s' back", p.name, g->name);
	error_hint(err, "the snapshot is intact: repeat the restore");
	return r;
}

/* The restored guest has the definition it was snapshotted with, under its present name. */
static int put_definition(struct guest *g, const struct snapshot *s, const json_t *manifest,
                          const char *actor, struct vmd_error *err)
{
	cleanup_json json_t *definition = json_deep_copy(json_object_get(manifest, "definition"));
	struct store_txn *txn;
	uint64_t seq;
	int r;

	if (!definition || !jsonx_set(definition, "name", json_string(g->name)) ||
	    guest_set_definition(g, definition) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	g->generation++;
	registry_touch(g->vmd->guests);
	txn = store_txn_new(g->vmd->store);
	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	seq = guest_put(g, txn, "snapshot.restored", actor,
	                json_pack("{s:s}", "snapshot", s->name));
	r = store_commit(txn, err);
	event_flush(g->vmd->events, seq);
	return r;
}

static int stop_for_restore(struct guest *g, const char *actor, struct vmd_error *err)
{
	int r;

	g->want_running = false;
	if (g->state == GUEST_SUSPENDED) {
		(void)guest_keep_saved(g, NULL);
		r = guest_apply(g, GUEST_EVENT_DISCARD, "restore", actor, err);
		if (r == 0)
			ram_drop_suspended(g);
		return r;
	}
	if (!guest_state_is_live(g->state))
		return guest_wait_end(g, -1);
	guest_set_hint(g, "restore");
	r = guest_apply(g, GUEST_EVENT_STOP, "restore", actor, err);
	return r < 0 ? r : guest_force_end(g, "restore", err);
}

static int start_from(struct guest *g, const char *dir, const json_t *manifest, const char *actor,
                      struct vmd_error *err)
{
	const json_t *memory = json_object_get(manifest, "memory");
	bool paused = strcmp(jsonx_str(manifest, "state", ""), "paused") == 0;
	char ram[560];

	snprintf(ram, sizeof(ram), "%.500s/ram", dir);
	return guest_start_from_memory(g, ram, (uint64_t)jsonx_int(memory, "bytes", 0),
	                               jsonx_str(memory, "xxh3", ""), paused, "restore", actor,
	                               err);
}

int snapshot_restore(struct guest *g, struct snapshot *s, struct job *job, const char *actor,
                     struct vmd_error *err)
{
	cleanup_json json_t *manifest = snapshot_manifest(s);
	char dir[512];
	int r;

	if (!manifest)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	snprintf(dir, sizeof(dir), "%.400s/snapshots/%s", g->vmd->config.state_dir, s->uuid);
	r = verify_all(dir, manifest, job, err);
	if (r == 0 && fiber_is_cancelled())
		r = error_set(err, ERROR_CANCELLED, "the restore was called off");
	if (r < 0)
		return r;
	/* From here on it is carried through: half a restore would be worse than a late one. */
	fiber_shield(true);
	r = stop_for_restore(g, actor, err);
	if (r == 0)
		r = put_disks(dir, manifest, job, err);
	if (r == 0)
		r = put_state(g, dir, manifest, err);
	if (r == 0)
		r = put_definition(g, s, manifest, actor, err);
	fiber_shield(false);
	if (r == 0 && s->has_memory)
		r = start_from(g, dir, manifest, actor, err);
	return r;
}
