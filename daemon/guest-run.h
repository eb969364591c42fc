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

/* Starts a guest in its turn (lock held): from a suspend image when there is one. cause and actor
 * go into the events. paused: leave it paused once it is up. */
int guest_start(struct guest *g, bool paused, const char *cause, const char *actor,
                struct vmd_error *err);

/* As guest_start, with memory and device state from a snapshot's file. */
int guest_start_from_memory(struct guest *g, const char *ram_path, uint64_t bytes,
                            const char *checksum, bool paused, const char *cause, const char *actor,
                            struct vmd_error *err);

/* Goes on with a start that the last daemon left, by what the engine says (QMP RunState): finishes
 * it, or takes it back when its memory was still being loaded. Waits. */
void guest_finish_start(struct guest *g, const char *status);

/* One QMP command to a live guest. With no answer in time the guest becomes unresponsive. */
int guest_qmp(struct guest *g, const char *command, const json_t *args, json_t **ret,
              struct vmd_error *err);
int guest_qmp_fds(struct guest *g, const char *command, const json_t *args, const int *fds,
                  size_t n_fds, json_t **ret, struct vmd_error *err);

/* An event of the engine, by its QMP name, told to clients if it is one for them; data may be NULL.
 * What a guest does too often is told in part (guest-event.c). */
void guest_event(struct guest *g, const char *name, const json_t *data);
/* Tells what is still to be told. e may be NULL. */
void guest_events_flush(struct guest_events *e);
void guest_events_free(struct guest_events *e);

/* Who asked for the end of the process ("kill"); durable with the next change of state. */
void guest_set_hint(struct guest *g, const char *hint);
/* Ends the process by SIGKILL and waits until its end is settled. hint says who asked ("kill"). */
int guest_force_end(struct guest *g, const char *hint, struct vmd_error *err);
/* Waits until there is no process. 0, -ETIMEDOUT, -ECANCELED. */
int guest_wait_end(struct guest *g, int64_t timeout_ms);

/* Connects supervision to a run whose shim is attached: QMP client and state; for launch and adopt.
 */
int guest_run_connect(struct guest *g, bool fresh, struct vmd_error *err);
/* Frees a run and what it holds; no process may be left. */
void guest_run_free(struct guest_run *run);

/* Brings the state in line with a reply to query-status; cause unless the engine tells one. Waits.
 */
void guest_take_status(struct guest *g, const json_t *status, const char *cause, const char *actor);
/* Whether this QMP RunState is one that operations of ours leave vCPUs in. */
bool guest_status_is_ours(const char *status);
/* The vCPUs stopped or went on. Looks at it after the operation under way, when that did not ask
 * for it. */
void guest_status_changed(struct guest *g, bool stopped);
/* It does not answer: it is unresponsive until it does. */
void guest_became_mute(struct guest *g);

/* Asks every live guest for a sign of life; false when there is none to ask. */
bool guest_health_check(struct vmd *vmd);

/* The engine process has ended. Starts the fiber that settles it. */
void guest_on_exit(struct guest *g, const struct shim_exit *exit);

/* Takes up a restart that the policy has planned; returns at once. */
void guest_go_on_restarting(struct guest *g);

/* Reconciles a loaded guest with its process, if any: adopt, report its end, or settle. Waits. */
void guest_adopt(struct guest *g);

extern const struct shim_ops guest_shim_ops;
extern const struct qmp_ops guest_qmp_ops;
