/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/auth.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "daemon/conf.h"

#define GROUPS_ON_STACK 64

static gid_t find_group(const char *name)
{
	const struct group *g;

	if (!name[0])
		return AUTH_NO_GROUP;
	g = getgrnam(name);
	if (!g) {
		log_debug("There is no group '%s'", name);
		return AUTH_NO_GROUP;
	}
	return g->gr_gid;
}

void auth_groups_load(struct auth_groups *g, const struct config *c)
{
	g->gid[ROLE_VIEWER] = find_group(c->viewer_group);
	g->gid[ROLE_OPERATOR] = find_group(c->operator_group);
	g->gid[ROLE_ADMIN] = find_group(c->admin_group);
}

int auth_role(const struct auth_groups *g, uid_t own_uid, uid_t uid, const gid_t *gids, size_t n,
              enum role *ret)
{
	if (uid == 0 || uid == own_uid) {
		*ret = ROLE_ADMIN;
		return 0;
	}
	for (int role = ROLE_ADMIN; role >= ROLE_VIEWER; role--) {
		if (g->gid[role] == AUTH_NO_GROUP)
			continue;
		for (size_t i = 0; i < n; i++) {
			if (gids[i] != g->gid[role])
				continue;
			*ret = (enum role)role;
			return 0;
		}
	}
	return -EACCES;
}

static int role_by_groups(const struct auth_groups *g, int sock, struct auth_peer *peer)
{
	gid_t on_stack[GROUPS_ON_STACK + 1], *gids = on_stack;
	cleanup_free gid_t *on_heap = NULL;
	socklen_t len = GROUPS_ON_STACK * sizeof(gid_t);

	/* The first slot is for the primary group. */
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, gids + 1, &len) < 0) {
		if (errno != ERANGE)
			return -errno;
		gids = on_heap = malloc(len + sizeof(gid_t));
		if (!gids)
			return -ENOMEM;
		if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, gids + 1, &len) < 0)
			return -errno;
	}
	gids[0] = peer->gid;
	return auth_role(g, geteuid(), peer->uid, gids, 1 + len / sizeof(gid_t), &peer->role);
}

int auth_of_socket(const struct auth_groups *g, int sock, struct auth_peer *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*ret = (struct auth_peer){ .pid = cred.pid, .uid = cred.uid, .gid = cred.gid };
	return role_by_groups(g, sock, ret);
}

const char *role_name(enum role role)
{
	static const char *const names[] = {
		[ROLE_VIEWER] = "viewer", [ROLE_OPERATOR] = "operator", [ROLE_ADMIN] = "admin"
	};

	return names[role];
}
