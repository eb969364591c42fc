/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm.create, update, get, list, delete, rename: what a guest is. */
#include "config.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <systemd/sd-id128.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "common/schema.h"
#include "daemon/definition.h"
#include "daemon/event.h"
#include "daemon/guest-change.h"
#include "daemon/guest-run.h"
#include "daemon/rpc.h"
#include "daemon/snapshot.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

/* With reply it is set before the commit, so that the record of a client_key goes along. */
static int commit_put(struct call *call, struct guest *g, const char *type, json_t *data,
                      bool reply, struct vmd_error *err)
{
	struct store_txn *txn = store_txn_new(g->vmd->store);
	uint64_t seq;
	int r;

	if (!txn) {
		json_decref(data);
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	}
	seq = guest_put(g, txn, type, call->actor, data);
	if (reply) {
		guest_reply(call, g);
		call_record_key(call, txn, call->result);
	}
	r = store_commit(txn, err);
	if (r < 0)
		event_drop(g->vmd->events, seq);
	else
		event_flush(g->vmd->events, seq);
	return r;
}

static int create_durably(struct call *call, struct guest *g, struct vmd_error *err)
{
	int r = commit_put(call, g, "vm.created", NULL, true, err);

	if (r < 0)
		return r;
	r = registry_add(call->vmd->guests, g);
	if (r < 0)
		return error_set_errno(err, -r, "cannot add guest '%s'", g->name);
	guest_ref(g);
	return 0;
}

static void take_held(struct guest *g, struct held_fds *held)
{
	held_fds_close(&g->held);
	g->held = *held;
	held->n = 0;
}

static int vm_create(struct call *call, struct vmd_error *err)
{
	cleanup_json json_t *definition =
		json_deep_copy(json_object_get(call->params, "definition"));
	__attribute__((cleanup(held_fds_close))) struct held_fds held = { .n = 0 };
	struct registry *guests = call->vmd->guests;
	struct engine_choice choice;
	struct guest *g = NULL;
	const char *name;
	int r;

	if (!definition)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	r = definition_complete(call, definition, NULL, &held, err);
	if (r == 0)
		r = definition_check(call->vmd, definition, &choice, err);
	if (r < 0)
		return r;
	name = jsonx_str(definition, "name", "");
	if (registry_find(guests, jsonx_str(definition, "uuid", "")))
		return error_set(err, ERROR_EXISTS, "a guest with uuid %s exists",
		                 jsonx_str(definition, "uuid", ""));
	if (!registry_reserve(guests, name)) {
		error_set(err, ERROR_EXISTS, "a guest '%s' exists", name);
		error_hint(err, "choose another name, or change the guest with vm.update");
		return -EEXIST;
	}
	r = guest_new(call->vmd, definition, definition_owner(call, definition), &g);
	if (r == 0)
		r = definition_take_choice(g, &choice);
	if (r == 0)
		take_held(g, &held);
	if (r == 0 && call->dry_run)
		call_reply(call, json_pack("{s:b, s:O}", "valid", 1, "definition", definition));
	else if (r == 0)
		r = create_durably(call, g, err);
	registry_unreserve(guests, name);
	guest_unref(g);
	return r;
}

/* RFC 7396: a null removes, an object merges, anything else replaces. */
static int merge_patch(json_t *target, const json_t *patch)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)patch, key, value) {
		json_t *old = json_object_get(target, key);
		int r;

		if (json_is_null(value)) {
			(void)json_object_del(target, key);
			continue;
		}
		if (json_is_object(value) && json_is_object(old)) {
			r = merge_patch(old, value);
		} else if (json_is_object(value)) {
			json_t *fresh = json_object();

			r = fresh ? merge_patch(fresh, value) : -ENOMEM;
			if (json_object_set_new(target, key, fresh) < 0)
				r = -ENOMEM;
		} else {
			r = json_object_set(target, key, value) < 0 ? -ENOMEM : 0;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int update_durably(struct call *call, struct guest *g, const json_t *definition,
                          struct vmd_error *err)
{
	cleanup_json json_t *old = guest_definition(g);
	int r;

	if (!old || guest_set_definition(g, definition) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	g->generation++;
	r = commit_put(call, g, "vm.updated",
	               json_pack("{s:I}", "generation", (json_int_t)g->generation), false, err);
	if (r < 0) {
		g->generation--;
		(void)guest_set_definition(g, old);
		return r;
	}
	registry_touch(call->vmd->guests);
	return 0;
}

/* The contract cannot say what a patch has to be, only what has to come of it. */
static int check_merged(const struct call *call, const json_t *definition, struct vmd_error *err)
{
	return schema_check_at(rpc_schema(call->vmd->rpc, "VmDefinition"), "definition", definition,
	                       err);
}

/*
 * Whether a patch is about more than what vmd itself does with the guest. Otherwise no engine is
 * asked: a guest whose host has lost a program that it needs must still be unprotected, labelled
 * and taken out of the autostart.
 */
static bool concerns_engine(const json_t *patch)
{
	static const char *const own[] = { "actions", "autostart", "labels",  "on_host_shutdown",
		                           "owner",   "protect",   "restart", "stop_timeout_ms" };
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)patch, key, value) {
		bool found = false;

		for (size_t i = 0; i < ARRAY_SIZE(own); i++)
			found |= strcmp(key, own[i]) == 0;
		if (!found)
			return true;
	}
	return false;
}

static int vm_update(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	__attribute__((cleanup(held_fds_close))) struct held_fds held = { .n = 0 };
	bool choose = concerns_engine(json_object_get(call->params, "set"));
	cleanup_json json_t *definition = NULL;
	struct engine_choice choice;
	int r = guest_change_begin(call, "update", false, &c, err);

	if (r < 0)
		return r;
	definition = guest_definition(c.g);
	if (!definition || merge_patch(definition, json_object_get(call->params, "set")) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	r = check_merged(call, definition, err);
	if (r == 0)
		r = definition_complete(call, definition, c.g, &held, err);
	if (r == 0 && choose)
		r = definition_check(call->vmd, definition, &choice, err);
	if (r < 0)
		return r;
	if (!call->dry_run) {
		r = update_durably(call, c.g, definition, err);
		if (r < 0)
			return r;
		if (json_object_get(json_object_get(call->params, "set"), "nics"))
			take_held(c.g, &held);
		if (choose && !guest_state_is_live(c.g->state))
			(void)definition_take_choice(c.g, &choice);
	}
	call_reply(call, json_pack("{s:s, s:s, s:I, s:I, s:o, s:O}", "uuid", c.g->uuid, "name",
	                           c.g->name, "generation", (json_int_t)c.g->generation, "event",
	                           (json_int_t)c.g->last_event, "pending",
	                           guest_pending(c.g, definition), "definition", definition));
	return 0;
}

static int vm_get(struct call *call, struct vmd_error *err)
{
	const json_t *fields = json_object_get(call->params, "fields");
	struct guest *g = guest_of_call(call, err);
	struct strbuf text = STRBUF_INIT;
	size_t len;
	char *data;

	if (!g)
		return -ENOENT;
	if (fields) {
		call_reply(call, guest_to_json(g, fields));
		return 0;
	}
	guest_format(g, &text);
	len = text.len;
	data = strbuf_steal(&text);
	if (!data)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply_text(call, data, len);
	return 0;
}

struct list_query {
	const json_t *fields, *labels;
	const char *state, *cursor, *name;
	size_t limit;
};

static bool labels_match(const struct guest *g, const json_t *want)
{
	cleanup_json json_t *definition = guest_definition(g);
	const json_t *labels = json_object_get(definition, "labels");
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)want, key, value)
		if (!json_equal(json_object_get(labels, key), value))
			return false;
	return true;
}

static bool query_matches(const struct list_query *q, const struct guest *g)
{
	if (q->state && strcmp(q->state, guest_state_name(g->state)) != 0)
		return false;
	if (q->name && fnmatch(q->name, g->name, 0) != 0)
		return false;
	return !q->labels || labels_match(g, q->labels);
}

static void append_entry(const struct list_query *q, const struct guest *g, struct strbuf *out)
{
	cleanup_json json_t *value = NULL;
	cleanup_free char *text = NULL;

	if (!q->fields) {
		guest_format_brief(g, out);
		return;
	}
	value = guest_to_json(g, q->fields);
	text = value ? jsonx_dump(value) : NULL;
	strbuf_append_str(out, text ? text : "{}");
}

/* {"vms":[...],"next":cursor}; next is the uuid of the last entry when there are more. */
static void list_format(struct registry *r, const struct list_query *q, struct strbuf *out)
{
	const struct guest *last = NULL, *g;
	bool skipping = q->cursor != NULL, more = false;
	size_t n = 0;

	strbuf_append_str(out, "{\"vms\":[");
	list_for_each(g, registry_list(r), link) {
		if (skipping) {
			skipping = strcmp(g->uuid, q->cursor) != 0;
			continue;
		}
		if (!query_matches(q, g))
			continue;
		if (n == q->limit) {
			more = true;
			break;
		}
		if (n++)
			strbuf_append_char(out, ',');
		append_entry(q, g, out);
		last = g;
	}
	strbuf_append_char(out, ']');
	if (more && last)
		strbuf_printf(out, ",\"next\":\"%s\"", last->uuid);
	strbuf_append_char(out, '}');
}

static int vm_list(struct call *call, struct vmd_error *err)
{
	const json_t *p = call->params;
	struct list_query q = { .fields = json_object_get(p, "fields"),
		                .labels = json_object_get(p, "labels"),
		                .state = jsonx_str(p, "state", NULL),
		                .name = jsonx_str(p, "name", NULL),
		                .cursor = jsonx_str(p, "cursor", NULL),
		                .limit = (size_t)jsonx_int(p, "limit", INT64_MAX) };
	bool plain = !q.fields && !q.labels && !q.state && !q.name && !q.cursor &&
	             q.limit == (size_t)INT64_MAX;
	struct registry *guests = call->vmd->guests;
	struct strbuf text = STRBUF_INIT;
	size_t len;
	char *data;

	if (q.cursor && !registry_find(guests, q.cursor))
		return call_cursor_gone(err);
	if (plain) {
		const struct strbuf *cached = registry_list_cache(guests);

		if (!cached) {
			list_format(guests, &q, &text);
			registry_keep_list_cache(guests, &text);
			cached = registry_list_cache(guests);
		}
		if (cached)
			strbuf_append(&text, cached->data, cached->len);
	} else {
		list_format(guests, &q, &text);
	}
	len = text.len;
	data = strbuf_steal(&text);
	if (!data)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply_text(call, data, len);
	return 0;
}

static bool is_protected(const struct guest *g, const char *what)
{
	cleanup_json json_t *definition = guest_definition(g);

	return jsonx_bool(json_object_get(definition, "protect"), what, false);
}

static int remove_runtime_dir(void *arg)
{
	return fs_remove_tree(AT_FDCWD, arg);
}

static int delete_durably(struct call *call, struct guest *g, struct vmd_error *err)
{
	struct store_txn *txn = store_txn_new(call->vmd->store);
	char dir[512];
	uint64_t seq;
	int r;

	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	store_delete(txn, "guests", g->uuid);
	snapshot_delete_all(g, txn);
	seq = event_publish(call->vmd->events, txn,
	                    &(struct event){ .type = "vm.deleted",
	                                     .vm = g->name,
	                                     .uuid = g->uuid,
	                                     .actor = call->actor });
	r = store_commit(txn, err);
	if (r < 0) {
		event_drop(call->vmd->events, seq);
		return r;
	}
	g->last_event = seq;
	g->deleted = true;
	snapshot_forget_all(g);
	registry_remove(call->vmd->guests, g);
	event_flush(call->vmd->events, seq);
	waitq_wake_all(&g->changed);
	(void)work_run(remove_runtime_dir,
	               (void *)(uintptr_t)guest_runtime_dir(g, dir, sizeof(dir)));
	guest_reply(call, g);
	guest_unref(g); /* the registry's */
	return 0;
}

static int vm_delete(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	int r = guest_change_begin(call, "delete", true, &c, err);

	if (r < 0)
		return r;
	if (guest_state_is_live(c.g->state))
		return guest_refuse(c.g, "delete", err);
	r = guest_wait_end(c.g, -1);
	if (r < 0)
		return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
		                 "the last run of guest '%s' is still ending", c.g->name);
	if (is_protected(c.g, "delete")) {
		(void)error_set(err, ERROR_DENIED, "guest '%s' is protected against delete",
		                c.g->name);
		error_hint(err,
		           "lift it with vm.update {\"set\": {\"protect\": {\"delete\": false}}}");
		return -EACCES;
	}
	if (call->dry_run) {
		guest_reply(call, c.g);
		return 0;
	}
	return delete_durably(call, c.g, err);
}

/* The new name of a definition that is in use; what else it says stays. */
static int rename_text(char **text, const char *new_name)
{
	cleanup_json json_t *o = *text ? json_loads(*text, 0, NULL) : NULL;
	char *renamed;

	if (!*text)
		return 0;
	renamed = o && jsonx_set(o, "name", json_string(new_name)) ? jsonx_dump(o) : NULL;
	if (!renamed)
		return -ENOMEM;
	free(*text);
	*text = renamed;
	return 0;
}

static int rename_in_use(struct guest *g, const char *new_name)
{
	int r = rename_text(&g->saved_definition, new_name);

	return r == 0 && g->run ? rename_text(&g->run->definition, new_name) : r;
}

static int rename_durably(struct call *call, struct guest *g, const char *new_name,
                          struct vmd_error *err)
{
	cleanup_json json_t *definition = guest_definition(g), *old = guest_definition(g);
	char old_name[sizeof(g->name)];
	int r;

	if (!definition || !old || !jsonx_set(definition, "name", json_string(new_name)))
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	memcpy(old_name, g->name, sizeof(old_name));
	registry_unreserve(call->vmd->guests, new_name);
	r = registry_rename(call->vmd->guests, g, new_name);
	if (r < 0)
		return error_set_errno(err, -r, "cannot rename guest '%s'", old_name);
	r = rename_in_use(g, new_name);
	if (r == 0)
		r = update_durably(call, g, definition, err);
	else
		(void)error_set(err, ERROR_NO_SPACE, "out of memory");
	if (r < 0) {
		(void)registry_rename(call->vmd->guests, g, old_name);
		(void)rename_in_use(g, old_name);
	}
	return r;
}

static int vm_rename(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	const char *new_name = jsonx_str(call->params, "name", "");
	int r = guest_change_begin(call, "rename", false, &c, err);

	if (r < 0)
		return r;
	if (!is_object_name(new_name))
		return error_set_field(err, "name", "'%.64s' is no guest name", new_name);
	if (!registry_reserve(call->vmd->guests, new_name))
		return error_set(err, ERROR_EXISTS, "a guest '%s' exists", new_name);
	if (!call->dry_run)
		r = rename_durably(call, c.g, new_name, err);
	registry_unreserve(call->vmd->guests, new_name);
	if (r == 0)
		guest_reply(call, c.g);
	return r;
}

const struct method vm_methods[] = {
	{ "vm.create", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_create },
	{ "vm.update", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_update },
	{ "vm.get", ROLE_VIEWER, METHOD_READ, vm_get },
	{ "vm.list", ROLE_VIEWER, METHOD_READ, vm_list },
	{ "vm.delete", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_delete },
	{ "vm.rename", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_rename },
	{ NULL, 0, 0, NULL },
};
