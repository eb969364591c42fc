/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-id128.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/engine.h"
#include "daemon/event.h"
#include "daemon/job.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

const char *const ready_names[_READY_MAX] = { "kernel", "init", "login" };

static const char *const start_names[] = {
	[START_BOOT] = "boot",
	[START_SUSPENDED] = "suspended",
	[START_SNAPSHOT] = "snapshot",
};

static struct guest *guest_alloc(struct vmd *vmd)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->vmd = vmd;
	g->refs = 1;
	list_init(&g->link);
	fiber_mutex_init(&g->lock);
	waitq_init(&g->changed);
	return g;
}

int guest_new(struct vmd *vmd, const json_t *definition, uid_t owner, struct guest **ret)
{
	struct guest *g = guest_alloc(vmd);

	if (!g)
		return -ENOMEM;
	snprintf(g->uuid, sizeof(g->uuid), "%s", jsonx_str(definition, "uuid", ""));
	snprintf(g->name, sizeof(g->name), "%s", jsonx_str(definition, "name", ""));
	g->owner = owner;
	g->generation = 1;
	g->created_us = g->since_us = now_wall_us();
	if (guest_set_definition(g, definition) < 0) {
		guest_unref(g);
		return -ENOMEM;
	}
	*ret = g;
	return 0;
}

int guest_set_definition(struct guest *g, const json_t *definition)
{
	const json_t *cpus = json_object_get(definition, "cpus");
	char *text = jsonx_dump(definition);

	if (!text)
		return -ENOMEM;
	free(g->definition);
	g->definition = text;
	g->cpus = (unsigned)(json_is_integer(cpus) ? json_integer_value(cpus)
	                                           : jsonx_int(cpus, "count", 1));
	g->memory_bytes = jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES);
	return 0;
}

int guest_keep_saved(struct guest *g, const char *definition)
{
	char *text = definition ? strdup(definition) : NULL;

	if (definition && !text)
		return -ENOMEM;
	free(g->saved_definition);
	g->saved_definition = text;
	return 0;
}

struct guest *guest_ref(struct guest *g)
{
	g->refs++;
	return g;
}

void held_fds_close(struct held_fds *held)
{
	fd_close_many(held->fds, held->n);
	held->n = 0;
}

void guest_unref(struct guest *g)
{
	if (!g || --g->refs)
		return;
	held_fds_close(&g->held);
	free(g->definition);
	free(g->saved_definition);
	free(g->cause);
	free(g->engine_reason);
	free(g->exit_text);
	free(g);
}

json_t *guest_definition(const struct guest *g)
{
	return json_loads(g->definition, 0, NULL);
}

static void append_member(struct strbuf *out, const char *key, const char *text)
{
	strbuf_printf(out, ",\"%s\":", key);
	if (text)
		strbuf_append_json(out, text);
	else
		strbuf_append_str(out, "null");
}

static void append_ready(const struct guest_run *run, struct strbuf *out)
{
	const char *comma = "";

	strbuf_append_char(out, '{');
	for (int i = 0; i < _READY_MAX; i++) {
		if (!run->ready_us[i])
			continue;
		strbuf_printf(out, "%s\"%s\":%llu", comma, ready_names[i],
		              (unsigned long long)run->ready_us[i]);
		comma = ",";
	}
	strbuf_append_char(out, '}');
}

static void append_run_record(const struct guest *g, struct strbuf *out)
{
	const struct guest_run *run = g->run;

	strbuf_printf(out, ",\"run\":{\"pid\":%d,\"started_us\":%llu,\"definition\":%s,\"ready\":",
	              run->pid, (unsigned long long)run->started_us, run->definition);
	append_ready(run, out);
	append_member(out, "cause_hint", run->cause_hint);
	strbuf_append_char(out, '}');
}

char *guest_record(const struct guest *g)
{
	struct strbuf s = STRBUF_INIT;

	strbuf_printf(&s,
	              "{\"uuid\":\"%s\",\"owner\":%u,\"generation\":%llu,\"created_us\":%llu,"
	              "\"state\":\"%s\",\"settled\":\"%s\",\"since_us\":%llu,\"restarts\":%u,"
	              "\"want_running\":%s,\"last_event\":%llu,\"engine\":\"%s\",\"accel\":\"%s\"",
	              g->uuid, g->owner, (unsigned long long)g->generation,
	              (unsigned long long)g->created_us, guest_state_name(g->state),
	              guest_state_name(g->settled_state), (unsigned long long)g->since_us,
	              g->restarts, g->want_running ? "true" : "false",
	              (unsigned long long)g->last_event, g->engine, g->accel);
	append_member(&s, "cause", g->cause);
	append_member(&s, "started_boot", g->started_boot);
	append_member(&s, "engine_reason", g->engine_reason);
	if (g->exit_text)
		strbuf_printf(&s, ",\"exit\":%s", g->exit_text);
	if (g->saved_definition)
		strbuf_printf(&s, ",\"saved\":%s", g->saved_definition);
	if (g->restart_pending)
		strbuf_append_str(&s, ",\"restart_pending\":true");
	if (g->state == GUEST_STARTING)
		strbuf_printf(&s, ",\"start\":{\"from\":\"%s\",\"paused\":%s,\"may_have_run\":%s}",
		              start_names[g->start.from], g->start.paused ? "true" : "false",
		              g->start.may_have_run ? "true" : "false");
	if (g->run && guest_state_is_live(g->state))
		append_run_record(g, &s);
	strbuf_printf(&s, ",\"definition\":%s}", g->definition);
	return strbuf_steal(&s);
}

static struct guest_run *run_from_record(const json_t *o)
{
	struct guest_run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	run->pid = (pid_t)jsonx_int(o, "pid", 0);
	run->started_us = (uint64_t)jsonx_int(o, "started_us", 0);
	run->definition = jsonx_dump(json_object_get(o, "definition"));
	for (int i = 0; i < _READY_MAX; i++)
		run->ready_us[i] =
			(uint64_t)jsonx_int(json_object_get(o, "ready"), ready_names[i], 0);
	snprintf(run->cause_hint, sizeof(run->cause_hint), "%s", jsonx_str(o, "cause_hint", ""));
	if (!run->definition) {
		free(run);
		return NULL;
	}
	return run;
}

static struct guest_start start_from_record(const json_t *o)
{
	const char *from = jsonx_str(o, "from", "");
	struct guest_start start = {
		.paused = jsonx_bool(o, "paused", false),
		.may_have_run = jsonx_bool(o, "may_have_run", false),
	};

	for (size_t i = 0; i < ARRAY_SIZE(start_names); i++)
		if (strcmp(from, start_names[i]) == 0)
			start.from = (enum guest_start_from)i;
	return start;
}

static int fill_from_record(struct guest *g, const json_t *o)
{
	const json_t *definition = json_object_get(o, "definition");
	int state = guest_state_from_name(jsonx_str(o, "state", ""));
	int settled = guest_state_from_name(jsonx_str(o, "settled", "defined"));
	const char *cause = jsonx_str(o, "cause", NULL),
		   *reason = jsonx_str(o, "engine_reason", NULL);
	const json_t *exit_record = json_object_get(o, "exit"), *run = json_object_get(o, "run");
	const json_t *saved = json_object_get(o, "saved");

	if (state < 0 || settled < 0 || !json_is_object(definition))
		return -EBADMSG;
	snprintf(g->uuid, sizeof(g->uuid), "%s", jsonx_str(o, "uuid", ""));
	snprintf(g->name, sizeof(g->name), "%s", jsonx_str(definition, "name", ""));
	g->owner = (uid_t)jsonx_int(o, "owner", 0);
	g->generation = (uint64_t)jsonx_int(o, "generation", 1);
	g->created_us = (uint64_t)jsonx_int(o, "created_us", 0);
	g->since_us = (uint64_t)jsonx_int(o, "since_us", 0);
	g->restarts = (unsigned)jsonx_int(o, "restarts", 0);
	g->want_running = jsonx_bool(o, "want_running", false);
	snprintf(g->started_boot, sizeof(g->started_boot), "%s", jsonx_str(o, "started_boot", ""));
	g->last_event = (uint64_t)jsonx_int(o, "last_event", 0);
	snprintf(g->engine, sizeof(g->engine), "%s", jsonx_str(o, "engine", ""));
	snprintf(g->accel, sizeof(g->accel), "%s", jsonx_str(o, "accel", ""));
	g->state = (enum guest_state)state;
	g->settled_state = (enum guest_state)settled;
	g->cause = cause ? strdup(cause) : NULL;
	g->engine_reason = reason ? strdup(reason) : NULL;
	g->exit_text = exit_record ? jsonx_dump(exit_record) : NULL;
	g->saved_definition = saved ? jsonx_dump(saved) : NULL;
	g->restart_pending = jsonx_bool(o, "restart_pending", false);
	g->start = start_from_record(json_object_get(o, "start"));
	if (json_is_object(run))
		g->run = run_from_record(run);
	return guest_set_definition(g, definition);
}

int guest_from_record(struct vmd *vmd, const char *text, size_t len, struct guest **ret)
{
	cleanup_json json_t *o = json_loadb(text, len, 0, NULL);
	struct guest *g;
	int r;

	if (!o)
		return -EBADMSG;
	g = guest_alloc(vmd);
	if (!g)
		return -ENOMEM;
	r = fill_from_record(g, o);
	if (r < 0) {
		guest_unref(g);
		return r;
	}
	*ret = g;
	return 0;
}

/* What vmd reads from the definition when it needs it: a change is in force at once. The contract
 * says so of each. */
static bool is_live_field(const char *key)
{
	static const char *const live[] = { "labels",  "owner",           "autostart",
		                            "restart", "stop_timeout_ms", "on_host_shutdown",
		                            "protect" };

	for (size_t i = 0; i < ARRAY_SIZE(live); i++)
		if (strcmp(live[i], key) == 0)
			return true;
	return false;
}

/* The definition in use: the engine's, or that of the suspend image. NULL: none is. */
static const char *used_definition(const struct guest *g)
{
	bool live = g->run && guest_state_is_live(g->state);

	return live ? g->run->definition : g->saved_definition;
}

json_t *guest_pending(const struct guest *g, const json_t *definition)
{
	const char *used = used_definition(g), *key;
	cleanup_json json_t *running = used ? json_loads(used, 0, NULL) : NULL;
	json_t *list = json_array(), *value;

	if (!running)
		return list;
	json_object_foreach((json_t *)(uintptr_t)definition, key, value)
		if (!is_live_field(key) && !json_equal(value, json_object_get(running, key)))
			(void)json_array_append_new(list, json_string(key));
	json_object_foreach(running, key, value)
		if (!is_live_field(key) && !json_object_get(definition, key))
			(void)json_array_append_new(list, json_string(key));
	return list;
}

static void append_pending(const struct guest *g, struct strbuf *out)
{
	cleanup_json json_t *definition = NULL, *list = NULL;
	cleanup_free char *text = NULL;
	const char *used = used_definition(g);

	if (used && strcmp(used, g->definition) != 0) {
		definition = guest_definition(g);
		list = definition ? guest_pending(g, definition) : NULL;
		text = list ? jsonx_dump(list) : NULL;
	}
	strbuf_printf(out, ",\"pending\":%s", text ? text : "[]");
}

static void append_head(const struct guest *g, struct strbuf *out)
{
	/* Names, uuids and states hold no character that JSON escapes. */
	strbuf_printf(out, "{\"name\":\"%s\",\"uuid\":\"%s\",\"state\":\"%s\",\"generation\":%llu",
	              g->name, g->uuid, guest_state_name(g->state),
	              (unsigned long long)g->generation);
}

void guest_format(const struct guest *g, struct strbuf *out)
{
	append_head(g, out);
	append_member(out, "cause", g->cause);
	strbuf_printf(out, ",\"since_us\":%llu,\"created_us\":%llu,\"owner\":%u,\"restarts\":%u",
	              (unsigned long long)g->since_us, (unsigned long long)g->created_us, g->owner,
	              g->restarts);
	if (g->engine[0]) {
		strbuf_printf(out, ",\"engine\":{\"name\":\"%s\",\"accel\":\"%s\"", g->engine,
		              g->accel);
		append_member(out, "reason", g->engine_reason);
		strbuf_append_char(out, '}');
	} else {
		strbuf_append_str(out, ",\"engine\":null");
	}
	if (g->run && guest_state_is_live(g->state)) {
		strbuf_printf(out, ",\"pid\":%d,\"started_us\":%llu,\"ready\":", g->run->pid,
		              (unsigned long long)g->run->started_us);
		append_ready(g->run, out);
	} else {
		strbuf_append_str(out, ",\"pid\":null,\"started_us\":null,\"ready\":{}");
	}
	strbuf_printf(out, ",\"job\":%s%s%s", g->job ? "\"" : "", g->job ? job_id(g->job) : "null",
	              g->job ? "\"" : "");
	strbuf_printf(out, ",\"exit\":%s", g->exit_text ? g->exit_text : "null");
	append_pending(g, out);
	strbuf_printf(out, ",\"definition\":%s}", g->definition);
}

void guest_format_brief(const struct guest *g, struct strbuf *out)
{
	append_head(g, out);
	if (g->engine[0])
		strbuf_printf(out, ",\"engine\":\"%s\"", g->engine);
	else
		strbuf_append_str(out, ",\"engine\":null");
	if (g->run && g->run->pid && guest_state_is_live(g->state))
		strbuf_printf(out, ",\"pid\":%d", g->run->pid);
	else
		strbuf_append_str(out, ",\"pid\":null");
	strbuf_printf(out, ",\"cpus\":%u,\"memory_bytes\":%llu,\"since_us\":%llu}", g->cpus,
	              (unsigned long long)g->memory_bytes, (unsigned long long)g->since_us);
}

json_t *guest_to_json(const struct guest *g, const json_t *fields)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	json_t *all, *picked, *field;
	size_t i;

	guest_format(g, &text);
	all = strbuf_failed(&text) ? NULL : json_loadb(text.data, text.len, 0, NULL);
	if (!all || !fields)
		return all;
	picked = json_object();
	json_array_foreach(fields, i, field) {
		const char *key = json_string_value(field);

		if (key && json_object_get(all, key))
			(void)json_object_set(picked, key, json_object_get(all, key));
	}
	json_decref(all);
	return picked;
}

uint64_t guest_put(struct guest *g, struct store_txn *txn, const char *type, const char *actor,
                   json_t *data)
{
	cleanup_free char *record = NULL;
	uint64_t seq = 0;

	if (type) {
		seq = event_publish(g->vmd->events, txn,
		                    &(struct event){ .type = type,
		                                     .vm = g->name,
		                                     .uuid = g->uuid,
		                                     .actor = actor,
		                                     .data = data });
		g->last_event = seq;
	}
	record = guest_record(g);
	if (record && txn)
		store_put(txn, "guests", g->uuid, record);
	return seq;
}

static void log_state(const struct guest *g, enum guest_state from)
{
	const struct log_field fields[] = {
		{ "MESSAGE_ID", "5f0c1c2a8d4b4a8c9a6d3c27a1b80b11" },
		{ "GUEST", g->name },
		{ "GUEST_UUID", g->uuid },
		{ "STATE", guest_state_name(g->state) },
		{ NULL, NULL },
	};

	log_fields(g->state == GUEST_FAILED || g->state == GUEST_UNRESPONSIVE ? LOG_WARNING
	                                                                      : LOG_INFO,
	           fields, "Guest '%s': %s -> %s%s%s", g->name, guest_state_name(from),
	           guest_state_name(g->state), g->cause ? ", " : "", g->cause ? g->cause : "");
}

static int commit_state(struct guest *g, enum guest_state from, const char *actor,
                        struct vmd_error *err)
{
	struct store_txn *txn = store_txn_new(g->vmd->store);
	uint64_t seq;
	int r = 0;

	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	seq = guest_put(g, txn, "vm.state", actor,
	                json_pack("{s:s, s:s, s:s?, s:I}", "state", guest_state_name(g->state),
	                          "from", guest_state_name(from), "cause", g->cause, "since_us",
	                          (json_int_t)g->since_us));
	if (fiber_self()) {
		fiber_shield(true);
		r = store_commit(txn, err);
		fiber_shield(false);
	} else {
		store_commit_async(txn);
	}
	/* The change is a fact about a process, durable or not: it is told either way. */
	event_flush(g->vmd->events, seq);
	return r;
}

int guest_apply(struct guest *g, enum guest_event event, const char *cause, const char *actor,
                struct vmd_error *err)
{
	enum guest_state from = g->state;
	int to = guest_fsm_next(from, event);

	if (to < 0) {
		log_debug("Guest '%s': event '%s' has no place in state '%s'", g->name,
		          guest_event_name(event), guest_state_name(from));
		return guest_refuse(g, guest_event_name(event), err);
	}
	if (event == GUEST_EVENT_START || event == GUEST_EVENT_SUSPEND)
		g->settled_state = from;
	g->state = (enum guest_state)to;
	g->since_us = now_wall_us();
	free(g->cause);
	g->cause = cause ? strdup(cause) : NULL;
	registry_touch(g->vmd->guests);
	log_state(g, from);
	waitq_wake_all(&g->changed);
	return commit_state(g, from, actor, err);
}

void guest_publish(struct guest *g, const char *type, json_t *data)
{
	(void)event_publish(g->vmd->events, NULL,
	                    &(struct event){ .type = type,
	                                     .vm = g->name,
	                                     .uuid = g->uuid,
	                                     .actor = "guest",
	                                     .data = data });
}

int guest_refuse(const struct guest *g, const char *verb, struct vmd_error *err)
{
	static const struct {
		const char *verb; /* NULL: any other */
		enum guest_state state;
		const char *hint; /* NULL: it is as the caller wants it */
	} hints[] = {
		{ "start", GUEST_RUNNING, NULL },
		{ "resume", GUEST_RUNNING, NULL },
		{ "start", GUEST_PAUSED, "it runs but is paused: resume it" },
		{ "stop", GUEST_DEFINED, NULL },
		{ "stop", GUEST_STOPPED, NULL },
		{ "stop", GUEST_FAILED, NULL },
		{ "kill", GUEST_DEFINED, NULL },
		{ "kill", GUEST_STOPPED, NULL },
		{ "kill", GUEST_FAILED, NULL },
		{ NULL, GUEST_DEFINED, "start it first" },
		{ NULL, GUEST_STOPPED, "start it first" },
		{ NULL, GUEST_FAILED, "start it again; 'vmctl status' tells why it failed" },
		{ NULL, GUEST_SUSPENDED, "start it to bring it back" },
		{ NULL, GUEST_RUNNING, "stop it first" },
		{ NULL, GUEST_PAUSED, "resume or stop it first" },
		{ NULL, GUEST_UNRESPONSIVE, "wait until it answers, or kill it" },
	};
	int r = error_set(err, ERROR_WRONG_STATE, "cannot %s guest '%s': it is %s", verb, g->name,
	                  guest_state_name(g->state));

	for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
		if (hints[i].state != g->state ||
		    (hints[i].verb && strcmp(hints[i].verb, verb) != 0))
			continue;
		if (hints[i].hint)
			error_hint(err, "%s", hints[i].hint);
		break;
	}
	return r;
}

const char *guest_runtime_dir(const struct guest *g, char *buf, size_t len)
{
	snprintf(buf, len, "%s/guests/%s", g->vmd->config.runtime_dir, g->uuid);
	return buf;
}

const char *guest_state_dir(const struct guest *g, char *buf, size_t len)
{
	snprintf(buf, len, "%s/guests/%s", g->vmd->config.state_dir, g->uuid);
	return buf;
}
