/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "daemon/guest.h"

/* Guests by name and by uuid (tsearch trees), and in order of creation. */
struct registry {
	void *by_name, *by_uuid, *reserved;
	struct list guests;
	size_t count;
	struct strbuf list_text; /* the plain vm.list, while nothing in it has changed */
};

static int compare_name(const void *a, const void *b)
{
	return strcmp(((const struct guest *)a)->name, ((const struct guest *)b)->name);
}

static int compare_uuid(const void *a, const void *b)
{
	return strcmp(((const struct guest *)a)->uuid, ((const struct guest *)b)->uuid);
}

static int compare_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

int registry_new(struct registry **ret)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	list_init(&r->guests);
	*ret = r;
	return 0;
}

void registry_free(struct registry *r)
{
	struct guest *g, *next;

	if (!r)
		return;
	list_for_each_safe(g, next, &r->guests, link) {
		registry_remove(r, g);
		guest_unref(g);
	}
	tdestroy(r->reserved, free);
	strbuf_deinit(&r->list_text);
	free(r);
}

static struct guest *find_in(void *const *tree, const struct guest *key,
                             int (*compare)(const void *, const void *))
{
	struct guest **node = tfind(key, tree, compare);

	return node ? *node : NULL;
}

struct guest *registry_find(struct registry *r, const char *name_or_uuid)
{
	struct guest key = { .name = "" };
	struct guest *g = NULL;
	size_t len = strlen(name_or_uuid);

	if (len >= sizeof(key.name))
		return NULL;
	memcpy(key.name, name_or_uuid, len + 1);
	g = find_in(&r->by_name, &key, compare_name);
	if (!g && len == sizeof(key.uuid) - 1) {
		memcpy(key.uuid, name_or_uuid, len + 1);
		g = find_in(&r->by_uuid, &key, compare_uuid);
	}
	return g;
}

int registry_add(struct registry *r, struct guest *g)
{
	if (find_in(&r->by_name, g, compare_name) || find_in(&r->by_uuid, g, compare_uuid))
		return -EEXIST;
	if (!tsearch(g, &r->by_name, compare_name))
		return -ENOMEM;
	if (!tsearch(g, &r->by_uuid, compare_uuid)) {
		tdelete(g, &r->by_name, compare_name);
		return -ENOMEM;
	}
	list_add_tail(&r->guests, &g->link);
	r->count++;
	registry_touch(r);
	return 0;
}

void registry_remove(struct registry *r, struct guest *g)
{
	if (list_is_empty(&g->link))
		return;
	tdelete(g, &r->by_name, compare_name);
	tdelete(g, &r->by_uuid, compare_uuid);
	list_del(&g->link);
	r->count--;
	registry_touch(r);
}

int registry_rename(struct registry *r, struct guest *g, const char *new_name)
{
	struct guest key = { .name = "" };

	if (strlen(new_name) >= sizeof(key.name))
		return -EINVAL;
	strcpy(key.name, new_name);
	if (find_in(&r->by_name, &key, compare_name))
		return -EEXIST;
	tdelete(g, &r->by_name, compare_name);
	strcpy(g->name, new_name);
	registry_touch(r);
	return tsearch(g, &r->by_name, compare_name) ? 0 : -ENOMEM;
}

bool registry_reserve(struct registry *r, const char *name)
{
	char *copy;

	if (registry_find(r, name) || tfind(name, &r->reserved, compare_text))
		return false;
	copy = strdup(name);
	if (!copy || !tsearch(copy, &r->reserved, compare_text)) {
		free(copy);
		return false;
	}
	return true;
}

void registry_unreserve(struct registry *r, const char *name)
{
	char **node = tfind(name, &r->reserved, compare_text);
	char *copy = node ? *node : NULL;

	if (!copy)
		return;
	tdelete(name, &r->reserved, compare_text);
	free(copy);
}

struct list *registry_list(struct registry *r)
{
	return &r->guests;
}

size_t registry_count(const struct registry *r)
{
	return r->count;
}

void registry_touch(struct registry *r)
{
	strbuf_deinit(&r->list_text);
}

const struct strbuf *registry_list_cache(const struct registry *r)
{
	return r->list_text.data ? &r->list_text : NULL;
}

void registry_keep_list_cache(struct registry *r, struct strbuf *text)
{
	strbuf_deinit(&r->list_text);
	if (!strbuf_failed(text))
		r->list_text = *text;
	else
		strbuf_deinit(text);
	*text = (struct strbuf)STRBUF_INIT;
}
