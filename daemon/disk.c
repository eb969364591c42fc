/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/disk.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/vmd.h"

void disks_init(struct vmd *vmd)
{
	list_init(&vmd->disks);
}

void disks_deinit(struct vmd *vmd)
{
	struct disk *d, *next;

	list_for_each_safe(d, next, &vmd->disks, link) {
		list_del(&d->link);
		free(d);
	}
}

/* Oldest first; those of a start come in any order. */
static void insert(struct vmd *vmd, struct disk *d)
{
	struct list *after = vmd->disks.prev;

	while (after != &vmd->disks &&
	       list_entry(after, struct disk, link)->created_us > d->created_us)
		after = after->prev;
	list_add_tail(after->next, &d->link);
}

int disk_load(struct vmd *vmd, const char *text, size_t len)
{
	cleanup_json json_t *o = json_loadb(text, len, 0, NULL);
	const char *name = jsonx_str(o, "name", ""), *uuid = jsonx_str(o, "uuid", "");
	struct disk *d;

	if (!is_object_name(name) || !is_uuid(uuid))
		return -EBADMSG;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	snprintf(d->uuid, sizeof(d->uuid), "%s", uuid);
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->format, sizeof(d->format), "%s", jsonx_str(o, "format", "raw"));
	d->size_bytes = (uint64_t)jsonx_int(o, "size_bytes", 0);
	d->created_us = (uint64_t)jsonx_int(o, "created_us", 0);
	d->owner = (uid_t)jsonx_int(o, "owner", 0);
	insert(vmd, d);
	return 0;
}

struct disk *disk_find(struct vmd *vmd, const char *name_or_uuid)
{
	struct disk *d;

	list_for_each(d, &vmd->disks, link)
		if (!d->in_making &&
		    (strcmp(d->name, name_or_uuid) == 0 || strcmp(d->uuid, name_or_uuid) == 0))
			return d;
	return NULL;
}

bool disk_name_is_taken(struct vmd *vmd, const char *name)
{
	struct disk *d;

	list_for_each(d, &vmd->disks, link)
		if (strcmp(d->name, name) == 0)
			return true;
	return false;
}

const char *disk_path(const struct vmd *vmd, const struct disk *d, char *buf, size_t len)
{
	snprintf(buf, len, "%s/disks/%s/image.%s", vmd->config.state_dir, d->uuid, d->format);
	return buf;
}
