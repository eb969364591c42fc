/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers and order of events. An event gets its number at once; it goes into the ring, and so to
 * subscribers, when all before it are there or were dropped. What may be lost, and when:
 *
 *   vmd killed      nothing that was told: it was written before
 *   power cut       events since the last sync, but not those of transactions: they are in the
 *                   journal until the ring is synced
 *
 * After a power cut nobody knows which numbers were given, so they go on far ahead, with a gap
 * event for the jump. $STATE/events/state.json tells one from the other: boot id, and whether the
 * last daemon closed the ring.
 */
#include "config.h"

#include "daemon/event.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/procutil.h"
#include "common/strbuf.h"
#include "common/timeutil.h"
#include "daemon/event-private.h"
#include "daemon/store-internal.h"

/* More events than vmd can write in the time that the kernel keeps them from the disk. */
#define JUMP       (1u << 24)
#define STATE_FILE "events/state.json"

struct pending {
	struct list link;
	uint64_t seq;
	bool ready;
	size_t len; /* 0: dropped */
	char text[];
};

/* --- opening ------------------------------------------------------------------------------ */

static int write_state(struct event_hub *hub, bool clean)
{
	char text[192];

	snprintf(text, sizeof(text),
	         "{\"vmd\":1,\"boot_id\":\"%s\",\"clean\":%s,\"last\":%" PRIu64
	         ",\"saved\":%" PRIu64 "}\n",
	         proc_boot_id(), clean ? "true" : "false", hub->next - 1,
	         event_ring_last(hub->ring));
	return fs_write_atomic(hub->state_fd, STATE_FILE, text, strlen(text), 1);
}

/* What the daemon before us has left. */
struct left {
	bool intact;    /* all that it wrote has reached the disk, as far as one can know */
	uint64_t last;  /* numbers that were given, at least up to this one */
	uint64_t saved; /* what the ring held, at least up to this one */
};

static void read_state(struct event_hub *hub, struct left *left)
{
	uint64_t ring_last = event_ring_last(hub->ring);
	cleanup_free char *text = NULL;
	cleanup_json json_t *state = NULL;
	size_t len;
	bool clean;

	*left = (struct left){ .intact = ring_last == 0 };
	if (fs_read_file(hub->state_fd, STATE_FILE, 4096, &text, &len) == 0)
		state = jsonx_parse(text, len, 4, NULL);
	if (!state) /* a first start, or a lost file */
		return;
	left->last = (uint64_t)MAX_OF(jsonx_int(state, "last", 0), 0);
	left->saved = (uint64_t)MAX_OF(jsonx_int(state, "saved", 0), 0);
	clean = jsonx_bool(state, "clean", false) && ring_last <= left->last;
	left->intact = clean || strcmp(jsonx_str(state, "boot_id", ""), proc_boot_id()) == 0;
}

/* A gap event in the ring itself. */
static void append_gap(struct event_hub *hub, uint64_t from, uint64_t to)
{
	char text[EVENT_GAP_MAX];

	event_ring_append(hub->ring, to, text, event_gap_text(text, from, to));
}

static int by_seq(const void *a, const void *b)
{
	json_int_t x = json_integer_value(json_array_get(*(json_t *const *)a, 0));
	json_int_t y = json_integer_value(json_array_get(*(json_t *const *)b, 0));

	return x < y ? -1 : x > y;
}

/* Events of transactions that a daemon before us did not live to put into the ring. */
static int take_from_journal(struct event_hub *hub, bool tell_holes)
{
	cleanup_json json_t *events = store_take_events(hub->store);
	size_t n = json_array_size(events);
	cleanup_free json_t **sorted = calloc(n + 1, sizeof(json_t *));

	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		sorted[i] = json_array_get(events, i);
	qsort(sorted, n, sizeof(json_t *), by_seq);
	for (size_t i = 0; i < n; i++) {
		uint64_t seq = (uint64_t)json_integer_value(json_array_get(sorted[i], 0));
		const json_t *text = json_array_get(sorted[i], 1);
		uint64_t last = event_ring_last(hub->ring);

		if (seq <= last)
			continue;
		if (tell_holes && last && seq > last + 1)
			append_gap(hub, last + 1, seq - 1);
		event_ring_append(hub->ring, seq, json_string_value(text),
		                  json_string_length(text));
	}
	return 0;
}

static int sink_sync(void *userdata, uint64_t seq)
{
	struct event_hub *hub = userdata;

	return event_ring_sync(hub->ring, seq);
}

static int start_hub(struct event_hub *hub, struct vmd_error *err)
{
	struct store_event_sink sink = { .sync = sink_sync, .userdata = hub };
	struct left left;
	uint64_t last;
	int r;

	read_state(hub, &left);
	last = event_ring_last(hub->ring);
	if (left.saved > last)
		append_gap(hub, last + 1, left.saved);
	r = take_from_journal(hub, !left.intact);
	if (r < 0)
		return error_set_errno(err, -r, "cannot open the event ring");
	last = MAX_OF(left.last, event_ring_last(hub->ring));
	if (!left.intact) {
		append_gap(hub, last + 1, last + JUMP);
		last += JUMP;
	}
	hub->next = last + 1;
	hub->published = last;
	/* From here on a power cut is told from an orderly end. */
	r = write_state(hub, false);
	if (r < 0)
		log_warning("Cannot write '%s/%s': %s", store_dir(hub->store), STATE_FILE,
		            strerror(-r));
	store_set_event_sink(hub->store, &sink);
	return 0;
}

int event_hub_new(struct store *store, uint64_t ring_bytes, struct event_hub **ret,
                  struct vmd_error *err)
{
	struct event_hub *hub = calloc(1, sizeof(*hub));
	int r;

	if (!hub)
		return error_set_errno(err, ENOMEM, "cannot open the event ring");
	hub->store = store;
	hub->state_fd = store_dir_fd(store);
	list_init(&hub->pending);
	event_subs_init(hub);
	r = event_ring_open(hub->state_fd, ring_bytes, &hub->ring, err);
	if (r == 0)
		r = start_hub(hub, err);
	if (r < 0) {
		event_ring_free(hub->ring);
		free(hub);
		return r;
	}
	*ret = hub;
	return 0;
}

/* Is everything in the ring and on disk? */
static bool all_saved(struct event_hub *hub)
{
	uint64_t last = event_ring_last(hub->ring);

	return last == 0 || event_ring_sync(hub->ring, last) == 0;
}

void event_hub_free(struct event_hub *hub)
{
	if (!hub)
		return;
	store_set_event_sink(hub->store, NULL);
	if (all_saved(hub))
		(void)write_state(hub, true);
	while (!list_is_empty(&hub->pending)) {
		struct pending *p = list_entry(hub->pending.next, struct pending, link);

		list_del(&p->link);
		free(p);
	}
	event_subs_deinit(hub);
	event_ring_free(hub->ring);
	free(hub);
}

/* --- publishing --------------------------------------------------------------------------- */

uint64_t event_last_seq(const struct event_hub *hub)
{
	return hub->published;
}

uint64_t event_first_seq(const struct event_hub *hub)
{
	uint64_t first = event_ring_first(hub->ring);

	return first ? first : hub->published + 1;
}

static void append_member(struct strbuf *s, const char *key, const char *value)
{
	if (!value)
		return;
	strbuf_printf(s, ",\"%s\":", key);
	strbuf_append_json(s, value);
}

/* The event's text; members in this order, since filters read them in this order. */
static struct pending *make_event(uint64_t seq, const struct event *e)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	cleanup_free char *data = e->data ? json_dumps(e->data, JSON_COMPACT) : NULL;
	struct pending *p;

	strbuf_printf(&s, "{\"seq\":%" PRIu64 ",\"time_us\":%" PRIu64, seq, now_wall_us());
	append_member(&s, "type", e->type);
	append_member(&s, "vm", e->vm);
	append_member(&s, "uuid", e->uuid);
	append_member(&s, "actor", e->actor);
	if (data) {
		strbuf_append_str(&s, ",\"data\":");
		strbuf_append_str(&s, data);
	}
	strbuf_append_char(&s, '}');
	if (strbuf_failed(&s) || (e->data && !data))
		return NULL;
	p = malloc(sizeof(*p) + s.len + 1);
	if (!p)
		return NULL;
	p->seq = seq;
	p->len = s.len;
	memcpy(p->text, s.data, s.len + 1);
	return p;
}

/* What has nothing before it to wait for goes out. */
static void advance(struct event_hub *hub)
{
	uint64_t before = hub->published;

	while (!list_is_empty(&hub->pending)) {
		struct pending *p = list_entry(hub->pending.next, struct pending, link);

		if (!p->ready)
			break;
		if (p->len)
			event_ring_append(hub->ring, p->seq, p->text, p->len);
		hub->published = p->seq;
		list_del(&p->link);
		free(p);
	}
	if (hub->published != before)
		event_kick(hub);
}

uint64_t event_publish(struct event_hub *hub, struct store_txn *txn, const struct event *e)
{
	struct pending *p = make_event(hub->next, e);

	json_decref(e->data);
	if (!p) {
		log_error("Event '%s' is lost: out of memory", e->type);
		return 0;
	}
	hub->next++;
	if (txn)
		store_event(txn, p->seq, p->text);
	p->ready = !txn;
	list_add_tail(&hub->pending, &p->link);
	if (hub->pending.next == &p->link && p->ready) {
		uint64_t seq = p->seq;

		advance(hub);
		return seq;
	}
	return p->seq;
}

static struct pending *find_pending(struct event_hub *hub, uint64_t seq)
{
	struct pending *p;

	list_for_each(p, &hub->pending, link)
		if (p->seq == seq)
			return p;
	return NULL;
}

void event_flush(struct event_hub *hub, uint64_t seq)
{
	struct pending *p = find_pending(hub, seq);

	if (!p)
		return;
	p->ready = true;
	advance(hub);
}

void event_drop(struct event_hub *hub, uint64_t seq)
{
	struct pending *p = find_pending(hub, seq);

	if (!p)
		return;
	p->ready = true;
	p->len = 0;
	advance(hub);
}
