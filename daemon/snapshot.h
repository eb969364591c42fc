/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Snapshots: memory, devices and disks of one instant, in $STATE/snapshots/<uuid>/. The store
 * record is the manifest, with a checksum for every file, and is written last: without it there is
 * no snapshot, and its directory is swept at start. Loop thread.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/list.h"

struct guest;
struct job;
struct store_txn;
struct vmd;

struct snapshot {
	struct list link;
	char uuid[37], name[64], vm_uuid[37];
	bool has_memory;
	uint64_t created_us, bytes;
	char *manifest; /* the whole record as JSON text */
};

void snapshots_init(struct vmd *vmd);
void snapshots_deinit(struct vmd *vmd);
/* From store_open. -EBADMSG for a record that is none. */
int snapshot_load(struct vmd *vmd, const char *text, size_t len);
struct snapshot *snapshot_find(struct vmd *vmd, const char *vm_uuid, const char *name_or_uuid);
/* As the API shows it; new reference. */
json_t *snapshot_json(const struct snapshot *s);
/* The whole record; new reference. */
json_t *snapshot_manifest(const struct snapshot *s);

/*
 * Takes one of a guest (lock held): stopped, paused or running; a running guest is paused while
 * memory and disks are written, *ret_pause_us tells how long. Waits. On failure or cancel the guest
 * is as before and nothing is left.
 */
int snapshot_take(struct guest *g, const char *name, const char *description, struct job *job,
                  const char *actor, struct snapshot **ret, uint64_t *ret_pause_us,
                  struct vmd_error *err);
/* Brings guest, disks and memory back to it (lock held). Every file is checked before anything is
 * touched. Waits. */
int snapshot_restore(struct guest *g, struct snapshot *s, struct job *job, const char *actor,
                     struct vmd_error *err);
int snapshot_delete(struct guest *g, struct snapshot *s, const char *actor, struct vmd_error *err);

/*
 * Files below the guest's state directory that hold what its firmware and TPM remember: part of
 * each snapshot. NULL behind the last.
 */
const char *snapshot_state_file(size_t i);

/* With a guest's deletion: records into txn; after its commit the list entries. */
void snapshot_delete_all(struct guest *g, struct store_txn *txn);
void snapshot_forget_all(struct guest *g);

/* Removes directories of kind ("snapshots", "disks") that no record names. Blocks; at start only.
 */
void state_sweep(struct vmd *vmd, const char *kind);
