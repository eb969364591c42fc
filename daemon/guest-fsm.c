/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest-fsm.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const state_names[] = {
	[GUEST_DEFINED] = "defined",       [GUEST_STARTING] = "starting",
	[GUEST_RUNNING] = "running",       [GUEST_PAUSED] = "paused",
	[GUEST_SUSPENDING] = "suspending", [GUEST_SUSPENDED] = "suspended",
	[GUEST_STOPPING] = "stopping",     [GUEST_STOPPED] = "stopped",
	[GUEST_FAILED] = "failed",         [GUEST_UNRESPONSIVE] = "unresponsive",
};
static_assert(ARRAY_SIZE(state_names) == _GUEST_STATE_MAX, "one name per state");

static const char *const event_names[] = {
	[GUEST_EVENT_START] = "start",
	[GUEST_EVENT_RUNS] = "runs",
	[GUEST_EVENT_PAUSES] = "pauses",
	[GUEST_EVENT_STOP] = "stop",
	[GUEST_EVENT_STOP_GIVEN_UP] = "stop-given-up",
	[GUEST_EVENT_SUSPEND] = "suspend",
	[GUEST_EVENT_SUSPENDED] = "suspended",
	[GUEST_EVENT_DISCARD] = "discard",
	[GUEST_EVENT_EXIT] = "exit",
	[GUEST_EVENT_CRASH] = "crash",
	[GUEST_EVENT_MUTE] = "mute",
	[GUEST_EVENT_UNDO_DEFINED] = "undo-defined",
	[GUEST_EVENT_UNDO_STOPPED] = "undo-stopped",
	[GUEST_EVENT_UNDO_SUSPENDED] = "undo-suspended",
};
static_assert(ARRAY_SIZE(event_names) == _GUEST_EVENT_MAX, "one name per event");

#define IN(state) (1u << GUEST_##state)
#define IDLE      (IN(DEFINED) | IN(STOPPED) | IN(FAILED) | IN(SUSPENDED))
#define LIVE \
	(IN(STARTING) | IN(RUNNING) | IN(PAUSED) | IN(SUSPENDING) | IN(STOPPING) | IN(UNRESPONSIVE))

static const struct {
	unsigned from;
	enum guest_event event;
	enum guest_state to;
} table[] = {
	{ IDLE, GUEST_EVENT_START, GUEST_STARTING },
	{ IN(STARTING) | IN(PAUSED) | IN(SUSPENDING) | IN(UNRESPONSIVE), GUEST_EVENT_RUNS,
	  GUEST_RUNNING },
	{ IN(STARTING) | IN(RUNNING) | IN(SUSPENDING) | IN(UNRESPONSIVE) | IN(STOPPING),
	  GUEST_EVENT_PAUSES, GUEST_PAUSED },
	{ LIVE & ~IN(STOPPING), GUEST_EVENT_STOP, GUEST_STOPPING },
	{ IN(STOPPING), GUEST_EVENT_STOP_GIVEN_UP, GUEST_RUNNING },
	{ IN(RUNNING) | IN(PAUSED), GUEST_EVENT_SUSPEND, GUEST_SUSPENDING },
	{ IN(SUSPENDING), GUEST_EVENT_SUSPENDED, GUEST_SUSPENDED },
	{ IN(SUSPENDED), GUEST_EVENT_DISCARD, GUEST_STOPPED },
	{ LIVE, GUEST_EVENT_EXIT, GUEST_STOPPED },
	{ LIVE, GUEST_EVENT_CRASH, GUEST_FAILED },
	{ LIVE & ~IN(UNRESPONSIVE), GUEST_EVENT_MUTE, GUEST_UNRESPONSIVE },
	{ IN(STARTING), GUEST_EVENT_UNDO_DEFINED, GUEST_DEFINED },
	{ IN(STARTING), GUEST_EVENT_UNDO_STOPPED, GUEST_STOPPED },
	{ IN(STARTING) | IN(UNRESPONSIVE), GUEST_EVENT_UNDO_SUSPENDED, GUEST_SUSPENDED },
};

const char *guest_state_name(enum guest_state state)
{
	return state_names[state];
}

int guest_state_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (strcmp(state_names[i], name) == 0)
			return (int)i;
	return -EINVAL;
}

const char *guest_event_name(enum guest_event event)
{
	return event_names[event];
}

int guest_fsm_next(enum guest_state from, enum guest_event event)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].event == event && (table[i].from & 1u << from))
			return (int)table[i].to;
	return -EPERM;
}

int guest_state_is_live(enum guest_state state)
{
	return (LIVE >> state) & 1;
}
