/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A saved guest is one file: the state (devices/state.h) at its front, RAM from 2 MiB on, with
 * holes where RAM is zero. It is written in steps, so that the control thread stays awake, and read
 * by mapping it.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define SNAPSHOT_RAM_OFFSET (2ull << 20)

struct machine;

enum snapshot_status {
	SNAPSHOT_NONE,
	SNAPSHOT_ACTIVE,
	SNAPSHOT_COMPLETED,
	SNAPSHOT_FAILED,
	SNAPSHOT_CANCELLED,
	_SNAPSHOT_STATUS_MAX
};
const char *snapshot_status_name(enum snapshot_status s);

struct snapshot {
	enum snapshot_status status;
	int fd;                           /* owned while active */
	uint64_t total, done, written;    /* bytes of RAM: all, looked at, written */
	uint64_t run_end;                 /* there is data from done to here */
	uint64_t started_us, bytes_per_s; /* 0: as fast as it goes */
	struct vmd_error error;
};

void snapshot_init(struct snapshot *s);
void snapshot_deinit(struct snapshot *s);
static inline bool snapshot_is_active(const struct snapshot *s)
{
	return s->status == SNAPSHOT_ACTIVE;
}
/* Stops the guest and begins to save it to fd (taken over, a regular file). */
int snapshot_save(struct snapshot *s, struct machine *m, int fd, struct vmd_error *err);
/* Goes on for some milliseconds. */
void snapshot_step(struct snapshot *s, struct machine *m);
void snapshot_cancel(struct snapshot *s, struct machine *m);
/* Makes the machine, which has no processors yet, what fd (taken over) says. The reason of a
 * refusal is in err; the machine cannot be used then. */
int snapshot_load(struct snapshot *s, struct machine *m, int fd, struct vmd_error *err);
