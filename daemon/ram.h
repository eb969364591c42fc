/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A guest's memory and device state as a file of its engine's format, written by QMP "migrate" and
 * read by "migrate-incoming", both to a descriptor. All of it waits (fiber).
 */
#include <stdint.h>

#include "daemon/guest.h"

struct job;

/* Can the state of this live guest be saved at all? 0, or ERROR_UNSUPPORTED with field and reason;
 * err is given. Does not wait. */
int ram_check(const struct guest *g, struct vmd_error *err);
/* Writes the state of a guest whose vCPUs are stopped to path (created, fsynced). checksum: XXH3-64
 * of the file (engine kvm: of its state part) as 16 hex digits. On failure the file is gone and the
 * guest still stopped. */
int ram_save(struct guest *g, const char *path, uint64_t *ret_bytes, char ret_checksum[17],
             struct job *job, struct vmd_error *err);
/* Checks a file that ram_save() wrote against size and checksum: ERROR_INVALID tells what is wrong.
 */
int ram_verify(const char *path, uint64_t bytes, const char *checksum, struct vmd_error *err);
/* Checks the file against size and checksum, then loads it into a guest launched with incoming. */
int ram_load(struct guest *g, const char *path, uint64_t bytes, const char *checksum,
             struct vmd_error *err);

/* The suspend image in the guest's own state directory: memory and a manifest written last. */
int ram_save_suspended(struct guest *g, struct job *job, struct vmd_error *err);
int ram_load_suspended(struct guest *g, struct vmd_error *err);
void ram_drop_suspended(struct guest *g);
/* Whether there is an image with its manifest. */
bool ram_suspended_is_whole(struct guest *g);

/* XXH3-64 of a whole file as 16 hex digits and its size. Blocks: for worker threads. */
int file_checksum(const char *path, uint64_t *ret_bytes, char ret_checksum[17]);
