/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transactions and their form in the journal: lines "put <kind> <id> <len>", "delete <kind> <id>",
 * "event <seq> <len>"; a put and an event are followed by len bytes and a newline. Empty lines pad
 * the payload to a multiple of 8. Values stay the bytes they are, nothing is quoted or re-encoded.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/store-internal.h"

struct store_txn *store_txn_new(struct store *s)
{
	struct store_txn *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->store = s;
	list_init(&t->link);
	list_init(&t->deletes);
	return t;
}

void store_deleted_free(struct store_deleted *d)
{
	free(d->kind);
	free(d->id);
	free(d);
}

void store_txn_free(struct store_txn *t)
{
	struct store_deleted *d, *tmp;

	if (!t)
		return;
	list_for_each_safe(d, tmp, &t->deletes, link) {
		list_del(&d->link);
		store_deleted_free(d);
	}
	strbuf_deinit(&t->payload);
	free(t);
}

static bool is_refused(const struct store *s, const char *kind, const char *id)
{
	size_t n = strlen(kind);

	for (size_t i = 0; i < s->n_refused; i++)
		if (strncmp(s->refused[i], kind, n) == 0 && s->refused[i][n] == '/' &&
		    strcmp(s->refused[i] + n + 1, id) == 0)
			return true;
	return false;
}

/* May the object be written? Otherwise the transaction remembers why not. */
static bool may_write(struct store_txn *t, const char *kind, const char *id)
{
	int error = 0;

	if (!object_kind_ok(kind) || !object_id_ok(id))
		error = -EINVAL;
	else if (is_refused(t->store, kind, id))
		error = -EOPNOTSUPP;
	if (error && !t->error) {
		t->error = error;
		snprintf(t->bad, sizeof(t->bad), "%.31s/%.120s", kind, id);
	}
	return !error;
}

void store_put(struct store_txn *t, const char *kind, const char *id, const char *text)
{
	size_t len;

	if (!t || !may_write(t, kind, id))
		return;
	if (!text) {
		t->error = t->error ? t->error : -ENOMEM;
		return;
	}
	len = strlen(text);
	strbuf_printf(&t->payload, "put %s %s %zu\n", kind, id, len);
	strbuf_append(&t->payload, text, len);
	strbuf_append_char(&t->payload, '\n');
}

void store_put_json(struct store_txn *t, const char *kind, const char *id, const json_t *value)
{
	cleanup_free char *text = jsonx_dump(value);

	store_put(t, kind, id, text);
}

void store_delete(struct store_txn *t, const char *kind, const char *id)
{
	struct store_deleted *d;

	if (!t || !may_write(t, kind, id))
		return;
	d = calloc(1, sizeof(*d));
	if (d) {
		d->kind = strdup(kind);
		d->id = strdup(id);
	}
	if (!d || !d->kind || !d->id) {
		t->error = t->error ? t->error : -ENOMEM;
		if (d)
			store_deleted_free(d);
		return;
	}
	list_add_tail(&t->deletes, &d->link);
	strbuf_printf(&t->payload, "delete %s %s\n", kind, id);
}

void store_event(struct store_txn *t, uint64_t seq, const char *line)
{
	size_t len;

	if (!t)
		return;
	len = strlen(line);
	strbuf_printf(&t->payload, "event %" PRIu64 " %zu\n", seq, len);
	strbuf_append(&t->payload, line, len);
	strbuf_append_char(&t->payload, '\n');
}

/* Takes len bytes and the newline after them. */
static int take_text(char **p, char *end, const char *len_text, struct store_op *op)
{
	uint64_t len;

	if (parse_u64(len_text, &len) < 0 || len >= (uint64_t)(end - *p) || (*p)[len] != '\n')
		return -EBADMSG;
	op->text = *p;
	op->len = (size_t)len;
	*p += len + 1;
	return 1;
}

static int parse_line(char *line, char **p, char *end, struct store_op *op)
{
	char *word[4] = { NULL };
	char *rest = line;
	size_t n = 0;

	while (rest && n < ARRAY_SIZE(word))
		word[n++] = strsep(&rest, " ");
	if (rest)
		return -EBADMSG;
	if (strcmp(word[0], "event") == 0) {
		op->verb = STORE_EVENT;
		if (n != 3 || parse_u64(word[1], &op->event_seq) < 0)
			return -EBADMSG;
		return take_text(p, end, word[2], op);
	}
	if (n < 3 || !object_kind_ok(word[1]) || !object_id_ok(word[2]))
		return -EBADMSG;
	op->kind = word[1];
	op->id = word[2];
	if (strcmp(word[0], "put") == 0 && n == 4) {
		op->verb = STORE_PUT;
		return take_text(p, end, word[3], op);
	}
	op->verb = STORE_DELETE;
	return strcmp(word[0], "delete") == 0 && n == 3 ? 1 : -EBADMSG;
}

int store_op_next(char **p, char *end, struct store_op *ret)
{
	char *line, *newline;

	while (*p < end && **p == '\n')
		(*p)++;
	if (*p == end)
		return 0;
	line = *p;
	newline = memchr(line, '\n', (size_t)(end - line));
	if (!newline)
		return -EBADMSG;
	*newline = '\0';
	*p = newline + 1;
	*ret = (struct store_op){ .kind = NULL };
	return parse_line(line, p, end, ret);
}
