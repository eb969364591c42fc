/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fsutil.h"
#include "common/jsonx.h"
#include "daemon/listener.h"
#include "daemon/peer.h"
#include "tests/unit/rpc-fixture.h"

static char dir[64];

static void setup(void)
{
	strcpy(dir, "/tmp/vmd-test-listener-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	rpc_setup();
	vmd.config.session = true;
	snprintf(vmd.config.runtime_dir, sizeof(vmd.config.runtime_dir), "%s", dir);
}

static void teardown(void)
{
	listener_free(vmd.listener);
	rpc_teardown();
	(void)fs_remove_tree(AT_FDCWD, dir);
}

TestSuite(listener, .timeout = 20, .init = setup, .fini = teardown);

#define CALL(method) \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":{\"vm\":\"web\"}}"

static void address(struct sockaddr_un *addr, const char *name)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/%s", dir, name);
}

static int client(const char *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;

	address(&addr, name);
	cr_assert_geq(fd, 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0, "%s", strerror(errno));
	return fd;
}

static int listen_at(const char *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr;

	address(&addr, name);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(fd, 5), 0);
	return fd;
}

static void expect_refused(enum error_kind kind)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_lt(listener_new(&vmd, &err), 0);
	cr_assert_eq(err.kind, kind, "%s", err.message);
	cr_assert_null(vmd.listener);
}

static void start(void)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(listener_new(&vmd, &err), 0, "%s", err.message);
}

Test(listener, both_sockets_serve)
{
	struct stat st;
	int fd;

	start();
	cr_assert_eq(stat(vmd.config.socket, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	fd = client("vmd.sock");
	json_decref(ask(fd, CALL("vm.reset")));
	cr_assert_str_eq(handler_trace, "reset:web done:web ");
	fd = client("vmd-ro.sock");
	json_decref(ask(fd, CALL("vm.get")));
	expect_kind(ask(fd, CALL("vm.reset")), "denied");
	cr_assert_str_eq(handler_trace, "reset:web done:web ");
	listener_free(vmd.listener);
	cr_assert_lt(stat(vmd.config.socket, &st), 0, "own sockets are removed");
}

Test(listener, mode_by_group)
{
	struct stat st;

	vmd.config.session = false;
	strcpy(vmd.config.viewer_group, "no-such-group");
	strcpy(vmd.config.operator_group, "");
	strcpy(vmd.config.admin_group, "tty");
	start();
	cr_assert_eq(stat(vmd.config.socket, &st), 0);
	cr_assert_eq(st.st_mode & 0777, geteuid() == 0 ? 0660u : 0600u);
	if (geteuid() == 0)
		cr_assert_neq(st.st_gid, 0u);
	strcpy(vmd.config.viewer_group, "mail");
	listener_reload(&vmd);
	cr_assert_eq(stat(vmd.config.socket, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0666u);
}

Test(listener, a_directory_that_others_can_write_to_is_refused)
{
	cr_assert_eq(chmod(dir, 0777), 0);
	expect_refused(ERROR_DENIED);
	cr_assert_eq(chmod(dir, 0770), 0);
	expect_refused(ERROR_DENIED);
	cr_assert_eq(chmod(dir, 01777), 0);
	expect_refused(ERROR_DENIED);
	cr_assert_eq(chmod(dir, 0755), 0);
	start();
}

Test(listener, a_directory_of_another_user_is_refused)
{
	if (geteuid() != 0)
		cr_skip_test("needs root to give a directory away");
	cr_assert_eq(chown(dir, 12345, 12345), 0);
	expect_refused(ERROR_DENIED);
}

Test(listener, what_is_in_the_way)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/vmd.sock", dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	expect_refused(ERROR_EXISTS);
	cr_assert_eq(access(path, F_OK), 0, "a file of somebody else's was removed");
	cr_assert_eq(unlink(path), 0);

	fd = listen_at("vmd.sock");
	expect_refused(ERROR_BUSY);
	close(fd); /* now it is a dead one */
	start();
	json_decref(ask(client("vmd.sock"), CALL("vm.get")));
}

Test(listener, too_long_a_path)
{
	memset(vmd.config.socket, 'x', 200);
	expect_refused(ERROR_INVALID);
}

Test(listener, over_the_limit_connections_are_told)
{
	int one, two;
	char *all;

	start();
	vmd.config.max_connections_per_uid = 1;
	one = client("vmd.sock");
	json_decref(ask(one, CALL("vm.get")));
	two = client("vmd.sock");
	all = read_to_end(two);
	cr_assert(strstr(all, "no_space"), "%s", all);
	free(all);
	json_decref(ask(one, CALL("vm.get")));
	close(one);
	turn();
	turn();
	two = client("vmd.sock");
	json_decref(ask(two, CALL("vm.get")));
}

Test(listener, a_thousand_clients_at_once)
{
	struct rlimit limit = { 4096, 4096 };
	int fds[1000];

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	start();
	for (size_t i = 0; i < 1000; i++)
		fds[i] = client("vmd.sock");
	for (size_t i = 0; i < 1000; i++)
		json_decref(ask(fds[i], CALL("vm.get")));
	cr_assert_eq(peers_count(rpc_peers(vmd.rpc)), 1000u);
	for (size_t i = 0; i < 1000; i++)
		close(fds[i]);
	while (peers_count(rpc_peers(vmd.rpc)))
		turn();
}

/* The clients are another process, since it is our descriptors that run out. */
static pid_t run_clients(size_t n)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		int told = 0;

		for (size_t i = 0; i < n; i++) {
			int fd = client("vmd.sock");
			char text[512];
			ssize_t len;

			(void)fcntl(fd, F_SETFL, 0);
			len = read(fd, text, sizeof(text) - 1);
			text[MAX_OF(len, 0)] = '\0';
			told += strstr(text, "no_space") != NULL;
		}
		_exit(told);
	}
	return pid;
}

Test(listener, out_of_descriptors)
{
	int fd, status = 0, dup_fd, fds[64];
	struct rlimit limit;
	unsigned n = 0;
	pid_t pid;

	start();
	fd = client("vmd.sock");
	json_decref(ask(fd, CALL("vm.get")));
	pid = run_clients(5);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	dup_fd = dup(0);
	limit.rlim_cur = (rlim_t)dup_fd + 8;
	close(dup_fd);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (n < ARRAY_SIZE(fds) && (fds[n] = dup(0)) >= 0)
		n++;
	cr_assert_lt(n, ARRAY_SIZE(fds));
	while (waitpid(pid, &status, WNOHANG) == 0)
		ev_run(vmd.loop, EVRUN_ONCE | EVRUN_NOWAIT);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 5, "%d were told", WEXITSTATUS(status));
	json_decref(ask(fd, CALL("vm.get"))); /* who was there is served on */
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
	json_decref(ask(client("vmd.sock"), CALL("vm.get")));
}

/* In a child, since the descriptors are 3 and 4, which are the test runner's here. */
static void with_passed_sockets(const char *names, const char *read_only, const char *full)
{
	int one = fcntl(listen_at(read_only), F_DUPFD, 10);
	int two = fcntl(listen_at(full), F_DUPFD, 10);
	char pid[16], own[sizeof(vmd.config.socket)];
	struct sockaddr_un addr;

	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "2", 1);
	setenv("LISTEN_FDNAMES", names, 1);
	vmd.loop = NULL;
	if (dup2(one, 3) != 3 || dup2(two, 4) != 4)
		_exit(1);
	rpc_setup();
	snprintf(own, sizeof(own), "%s/own.sock", dir);
	memcpy(vmd.config.socket, own, sizeof(own));
	if (listener_new(&vmd, NULL) < 0)
		_exit(2);
	/* None of its own, and the one that is told is the one that was passed. */
	if (getenv("LISTEN_FDS") || strcmp(vmd.config.socket, own) == 0)
		_exit(3);
	address(&addr, full);
	if (strcmp(vmd.config.socket, addr.sun_path) != 0 || access(own, F_OK) == 0)
		_exit(7);
	if (json_object_get(ask(client(read_only), CALL("vm.reset")), "result"))
		_exit(4);
	if (!json_object_get(ask(client(full), CALL("vm.reset")), "result"))
		_exit(5);
	listener_free(vmd.listener);
	if (access(dir, F_OK) < 0)
		_exit(6);
	_exit(0);
}

static void expect_passed(const char *names, const char *read_only, const char *full)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		with_passed_sockets(names, read_only, full);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 0, "step %d", WEXITSTATUS(status));
}

Test(listener, sockets_of_the_service_manager)
{
	expect_passed("vmd-ro.socket:vmd.socket", "a", "b");
}

/* As from one unit with two ListenStream=: both have the name of the unit. */
Test(listener, read_only_by_its_path)
{
	expect_passed("vmd.socket:vmd.socket", "vmd-ro.sock", "vmd.sock");
}
