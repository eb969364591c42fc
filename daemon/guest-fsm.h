/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The state machine of one guest: a table, and nothing that does I/O. */
#include "common/macros.h"

enum guest_state {
	GUEST_DEFINED,  /* never ran */
	GUEST_STARTING, /* the start is under way; no guest instruction has run for the caller yet
	                 */
	GUEST_RUNNING,
	GUEST_PAUSED,       /* vCPUs stopped, memory kept */
	GUEST_SUSPENDING,   /* memory is being written out */
	GUEST_SUSPENDED,    /* memory is on disk, no process; start brings it back */
	GUEST_STOPPING,     /* asked to power off, or being ended */
	GUEST_STOPPED,      /* ended as somebody wanted */
	GUEST_FAILED,       /* ended otherwise; the cause says how */
	GUEST_UNRESPONSIVE, /* alive, but its monitor does not answer; unknown is never "stopped" */
	_GUEST_STATE_MAX,
};

enum guest_event {
	GUEST_EVENT_START,         /* a start begins */
	GUEST_EVENT_RUNS,          /* vCPUs run: started, resumed, or answers again and runs */
	GUEST_EVENT_PAUSES,        /* vCPUs are stopped: paused, or answers again and is paused */
	GUEST_EVENT_STOP,          /* a stop or kill begins */
	GUEST_EVENT_STOP_GIVEN_UP, /* a soft stop was called off; it runs on */
	GUEST_EVENT_SUSPEND,       /* a suspend begins */
	GUEST_EVENT_SUSPENDED,     /* memory is durable and the process is gone */
	GUEST_EVENT_DISCARD,       /* the suspend image is thrown away */
	GUEST_EVENT_EXIT,          /* the process ended as wanted */
	GUEST_EVENT_CRASH,         /* the process ended otherwise */
	GUEST_EVENT_MUTE,          /* no answer within the deadline */
	GUEST_EVENT_UNDO_DEFINED,  /* a start failed before any effect: back to where it was */
	GUEST_EVENT_UNDO_STOPPED,
	GUEST_EVENT_UNDO_SUSPENDED,
	_GUEST_EVENT_MAX,
};

/* The API word of a state ("running"); never NULL. */
const char *guest_state_name(enum guest_state state);
/* -EINVAL for an unknown word. */
int guest_state_from_name(const char *name);
const char *guest_event_name(enum guest_event event);

/* The state that follows, or -EPERM when the table has no such row. Pure. */
int guest_fsm_next(enum guest_state from, enum guest_event event);

/* True in the states that have a process. */
int guest_state_is_live(enum guest_state state);
