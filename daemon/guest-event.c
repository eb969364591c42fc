/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest does that is worth telling, from its engine's QMP events. A guest can do most of
 * this as often as it likes, and the ring of events is everybody's: so of each kind, and of each
 * device where there are several, a burst is told, and then one in a second. What is left out is
 * counted in the next one, and the last one is always told.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/guest-run.h"
#include "daemon/vmd.h"

enum {
	BURST = 10,
	INTERVAL_US = 1000000,
	MAX_SOURCES = 64 /* those beyond share the last one */
};

static const struct forwarded {
	const char *qmp, *event;
	const char *key; /* member of its data that says which device it is of, or NULL */
} forwarded[] = {
	{ "RESET", "vm.reset", NULL },
	{ "POWERDOWN", "vm.powerdown", NULL },
	{ "X_VMD_VCPU_FAILED", "vm.cpu_failed", NULL },
	{ "BLOCK_IO_ERROR", "vm.io_error", "device" },
	{ "GUEST_PANICKED", "vm.panic", NULL },
	{ "GUEST_CRASHLOADED", "vm.crashloaded", NULL },
	{ "WATCHDOG", "vm.watchdog", NULL },
	{ "BALLOON_CHANGE", "vm.balloon", NULL },
	{ "VSERPORT_CHANGE", "vm.port", "id" },
	{ "NIC_RX_FILTER_CHANGED", "vm.nic", "name" },
	{ "BLOCK_JOB_COMPLETED", "vm.block_job", "device" },
	{ "BLOCK_JOB_ERROR", "vm.block_job", "device" },
	{ "MEMORY_FAILURE", "vm.memory_failure", NULL },
};

/* Where events come from; as long as the run. */
struct source {
	const struct forwarded *kind;
	char key[64];
	uint64_t credit_us; /* when all that was told is paid for, one interval each */
	unsigned skipped;
	json_t *last; /* owned: the data of the last one that was skipped, may be NULL */
};

struct guest_events {
	struct guest *guest; /* borrowed: it outlives its run */
	struct ev_timer timer;
	size_t n;
	struct source sources[MAX_SOURCES];
};

static void tell(struct guest_events *e, struct source *s, json_t *data)
{
	s->credit_us = MAX_OF(s->credit_us, now_monotonic_us()) + INTERVAL_US;
	if (s->skipped) {
		data = data ? data : json_object();
		(void)jsonx_set(data, "skipped", json_integer((json_int_t)s->skipped));
	}
	s->skipped = 0;
	guest_publish(e->guest, s->kind->event, data);
}

/* The last of those that were skipped stands for them. */
static void tell_last(struct guest_events *e, struct source *s)
{
	if (!s->skipped)
		return;
	s->skipped--;
	tell(e, s, TAKE_PTR(s->last));
}

static void on_timer(struct ev_loop *loop, struct ev_timer *w, int revents UNUSED)
{
	struct guest_events *e = container_of(w, struct guest_events, timer);
	uint64_t now = now_monotonic_us();
	bool more = false;

	for (size_t i = 0; i < e->n; i++) {
		if (e->sources[i].credit_us <= now + (BURST - 1) * INTERVAL_US)
			tell_last(e, &e->sources[i]);
		more |= e->sources[i].skipped > 0;
	}
	if (!more)
		ev_timer_stop(loop, w);
}

static struct source *find_source(struct guest_events *e, const struct forwarded *kind,
                                  const json_t *data)
{
	const char *key = kind->key ? jsonx_str(data, kind->key, "") : "";

	for (size_t i = 0; i < e->n; i++)
		if (e->sources[i].kind == kind &&
		    strncmp(e->sources[i].key, key, sizeof(e->sources[i].key) - 1) == 0)
			return &e->sources[i];
	if (e->n < MAX_SOURCES) {
		e->sources[e->n] = (struct source){ .kind = kind };
		snprintf(e->sources[e->n].key, sizeof(e->sources[e->n].key), "%s", key);
		return &e->sources[e->n++];
	}
	tell_last(e, &e->sources[MAX_SOURCES - 1]);
	e->sources[MAX_SOURCES - 1].kind = kind;
	return &e->sources[MAX_SOURCES - 1];
}

static void take(struct guest_events *e, const struct forwarded *kind, const json_t *data)
{
	struct source *s = find_source(e, kind, data);
	json_t *copy = data ? json_deep_copy(data) : NULL;

	if (!s->skipped && s->credit_us <= now_monotonic_us() + (BURST - 1) * INTERVAL_US) {
		tell(e, s, copy);
		return;
	}
	s->skipped++;
	json_decref(s->last);
	s->last = copy;
	ev_timer_start(fiber_loop(), &e->timer);
}

void guest_event(struct guest *g, const char *name, const json_t *data)
{
	struct guest_events *e = g->run->events;

	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++) {
		if (strcmp(name, forwarded[i].qmp) != 0)
			continue;
		if (!e) {
			e = calloc(1, sizeof(*e));
			if (!e)
				return;
			e->guest = g;
			ev_timer_init(&e->timer, on_timer, 0.2, 0.2);
			g->run->events = e;
		}
		take(e, &forwarded[i], data);
	}
}

void guest_events_flush(struct guest_events *e)
{
	for (size_t i = 0; e && i < e->n; i++)
		tell_last(e, &e->sources[i]);
}

void guest_events_free(struct guest_events *e)
{
	if (!e)
		return;
	ev_timer_stop(fiber_loop(), &e->timer);
	for (size_t i = 0; i < e->n; i++)
		json_decref(e->sources[i].last);
	free(e);
}
