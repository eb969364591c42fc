/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The root object: owns everything below it. There is no other global state. */
#include <ev.h>

#include "common/list.h"
#include "daemon/conf.h"
#include "daemon/host.h"
#include "daemon/notify.h"

struct store;
struct event_hub;
struct rpc;
struct key_table;
struct registry;
struct job_table;
struct listener;

struct vmd {
	struct ev_loop *loop;
	struct config config;
	struct host_facts host;
	struct store *store;
	struct event_hub *events;
	struct rpc *rpc;        /* contract, methods, peers */
	struct key_table *keys; /* results of calls with a client_key */
	struct registry *guests;
	struct list disks;     /* struct disk, see disk.h */
	struct list snapshots; /* struct snapshot, see snapshot.h */
	struct job_table *jobs;
	struct listener *listener;
	struct notify notify;
	ev_timer health;   /* runs while guests do */
	uint64_t start_us; /* wall clock */
	int exit_code;
	bool stop_asked, stopping;
	bool ended; /* the loop has nothing to do any more, or must not begin */
};

/*
 * Opens everything below the root object: directories, state, host facts, methods. The
 * configuration must be filled in. On failure call vmd_close all the same. -EBUSY: another daemon
 * has the state.
 */
int vmd_open(struct vmd *vmd, struct vmd_error *err);
/* The main function of the first fiber: adopt guests, listen, tell readiness, autostart. */
void vmd_start(void *vmd);
/* Begins an orderly end of the daemon: ends the loop soon. Guests run on, unless the host goes
 * down. */
void vmd_stop(struct vmd *vmd);
/* Lets go of everything; safe after a failed vmd_open. */
void vmd_close(struct vmd *vmd);
/* Turns the timer on that asks live guests for signs of life; it ends by itself with the last one.
 */
void vmd_watch_health(struct vmd *vmd);
