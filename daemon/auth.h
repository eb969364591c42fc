/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Who is calling, and what he may do. uid 0 and vmd's own uid are admin; the groups of vmd.conf
 * give the other roles; everybody else has none. Taken once, when the connection is accepted.
 */
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/macros.h"
#include "daemon/rpc.h"

struct config;

#define AUTH_NO_GROUP ((gid_t)-1)

/* The group numbers behind vmd.conf's names, indexed by role. */
struct auth_groups {
	gid_t gid[ROLE_ADMIN + 1]; /* AUTH_NO_GROUP: no such group */
};

/*
 * Looks up the names of c. A name that is empty or has no group gives its role to nobody (logged
 * when set but missing). May block (NSS): at start and on reload only.
 */
void auth_groups_load(struct auth_groups *g, const struct config *c);

struct auth_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	enum role role;
};

/* Highest role of a user with these groups, or -EACCES when it has none. Pure. */
int auth_role(const struct auth_groups *g, uid_t own_uid, uid_t uid, const gid_t *gids, size_t n,
              enum role *ret) MUST_CHECK;
/*
 * The process at the other end of a connected Unix socket, as it was when it connected
 * (SO_PEERCRED, SO_PEERGROUPS). Does not block. 0, -EACCES (no role; the rest of *ret is set), or
 * other negative errno.
 */
int auth_of_socket(const struct auth_groups *g, int sock, struct auth_peer *ret) MUST_CHECK;
const char *role_name(enum role role);
