/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk.create, list, delete. */
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
#include "common/parse.h"
#include "common/timeutil.h"
#include "daemon/disk.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/guest.h"
#include "daemon/rpc.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

static json_t *disk_json(struct vmd *vmd, const struct disk *d)
{
	char path[512];

	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "name", d->name, "uuid", d->uuid,
	                 "format", d->format, "size_bytes", (json_int_t)d->size_bytes, "created_us",
	                 (json_int_t)d->created_us, "owner", (json_int_t)d->owner, "path",
	                 disk_path(vmd, d, path, sizeof(path)));
}

struct make_raw {
	const char *path;
	uint64_t size;
};

static int make_raw_file(void *arg)
{
	const struct make_raw *m = arg;
	cleanup_close int fd = open(m->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)m->size) < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

static int make_qcow2_file(struct vmd *vmd, const char *path, uint64_t size, struct vmd_error *err)
{
	char size_text[24];
	char *argv[] = { (char *)"qemu-img",
		         (char *)"create",
		         (char *)"-q",
		         (char *)"-f",
		         (char *)"qcow2",
		         (char *)"-o",
		         (char *)"lazy_refcounts=off,compat=1.1",
		         (char *)(uintptr_t)path,
		         size_text,
		         NULL };
	struct spawn_spec spec = { .path = vmd->host.qemu_img,
		                   .argv = argv,
		                   .null_stdio = true,
		                   .death_signal = SIGKILL };
	cleanup_free char *output = NULL;
	struct proc_status status;
	int r;

	if (!vmd->host.qemu_img[0]) {
		(void)error_set(err, ERROR_UNSUPPORTED,
		                "qcow2 needs qemu-img, which is not installed");
		error_hint(err, "install the package qemu-utils, or use format raw");
		return -EOPNOTSUPP;
	}
	snprintf(size_text, sizeof(size_text), "%llu", (unsigned long long)size);
	r = fiber_run_program(&spec, 4096, &output, &status, err);
	if (r < 0)
		return r;
	if (!status.exited || status.code != 0) {
		if (chmod(path, 0600) < 0)
			log_debug("No image at '%s'", path);
		return error_set(err, ERROR_NO_SPACE, "qemu-img cannot make the disk: %.300s",
		                 output);
	}
	return chmod(path, 0600) < 0 ? error_set_errno(err, errno, "cannot protect '%s'", path) : 0;
}

static int make_file(struct vmd *vmd, const struct disk *d, struct vmd_error *err)
{
	char path[512];
	struct make_raw raw;
	int r, dir = store_object_dir(vmd->store, "disks", d->uuid);

	if (dir < 0)
		return error_set_errno(err, -dir, "cannot make the directory of disk '%s'",
		                       d->name);
	close(dir);
	disk_path(vmd, d, path, sizeof(path));
	if (strcmp(d->format, "qcow2") == 0)
		return make_qcow2_file(vmd, path, d->size_bytes, err);
	raw = (struct make_raw){ path, d->size_bytes };
	r = work_run(make_raw_file, &raw);
	return r < 0 ? error_set_errno(err, -r, "cannot make disk '%s'", d->name) : 0;
}

static int remove_tree(void *arg)
{
	return fs_remove_tree(AT_FDCWD, arg);
}

static void remove_disk_dir(struct vmd *vmd, const struct disk *d)
{
	char dir[512];

	snprintf(dir, sizeof(dir), "%s/disks/%s", vmd->config.state_dir, d->uuid);
	fiber_shield(true);
	(void)work_run(remove_tree, dir);
	fiber_shield(false);
}

static int commit_disk(struct call *call, const struct disk *d, bool delete, struct vmd_error *err)
{
	struct vmd *vmd = call->vmd;
	struct store_txn *txn = store_txn_new(vmd->store);
	cleanup_json json_t *value = disk_json(vmd, d);
	uint64_t seq;
	int r;

	if (!txn || !value) {
		store_txn_free(txn);
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	}
	if (delete)
		store_delete(txn, "disks", d->uuid);
	else
		store_put_json(txn, "disks", d->uuid, value);
	seq = event_publish(vmd->events, txn,
	                    &(struct event){ .type = delete ? "disk.deleted" : "disk.created",
	                                     .actor = call->actor,
	                                     .data = json_incref(value) });
	r = store_commit(txn, err);
	if (r < 0)
		event_drop(vmd->events, seq);
	else
		event_flush(vmd->events, seq);
	return r;
}

static int fill_disk(struct call *call, struct disk *d, struct vmd_error *err)
{
	const char *name = jsonx_str(call->params, "name", "");
	char text[SD_ID128_UUID_STRING_MAX];
	sd_id128_t id;

	if (!is_object_name(name))
		return error_set_field(err, "name", "'%.64s' is no disk name", name);
	d->size_bytes = jsonx_size(call->params, "size", 0);
	if (d->size_bytes < 512 || d->size_bytes % 512 || d->size_bytes > (uint64_t)1 << 60)
		return error_set_field(err, "size", "a disk's size is a multiple of 512 bytes");
	if (sd_id128_randomize(&id) < 0)
		return error_set(err, ERROR_INTERNAL, "cannot make a uuid");
	snprintf(d->uuid, sizeof(d->uuid), "%s", sd_id128_to_uuid_string(id, text));
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->format, sizeof(d->format), "%s", jsonx_str(call->params, "format", "qcow2"));
	d->owner = call->uid;
	d->created_us = now_wall_us();
	return 0;
}

static int disk_create(struct call *call, struct vmd_error *err)
{
	cleanup_free struct disk *d = calloc(1, sizeof(*d));
	struct vmd *vmd = call->vmd;
	int r;

	if (!d)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	r = fill_disk(call, d, err);
	if (r < 0)
		return r;
	if (disk_name_is_taken(vmd, d->name))
		return error_set(err, ERROR_EXISTS, "a disk '%s' exists", d->name);
	if (call->dry_run) {
		call_reply(call, disk_json(vmd, d));
		return 0;
	}
	/* In the list at once, so that the name is taken while the file is made. */
	d->in_making = true;
	list_add_tail(&vmd->disks, &d->link);
	r = make_file(vmd, d, err);
	if (r == 0)
		r = commit_disk(call, d, false, err);
	if (r < 0) {
		list_del(&d->link);
		remove_disk_dir(vmd, d);
		return r;
	}
	d->in_making = false;
	call_reply(call, disk_json(vmd, d));
	d = NULL;
	return 0;
}

static bool names_disk(const char *text, const struct disk *d)
{
	cleanup_json json_t *definition = NULL;
	json_t *entry;
	size_t i;

	if (!text || !strstr(text, "\"disk\""))
		return false;
	definition = json_loads(text, 0, NULL);
	json_array_foreach(json_object_get(definition, "disks"), i, entry) {
		const char *name = jsonx_str(entry, "disk", "");

		if (strcmp(name, d->name) == 0 || strcmp(name, d->uuid) == 0)
			return true;
	}
	return false;
}

/* The first guest that names the disk: in its definition, in the one it runs with, or in the one it
 * was suspended with; or NULL. */
static const struct guest *user_of(struct vmd *vmd, const struct disk *d)
{
	struct guest *g;

	list_for_each(g, registry_list(vmd->guests), link)
		if (names_disk(g->definition, d) || names_disk(g->saved_definition, d) ||
		    (g->run && names_disk(g->run->definition, d)))
			return g;
	return NULL;
}

static int disk_delete(struct call *call, struct vmd_error *err)
{
	const char *name = jsonx_str(call->params, "disk", "");
	struct vmd *vmd = call->vmd;
	struct disk *d = disk_find(vmd, name);
	const struct guest *user;
	int r;

	if (!d)
		return error_set(err, ERROR_NOT_FOUND, "there is no disk '%.64s'", name);
	if (call->role != ROLE_ADMIN && call->uid != d->owner)
		return error_set(err, ERROR_DENIED, "disk '%s' belongs to uid %u", d->name,
		                 d->owner);
	user = user_of(vmd, d);
	if (user) {
		(void)error_set(err, ERROR_BUSY, "disk '%s' belongs to guest '%s'", d->name,
		                user->name);
		error_hint(err, "delete the guest, or take the disk out of its definition");
		return -EBUSY;
	}
	if (!call->dry_run) {
		list_del(&d->link);
		r = commit_disk(call, d, true, err);
		if (r < 0) {
			list_add_tail(&vmd->disks, &d->link);
			return r;
		}
		remove_disk_dir(vmd, d);
	}
	call_reply(call, json_pack("{s:s, s:s}", "name", d->name, "uuid", d->uuid));
	if (!call->dry_run)
		free(d);
	return 0;
}

static json_t *pick_fields(json_t *value, const json_t *fields)
{
	json_t *picked, *field;
	size_t i;

	if (!fields || !value)
		return value;
	picked = json_object();
	json_array_foreach(fields, i, field) {
		const char *key = json_string_value(field);

		if (key && json_object_get(value, key))
			(void)json_object_set(picked, key, json_object_get(value, key));
	}
	json_decref(value);
	return picked;
}

static int disk_list(struct call *call, struct vmd_error *err)
{
	const char *cursor = jsonx_str(call->params, "cursor", NULL);
	const json_t *fields = json_object_get(call->params, "fields");
	size_t limit = (size_t)jsonx_int(call->params, "limit", INT64_MAX);
	json_t *array = json_array(), *reply = json_pack("{s:o}", "disks", array);
	const struct disk *last = NULL;
	bool skipping = cursor != NULL;
	struct disk *d;

	if (!reply)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	list_for_each(d, &call->vmd->disks, link) {
		if (skipping) {
			skipping = strcmp(cursor, d->uuid) != 0;
			continue;
		}
		if (d->in_making)
			continue;
		if (json_array_size(array) == limit) {
			if (last)
				(void)jsonx_set(reply, "next", json_string(last->uuid));
			break;
		}
		json_array_append_new(array, pick_fields(disk_json(call->vmd, d), fields));
		last = d;
	}
	if (skipping) {
		json_decref(reply);
		return call_cursor_gone(err);
	}
	call_reply(call, reply);
	return 0;
}

const struct method disk_methods[] = {
	{ "disk.create", ROLE_OPERATOR, METHOD_JOB | METHOD_FIBER | METHOD_CHANGE, disk_create },
	{ "disk.list", ROLE_VIEWER, METHOD_READ, disk_list },
	{ "disk.delete", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, disk_delete },
	{ NULL, 0, 0, NULL },
};
