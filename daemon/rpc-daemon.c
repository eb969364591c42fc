/* SPDX-License-Identifier: GPL-2.0-or-later */
/* rpc.discover, daemon.info, ping, reload. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/contract.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/event.h"
#include "daemon/guest.h"
#include "daemon/reload.h"
#include "daemon/rpc-private.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

static int discover(struct call *call, struct vmd_error *err)
{
	struct strbuf text = STRBUF_INIT;
	size_t len;
	char *data;

	contract_compact(&text);
	len = text.len;
	data = strbuf_steal(&text);
	if (!data)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply_text(call, data, len);
	return 0;
}

static int ping(struct call *call, struct vmd_error *err)
{
	struct strbuf text = STRBUF_INIT;
	size_t len;
	char *data;

	strbuf_printf(&text, "{\"time_us\":%llu}", (unsigned long long)now_wall_us());
	len = text.len;
	data = strbuf_steal(&text);
	if (!data)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply_text(call, data, len);
	return 0;
}

static json_t *limits(const struct config *c)
{
	return json_pack("{s:I, s:i, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "message_bytes",
	                 (json_int_t)c->max_message_bytes, "depth", RPC_MAX_DEPTH, "batch",
	                 (json_int_t)c->max_batch, "fds", PEER_MAX_FDS, "connections",
	                 (json_int_t)c->max_connections, "connections_per_uid",
	                 (json_int_t)c->max_connections_per_uid, "subscriptions",
	                 (json_int_t)c->max_subscriptions, "output_bytes",
	                 (json_int_t)c->max_output_bytes, "message_timeout_ms",
	                 (json_int_t)c->message_timeout_ms, "event_ring_bytes",
	                 (json_int_t)c->event_ring_bytes);
}

static int info(struct call *call, struct vmd_error *err)
{
	static const char *const roles[] = { "viewer", "operator", "admin" };
	const struct vmd *vmd = call->vmd;
	json_t *reply = json_pack(
		"{s:s, s:i, s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:s?, s:I, s:s, s:o}",
		"version", PACKAGE_VERSION, "pid", (int)getpid(), "mode",
		vmd->config.session ? "session" : "system", "started_us", (json_int_t)vmd->start_us,
		"uptime_us", (json_int_t)(now_wall_us() - vmd->start_us), "state_dir",
		vmd->config.state_dir, "runtime_dir", vmd->config.runtime_dir, "socket",
		vmd->config.socket, "guests", (json_int_t)registry_count(vmd->guests), "last_event",
		(json_int_t)event_last_seq(vmd->events), "first_event",
		(json_int_t)event_first_seq(vmd->events), "degraded", store_degraded(vmd->store),
		"uid", (json_int_t)call->uid, "role", roles[call->role], "limits",
		limits(&vmd->config));

	if (!reply)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	call_reply(call, reply);
	return 0;
}

static int reload(struct call *call, struct vmd_error *err)
{
	return vmd_reload(call->vmd, call->dry_run, err);
}

const struct method daemon_methods[] = {
	{ "rpc.discover", ROLE_VIEWER, METHOD_READ, discover },
	{ "daemon.info", ROLE_VIEWER, METHOD_READ, info },
	{ "daemon.ping", ROLE_VIEWER, METHOD_READ, ping },
	{ "daemon.reload", ROLE_ADMIN, METHOD_FIBER | METHOD_CHANGE, reload },
	{ NULL, 0, 0, NULL },
};
