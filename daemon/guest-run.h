/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The life of one engine process: launch, supervision by its shim and QMP, end. Whatever ends it,
 * one fiber (guest-exit.c) settles the guest's state; operations only wait for that.
 */
#include "daemon/guest.h"
#include "daemon/qmp.h"
#include "daemon/shim.h"

struct engine_choice;

/*
 * Launches the engine for a guest in GUEST_STARTING, vCPUs not running, QMP negotiated; with
 * incoming it waits for migrate-incoming. Waits (fiber). On failure nothing is left of the process;
 * the state is the caller's to settle.
 */
int guest_launch(struct guest *g, const json_t *definition, const struct engine_choice *choice,
                 bool incoming, struct vmd_error *err);

/* Starts a guest in its turn (lock held): from a suspend image when there is one. cause and actor
 * go into the events. paused: leave it paused once it is up. */
int guest_start(struct guest *g, bool paused, const char *cause, const char *actor,
                struct vmd_error *err);

/* As guest_start, with memory and device state from a snapshot's file. */
int guest_start_from_memory(struct guest *g, const char *ram_path, uint64_t bytes,
                            const char *checksum, bool paused, const char *cause, const char *actor,
                            struct vmd_error *err);

/* One QMP command to a live guest. With no answer in time the guest becomes unresponsive. */
int guest_qmp(struct guest *g, const char *command, const json_t *args, json_t **ret,
              struct vmd_error *err);
int guest_qmp_fds(struct guest *g, const char *command, const json_t *args, const int *fds,
                  size_t n_fds, json_t **ret, struct vmd_error *err);

/* Ends the process by SIGKILL and waits until its end is settled. hint says who asked ("kill"). */
int guest_force_end(struct guest *g, const char *hint, struct vmd_error *err);
/* Waits until there is no process. 0, -ETIMEDOUT, -ECANCELED. */
int guest_wait_end(struct guest *g, int64_t timeout_ms);

/* Connects supervision to a run whose shim is attached: QMP client and state; for launch and adopt.
 */
int guest_run_connect(struct guest *g, bool fresh, struct vmd_error *err);
/* Frees a run and what it holds; no process may be left. */
void guest_run_free(struct guest_run *run);

/* Asks every live guest for a sign of life; false when there is none to ask. */
bool guest_health_check(struct vmd *vmd);

/* The engine process has ended. Starts the fiber that settles it. */
void guest_on_exit(struct guest *g, const struct shim_exit *exit);

/* Reconciles a loaded guest with its process, if any: adopt, report its end, or settle. Waits. */
void guest_adopt(struct guest *g);

extern const struct shim_ops guest_shim_ops;
extern const struct qmp_ops guest_qmp_ops;
