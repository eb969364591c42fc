/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who may do what: a vmd in system mode, and callers that are other users. Needs root. */
#include "config.h"

#include <criterion/criterion.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "tests/lib/scene.h"

static struct scene s;

/* Groups that every Debian has; vmd knows them by name, the callers by number. */
static const struct role {
	const char *name, *group;
	uid_t uid;
} roles[] = { { "viewer", "games", 60001 },
	      { "operator", "mail", 60002 },
	      { "admin", "sys", 60003 } };

enum {
	VIEWER,
	OPERATOR,
	ADMIN
};

static void setup(void)
{
	if (geteuid() != 0)
		cr_skip_test("only root can be other users");
	scene_init(&s);
	s.system = true;
	scene_config(&s, "[daemon]\nviewer_group = games\noperator_group = mail\n"
	                 "admin_group = sys\n");
	cr_assert_eq(chmod(s.root, 0711), 0);
	scene_start(&s);
}

static void teardown(void)
{
	scene_teardown(&s);
}

TestSuite(roles, .timeout = 300, .init = setup, .fini = teardown);

/* In a child: becomes the user, connects, hands the connection out. */
static void connect_as(uid_t uid, gid_t gid, const char *path, int out)
{
	struct client c;

	if (setgroups(1, &gid) < 0 || setgid(gid) < 0 || setuid(uid) < 0 || !client_open(&c, path))
		_exit(1);
	_exit(fd_send(out, "x", 1, &c.fd, 1) == 1 ? 0 : 1);
}

/* A connection of a user; its credentials are those of the connect(2). */
static void open_as(struct client *c, uid_t uid, const char *group, const char *path)
{
	const struct group *g = getgrnam(group);
	int pair[2], fd = -1, status;
	size_t n = 0;
	char byte;
	pid_t pid;

	cr_assert(g, "there is no group '%s'", group);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0)
		connect_as(uid, g->gr_gid, path, pair[1]);
	close(pair[1]);
	cr_assert_eq(fd_recv(pair[0], &byte, 1, &fd, 1, &n), 1, "user %u cannot connect", uid);
	cr_assert_eq(n, 1);
	close(pair[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	client_of_fd(c, fd);
}

static void open_role(struct client *c, int role, const char *path)
{
	open_as(c, roles[role].uid, roles[role].group, path);
}

static int rank(const char *name)
{
	for (int i = VIEWER; i <= ADMIN; i++)
		if (strcmp(roles[i].name, name) == 0)
			return i;
	cr_assert_fail("'%s' is no role", name);
	return -1;
}

/* Calls a method with nothing, or with a guest that is not there: nothing can happen by it. */
static bool is_denied(struct client *c, const char *method)
{
	bool waits = strcmp(method, "vm.wait") == 0;
	json_t *params = waits ? json_pack("{s:s}", "vm", "nobody") : json_object();
	json_t *reply = call_raw(c, method, params, NULL, 0);
	bool denied =
		json_object_get(reply, "error") && strcmp(refusal_of(reply).kind, "denied") == 0;

	json_decref(reply);
	return denied;
}

static void expect_methods_of(int role, const char *path, int effective)
{
	json_t *contract = call(&s.client, "rpc.discover", NULL), *method, *info;
	struct client c;
	size_t i;

	open_role(&c, role, path);
	info = call(&c, "daemon.info", NULL);
	cr_assert_str_eq(member_str(info, "role"), roles[effective].name);
	cr_assert_eq(member_int(info, "uid"), roles[role].uid);
	json_array_foreach(member(contract, "methods"), i, method) {
		const char *name = member_str(method, "name");

		cr_expect_eq(is_denied(&c, name), rank(member_str(method, "x-role")) > effective,
		             "%s as %s at %s", name, roles[role].name, path);
	}
	cr_assert_gt(i, 30);
	json_decref(info);
	json_decref(contract);
	client_close(&c);
}

Test(roles, every_method_asks_for_the_role_of_the_contract)
{
	for (int role = VIEWER; role <= ADMIN; role++) {
		expect_methods_of(role, s.socket, role);
		expect_methods_of(role, s.ro_socket, VIEWER);
	}
}

Test(roles, users_of_no_group_are_told_and_sent_away)
{
	struct client c;
	json_t *reply;
	bool closed;

	open_as(&c, 60004, "nogroup", s.socket);
	reply = client_read(&c, 10000, NULL);
	cr_assert_str_eq(refusal_of(reply).kind, "denied");
	json_decref(reply);
	cr_assert_null(client_read(&c, 10000, &closed));
	cr_assert(closed);
	client_close(&c);
}

Test(roles, operators_change_what_they_own)
{
	static const char *const changes[] = { "vm.start", "vm.stop",   "vm.kill",   "vm.reset",
		                               "vm.pause", "vm.resume", "vm.delete", "vm.suspend" };
	struct client operator, admin;
	json_t *job;

	guest_create_bare(&s, "roots", NULL);
	open_role(&operator, OPERATOR, s.socket);
	open_role(&admin, ADMIN, s.socket);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		call_refused(&operator, "denied", changes[i], "{s:s}", "vm", "roots");
	call_refused(&operator, "denied", "vm.rename", "{s:s, s:s}", "vm", "roots", "name", "x");
	call_refused(&operator, "denied", "vm.update", "{s:s, s:{s:s}}", "vm", "roots", "set",
	             "memory", "96M");
	call_refused(&operator, "denied", "snapshot.create", "{s:s, s:s}", "vm", "roots",
	             "snapshot", "x");
	call_ok(&operator, "vm.get", "{s:s}", "vm", "roots");
	call_ok(&operator, "vm.create", "{s:{s:s, s:s}}", "definition", "name", "own", "memory",
	        "64M");
	call_refused(&operator, "denied", "vm.create", "{s:{s:s, s:s}}", "definition", "name",
	             "other", "owner", "root");
	call_refused(&operator, "denied", "vm.update", "{s:s, s:{s:s}}", "vm", "own", "set",
	             "owner", "root");
	call_ok(&operator, "vm.update", "{s:s, s:{s:s}}", "vm", "own", "set", "memory", "96M");
	/* Another's job is another's. */
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "roots");
	job = call(&s.client, "vm.stop", "{s:s, s:b, s:i}", "vm", "roots", "wait", 0, "timeout_ms",
	           600000);
	call_refused(&operator, "denied", "job.cancel", "{s:s}", "job", member_str(job, "job.id"));
	call_ok(&admin, "job.cancel", "{s:s}", "job", member_str(job, "job.id"));
	json_decref(job);
	call_ok(&admin, "vm.kill", "{s:s}", "vm", "roots");
	call_ok(&admin, "vm.delete", "{s:s}", "vm", "own");
	client_close(&operator);
	client_close(&admin);
}

/* What vmd would open as root for whoever can name it. */
Test(roles, only_admins_name_files_of_the_host)
{
	static const struct {
		const char *part, *field;
	} parts[] = {
		{ "{\"boot\":{\"kernel\":\"/etc/shadow\"}}", "definition.boot.kernel" },
		{ "{\"boot\":{\"kernel\":{\"fd\":0}}}", "definition.boot.kernel" },
		{ "{\"boot\":{\"iso\":\"/etc/shadow\"}}", "definition.boot.iso" },
		{ "{\"disks\":[{\"path\":\"/etc/shadow\",\"format\":\"raw\"}]}",
		  "definition.disks[0].path" },
		{ "{\"disks\":[{\"path\":\"/x\",\"format\":\"qcow2\",\"backing\":"
		  "{\"path\":\"/etc/shadow\",\"format\":\"raw\"}}]}",
		  "definition.disks[0].backing" },
		{ "{\"shares\":[{\"path\":\"/etc\",\"tag\":\"t\"}]}", "definition.shares[0].path" },
		{ "{\"nics\":[{\"network\":\"tap\",\"ifname\":\"tap0\"}]}",
		  "definition.nics[0].ifname" },
		{ "{\"display\":{\"type\":\"vnc\",\"socket\":\"/etc/x\"}}",
		  "definition.display.socket" },
	};
	const char *path = scene_disk(&s, "disk.img", 1 << 20);
	struct client operator;
	struct refusal r;

	open_role(&operator, OPERATOR, s.socket);
	call_ok(&operator, "vm.create", "{s:{s:s, s:s}}", "definition", "name", "own", "memory",
	        "64M");
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		json_t *part = json_loads(parts[i].part, 0, NULL), *d = json_deep_copy(part);

		json_object_set_new(d, "name", json_string("x"));
		r = call_refused(&operator, "denied", "vm.create", "{s:o}", "definition", d);
		cr_expect_str_eq(r.field, parts[i].field);
		r = call_refused(&operator, "denied", "vm.update", "{s:s, s:o}", "vm", "own", "set",
		                 part);
		cr_expect_str_eq(r.field, parts[i].field);
	}
	/* What an admin has put in stays, and stays as it is. */
	call_ok(&s.client, "vm.update", "{s:s, s:{s:[{s:s, s:s, s:b}]}}", "vm", "own", "set",
	        "disks", "path", path, "format", "raw", "readonly", 1);
	call_ok(&operator, "vm.update", "{s:s, s:{s:s}}", "vm", "own", "set", "memory", "96M");
	call_refused(&operator, "denied", "vm.update", "{s:s, s:{s:[{s:s, s:s}]}}", "vm", "own",
	             "set", "disks", "path", path, "format", "raw");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:[{s:s, s:s}]}}", "vm", "own", "set", "disks",
	        "path", path, "format", "qcow2");
	r = call_refused(&operator, "denied", "vm.update",
	                 "{s:s, s:{s:[{s:s, s:s, s:{s:s, s:s}}]}}", "vm", "own", "set", "disks",
	                 "path", path, "format", "qcow2", "backing", "path", "/etc/shadow",
	                 "format", "raw");
	cr_expect_str_eq(r.field, "definition.disks[0].backing");
	call_ok(&operator, "vm.delete", "{s:s}", "vm", "own");
	client_close(&operator);
}
