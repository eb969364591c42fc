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
#include "daemon/guest-stats.h"
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

static int vm_stats(struct call *call, struct vmd_error *err)
{
	cleanup_guest struct guest *g = live_guest(call, "read the counters of", err);
	json_t *stats = NULL;
	int r = g ? guest_stats(g, &stats, err) : -ESTALE;

	if (r == 0)
		call_reply(call, stats);
	return r;
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
