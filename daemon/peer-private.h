/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Between peer.c (one connection) and peers.c (all of them). */
#include "daemon/peer.h"

#define PEER_READ_BYTES 16384

/* Connections of one user. */
struct uid_count {
	uid_t uid;
	unsigned n;
};

struct peers {
	struct vmd *vmd;
	struct list list, dirty, dead;
	size_t n;
	uint64_t next_serial;
	struct uid_count *uids;
	size_t n_uids, cap_uids;
	ev_prepare prepare;
	uint64_t last_drop_us;
	char scratch[PEER_READ_BYTES];
};

/* Starts watching a new connection. */
void peer_watch(struct peer *p);
/* Writes what waits; false: the connection was ended. */
bool peer_flush(struct peer *p);
/* What a connection gets before the loop sleeps, after it was read from or touched. */
void peer_turn(struct peer *p);
/* Of a closed one. */
void peer_free(struct peer *p);
/* A connection of uid has ended. */
void peers_uncount(struct peers *set, uid_t uid);
