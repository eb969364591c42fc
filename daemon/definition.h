/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What vmd adds to a definition and checks beyond the schema. The definition is an object the
 * schema has accepted. */
#include <jansson.h>
#include <sys/types.h>

#include "common/error.h"
#include "daemon/engine.h"
#include "daemon/guest.h"
#include "daemon/rpc.h"

/*
 * Makes it whole: uuid and MAC addresses generated once, descriptors turned into the paths they
 * stand for, and what no schema can say checked (absolute paths, names, duplicate MACs and tags).
 * With an old guest (an update): uuid and name must stay. 0, or -EINVAL with err.
 */
int definition_complete(struct call *call, json_t *definition, const struct guest *old,
                        struct held_fds *held, struct vmd_error *err);

/* May this caller name the files and devices of the host that are new in definition? old is the
 * guest's present definition, or NULL. -EACCES (ERROR_DENIED) with the field. */
int definition_check_files(const struct call *call, const json_t *definition, const json_t *old,
                           struct vmd_error *err);
/* Can it run here? The engine's and host's refusals with field and reason. Waits for the first KVM
 * proof. */
int definition_check(struct vmd *vmd, const json_t *definition, struct engine_choice *ret,
                     struct vmd_error *err);

/* The owner it names, if the caller may give guests away, else the caller. */
uid_t definition_owner(const struct call *call, const json_t *definition);

/* Keeps the choice in the guest, for vm.get. -ENOMEM. */
int definition_take_choice(struct guest *g, const struct engine_choice *choice);

/* A copy in which managed disks ("disk": name) have become the path and format they stand for: what
 * an engine gets. New reference, NULL with err. */
json_t *definition_resolve(struct vmd *vmd, const json_t *definition, struct vmd_error *err);

/* Name of the live guest, other than the definition's own, that has the file behind path as a disk
 * or as the base of one, or NULL: for the error when a disk is locked. Loop thread; stats paths. */
const char *definition_holder_of(struct vmd *vmd, const char *path, const json_t *definition);
