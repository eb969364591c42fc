/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Between event.c (numbers, order, what is kept) and event-sub.c (who is told). */
#include <ev.h>

#include "common/list.h"
#include "daemon/event-ring.h"
#include "daemon/event.h"

struct event_hub {
	struct store *store;
	struct event_ring *ring;
	int state_fd;        /* borrowed */
	uint64_t next;       /* number of the next event */
	uint64_t published;  /* all up to this one are out, or were dropped */
	struct list pending; /* numbered, but they or one before them wait for a commit */
	struct list subs;
	bool draining;
	ev_timer kick; /* tells subscribers from the loop, never inside a caller */
};

/* Subscribers have something to read: tells them in the next turn of the loop. */
void event_kick(struct event_hub *hub);
void event_subs_init(struct event_hub *hub);
void event_subs_deinit(struct event_hub *hub);
