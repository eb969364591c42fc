/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The arguments of qemu-storage-daemon, which serves a guest's disks by vhost-user-blk. Pure. */
#include <jansson.h>
#include <stddef.h>

struct storage_disk {
	const json_t *disk; /* of the definition */
	size_t index;
	int file_fd, listen_fd; /* in the daemon's process */
	int base_fd;            /* the same, of disk.backing when there is one */
};

/* Adds a disk to the arguments. 0 or -ENOMEM. */
int storage_add_disk(json_t *argv, const struct storage_disk *d);
