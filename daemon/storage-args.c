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

/* An image of a disk: itself, or the base that it is an overlay of. */
struct image {
	const json_t *disk;
	const char *name, *format;
	int fd;
	bool base;
};

/* What both nodes of an image have. */
static json_t *node(const char *name, const char *driver, const struct image *i)
{
	const char *cache = jsonx_str(i->disk, "cache", "writeback");

	return json_pack("{s:s, s:s, s:s, s:b, s:{s:b, s:b}}", "node-name", name, "driver", driver,
	                 "discard", i->base ? "ignore" : jsonx_str(i->disk, "discard", "ignore"),
	                 "read-only", i->base || jsonx_bool(i->disk, "readonly", false), "cache",
	                 "direct", strcmp(cache, "none") == 0, "no-flush",
	                 strcmp(cache, "unsafe") == 0);
}

/* The daemon has no descriptor sets as QEMU has: it opens what it was given once more. The lock is
 * on what it was given, and stays; QEMU's own would be in its way. */
static int add_file(json_t *argv, const struct image *i, const char *name)
{
	json_t *file = node(name, "file", i);
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", i->fd);
	if (!jsonx_set(file, "filename", json_string(path)) ||
	    !jsonx_set(file, "locking", json_string("off"))) {
		json_decref(file);
		return -ENOMEM;
	}
	return add_json(argv, "--blockdev", file);
}

/* Names of other files inside an image are never followed: its base is the definition's, or none.
 */
static int add_format(json_t *argv, const struct image *i, const char *file, const char *base)
{
	json_t *top = node(i->name, i->format, i);
	bool ok = jsonx_set(top, "file", json_string(file));

	if (base)
		ok = ok && jsonx_set(top, "backing", json_string(base));
	else if (strcmp(i->format, "qcow2") == 0 || strcmp(i->format, "vmdk") == 0)
		ok = ok && jsonx_set(top, "backing", json_null());
	if (!ok) {
		json_decref(top);
		return -ENOMEM;
	}
	return add_json(argv, "--blockdev", top);
}

static int add_image(json_t *argv, const struct image *i, const char *base)
{
	char file[48];
	int r;

	snprintf(file, sizeof(file), "%s-file", i->name);
	r = add_file(argv, i, file);
	return r < 0 ? r : add_format(argv, i, file, base);
}

int storage_add_disk(json_t *argv, const struct storage_disk *d)
{
	bool readonly = jsonx_bool(d->disk, "readonly", false);
	const json_t *backing = json_object_get(d->disk, "backing");
	char name[32], base[40], listen_fd[16];
	int r = 0;

	snprintf(name, sizeof(name), "disk%zu", d->index);
	snprintf(base, sizeof(base), "%s-base", name);
	snprintf(listen_fd, sizeof(listen_fd), "%d", d->listen_fd);
	if (backing)
		r = add_image(argv,
		              &(struct image){ .disk = d->disk,
		                               .name = base,
		                               .format = jsonx_str(backing, "format", "raw"),
		                               .fd = d->base_fd,
		                               .base = true },
		              NULL);
	if (r == 0)
		r = add_image(argv,
		              &(struct image){ .disk = d->disk,
		                               .name = name,
		                               .format = jsonx_str(d->disk, "format", "raw"),
		                               .fd = d->file_fd },
		              backing ? base : NULL);
	if (r < 0)
		return r;
	return add_json(argv, "--export",
	                json_pack("{s:s, s:s, s:s, s:b, s:{s:s, s:s}}", "type", "vhost-user-blk",
	                          "id", name, "node-name", name, "writable", !readonly, "addr",
	                          "type", "fd", "str", listen_fd));
}
