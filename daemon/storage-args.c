/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/storage-args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"

/* Takes value. */
static int add_json(json_t *argv, const char *option, json_t *value)
{
	cleanup_json json_t *owned = value;
	cleanup_free char *text = owned ? jsonx_dump(owned) : NULL;

	if (!text || json_array_append_new(argv, json_string(option)) < 0 ||
	    json_array_append_new(argv, json_string(text)) < 0)
		return -ENOMEM;
	return 0;
}

/* What both nodes of a disk have. */
static json_t *node(const char *name, const char *driver, const json_t *disk)
{
	const char *cache = jsonx_str(disk, "cache", "writeback");

	return json_pack("{s:s, s:s, s:s, s:b, s:{s:b, s:b}}", "node-name", name, "driver", driver,
	                 "discard", jsonx_str(disk, "discard", "ignore"), "read-only",
	                 jsonx_bool(disk, "readonly", false), "cache", "direct",
	                 strcmp(cache, "none") == 0, "no-flush", strcmp(cache, "unsafe") == 0);
}

/* The daemon has no descriptor sets as QEMU has: it opens what it was given once more. The lock is
 * on what it was given, and stays; QEMU's own would be in its way. */
static int add_file(json_t *argv, const struct storage_disk *d, const char *name)
{
	json_t *file = node(name, "file", d->disk);
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", d->file_fd);
	if (!jsonx_set(file, "filename", json_string(path)) ||
	    !jsonx_set(file, "locking", json_string("off"))) {
		json_decref(file);
		return -ENOMEM;
	}
	return add_json(argv, "--blockdev", file);
}

static int add_format(json_t *argv, const struct storage_disk *d, const char *name,
                      const char *file)
{
	const char *format = jsonx_str(d->disk, "format", "raw");
	json_t *top = node(name, format, d->disk);
	bool ok = jsonx_set(top, "file", json_string(file));

	/* Names of other files inside an image are never followed. */
	if (strcmp(format, "qcow2") == 0 || strcmp(format, "vmdk") == 0)
		ok = ok && jsonx_set(top, "backing", json_null());
	if (!ok) {
		json_decref(top);
		return -ENOMEM;
	}
	return add_json(argv, "--blockdev", top);
}

int storage_add_disk(json_t *argv, const struct storage_disk *d)
{
	bool readonly = jsonx_bool(d->disk, "readonly", false);
	char name[32], file[40], listen_fd[16];
	int r;

	snprintf(name, sizeof(name), "disk%zu", d->index);
	snprintf(file, sizeof(file), "%s-file", name);
	snprintf(listen_fd, sizeof(listen_fd), "%d", d->listen_fd);
	r = add_file(argv, d, file);
	if (r == 0)
		r = add_format(argv, d, name, file);
	if (r < 0)
		return r;
	return add_json(argv, "--export",
	                json_pack("{s:s, s:s, s:s, s:b, s:{s:s, s:s}}", "type", "vhost-user-blk",
	                          "id", name, "node-name", name, "writable", !readonly, "addr",
	                          "type", "fd", "str", listen_fd));
}
