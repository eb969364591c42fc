/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Subscribers. Each has a cursor into the ring and reads from there, whether it replays the past,
 * was stopped for a while or waits for what comes: one way for all. Nothing is queued for anyone,
 * so a reader that stops costs nothing; what leaves the ring meanwhile is one gap for it.
 */
#include "config.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/event-private.h"
#include "daemon/fiber.h"

#define TURN_BYTES (256u << 10) /* read for one subscriber in one turn of the loop */

struct event_sub {
	struct list link;
	struct event_hub *hub;
	event_deliver_fn deliver;
	void *userdata;
	struct event_cursor cursor;
	char **types;   /* globs, NULL-terminated; NULL: all */
	char *vm;       /* name or uuid, or NULL */
	bool restarted; /* its "since" is of another life of this state: one gap first */
	bool blocked;   /* the reader said it is full */
	bool dead;      /* unsubscribed while it was being told */
};

/*
 * Finds a string member in the text of an event, *p being where to look from. Members come in the
 * order of make_event and names hold no quotes, so the search ends at the first brace.
 */
static bool next_member(const char **p, const char *key, const char **ret, size_t *ret_len)
{
	size_t n = strlen(key);
	const char *at = strstr(*p, key), *brace = strchr(*p, '{');

	if (!at || (brace && brace < at))
		return false;
	*ret = at + n;
	*ret_len = strcspn(*ret, "\"");
	*p = *ret + *ret_len;
	return true;
}

static bool member_is(const char **p, const char *key, const char *want)
{
	const char *value;
	size_t len;

	return next_member(p, key, &value, &len) && strlen(want) == len &&
	       memcmp(value, want, len) == 0;
}

static bool type_matches(const struct event_sub *sub, const char *type, size_t len)
{
	char word[64];

	if (!sub->types || (len == 3 && memcmp(type, "gap", 3) == 0))
		return true;
	if (len >= sizeof(word))
		return false;
	memcpy(word, type, len);
	word[len] = '\0';
	for (char **t = sub->types; *t; t++)
		if (fnmatch(*t, word, FNM_NOESCAPE) == 0)
			return true;
	return false;
}

static bool matches(const struct event_sub *sub, const char *text)
{
	const char *p = text + 1, *type;
	size_t len;

	if (!sub->types && !sub->vm)
		return true;
	if (!next_member(&p, ",\"type\":\"", &type, &len) || !type_matches(sub, type, len))
		return false;
	if (!sub->vm || (len == 3 && memcmp(type, "gap", 3) == 0))
		return true;
	return member_is(&p, ",\"vm\":\"", sub->vm) || member_is(&p, ",\"uuid\":\"", sub->vm);
}

static bool on_line(void *userdata, uint64_t seq, char *text, size_t len)
{
	struct event_sub *sub = userdata;

	(void)seq;
	if (!matches(sub, text))
		return true;
	sub->blocked = !sub->deliver(sub->userdata, text, len);
	return !sub->blocked && !sub->dead;
}

static bool on_gap(void *userdata, uint64_t from, uint64_t to)
{
	struct event_sub *sub = userdata;
	char text[EVENT_GAP_MAX];
	size_t len = event_gap_text(text, from, to);

	sub->blocked = !sub->deliver(sub->userdata, text, len);
	return !sub->blocked && !sub->dead;
}

/* Tells one subscriber what it has not heard yet. True: there is more for it. */
static bool drain(struct event_hub *hub, struct event_sub *sub)
{
	const struct event_reader reader = { on_line, on_gap, sub };
	uint64_t first = event_first_seq(hub);

	if (sub->blocked || sub->dead)
		return false;
	if (sub->restarted) {
		if (!on_gap(sub, MIN_OF(hub->published, 1u), hub->published))
			return false;
		sub->restarted = false;
	}
	if (sub->cursor.next < first) {
		if (!on_gap(sub, sub->cursor.next, first - 1))
			return false;
		sub->cursor = (struct event_cursor){ .next = first };
	}
	return event_ring_read(hub->ring, &sub->cursor, &reader, TURN_BYTES) == 1;
}

static void sub_free(struct event_sub *sub)
{
	list_del(&sub->link);
	for (char **t = sub->types; t && *t; t++)
		free(*t);
	free(sub->types);
	free(sub->vm);
	free(sub);
}

static void on_kick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct event_hub *hub = container_of(w, struct event_hub, kick);
	struct event_sub *sub, *tmp;
	bool more = false;

	(void)loop;
	(void)revents;
	hub->draining = true;
	list_for_each(sub, &hub->subs, link)
		more |= drain(hub, sub);
	hub->draining = false;
	list_for_each_safe(sub, tmp, &hub->subs, link)
		if (sub->dead)
			sub_free(sub);
	if (more)
		event_kick(hub);
}

void event_kick(struct event_hub *hub)
{
	if (list_is_empty(&hub->subs) || ev_is_active(&hub->kick))
		return;
	ev_timer_set(&hub->kick, 0., 0.);
	ev_timer_start(fiber_loop(), &hub->kick);
}

void event_subs_init(struct event_hub *hub)
{
	list_init(&hub->subs);
	ev_timer_init(&hub->kick, on_kick, 0., 0.);
}

void event_subs_deinit(struct event_hub *hub)
{
	while (!list_is_empty(&hub->subs))
		sub_free(list_entry(hub->subs.next, struct event_sub, link));
	if (ev_is_active(&hub->kick))
		ev_timer_stop(fiber_loop(), &hub->kick);
}

static int set_types(struct event_sub *sub, const json_t *types)
{
	size_t n = json_array_size(types);

	if (!types)
		return 0;
	if (!json_is_array(types))
		return -EINVAL;
	sub->types = calloc(n + 1, sizeof(char *));
	if (!sub->types)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const char *glob = json_string_value(json_array_get(types, i));

		if (!glob)
			return -EINVAL;
		sub->types[i] = strdup(glob);
		if (!sub->types[i])
			return -ENOMEM;
	}
	return 0;
}

static int set_filter(struct event_sub *sub, const json_t *filter)
{
	const json_t *vm = json_object_get(filter, "vm");
	int r;

	if (filter && !json_is_object(filter))
		return -EINVAL;
	r = set_types(sub, json_object_get(filter, "types"));
	if (r < 0 || !vm)
		return r;
	if (!json_is_string(vm))
		return -EINVAL;
	sub->vm = strdup(json_string_value(vm));
	return sub->vm ? 0 : -ENOMEM;
}

int event_subscribe(struct event_hub *hub, const json_t *filter, uint64_t since,
                    event_deliver_fn deliver, void *userdata, struct event_sub **ret)
{
	struct event_sub *sub = calloc(1, sizeof(*sub));
	int r;

	if (!sub)
		return -ENOMEM;
	list_init(&sub->link);
	r = set_filter(sub, filter);
	if (r < 0) {
		sub_free(sub);
		return r;
	}
	sub->hub = hub;
	sub->deliver = deliver;
	sub->userdata = userdata;
	sub->cursor.next = hub->published + 1;
	if (since != UINT64_MAX) {
		sub->restarted = since > hub->published;
		sub->cursor.next = MIN_OF(since, hub->published) + 1;
	}
	list_add_tail(&hub->subs, &sub->link);
	event_kick(hub);
	*ret = sub;
	return 0;
}

void event_sub_resume(struct event_sub *sub)
{
	sub->blocked = false;
	event_kick(sub->hub);
}

void event_unsubscribe(struct event_sub *sub)
{
	if (!sub)
		return;
	sub->dead = true;
	if (!sub->hub->draining)
		sub_free(sub);
}
