/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Events: one numbered stream, kept in a bounded ring on disk, so that a subscriber can resume
 * "since" over daemon restarts. What is gone from the ring is told as a "gap" event {from, to}.
 */
#include <jansson.h>
#include <stdint.h>

#include "daemon/store.h"

struct event_hub;
struct event_sub;

/*
 * Opens $STATE/events for about ring_bytes on disk. Sequence numbers go on from the highest one
 * ever given; after a power cut that is not known, then they go on far ahead, with a gap event
 * between. A disk that cannot be written is no error: events are kept in memory. Blocks; before the
 * loop runs.
 */
int event_hub_new(struct store *store, uint64_t ring_bytes, struct event_hub **ret,
                  struct vmd_error *err);
/* Frees subscriptions too. Before store_close. */
void event_hub_free(struct event_hub *hub);
/* The newest number that is out: what a subscriber that knows the present state gives as since. */
uint64_t event_last_seq(const struct event_hub *hub);
uint64_t event_first_seq(const struct event_hub *hub); /* oldest one still in the ring */

struct event {
	const char *type;  /* "vm.state", "vm.ready", "job.progress", ... */
	const char *vm;    /* guest name, or NULL */
	const char *uuid;  /* guest uuid, or NULL */
	const char *actor; /* "uid:1000", "vmd", "guest" */
	json_t *data;      /* object, stolen; may be NULL */
};

/*
 * Gives the event the next number and publishes it. With txn: it becomes durable with that
 * transaction and is delivered to subscribers when event_flush(hub, seq) is called after the commit
 * (or dropped with event_drop when the commit failed); without: delivered at once and kept without
 * fsync. Delivery is in the order of numbers: events wait for earlier ones that were neither
 * flushed nor dropped, so each event with a txn must be. Returns the number; 0 when out of memory
 * (the event is lost; flush and drop of 0 do nothing).
 */
uint64_t event_publish(struct event_hub *hub, struct store_txn *txn, const struct event *e);
void event_flush(struct event_hub *hub, uint64_t seq);
void event_drop(struct event_hub *hub, uint64_t seq);

/*
 * A subscription. deliver() gets the params object of the "event" notification as JSON text, always
 * from the loop, never inside another event_ call; it may unsubscribe. It returns false when the
 * reader is full and did not take this one: then nothing more is delivered until
 * event_sub_resume(), which goes on with this one, and what fell out of the ring meanwhile comes as
 * one gap. A gap event
 * {"seq":to,"type":"gap","data":{"from","to"}} passes every filter; numbers missing without one
 * were given to changes that failed. filter: {"types": [globs], "vm": name or uuid} or NULL. since:
 * replay all later than this number first; UINT64_MAX: only new ones. A since that was not given
 * yet (the state directory is another one) is answered by a gap over everything. 0, -EINVAL
 * (filter), -ENOMEM.
 */
typedef bool (*event_deliver_fn)(void *userdata, const char *text, size_t len);
int event_subscribe(struct event_hub *hub, const json_t *filter, uint64_t since,
                    event_deliver_fn deliver, void *userdata, struct event_sub **ret);
void event_sub_resume(struct event_sub *sub);
void event_unsubscribe(struct event_sub *sub);
