/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/snapshot.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/parse.h"
#include "daemon/disk.h"
#include "daemon/event.h"
#include "daemon/guest.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

const char *snapshot_state_file(size_t i)
{
	/* UEFI variables; swtpm's permanent state. */
	static const char *const files[] = { "nvram.fd", "tpm/tpm2-00.permall", NULL };

	return files[i];
}

static void snapshot_free(struct snapshot *s)
{
	if (!s)
		return;
	list_del(&s->link);
	free(s->manifest);
	free(s);
}

void snapshots_init(struct vmd *vmd)
{
	list_init(&vmd->snapshots);
}

void snapshots_deinit(struct vmd *vmd)
{
	struct snapshot *s, *next;

	list_for_each_safe(s, next, &vmd->snapshots, link)
		snapshot_free(s);
}

/* Oldest first; those of a start come in any order. */
static void insert(struct vmd *vmd, struct snapshot *s)
{
	struct list *after = vmd->snapshots.prev;

	while (after != &vmd->snapshots &&
	       list_entry(after, struct snapshot, link)->created_us > s->created_us)
		after = after->prev;
	list_add_tail(after->next, &s->link);
}

int snapshot_load(struct vmd *vmd, const char *text, size_t len)
{
	cleanup_json json_t *o = json_loadb(text, len, 0, NULL);
	const char *uuid = jsonx_str(o, "uuid", ""), *vm = jsonx_str(o, "vm", "");
	struct snapshot *s;

	if (!is_uuid(uuid) || !is_uuid(vm))
		return -EBADMSG;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	list_init(&s->link);
	s->manifest = strndup(text, len);
	if (!s->manifest) {
		snapshot_free(s);
		return -ENOMEM;
	}
	snprintf(s->uuid, sizeof(s->uuid), "%s", uuid);
	snprintf(s->vm_uuid, sizeof(s->vm_uuid), "%s", vm);
	snprintf(s->name, sizeof(s->name), "%s", jsonx_str(o, "name", ""));
	s->has_memory = json_is_object(json_object_get(o, "memory"));
	s->created_us = (uint64_t)jsonx_int(o, "created_us", 0);
	s->bytes = (uint64_t)jsonx_int(o, "bytes", 0);
	insert(vmd, s);
	return 0;
}

struct snapshot *snapshot_find(struct vmd *vmd, const char *vm_uuid, const char *name_or_uuid)
{
	struct snapshot *s;

	list_for_each(s, &vmd->snapshots, link)
		if (strcmp(s->vm_uuid, vm_uuid) == 0 &&
		    (strcmp(s->name, name_or_uuid) == 0 || strcmp(s->uuid, name_or_uuid) == 0))
			return s;
	return NULL;
}

json_t *snapshot_manifest(const struct snapshot *s)
{
	return json_loads(s->manifest, 0, NULL);
}

json_t *snapshot_json(const struct snapshot *s)
{
	cleanup_json json_t *m = snapshot_manifest(s);
	json_t *disks = json_array(), *disk;
	size_t i;

	json_array_foreach(json_object_get(m, "disks"), i, disk)
		json_array_append_new(disks, json_pack("{s:O, s:O, s:O}", "index",
		                                       json_object_get(disk, "index"), "method",
		                                       json_object_get(disk, "method"), "bytes",
		                                       json_object_get(disk, "bytes")));
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:o}", "name", s->name, "uuid",
	                 s->uuid, "vm", jsonx_str(m, "vm_name", ""), "description",
	                 jsonx_str(m, "description", ""), "created_us", (json_int_t)s->created_us,
	                 "state", jsonx_str(m, "state", "stopped"), "ram_bytes",
	                 (json_int_t)jsonx_int(json_object_get(m, "memory"), "bytes", 0), "bytes",
	                 (json_int_t)s->bytes, "disks", disks);
}

static int remove_tree(void *arg)
{
	return fs_remove_tree(AT_FDCWD, arg);
}

int snapshot_delete(struct guest *g, struct snapshot *s, const char *actor, struct vmd_error *err)
{
	struct store_txn *txn = store_txn_new(g->vmd->store);
	char dir[512];
	uint64_t seq;
	int r;

	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	store_delete(txn, "snapshots", s->uuid);
	seq = event_publish(g->vmd->events, txn,
	                    &(struct event){ .type = "snapshot.deleted",
	                                     .vm = g->name,
	                                     .uuid = g->uuid,
	                                     .actor = actor,
	                                     .data = json_pack("{s:s, s:s}", "snapshot", s->name,
	                                                       "snapshot_uuid", s->uuid) });
	r = store_commit(txn, err);
	if (r < 0) {
		event_drop(g->vmd->events, seq);
		return r;
	}
	g->last_event = seq;
	event_flush(g->vmd->events, seq);
	snprintf(dir, sizeof(dir), "%s/snapshots/%s", g->vmd->config.state_dir, s->uuid);
	snapshot_free(s);
	(void)work_run(remove_tree, dir);
	return 0;
}

void snapshot_delete_all(struct guest *g, struct store_txn *txn)
{
	struct snapshot *s;

	list_for_each(s, &g->vmd->snapshots, link)
		if (strcmp(s->vm_uuid, g->uuid) == 0)
			store_delete(txn, "snapshots", s->uuid);
}

void snapshot_forget_all(struct guest *g)
{
	struct snapshot *s, *next;
	char dir[512];

	list_for_each_safe(s, next, &g->vmd->snapshots, link) {
		if (strcmp(s->vm_uuid, g->uuid) != 0)
			continue;
		snprintf(dir, sizeof(dir), "%s/snapshots/%s", g->vmd->config.state_dir, s->uuid);
		snapshot_free(s);
		(void)work_run(remove_tree, dir);
	}
}

static bool is_recorded(struct vmd *vmd, const char *kind, const char *uuid)
{
	struct snapshot *s;

	if (strcmp(kind, "disks") == 0)
		return disk_find(vmd, uuid) != NULL;
	list_for_each(s, &vmd->snapshots, link)
		if (strcmp(s->uuid, uuid) == 0)
			return true;
	return false;
}

/* What a daemon that died in the middle of making it left behind. A directory that holds a record,
 * even a damaged one, is never touched. */
void state_sweep(struct vmd *vmd, const char *kind)
{
	cleanup_dir DIR *dir = NULL;
	char path[512], record[560];
	struct dirent *e;
	int r;

	snprintf(path, sizeof(path), "%.300s/%.32s", vmd->config.state_dir, kind);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (!is_uuid(e->d_name) || is_recorded(vmd, kind, e->d_name))
			continue;
		snprintf(record, sizeof(record), "%.36s/%.*s.json", e->d_name,
		         (int)strlen(kind) - 1, kind);
		if (faccessat(dirfd(dir), record, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		r = fs_remove_tree(dirfd(dir), e->d_name);
		log_notice("Removed the unfinished '%s/%s'%s%s", kind, e->d_name, r < 0 ? ": " : "",
		           r < 0 ? strerror(-r) : "");
	}
}
