/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * events.subscribe, events.unsubscribe. A subscription is closed until its reply is in the output,
 * so that no event stands before it; a connection that is behind takes no more events until it has
 * drained, and what it misses meanwhile comes as a gap.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/jsonx.h"
#include "daemon/event.h"
#include "daemon/rpc-private.h"
#include "daemon/vmd.h"

struct peer_sub {
	struct list link; /* in peer->subs */
	struct peer *peer;
	struct event_sub *sub;
	uint64_t id;
	bool stalled; /* deliver refused; to be resumed */
	bool open;
};

static bool deliver(void *userdata, const char *text, size_t len)
{
	static const char head[] = "{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":";
	struct peer_sub *s = userdata;
	struct peer *p = s->peer;

	if (!s->open || peer_is_full(p)) {
		s->stalled = true;
		peer_touch(p);
		return false;
	}
	peer_message_head(p, sizeof(head) - 1 + len + 1, 200);
	outq_append(&p->out, head, sizeof(head) - 1);
	outq_append(&p->out, text, len);
	outq_append(&p->out, "}", 1);
	peer_message_tail(p);
	return true;
}

void rpc_resume_events(struct peer *p)
{
	struct peer_sub *s;

	list_for_each(s, &p->subs, link) {
		if (peer_is_full(p))
			return;
		s->open = true;
		if (!s->stalled)
			continue;
		s->stalled = false;
		event_sub_resume(s->sub);
	}
}

static void end_sub(struct peer_sub *s)
{
	event_unsubscribe(s->sub);
	list_del(&s->link);
	s->peer->n_subs--;
	free(s);
}

void rpc_end_events(struct peer *p)
{
	while (!list_is_empty(&p->subs))
		end_sub(list_entry(p->subs.next, struct peer_sub, link));
}

static int check(const struct call *call, struct vmd_error *err)
{
	unsigned max = call->vmd->config.max_subscriptions;

	if (peer_is_http(call->peer))
		return error_set(err, ERROR_UNSUPPORTED,
		                 "events don't pass over HTTP, use a plain connection");
	if (call->peer->n_subs < max)
		return 0;
	(void)error_set(err, ERROR_NO_SPACE, "this connection has %u subscriptions already", max);
	error_hint(err, "end one with events.unsubscribe, or open another connection");
	return -ENOSPC;
}

static int subscribe(struct call *call, struct vmd_error *err)
{
	int64_t since = jsonx_int(call->params, "since", -1);
	uint64_t seq = event_last_seq(call->vmd->events);
	struct peer_sub *s;
	int r = check(call, err);

	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	s->peer = call->peer;
	s->id = ++call->peer->next_sub;
	r = event_subscribe(call->vmd->events, json_object_get(call->params, "filter"),
	                    since < 0 ? UINT64_MAX : (uint64_t)since, deliver, s, &s->sub);
	if (r < 0) {
		free(s);
		return error_set_errno(err, -r, "cannot subscribe");
	}
	list_add_tail(&call->peer->subs, &s->link);
	call->peer->n_subs++;
	call_reply(call, json_pack("{s:I, s:I}", "seq", (json_int_t)seq, "subscription",
	                           (json_int_t)s->id));
	peer_touch(call->peer);
	return 0;
}

static int unsubscribe(struct call *call, struct vmd_error *err)
{
	int64_t id = jsonx_int(call->params, "subscription", -1);
	struct peer_sub *s;

	if (id < 0) {
		rpc_end_events(call->peer);
		return 0;
	}
	list_for_each(s, &call->peer->subs, link) {
		if (s->id != (uint64_t)id)
			continue;
		end_sub(s);
		return 0;
	}
	return error_set(err, ERROR_NOT_FOUND, "this connection has no subscription %" PRId64, id);
}

const struct method event_methods[] = {
	{ "events.subscribe", ROLE_VIEWER, METHOD_READ, subscribe },
	{ "events.unsubscribe", ROLE_VIEWER, METHOD_READ, unsubscribe },
	{ NULL, 0, 0, NULL },
};
