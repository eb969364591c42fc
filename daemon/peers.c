/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All connections of the daemon: how many there may be, and when each has its turn. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/peer-private.h"
#include "daemon/vmd.h"

static struct uid_count *find_uid(const struct peers *set, uid_t uid)
{
	for (size_t i = 0; i < set->n_uids; i++)
		if (set->uids[i].uid == uid)
			return &set->uids[i];
	return NULL;
}

static int count_uid(struct peers *set, uid_t uid)
{
	struct uid_count *c = find_uid(set, uid);

	if (!c && set->n_uids == set->cap_uids) {
		size_t cap = set->cap_uids ? set->cap_uids * 2 : 8;
		struct uid_count *more = realloc(set->uids, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		set->uids = more;
		set->cap_uids = cap;
	}
	if (!c) {
		c = &set->uids[set->n_uids++];
		*c = (struct uid_count){ .uid = uid };
	}
	c->n++;
	set->n++;
	return 0;
}

void peers_uncount(struct peers *set, uid_t uid)
{
	struct uid_count *c = find_uid(set, uid);

	set->n--;
	if (--c->n == 0)
		*c = set->uids[--set->n_uids];
}

int peers_admit(const struct peers *set, uid_t uid, struct vmd_error *err)
{
	const struct config *c = &set->vmd->config;
	const struct uid_count *count = find_uid(set, uid);

	if (set->n >= c->max_connections)
		return error_set(err, ERROR_NO_SPACE, "there are %zu connections already", set->n);
	if (count && count->n >= c->max_connections_per_uid)
		return error_set(err, ERROR_NO_SPACE, "user %u has %u connections already", uid,
		                 count->n);
	return 0;
}

static void on_prepare(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct peers *set = container_of(w, struct peers, prepare);

	(void)loop;
	(void)revents;
	while (!list_is_empty(&set->dirty)) {
		struct peer *p = list_entry(set->dirty.next, struct peer, dirty);

		list_del(&p->dirty);
		peer_turn(p);
	}
	while (!list_is_empty(&set->dead))
		peer_free(list_entry(set->dead.next, struct peer, link));
}

int peers_add(struct peers *set, int fd, const struct auth_peer *who)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p || count_uid(set, who->uid) < 0) {
		free(p);
		fd_close_many(&fd, 1);
		return -ENOMEM;
	}
	p->vmd = set->vmd;
	p->set = set;
	p->serial = ++set->next_serial;
	p->who = *who;
	p->fd = fd;
	snprintf(p->actor, sizeof(p->actor), "uid:%u", who->uid);
	framer_init(&p->framer, set->vmd->config.max_message_bytes);
	outq_init(&p->out);
	list_init(&p->dirty);
	list_init(&p->subs);
	list_init(&p->link);
	list_add_tail(&set->list, &p->link);
	peer_watch(p);
	return 0;
}

int peers_new(struct vmd *vmd, struct peers **ret)
{
	struct peers *set = calloc(1, sizeof(*set));

	if (!set)
		return -ENOMEM;
	set->vmd = vmd;
	list_init(&set->list);
	list_init(&set->dirty);
	list_init(&set->dead);
	/* After everything else that runs before the loop sleeps, so that its replies go too. */
	ev_prepare_init(&set->prepare, on_prepare);
	ev_set_priority(&set->prepare, EV_MINPRI);
	ev_prepare_start(vmd->loop, &set->prepare);
	ev_unref(vmd->loop);
	*ret = set;
	return 0;
}

void peers_free(struct peers *set)
{
	if (!set)
		return;
	while (!list_is_empty(&set->list)) {
		struct peer *p = list_entry(set->list.next, struct peer, link);

		(void)peer_flush(p);
		peer_close(p);
	}
	while (!list_is_empty(&set->dead))
		peer_free(list_entry(set->dead.next, struct peer, link));
	ev_ref(set->vmd->loop);
	ev_prepare_stop(set->vmd->loop, &set->prepare);
	free(set->uids);
	free(set);
}

size_t peers_count(const struct peers *set)
{
	return set->n;
}
