/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm.stats, logs, screenshot, send_key, qmp and console.open: what a guest says and hears. */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/engine.h"
#include "daemon/event.h"
#include "daemon/guest-change.h"
#include "daemon/guest-run.h"
#include "daemon/rpc.h"
#include "daemon/vmd.h"

/* A reading call on a live guest. The reference is the caller's to drop. */
static struct guest *live_guest(struct call *call, const char *verb, struct vmd_error *err)
{
	struct guest *g = guest_of_call(call, err);

	if (!g)
		return NULL;
	if (!g->run || !g->run->shim || g->run->exited) {
		(void)guest_refuse(g, verb, err);
		return NULL;
	}
	return guest_ref(g);
}

static void unref_guest(struct guest **g)
{
	guest_unref(*g);
}
#define cleanup_guest __attribute__((cleanup(unref_guest)))

/* utime + stime of a process or thread in microseconds, proc(5) stat fields 14 and 15. */
static uint64_t cpu_time_us(const char *path)
{
	cleanup_free char *data = NULL;
	unsigned long long user, system;
	const char *p;

	if (fs_read_file(AT_FDCWD, path, 4096, &data, NULL) < 0)
		return 0;
	p = strrchr(data, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
	                 &system) != 2)
		return 0;
	return (user + system) * 1000000u / (unsigned long long)sysconf(_SC_CLK_TCK);
}

static uint64_t resident_bytes(pid_t pid)
{
	cleanup_free char *data = NULL;
	unsigned long long pages;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	if (fs_read_file(AT_FDCWD, path, 256, &data, NULL) < 0 ||
	    sscanf(data, "%*u %llu", &pages) != 1)
		return 0;
	return pages * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static json_t *process_stats(const struct guest_run *run)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/stat", run->pid);
	return json_pack("{s:i, s:I, s:I}", "pid", run->pid, "cpu_us",
	                 (json_int_t)cpu_time_us(path), "rss_bytes",
	                 (json_int_t)resident_bytes(run->pid));
}

static int add_cpu_stats(struct guest *g, json_t *out, struct vmd_error *err)
{
	cleanup_json json_t *reply = NULL;
	json_t *cpus = json_array(), *cpu;
	pid_t pid = g->run->pid;
	size_t i;
	int r = guest_qmp(g, "query-cpus-fast", NULL, &reply, err);

	json_array_foreach(reply, i, cpu) {
		int64_t tid = jsonx_int(cpu, "thread-id", 0);
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/task/%lld/stat", pid, (long long)tid);
		json_array_append_new(cpus, json_pack("{s:I, s:I, s:I}", "index",
		                                      (json_int_t)jsonx_int(cpu, "cpu-index", 0),
		                                      "thread_id", (json_int_t)tid, "time_us",
		                                      (json_int_t)cpu_time_us(path)));
	}
	(void)jsonx_set(out, "cpus", cpus);
	return r;
}

/* QMP BlockDeviceStats to our names; our device ids are "disk<index>". */
static json_t *disk_stats(const json_t *entry)
{
	static const struct {
		const char *ours, *qmp;
		int divide;
	} fields[] = {
		{ "read_bytes", "rd_bytes", 1 },
		{ "write_bytes", "wr_bytes", 1 },
		{ "read_ops", "rd_operations", 1 },
		{ "write_ops", "wr_operations", 1 },
		{ "flush_ops", "flush_operations", 1 },
		{ "read_time_us", "rd_total_time_ns", 1000 },
		{ "write_time_us", "wr_total_time_ns", 1000 },
	};
	const json_t *stats = json_object_get(entry, "stats");
	const char *name = strstr(jsonx_str(entry, "qdev", ""), "disk");
	json_t *out;
	int index;

	if (!name || sscanf(name, "disk%d", &index) != 1)
		return NULL;
	out = json_pack("{s:i}", "index", index);
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		(void)jsonx_set(
			out, fields[i].ours,
			json_integer(jsonx_int(stats, fields[i].qmp, 0) / fields[i].divide));
	return out;
}

static int add_disk_stats(struct guest *g, json_t *out, struct vmd_error *err)
{
	cleanup_json json_t *reply = NULL;
	json_t *disks = json_array(), *entry;
	size_t i;
	int r = guest_qmp(g, "query-blockstats", NULL, &reply, err);

	json_array_foreach(reply, i, entry) {
		json_t *stats = disk_stats(entry);

		if (stats)
			json_array_append_new(disks, stats);
	}
	(void)jsonx_set(out, "disks", disks);
	return r;
}

static json_t *nic_stats(const json_t *definition)
{
	json_t *nics = json_array(), *nic;
	size_t i;

	json_array_foreach(json_object_get(definition, "nics"), i, nic)
		json_array_append_new(nics, json_pack("{s:i, s:s}", "index", (int)i, "mac",
		                                      jsonx_str(nic, "mac", "")));
	return nics;
}

static void add_memory_stats(struct guest *g, const json_t *definition, json_t *out)
{
	uint64_t configured = jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES);
	json_t *memory = json_pack("{s:I}", "configured_bytes", (json_int_t)configured);
	cleanup_json json_t *balloon = NULL;

	if (!json_is_false(json_object_get(definition, "balloon")) &&
	    guest_qmp(g, "query-balloon", NULL, &balloon, NULL) == 0)
		(void)jsonx_set(memory, "actual_bytes",
		                json_integer(jsonx_int(balloon, "actual", (int64_t)configured)));
	(void)jsonx_set(out, "memory", memory);
}

static int vm_stats(struct call *call, struct vmd_error *err)
{
	cleanup_guest struct guest *g = live_guest(call, "read the counters of", err);
	cleanup_json json_t *out = json_object(), *definition = NULL;
	int r;

	if (!g)
		return -ESTALE;
	definition = json_loads(g->run->definition, 0, NULL);
	(void)jsonx_set(out, "time_us", json_integer((json_int_t)now_wall_us()));
	(void)jsonx_set(out, "uptime_us",
	                json_integer((json_int_t)(now_wall_us() - g->run->started_us)));
	(void)jsonx_set(out, "process", process_stats(g->run));
	r = add_cpu_stats(g, out, err);
	if (r == 0)
		r = add_disk_stats(g, out, err);
	if (r < 0)
		return r;
	add_memory_stats(g, definition, out);
	(void)jsonx_set(out, "nics", nic_stats(definition));
	call_reply(call, json_incref(out));
	return 0;
}

static int reply_stream(struct call *call, int fd)
{
	int index = call_reply_fd(call, fd);

	if (index < 0)
		return index;
	call_reply(call, json_pack("{s:{s:i}}", "stream", "fd", index));
	return 0;
}

static int logs_text(struct call *call, struct guest *g, const struct shim_logs_opts *opts,
                     struct vmd_error *err)
{
	/* Escaping can make text six times as long; the reply must stay below the message limit. */
	size_t max = (size_t)call->vmd->config.max_message_bytes / 6;
	cleanup_free char *text = NULL;
	bool truncated = false;
	char state[512];
	int r = shim_logs_text(guest_state_dir(g, state, sizeof(state)), opts, max, &text,
	                       &truncated, err);

	if (r == 0)
		call_reply(call, json_pack("{s:s, s:b}", "text", text, "truncated", truncated));
	return r;
}

static int vm_logs(struct call *call, struct vmd_error *err)
{
	const json_t *p = call->params;
	struct shim_logs_opts opts = {
		.tail = jsonx_int(p, "tail", -1),
		.since_us = (uint64_t)jsonx_int(p, "since_us", 0),
		.timestamps = jsonx_bool(p, "timestamps", false),
		.follow = jsonx_bool(p, "follow", false),
	};
	cleanup_guest struct guest *g = guest_of_call(call, err);
	int r, fd;

	if (!g)
		return -ENOENT;
	guest_ref(g);
	if (!opts.follow || !g->run || !g->run->shim || g->run->exited) {
		opts.follow = false; /* a guest that does not run says no more */
		return logs_text(call, g, &opts, err);
	}
	r = shim_logs(g->run->shim, &opts, &fd, err);
	return r < 0 ? r : reply_stream(call, fd);
}

static int console_open(struct call *call, struct vmd_error *err)
{
	bool readonly = jsonx_bool(call->params, "readonly", false);
	cleanup_guest struct guest *g = live_guest(call, "open the console of", err);
	int r, fd;

	if (!g)
		return -ESTALE;
	if (!readonly && call->role != ROLE_ADMIN &&
	    !(call->role == ROLE_OPERATOR && call->uid == g->owner)) {
		(void)error_set(err, ERROR_DENIED,
		                "only its owner or an admin types into guest '%s'", g->name);
		error_hint(err, "open it with \"readonly\": true to read along");
		return -EACCES;
	}
	r = shim_console(g->run->shim, readonly, jsonx_bool(call->params, "replay", true), 0, &fd,
	                 err);
	return r < 0 ? r : reply_stream(call, fd);
}

/* QEMU writes the picture into a memfd of ours, as an fd set: no file, no path. */
static int dump_screen(struct guest *g, const char *format, int fd, struct vmd_error *err)
{
	cleanup_json json_t *set = json_pack("{s:i}", "fdset-id", 900), *args = NULL;
	cleanup_close int writer = -EBADF;
	char link[32];
	int r;

	/* An fd set is opened with just the access mode that its descriptor has. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	writer = open(link, O_WRONLY | O_CLOEXEC);
	if (writer < 0)
		return error_set_errno(err, errno, "cannot make a picture");
	r = guest_qmp_fds(g, "add-fd", set, &writer, 1, NULL, err);
	if (r < 0)
		return r;
	args = json_pack("{s:s, s:s}", "filename", "/dev/fdset/900", "format", format);
	r = guest_qmp(g, "screendump", args, NULL, err);
	fiber_shield(true);
	(void)guest_qmp(g, "remove-fd", set, NULL, NULL);
	fiber_shield(false);
	return r;
}

static int vm_screenshot(struct call *call, struct vmd_error *err)
{
	const char *format = jsonx_str(call->params, "format", "png");
	cleanup_guest struct guest *g = live_guest(call, "take a picture of", err);
	cleanup_json json_t *definition = NULL;
	cleanup_close int fd = -EBADF;
	const json_t *display;
	struct stat st;
	int r, index;

	if (!g)
		return -ESTALE;
	definition = json_loads(g->run->definition, 0, NULL);
	display = json_object_get(definition, "display");
	if (!display || strcmp(json_is_string(display) ? json_string_value(display)
	                                               : jsonx_str(display, "type", "none"),
	                       "none") == 0) {
		(void)error_set(err, ERROR_UNSUPPORTED, "guest '%s' has no display", g->name);
		error_hint(err, "set \"display\": \"vnc\" and start it again");
		return -EOPNOTSUPP;
	}
	fd = memfd_create("screenshot", MFD_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot make a picture");
	r = dump_screen(g, format, fd, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return error_set_errno(err, errno, "cannot read the picture");
	index = call_reply_fd(call, TAKE_FD(fd));
	if (index < 0)
		return error_set_errno(err, -index, "cannot pass the picture on");
	call_reply(call, json_pack("{s:{s:i}, s:s, s:I}", "file", "fd", index, "format", format,
	                           "bytes", (json_int_t)st.st_size));
	return 0;
}

static int vm_send_key(struct call *call, struct vmd_error *err)
{
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	json_t *keys = json_array(), *key;
	cleanup_json json_t *args = NULL;
	size_t i;
	int r = guest_change_begin_unlocked(call, "send keys to", &c, err);

	if (r == 0 && (c.g->state != GUEST_RUNNING || !c.g->run))
		r = guest_refuse(c.g, "send keys to", err);
	json_array_foreach(json_object_get(call->params, "keys"), i, key)
		json_array_append_new(keys, json_pack("{s:s, s:O}", "type", "qcode", "data", key));
	args = json_pack("{s:o, s:I}", "keys", keys, "hold-time",
	                 (json_int_t)jsonx_int(call->params, "hold_ms", 100));
	if (r == 0 && !call->dry_run)
		r = guest_qmp(c.g, "send-key", args, NULL, err);
	return r;
}

static int vm_qmp(struct call *call, struct vmd_error *err)
{
	const char *command = jsonx_str(call->params, "command", "");
	cleanup_guest_change struct guest_change c = GUEST_CHANGE_INIT;
	json_t *reply = NULL;
	int r = guest_change_begin_unlocked(call, "talk QMP to", &c, err);

	if (r == 0 && (!c.g->run || !c.g->run->qmp))
		r = guest_refuse(c.g, "talk QMP to", err);
	if (r == 0 && !call->dry_run)
		r = guest_qmp(c.g, command, json_object_get(call->params, "arguments"), &reply,
		              err);
	if (r < 0)
		return r;
	guest_publish(c.g, "vm.qmp",
	              json_pack("{s:s, s:s}", "command", command, "actor", call->actor));
	call_reply(call, json_pack("{s:o}", "return", reply ? reply : json_object()));
	return 0;
}

enum {
	QUICK = METHOD_FIBER | METHOD_CHANGE
};

const struct method vm_io_methods[] = {
	{ "vm.stats", ROLE_VIEWER, METHOD_FIBER, vm_stats },
	{ "vm.logs", ROLE_VIEWER, METHOD_FIBER, vm_logs },
	{ "vm.screenshot", ROLE_VIEWER, METHOD_FIBER, vm_screenshot },
	{ "vm.send_key", ROLE_OPERATOR, QUICK, vm_send_key },
	{ "vm.qmp", ROLE_ADMIN, QUICK, vm_qmp },
	{ "console.open", ROLE_VIEWER, METHOD_FIBER, console_open },
	{ NULL, 0, 0, NULL },
};
