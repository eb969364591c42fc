/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/contractview.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/results.h"
#include "client/tasks.h"
#include "common/jsonx.h"
#include "common/timeutil.h"

/* What vm.list gives without "fields". */
static const struct column list_columns[] = {
	{ "name", "NAME", COL_TEXT },
	{ "state", "STATE", COL_TEXT },
	{ "engine", "ENGINE", COL_TEXT },
	{ "cpus", "CPUS", COL_NUMBER },
	{ "memory_bytes", "MEMORY", COL_SIZE },
	{ "since_us", "SINCE", COL_AGO },
	{ 0 },
};

/* The same and the further members that --fields may name, with their kinds. */
static const struct column all_columns[] = {
	{ "name", "NAME", COL_TEXT },
	{ "uuid", "UUID", COL_TEXT },
	{ "state", "STATE", COL_TEXT },
	{ "generation", "GENERATION", COL_NUMBER },
	{ "engine", "ENGINE", COL_TEXT },
	{ "engine.name", "ENGINE", COL_TEXT },
	{ "engine.accel", "ACCEL", COL_TEXT },
	{ "pid", "PID", COL_NUMBER },
	{ "cpus", "CPUS", COL_NUMBER },
	{ "memory_bytes", "MEMORY", COL_SIZE },
	{ "since_us", "SINCE", COL_AGO },
	{ "cause", "CAUSE", COL_LONG },
	{ "created_us", "CREATED", COL_TIME },
	{ "started_us", "STARTED", COL_TIME },
	{ "owner", "OWNER", COL_NUMBER },
	{ "restarts", "RESTARTS", COL_NUMBER },
	{ "job", "JOB", COL_TEXT },
	{ "pending", "PENDING", COL_LONG },
	{ "definition.memory", "MEMORY", COL_SIZE },
	{ "definition.labels", "LABELS", COL_LONG },
	{ 0 },
};

static bool in_summary(const char *word, size_t len)
{
	static const char *const members[] = { "name",       "uuid",         "state",
		                               "generation", "engine",       "pid",
		                               "cpus",       "memory_bytes", "since_us" };

	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (strlen(members[i]) == len && strncmp(members[i], word, len) == 0)
			return true;
	return false;
}

/*
 * The "fields" parameter for --fields, or NULL when the summaries have them all: the first words of
 * the dotted paths, each once.
 */
static json_t *api_fields(const char *fields)
{
	json_t *list = xpack("[]");
	bool summary = true;

	for (const char *p = fields; p && *p;) {
		size_t whole = strcspn(p, ","), len = strcspn(p, ".,");
		bool known = false;
		json_t *word;
		size_t i;

		summary &= in_summary(p, whole);
		json_array_foreach(list, i, word)
			known |= strlen(json_string_value(word)) == len &&
			         strncmp(json_string_value(word), p, len) == 0;
		if (!known && json_array_append_new(list, xpack("s%", p, len)) < 0)
			die_no_memory();
		p += whole + (p[whole] == ',');
	}
	if (!summary && fields)
		return list;
	json_decref(list);
	return NULL;
}

static int list_params(struct ctx *ctx, json_t **ret)
{
	json_t *fields = api_fields(args_str(&ctx->args, "fields"));
	cleanup_json json_t *params = xpack("{}");
	cleanup_json json_t *labels = NULL;
	const char *state = args_str(&ctx->args, "state");
	int code = labels_read(ctx, &labels);

	if (fields)
		xset(params, "fields", fields);
	if (code)
		return code;
	if (args_has(&ctx->args, "all") && (labels || state || ctx->args.n_names))
		return usage_error(ctx, "--all and a choice of VMs exclude each other");
	if (labels)
		xset(params, "labels", json_incref(labels));
	if (state)
		xset(params, "state", xstring(state));
	if (ctx->args.n_names)
		xset(params, "name", xstring(ctx->args.names[0]));
	*ret = TAKE_PTR(params);
	return 0;
}

int cmd_list(struct ctx *ctx)
{
	cleanup_json json_t *result = NULL;
	json_t *params = NULL, *vms;
	int r = list_params(ctx, &params);

	if (r)
		return r;
	r = ctx_call(ctx, "vm.list", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "list");
	vms = json_object_get(result, "vms");
	if (json_array_size(vms) == 0 && ctx->format == FORMAT_TABLE && ctx->err_tty && !ctx->quiet)
		print_hint("no VMs; `vmctl help create` tells how to make one");
	return out_list(ctx, result, vms,
	                args_has(&ctx->args, "fields") ? all_columns : list_columns);
}

static void put_exit(const json_t *exit)
{
	int64_t signal = jsonx_int(exit, "signal", 0);
	char text[64], when[32];

	if (!json_is_object(exit))
		return;
	if (signal)
		snprintf(text, sizeof(text), "signal %" PRId64 ", ", signal);
	else
		snprintf(text, sizeof(text), "code %" PRId64 ", ", jsonx_int(exit, "code", 0));
	format_time(when, sizeof(when), (uint64_t)jsonx_int(exit, "time_us", 0));
	strncat(text, when, sizeof(text) - strlen(text) - 1);
	out_pair_text("Last exit", text);
	out_pair("Its stderr", json_object_get(exit, "stderr"), COL_TEXT);
}

static void put_engine(const json_t *vm)
{
	const json_t *engine = json_object_get(vm, "engine");
	cleanup_free char *text = NULL;

	if (!json_is_object(engine))
		return;
	text = xasprintf("%s with %s (%s)", jsonx_str(engine, "name", "?"),
	                 jsonx_str(engine, "accel", "?"), jsonx_str(engine, "reason", ""));
	out_pair_text("Engine", text);
}

static void put_ready(const json_t *ready)
{
	static const char *const levels[] = { "kernel", "init", "login" };
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		int64_t us = jsonx_int(ready, levels[i], -1);
		char buf[32];

		if (us >= 0)
			strbuf_printf(&s, "%s%s after %s", s.len ? ", " : "", levels[i],
			              format_duration(buf, sizeof(buf), (uint64_t)us));
	}
	if (s.len)
		out_pair_text("Ready", s.data);
}

static void put_state(const json_t *vm)
{
	uint64_t since = (uint64_t)jsonx_int(vm, "since_us", 0), now = now_wall_us();
	const char *cause = jsonx_str(vm, "cause", NULL);
	cleanup_free char *text = NULL;
	char buf[32];

	text = xasprintf("%s for %s%s%s%s", jsonx_str(vm, "state", "?"),
	                 format_duration(buf, sizeof(buf), now > since ? now - since : 0),
	                 cause ? " (" : "", cause ? cause : "", cause ? ")" : "");
	out_pair_text("State", text);
}

static void put_disks(const json_t *disks)
{
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk) {
		cleanup_free char *text = xasprintf(
			"%s%s%s%s", jsonx_str(disk, "path", jsonx_str(disk, "disk", "fd")),
			json_object_get(disk, "format") ? ", " : "", jsonx_str(disk, "format", ""),
			jsonx_bool(disk, "readonly", false) ? ", read-only" : "");

		out_pair_text(i ? "" : "Disks", text);
	}
}

static void put_nics(const json_t *nics)
{
	json_t *nic;
	size_t i;

	json_array_foreach(nics, i, nic) {
		cleanup_strbuf struct strbuf s = STRBUF_INIT;

		strbuf_append_str(&s, jsonx_str(nic, "network", "?"));
		strbuf_printf(&s, ", %s", jsonx_str(nic, "mac", "no address yet"));
		if (json_object_get(nic, "forward")) {
			strbuf_append_str(&s, ", ");
			format_value(&s, json_object_get(nic, "forward"), COL_TEXT);
		}
		out_pair_text(i ? "" : "Networks", s.data ? s.data : "");
	}
}

static void put_definition(const json_t *d)
{
	const json_t *cpus = json_object_get(d, "cpus");

	const json_t *memory = json_object_get(d, "memory");

	if (json_is_object(cpus))
		cpus = json_object_get(cpus, "count");
	if (!memory)
		memory = json_object_get(contract_schema_find("VmDefinition", "memory"), "default");
	if (cpus)
		out_pair("CPUs", cpus, COL_NUMBER);
	else
		out_pair_text("CPUs", "1");
	out_pair("Memory", memory, COL_SIZE);
	out_pair("Labels", json_object_get(d, "labels"), COL_TEXT);
	out_pair("Kernel", json_path(d, "boot.kernel"), COL_TEXT);
	out_pair("Command line", json_path(d, "boot.cmdline"), COL_TEXT);
	put_disks(json_object_get(d, "disks"));
	put_nics(json_object_get(d, "nics"));
}

static void put_status(const json_t *vm)
{
	put_clean(stdout, jsonx_str(vm, "name", "?"));
	putchar('\n');
	put_state(vm);
	out_pair("UUID", json_object_get(vm, "uuid"), COL_TEXT);
	put_engine(vm);
	out_pair("Process", json_object_get(vm, "pid"), COL_NUMBER);
	out_pair("Started", json_object_get(vm, "started_us"), COL_TIME);
	put_ready(json_object_get(vm, "ready"));
	out_pair("Busy with job", json_object_get(vm, "job"), COL_TEXT);
	if (jsonx_int(vm, "restarts", 0))
		out_pair("Restarts", json_object_get(vm, "restarts"), COL_NUMBER);
	put_exit(json_object_get(vm, "exit"));
	put_definition(json_object_get(vm, "definition"));
	if (json_array_size(json_object_get(vm, "pending")))
		out_pair("At next start", json_object_get(vm, "pending"), COL_TEXT);
}

/* Calls a read method on each named VM; shows each result, or all as one JSON document. */
static int each_vm(struct ctx *ctx, const char *method, void (*show)(const json_t *result))
{
	cleanup_results struct results rs;
	char **names;
	size_t n;
	bool many;
	int code = targets_resolve(ctx, &names, &n, &many);

	if (code)
		return code;
	results_init(&rs, ctx, "vm", many);
	for (size_t i = 0; i < n && !code; i++) {
		cleanup_json json_t *result = NULL, *cut = NULL;
		int r = ctx_call(ctx, method, xpack("{s:s}", "vm", names[i]), &result);

		if (r < 0) {
			cleanup_free char *what = xasprintf("'%s'", names[i]);

			results_call_failed(&rs, names[i], r, what);
			continue;
		}
		if (ctx->format != FORMAT_JSON) {
			show(result);
			continue;
		}
		code = out_cut(ctx, result, &cut);
		results_done(&rs, names[i], cut);
	}
	targets_free(names, n);
	return code ? code : results_end(&rs);
}

int cmd_status(struct ctx *ctx)
{
	if (!ctx->args.n_names && !args_has(&ctx->args, "label") && !args_has(&ctx->args, "all"))
		return cmd_list(ctx);
	return each_vm(ctx, "vm.get", put_status);
}

int cmd_info(struct ctx *ctx)
{
	ctx->format = FORMAT_JSON;
	return each_vm(ctx, "vm.get", NULL);
}

static void put_cpu_stats(const json_t *stats)
{
	uint64_t total = 0;
	json_t *cpu;
	char buf[32];
	size_t i;

	json_array_foreach(json_object_get(stats, "cpus"), i, cpu)
		total += (uint64_t)jsonx_int(cpu, "time_us", 0);
	out_pair_text("CPU time", format_duration(buf, sizeof(buf), total));
}

static void put_counters(const json_t *list, const char *title, const char *in, const char *out,
                         const char *in_title, const char *out_title)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item) {
		cleanup_strbuf struct strbuf s = STRBUF_INIT;
		char name[32];

		if (!json_object_get(item, in) && !json_object_get(item, out))
			continue; /* the engine does not count them */
		strbuf_printf(&s, "%s ", in_title);
		format_value(&s, json_object_get(item, in), COL_SIZE);
		strbuf_printf(&s, ", %s ", out_title);
		format_value(&s, json_object_get(item, out), COL_SIZE);
		snprintf(name, sizeof(name), "%s %zu", title, i);
		out_pair_text(name, s.data ? s.data : "");
	}
}

static void put_stats(const json_t *stats)
{
	char buf[32];

	out_pair_text("Up", format_duration(buf, sizeof(buf),
	                                    (uint64_t)jsonx_int(stats, "uptime_us", 0)));
	put_cpu_stats(stats);
	out_pair("Memory", json_path(stats, "memory.configured_bytes"), COL_SIZE);
	out_pair("Balloon leaves", json_path(stats, "memory.actual_bytes"), COL_SIZE);
	out_pair("Guest has available", json_path(stats, "memory.guest.available_bytes"), COL_SIZE);
	out_pair("Process", json_path(stats, "process.pid"), COL_NUMBER);
	out_pair("Resident", json_path(stats, "process.rss_bytes"), COL_SIZE);
	put_counters(json_object_get(stats, "disks"), "Disk", "read_bytes", "write_bytes", "read",
	             "written");
	put_counters(json_object_get(stats, "nics"), "Network", "rx_bytes", "tx_bytes", "received",
	             "sent");
}

int cmd_stats(struct ctx *ctx)
{
	return each_vm(ctx, "vm.stats", put_stats);
}
