/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The helper processes of one engine (passt, virtiofsd, swtpm, the storage daemon) and the sockets
 * to them. */
#include <jansson.h>

#include "common/error.h"
#include "daemon/engine.h"

struct host_facts;

/* A pair of stream sockets: index of QEMU's end in l->fds in *ret_index; the other is returned for
 * the caller. Negative errno. */
int launch_add_socket(struct launch *l, size_t *ret_index);

/* Appends a process; name is copied, argv stolen. NULL with err when there are too many. */
struct launch_proc *launch_add_proc(struct launch *l, const char *name, json_t *argv,
                                    struct vmd_error *err);
/* Gives the process descriptor l->fds[index] under number target. 0 or -E2BIG. */
int launch_proc_add_fd(struct launch_proc *proc, size_t index, int target);

/*
 * Each adds a helper before the engine; *ret_index is QEMU's end of its socket in l->fds. 0, or
 * negative errno with err. dir of swtpm exists; it keeps the
 * TPM's state.
 */
int helper_add_passt(struct launch *l, const struct host_facts *host, const json_t *nic,
                     size_t index, size_t *ret_index, struct vmd_error *err);
int helper_add_virtiofsd(struct launch *l, const struct host_facts *host, const json_t *share,
                         size_t index, const char *runtime_dir, size_t *ret_index,
                         struct vmd_error *err);
int helper_add_swtpm(struct launch *l, const struct host_facts *host, const char *dir,
                     size_t *ret_index, struct vmd_error *err);

/*
 * The two ends of what the storage daemon serves disks[index] on, in l->fds: the engine's is
 * connected already, the daemon listens at the other. Nobody else can reach it: it has no name. 0,
 * or negative errno with err.
 */
int helper_add_export(struct launch *l, const char *runtime_dir, size_t index, size_t *ret_engine,
                      size_t *ret_storage, struct vmd_error *err);
/* The storage daemon, which gets no descriptors yet; argv is taken. NULL with err. */
struct launch_proc *helper_add_storage(struct launch *l, json_t *argv, struct vmd_error *err);
