/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The control thread: serves QMP on the inherited socket, and deals with what the guest does. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/machine.h"
#include "vmm/qmp-frame.h"
#include "vmm/snapshot.h"

#define CONTROL_MAX_FDS  4
#define CONTROL_IN_BYTES 4096

struct control_fd {
	char name[64];
	int fd;
};

struct control {
	struct machine *machine;
	int fd; /* owned, or -EBADF: nobody controls (any more) */
	bool negotiated;
	struct qmp_frame frame;
	char in[CONTROL_IN_BYTES]; /* received; commands wait here while replies do */
	size_t in_at, in_len;      /* from and to which byte it is unread */
	char *out;                 /* owned: what the socket did not take yet */
	size_t out_len;
	uint64_t events_dropped;
	int received[CONTROL_MAX_FDS]; /* came with a command, not yet taken */
	unsigned n_received;
	struct control_fd named[CONTROL_MAX_FDS]; /* getfd */
	struct snapshot snapshot;
	uint64_t balloon_told;    /* the last BALLOON_CHANGE */
	uint64_t failure_told_us; /* on standard error */
	bool quitting;
};

/* fd is taken over; -EBADF runs without control. Sends the greeting. */
void control_init(struct control *c, struct machine *m, int fd);
void control_deinit(struct control *c);
/* One turn: waits for up to timeout_ms (-1: for ever) and deals with what came. 0 or negative
 * errno. For tests; the monitor itself runs control_run(). */
int control_turn(struct control *c, int timeout_ms);
/* Until the machine's status is MACHINE_SHUTDOWN. The process's exit status. */
int control_run(struct control *c);

/* An event, with its time; data is taken over, NULL: none. Never waits: dropped and counted when
 * nobody reads. c may be NULL (before there is one). */
void control_event(struct control *c, const char *name, json_t *data);
/* The machine's vcpus->failure, as event X_VMD_VCPU_FAILED and on standard error. */
void control_tell_failure(struct control *c);
void control_warn(struct control *c, const struct vmd_error *err);

/* control-commands.c: one command. 0 and *ret (NULL: an empty object), or negative with err, and
 * *ret_class when it is not GenericError. */
int control_execute(struct control *c, const char *name, const json_t *args, json_t **ret,
                    const char **ret_class, struct vmd_error *err);
/* control-stats.c */
json_t *control_stats(struct control *c);
json_t *control_blockstats(struct control *c);
json_t *control_failure(const struct vcpu_failure *f);
