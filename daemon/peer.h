/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * API connections: bytes in to whole messages for rpc.c, replies and events out. Limits stand
 * here: message size and time, bytes that wait for a reader, calls in flight, connections.
 */
#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/fdio.h"
#include "common/list.h"
#include "common/strbuf.h"
#include "daemon/auth.h"
#include "daemon/frame.h"
#include "daemon/outq.h"

struct vmd;
struct peers; /* all connections of a daemon */

#define PEER_MAX_FDS   FDIO_MAX_FDS
#define PEER_MAX_CALLS 256 /* calls in flight of one connection; then it is not read from */

/* One connection. Fields are read-only to all but peer.c where not said otherwise. */
struct peer {
	struct list link;  /* in peers */
	struct list dirty; /* has output to flush, or may be unpaused */
	struct vmd *vmd;
	struct peers *set;
	uint64_t serial; /* never used twice */
	struct auth_peer who;
	char actor[32]; /* "uid:1000" */
	int fd;
	ev_io io;
	ev_timer timer;
	enum {
		PEER_TIMER_NONE,
		PEER_TIMER_MESSAGE, /* a begun message must be complete */
		PEER_TIMER_CLOSE,   /* the last reply must be taken */
		PEER_TIMER_HALF     /* the client sends no more: is it still there? */
	} timer_use;
	struct framer framer;
	struct strbuf in;      /* a begun message, and while paused all that came after it */
	int fds[PEER_MAX_FDS]; /* came with a message that is not complete yet */
	bool too_many_fds;     /* more came than a message may carry; those are closed */
	size_t n_fds, fd_mark; /* they belong to the message that holds byte fd_mark - 1 of in */
	struct outq out;
	unsigned n_calls; /* in flight; kept by rpc.c through peer_call_begin/end */
	struct list subs; /* struct peer_sub; kept by rpc-event.c */
	unsigned n_subs;
	uint64_t next_sub;
	bool eof;        /* the client sends no more */
	bool http_close; /* HTTP: the request at hand is the last one */
	bool last_words; /* closes once out is empty */
	bool held;       /* in holds messages that wait for the end of a pause */
	bool closed;
};

int peers_new(struct vmd *vmd, struct peers **ret);
/* Closes every connection. */
void peers_free(struct peers *set);
size_t peers_count(const struct peers *set);
/*
 * 0 when one more connection of uid is within the limits; else ERROR_NO_SPACE with err. Takes
 * nothing.
 */
int peers_admit(const struct peers *set, uid_t uid, struct vmd_error *err) MUST_CHECK;
/* A connection over the socket fd, which is taken (also on failure). 0 or -ENOMEM. */
int peers_add(struct peers *set, int fd, const struct auth_peer *who) MUST_CHECK;

/* Sends one message of len bytes: head, then exactly len bytes by outq_append*, then tail. */
void peer_message_head(struct peer *p, size_t len, int http_status);
void peer_message_tail(struct peer *p);
/* HTTP only: an answer without a body. */
void peer_no_content(struct peer *p);
/* A call is in flight (HTTP: the next request waits for its end). */
void peer_call_begin(struct peer *p);
void peer_call_end(struct peer *p);
/* True when p can't be sent events (HTTP). */
bool peer_is_http(const struct peer *p);
/* True while the reader is behind so far that events should wait. */
bool peer_is_full(const struct peer *p);
/* Something about p may have changed: it is looked at before the loop sleeps. */
void peer_touch(struct peer *p);
/* Ends the connection at once; it is freed later, from the loop. */
void peer_close(struct peer *p);
