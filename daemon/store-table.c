/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the journals say about each object, last word first: a hash table over their buffers. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/log.h"
#include "daemon/store-internal.h"

void store_table_deinit(struct store_table *t)
{
	free(t->entries);
	free(t->slots);
	for (size_t i = 0; i < t->n_buffers; i++)
		free(t->buffers[i]);
	*t = (struct store_table){ .n = 0 };
}

static uint64_t key_hash(const char *kind, const char *id)
{
	return XXH3_64bits_withSeed(id, strlen(id), (uint64_t)(unsigned char)kind[0]);
}

unsigned store_bucket(const char *kind, const char *id)
{
	return (unsigned)(key_hash(kind, id) % STORE_BUCKETS);
}

/* The slot of the key, or the empty one where it belongs. Slots hold entry index + 1. */
static uint32_t *find_slot(const struct store_table *t, const char *kind, const char *id)
{
	size_t i = (size_t)key_hash(kind, id) & (t->n_slots - 1);

	for (;; i = (i + 1) & (t->n_slots - 1)) {
		const struct store_entry *e;

		if (!t->slots[i])
			return &t->slots[i];
		e = &t->entries[t->slots[i] - 1];
		if (strcmp(e->id, id) == 0 && strcmp(e->kind, kind) == 0)
			return &t->slots[i];
	}
}

static int grow(struct store_table *t)
{
	size_t cap = t->cap ? t->cap * 2 : 64;
	struct store_entry *entries = reallocarray(t->entries, cap, sizeof(*entries));
	uint32_t *slots;

	if (!entries)
		return -ENOMEM;
	t->entries = entries;
	slots = calloc(cap * 2, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(t->slots);
	t->slots = slots;
	t->n_slots = cap * 2;
	t->cap = cap;
	for (size_t i = 0; i < t->n; i++)
		*find_slot(t, entries[i].kind, entries[i].id) = (uint32_t)i + 1;
	return 0;
}

static int add_op(struct store_table *t, const struct store_op *op, uint64_t seq)
{
	struct store_entry *e;
	uint32_t *slot;
	int r = t->n == t->cap ? grow(t) : 0;

	if (r < 0)
		return r;
	slot = find_slot(t, op->kind, op->id);
	if (!*slot) {
		e = &t->entries[t->n++];
		*e = (struct store_entry){ .kind = op->kind, .id = op->id };
		*slot = (uint32_t)t->n;
	}
	e = &t->entries[*slot - 1];
	e->seq = seq;
	e->text = op->verb == STORE_PUT ? op->text : NULL;
	e->len = op->len;
	if (op->verb == STORE_DELETE)
		e->deleted_seq = seq;
	return 0;
}

static int add_event(struct store_table *t, const struct store_op *op, json_t *events)
{
	t->last_event = MAX_OF(t->last_event, op->event_seq);
	if (!events)
		return 0;
	return json_array_append_new(events, json_pack("[I, s%]", (json_int_t)op->event_seq,
	                                               op->text, op->len)) < 0
	               ? -ENOMEM
	               : 0;
}

static int add_record(struct store_table *t, char *payload, size_t len, uint64_t seq,
                      json_t *events)
{
	char *p = payload, *end = payload + len;
	struct store_op op;
	int r;

	while ((r = store_op_next(&p, end, &op)) > 0) {
		r = op.verb == STORE_EVENT ? add_event(t, &op, events) : add_op(t, &op, seq);
		if (r < 0)
			return r;
	}
	if (r == -EBADMSG)
		log_error("Journal record %llu has an unknown form, the rest of it is left out",
		          (unsigned long long)seq);
	return 0;
}

int store_table_add(struct store_table *t, const struct journal *j, char *data, json_t *events)
{
	const char *payload;
	size_t pos = 0, len;
	uint64_t seq;
	int r = 0;

	t->buffers[t->n_buffers++] = data;
	while (r == 0 && journal_next(j, data, &pos, &seq, &payload, &len))
		r = add_record(t, data + (payload - data), len, seq, events);
	return r;
}

const struct store_entry *store_table_find(const struct store_table *t, const char *kind,
                                           const char *id)
{
	uint32_t slot = t->n_slots ? *find_slot(t, kind, id) : 0;

	return slot ? &t->entries[slot - 1] : NULL;
}
