/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/disk-copy.h"
#include "daemon/disk.h"
#include "daemon/event.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/ram.h"
#include "daemon/snapshot.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

struct copy_job {
	char src[512], dst[560];
	bool reflink;
	uint64_t bytes;
	char checksum[17];
};

static int copy_one(void *arg)
{
	struct copy_job *c = arg;

	return disk_copy_to_new(c->src, c->dst, &c->reflink);
}

static int sum_one(void *arg)
{
	struct copy_job *c = arg;

	return file_checksum(c->dst, &c->bytes, c->checksum);
}

/* The file behind a disk of a definition: its own path, or the managed disk's. */
static int disk_source(struct vmd *vmd, const json_t *disk, char *buf, size_t len,
                       struct vmd_error *err)
{
	const char *name = jsonx_str(disk, "disk", NULL);
	struct disk *d = name ? disk_find(vmd, name) : NULL;

	if (name && !d)
		return error_set(err, ERROR_NOT_FOUND, "there is no disk '%.64s'", name);
	if (d)
		disk_path(vmd, d, buf, len);
	else
		snprintf(buf, len, "%s", jsonx_str(disk, "path", ""));
	return 0;
}

struct taking {
	struct guest *g;
	struct job *job;
	char dir[512];
	json_t *definition, *disks, *state;
	json_t *memory;
	uint64_t bytes, created_us;
};

static int take_disk(struct taking *t, size_t index, const json_t *disk, struct vmd_error *err)
{
	struct copy_job c = { .reflink = false };
	char file[32];
	int r = disk_source(t->g->vmd, disk, c.src, sizeof(c.src), err);

	if (r < 0)
		return r;
	snprintf(file, sizeof(file), "disk-%zu", index);
	snprintf(c.dst, sizeof(c.dst), "%s/%s", t->dir, file);
	r = work_run(copy_one, &c);
	if (r < 0)
		return error_set_errno(err, -r, "cannot copy disk '%s' of guest '%s'", c.src,
		                       t->g->name);
	json_array_append_new(t->disks, json_pack("{s:i, s:s, s:s, s:s, s:s}", "index", (int)index,
	                                          "file", file, "path", c.src, "format",
	                                          jsonx_str(disk, "format", "qcow2"), "method",
	                                          c.reflink ? "reflink" : "copy"));
	return 0;
}

static int take_disks(struct taking *t, struct vmd_error *err)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(t->definition, "disks"), i, disk) {
		int r;

		if (jsonx_bool(disk, "readonly", false))
			continue;
		job_progress(t->job, "saving disks", 50, 0, 0);
		r = take_disk(t, i, disk, err);
		if (r < 0)
			return r;
		if (fiber_is_cancelled())
			return error_set(err, ERROR_CANCELLED, "the snapshot was called off");
	}
	return 0;
}

/* What firmware and TPM of the guest remember, as far as they ran already. */
static int take_state(struct taking *t, struct vmd_error *err)
{
	const char *name;
	char dir[400];

	guest_state_dir(t->g, dir, sizeof(dir));
	for (size_t i = 0; (name = snapshot_state_file(i)); i++) {
		struct copy_job c = { .reflink = false };
		char file[32];
		int r;

		snprintf(file, sizeof(file), "state-%zu", i);
		snprintf(c.src, sizeof(c.src), "%s/%s", dir, name);
		snprintf(c.dst, sizeof(c.dst), "%s/%s", t->dir, file);
		r = work_run(copy_one, &c);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return error_set_errno(err, -r, "cannot copy '%s' of guest '%s'", name,
			                       t->g->name);
		json_array_append_new(t->state,
		                      json_pack("{s:s, s:s}", "file", file, "name", name));
	}
	return 0;
}

/* Checksums are made after the guest runs again: the copies do not change any more. */
static int sum_files(struct taking *t, json_t *files, struct vmd_error *err)
{
	json_t *entry;
	size_t i;

	json_array_foreach(files, i, entry) {
		struct copy_job c;
		int r;

		snprintf(c.dst, sizeof(c.dst), "%s/%s", t->dir, jsonx_str(entry, "file", ""));
		job_progress(t->job, "checksums", 80, 0, 0);
		r = work_run(sum_one, &c);
		if (r < 0)
			return error_set_errno(err, -r, "cannot read '%s'", c.dst);
		t->bytes += c.bytes;
		if (!jsonx_set(entry, "bytes", json_integer((json_int_t)c.bytes)) ||
		    !jsonx_set(entry, "xxh3", json_string(c.checksum)))
			return error_set(err, ERROR_NO_SPACE, "out of memory");
	}
	return 0;
}

static int take_memory(struct taking *t, struct vmd_error *err)
{
	char path[544], checksum[17];
	uint64_t bytes;
	int r;

	snprintf(path, sizeof(path), "%s/ram", t->dir);
	r = ram_save(t->g, path, &bytes, checksum, t->job, err);
	if (r < 0)
		return r;
	t->bytes += bytes;
	t->memory = json_pack("{s:s, s:I, s:s}", "file", "ram", "bytes", (json_int_t)bytes, "xxh3",
	                      checksum);
	return t->memory ? 0 : error_set(err, ERROR_NO_SPACE, "out of memory");
}

/* Memory and disks of one instant: the vCPUs stand still from the first byte to the last. */
static int take_instant(struct taking *t, uint64_t *ret_pause_us, struct vmd_error *err)
{
	struct guest *g = t->g;
	bool live = guest_state_is_live(g->state), resume = g->state == GUEST_RUNNING;
	uint64_t begin = now_monotonic_us();
	int r = 0;

	if (resume)
		r = guest_qmp(g, "stop", NULL, NULL, err);
	if (r == 0 && live)
		r = take_memory(t, err);
	if (r == 0)
		r = take_disks(t, err);
	if (r == 0)
		r = take_state(t, err);
	if (resume && g->run && !g->run->exited) {
		int back;

		fiber_shield(true);
		back = guest_qmp(g, "cont", NULL, NULL, r == 0 ? err : NULL);
		fiber_shield(false);
		if (r == 0)
			r = back;
	}
	t->created_us = now_wall_us();
	*ret_pause_us = resume ? now_monotonic_us() - begin : 0;
	return r;
}

static int commit_snapshot(struct taking *t, const char *uuid, const char *name,
                           const char *description, const char *actor, struct snapshot **ret,
                           struct vmd_error *err)
{
	struct vmd *vmd = t->g->vmd;
	cleanup_json json_t *o = json_pack(
		"{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:O, s:O, s:O, s:O}", "version", 1,
		"uuid", uuid, "name", name, "vm", t->g->uuid, "vm_name", t->g->name, "description",
		description, "created_us", (json_int_t)t->created_us, "state",
		t->memory ? guest_state_name(t->g->state) : "stopped", "bytes",
		(json_int_t)t->bytes, "memory", t->memory ? t->memory : json_null(), "disks",
		t->disks, "files", t->state, "definition", t->definition);
	cleanup_free char *text = o ? jsonx_dump(o) : NULL;
	struct store_txn *txn = store_txn_new(vmd->store);
	uint64_t seq;
	int r;

	if (!text || !txn) {
		store_txn_free(txn);
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	}
	store_put(txn, "snapshots", uuid, text);
	seq = event_publish(vmd->events, txn,
	                    &(struct event){ .type = "snapshot.created",
	                                     .vm = t->g->name,
	                                     .uuid = t->g->uuid,
	                                     .actor = actor,
	                                     .data = json_pack("{s:s, s:s}", "snapshot", name,
	                                                       "snapshot_uuid", uuid) });
	r = store_commit(txn, err);
	if (r < 0) {
		event_drop(vmd->events, seq);
		return r;
	}
	t->g->last_event = seq;
	event_flush(vmd->events, seq);
	r = snapshot_load(vmd, text, strlen(text));
	if (r < 0)
		return error_set_errno(err, -r, "cannot keep snapshot '%s'", name);
	*ret = snapshot_find(vmd, t->g->uuid, uuid);
	return 0;
}

static int remove_tree(void *arg)
{
	return fs_remove_tree(AT_FDCWD, arg);
}

static int sync_dir(void *arg)
{
	cleanup_close int fd = fs_open_dir(AT_FDCWD, arg);

	return fd < 0 ? fd : fsync(fd) < 0 ? -errno : 0;
}

int snapshot_take(struct guest *g, const char *name, const char *description, struct job *job,
                  const char *actor, struct snapshot **ret, uint64_t *ret_pause_us,
                  struct vmd_error *err)
{
	struct taking t = { .g = g, .job = job };
	char uuid[SD_ID128_UUID_STRING_MAX];
	sd_id128_t id;
	int r, dir;

	if (guest_state_is_live(g->state)) {
		r = ram_check(g, err);
		if (r < 0)
			return r;
	}
	if (sd_id128_randomize(&id) < 0)
		return error_set(err, ERROR_INTERNAL, "cannot make a uuid");
	sd_id128_to_uuid_string(id, uuid);
	dir = store_object_dir(g->vmd->store, "snapshots", uuid);
	if (dir < 0)
		return error_set_errno(err, -dir, "cannot make the directory of snapshot '%s'",
		                       name);
	close(dir);
	snprintf(t.dir, sizeof(t.dir), "%.400s/snapshots/%s", g->vmd->config.state_dir, uuid);
	t.definition = guest_state_is_live(g->state) ? json_loads(g->run->definition, 0, NULL)
	                                             : guest_definition(g);
	t.disks = json_array();
	t.state = json_array();
	r = t.definition && t.disks && t.state ? take_instant(&t, ret_pause_us, err)
	                                       : error_set(err, ERROR_NO_SPACE, "out of memory");
	if (r == 0)
		r = sum_files(&t, t.disks, err);
	if (r == 0)
		r = sum_files(&t, t.state, err);
	if (r == 0)
		r = work_run(sync_dir, t.dir);
	fiber_shield(true);
	if (r == 0)
		r = commit_snapshot(&t, uuid, name, description, actor, ret, err);
	if (r < 0)
		(void)work_run(remove_tree, t.dir);
	fiber_shield(false);
	json_decref(t.definition);
	json_decref(t.disks);
	json_decref(t.state);
	json_decref(t.memory);
	return r;
}
