/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <grp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/auth.h"
#include "daemon/conf.h"

TestSuite(auth, .timeout = 10);

static const struct auth_groups groups = { .gid = { 100, 200, 300 } };

Test(auth, root_and_own_user_are_admin)
{
	enum role role = ROLE_VIEWER;

	cr_assert_eq(auth_role(&groups, 1000, 0, NULL, 0, &role), 0);
	cr_assert_eq(role, ROLE_ADMIN);
	role = ROLE_VIEWER;
	cr_assert_eq(auth_role(&groups, 1000, 1000, NULL, 0, &role), 0);
	cr_assert_eq(role, ROLE_ADMIN);
}

Test(auth, groups_give_the_highest_role)
{
	static const gid_t operator_too[] = { 5, 100, 200, 7 }, viewer[] = { 100 },
			   admin[] = { 300, 100 }, none[] = { 1, 2, 3 };
	enum role role;

	cr_assert_eq(auth_role(&groups, 0, 1000, operator_too, 4, &role), 0);
	cr_assert_eq(role, ROLE_OPERATOR);
	cr_assert_eq(auth_role(&groups, 0, 1000, viewer, 1, &role), 0);
	cr_assert_eq(role, ROLE_VIEWER);
	cr_assert_eq(auth_role(&groups, 0, 1000, admin, 2, &role), 0);
	cr_assert_eq(role, ROLE_ADMIN);
	cr_assert_eq(auth_role(&groups, 0, 1000, none, 3, &role), -EACCES);
	cr_assert_eq(auth_role(&groups, 0, 1000, none, 0, &role), -EACCES);
}

Test(auth, a_missing_group_gives_nothing)
{
	const struct auth_groups missing = { .gid = { AUTH_NO_GROUP, AUTH_NO_GROUP,
		                                      AUTH_NO_GROUP } };
	static const gid_t odd[] = { AUTH_NO_GROUP };
	enum role role;

	cr_assert_eq(auth_role(&missing, 0, 1000, odd, 1, &role), -EACCES);
}

Test(auth, groups_are_looked_up_by_name)
{
	struct config c = { .viewer_group = "",
		            .operator_group = "root",
		            .admin_group = "no-such-group-here" };
	struct auth_groups g;

	auth_groups_load(&g, &c);
	cr_assert_eq(g.gid[ROLE_VIEWER], AUTH_NO_GROUP);
	cr_assert_eq(g.gid[ROLE_OPERATOR], 0u);
	cr_assert_eq(g.gid[ROLE_ADMIN], AUTH_NO_GROUP);
}

Test(auth, of_socket_is_us)
{
	struct auth_peer who;
	int s[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	cr_assert_eq(auth_of_socket(&groups, s[0], &who), 0);
	cr_assert_eq(who.uid, geteuid());
	cr_assert_eq(who.pid, getpid());
	cr_assert_eq(who.role, ROLE_ADMIN);
}

/* Another user's socket, with many groups, one of which gives the role. */
Test(auth, of_socket_of_another_user)
{
	struct auth_peer who;
	gid_t many[200];
	int s[2];

	if (geteuid() != 0)
		cr_skip_test("needs root to become another user");
	for (size_t i = 0; i < 200; i++)
		many[i] = (gid_t)(1000 + i);
	many[150] = 200;
	/* The kernel notes who made the pair, so the other user makes it. */
	cr_assert_eq(setgroups(200, many), 0);
	cr_assert_eq(setegid(12345), 0);
	cr_assert_eq(seteuid(12345), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	cr_assert_eq(seteuid(0), 0);
	cr_assert_eq(auth_of_socket(&groups, s[0], &who), 0);
	cr_assert_eq(who.uid, 12345u);
	cr_assert_eq(who.role, ROLE_OPERATOR);
}
