/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Managed disks: files that vmd makes and keeps in $STATE/disks/<uuid>/. Loop thread. */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/list.h"

struct vmd;

struct disk {
	struct list link;
	char uuid[37], name[64], format[16];
	uint64_t size_bytes, created_us;
	uid_t owner;
	bool in_making; /* its name is taken, its file is not there yet */
};

void disks_init(struct vmd *vmd);
void disks_deinit(struct vmd *vmd);
/* From store_open. -EBADMSG for a record that is none. */
int disk_load(struct vmd *vmd, const char *text, size_t len);
/* By name or uuid, or NULL; not one that is still being made. */
struct disk *disk_find(struct vmd *vmd, const char *name_or_uuid);
bool disk_name_is_taken(struct vmd *vmd, const char *name);
/* Path of its file; buf is the caller's. Returns buf. */
const char *disk_path(const struct vmd *vmd, const struct disk *d, char *buf, size_t len);
