/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmctl against a real vmd and real guests. */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fdio.h"
#include "tests/client/expect.h"
#include "tests/client/fakevmd.h"
#include "tests/lib/scene.h"

static struct scene s;
static struct fake f; /* only the socket: the real one */

static void setup(void)
{
	scene_setup(&s);
	cr_assert_lt(snprintf(f.socket, sizeof(f.socket), "%s", s.socket), (int)sizeof(f.socket));
	vmctl_limit_ms = 180000;
}

static void teardown(void)
{
	scene_teardown(&s);
}

TestSuite(it_vmctl, .timeout = 400, .init = setup, .fini = teardown);

/* Runs vmctl, expects this code and this part of stdout ("": anything). */
#define EXPECT(code, part, ...)                                         \
	do {                                                            \
		struct outcome o_ = vmctl(&f, NULL, __VA_ARGS__, NULL); \
		EXPECT_CODE(o_, code);                                  \
		EXPECT_IN(o_.out, part);                                \
		outcome_free(&o_);                                      \
	} while (0)

static const char *command_line(void)
{
	static char text[256];

	snprintf(text, sizeof(text), "console=ttyS0%s%s", *kit_words() ? " " : "", kit_words());
	return text;
}

static void create(const char *name)
{
	EXPECT(0, "created", "create", name, "--engine", engine_name(), "--kernel",
	       kit_kernel("x86_64"), "--initrd", kit_initrd("x86_64"), "--cmdline", command_line(),
	       "--memory", "256M", "--nic", "user", "--label", "tier=test");
}

Test(it_vmctl, a_guest_from_create_to_delete)
{
	char engine[32];

	create("web");
	EXPECT(0, "web: would be started", "start", "web", "--dry-run");
	EXPECT(0, "web: started", "start", "web");
	EXPECT(0, "web: login", "wait", "web", "--for", "login", "--timeout", "150s");
	EXPECT(0, "running", "list");
	EXPECT(0, "web\n", "ls", "-q", "--label", "tier=test", "--state", "running");
	snprintf(engine, sizeof(engine), "Engine: %s", engine_name());
	EXPECT(0, engine, "status", "web");
	EXPECT(0, "login: root", "logs", "web", "--tail", "9");
	EXPECT(0, "Resident", "stats", "web");
	EXPECT(0, "\"running\":true", "qmp", "web", "query-status");
	EXPECT(4, "", "start", "web");
	EXPECT(0, "web: paused", "pause", "we?");
	EXPECT(0, "web: resumed", "unpause", "--all");
	EXPECT(0, "web: changed", "set", "web", "memory=300M", "labels.more=1");
	EXPECT(0, "At next start", "status", "web");
	EXPECT(0, "snapshot one taken", "snapshot", "create", "web", "one", "-m", "text");
	EXPECT(0, "text", "snapshot", "list", "web");
	EXPECT(0, "snapshot one restored", "snapshot", "restore", "web", "one");
	EXPECT(0, "snapshot one deleted", "snapshot", "delete", "web", "one");
	EXPECT(3, "", "snapshot", "get", "web", "one");
	EXPECT(0, "web: suspended", "suspend", "web");
	EXPECT(0, "web: started", "start", "web");
	EXPECT(0, "web: stopped", "stop", "web", "--timeout", "150s");
	EXPECT(0, "vmd-guest: power off", "logs", "web");
	EXPECT(0, "vm.state web stopping -> stopped", "events", "--since", "0", "--no-follow");
	EXPECT(4, "", "stop", "web");
	EXPECT(0, "web2", "rename", "web", "web2");
	EXPECT(0, "web2: deleted", "delete", "web2");
	EXPECT(3, "", "status", "web2");
	EXPECT(0, "vm.stop", "job", "list");
}

Test(it_vmctl, every_exit_code)
{
	struct outcome o;

	create("web");
	EXPECT(0, "web: started", "start", "web");
	EXPECT(1, "", "set", "web", "memory=lots");
	EXPECT(2, "web: killed", "kill", "web", "nosuch");
	EXPECT(3, "", "kill", "nosuch", "other");
	EXPECT(4, "", "kill", "web");
	EXPECT(5, "", "-s", s.ro_socket, "start", "web");
	EXPECT(0, "web: started", "start", "web");
	EXPECT(6, "", "wait", "web", "--timeout", "10ms");
	EXPECT(6, "", "stop", "web", "--soft", "--timeout", "1ms");
	EXPECT(7, "", "-s", scene_path(&s, "nosuch.sock"), "list");
	EXPECT(64, "", "destroy", "web");
	o = vmctl(&f, NULL, "-o", "json", "status", "web", "nosuch", NULL);
	EXPECT_CODE(o, 2);
	EXPECT_IN(o.out, "[{\"vm\":\"web\",\"result\":{\"name\":\"web\",");
	EXPECT_IN(o.out, "{\"vm\":\"nosuch\",\"error\":{\"code\":-32001,");
	outcome_free(&o);
	EXPECT(0, "web: killed", "kill", "--label", "tier=test");
}

/* What is printed about a change is what vmd does with it. */
Test(it_vmctl, changes_tell_when_they_count)
{
	static const char file[] =
		"{\"name\": \"web\", \"memory\": \"320M\", \"labels\": {\"x\": "
		"\"1\"}, \"boot\": {\"kernel\": \"%s\", \"cmdline\": \"silent\"}}";
	char text[1024];
	struct outcome o;

	create("web");
	EXPECT(0, "memory: 256M -> 300M\n", "set", "web", "memory=300M");
	EXPECT(0, "web: started", "start", "web");
	o = vmctl(&f, NULL, "set", "web", "memory=310M", "labels.x=1", "cpus.model=max", NULL);
	EXPECT_CODE(o, 0);
	EXPECT_IN(o.out, "memory: 300M -> 310M  (at the next start)\n");
	EXPECT_IN(o.out, "labels.x: (default) -> 1  (now)\n");
	outcome_free(&o);
	EXPECT(0, "web\n", "list", "-q", "--label", "x=1");
	EXPECT(0, "At next start: memory,cpus\n", "status", "web");
	snprintf(text, sizeof(text), file, kit_kernel("x86_64"));
	o = vmctl(&f, text, "apply", "-f", "-", "--plan", NULL);
	EXPECT_CODE(o, 0);
	snprintf(text, sizeof(text), "boot.cmdline: %s -> silent  (at the next start)\n",
	         command_line());
	EXPECT_IN(o.out, text);
	EXPECT_IN(o.out, "labels.tier: test -> (default)  (now)\n");
	outcome_free(&o);
	EXPECT(0, "At next start: memory,cpus\n", "status", "web"); /* a plan changes nothing */
	setenv("EDITOR", "sed -i s/310M/330M/", 1);
	EXPECT(0, "memory: 310M -> 330M  (at the next start)\n", "edit", "web");
	EXPECT(0, "\"definition.memory\":\"330M\"", "info", "web", "--fields", "definition.memory");
	setenv("EDITOR", "sed -i s/330M/lots/", 1);
	setenv("TMPDIR", s.root, 1);
	EXPECT(1, "", "edit", "web");
	o = vmctl(&f, NULL, "set", "web", "memroy=1G", NULL);
	EXPECT_CODE(o, 1);
	EXPECT_IN(o.err, "hint: did you mean 'memory'?");
	outcome_free(&o);
}

Test(it_vmctl, run_rm_interrupted_leaves_nothing)
{
	pid_t pid;
	int tty;

	/* A different moment each time: of the create, the start, the console. */
	for (int i = 0; i < 12; i++) {
		pid = vmctl_on_tty(&f, &tty, "run", "try", "--rm", "--engine", engine_name(),
		                   "--kernel", kit_kernel("x86_64"), "--memory", "256M", NULL);
		if (i > 7)
			while (!scene_find_process(&s, "vmd-shim"))
				usleep(1000);
		usleep((useconds_t)(i * i * 500));
		cr_assert_eq(kill(pid, i % 2 ? SIGINT : SIGTERM), 0);
		(void)wait_exit(pid);
		close(tty);
		EXPECT(3, "", "status", "try");
	}
}

Test(it_vmctl, run_and_leave_the_console)
{
	static char buf[65536];
	pid_t pid;
	int tty;

	pid = vmctl_on_tty(&f, &tty, "run", "try", "--rm", "--engine", engine_name(), "--kernel",
	                   kit_kernel("x86_64"), "--initrd", kit_initrd("x86_64"), "--cmdline",
	                   command_line(), "--memory", "256M", NULL);
	tty_expect(tty, "login: root", buf, sizeof(buf));
	cr_assert_eq(write(tty, "echo sum-$((40+2))\r", 19), 19);
	tty_expect(tty, "sum-42", buf, sizeof(buf));
	cr_assert_eq(write(tty, "\x1d", 1), 1);
	tty_expect(tty, "try: deleted", buf, sizeof(buf));
	cr_assert_eq(wait_exit(pid), 0);
	close(tty);
	EXPECT(3, "", "status", "try");
}

Test(it_vmctl, a_file_is_the_truth)
{
	static const char text[] =
		"[{\"name\": \"a\", \"memory\": \"64M\", \"nics\": [{\"network\": "
		"\"none\"}]}, {\"name\": \"b\", \"disks\": [{\"path\": \"d.img\", "
		"\"format\": \"raw\"}]}]";
	char path[256], disk[256];
	const char *mac;
	json_t *before, *after;
	int fd;

	snprintf(path, sizeof(path), "%s", scene_path(&s, "vms.json"));
	snprintf(disk, sizeof(disk), "%s", scene_path(&s, "d.img"));
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
	EXPECT(0, "a: would be created", "apply", "-f", path, "--plan");
	EXPECT(3, "", "info", "a");
	EXPECT(0, "b: created", "apply", "-f", path);
	EXPECT(0, disk, "info", "b", "--fields", "definition.disks");
	EXPECT(0, "a: up to date", "apply", "-f", path);
	before = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	mac = member_str(before, "definition.nics.0.mac");
	EXPECT(0, "a: changed", "set", "a", "memory=96M", "labels.x=1", "nics.0.model=e1000");
	EXPECT(0, "memory: 96M -> 64M", "apply", "-f", path);
	after = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_str_eq(member_str(after, "definition.memory"), "64M");
	cr_assert_str_eq(member_str(after, "definition.nics.0.mac"), mac);
	cr_assert_null(member(after, "definition.labels.x"));
	json_decref(before);
	json_decref(after);
	EXPECT(0, "b: deleted", "delete", "a", "b");
}

Test(it_vmctl, wrong_words_are_refused_with_the_field)
{
	struct outcome o = vmctl(&f, NULL, "create", "x", "--arch", "z80", NULL);

	EXPECT_CODE(o, 1);
	EXPECT_IN(o.err, "definition.arch");
	outcome_free(&o);
	o = vmctl(&f, "{\"name\": \"x\", \"memroy\": \"1G\"}", "validate", "-f", "-", NULL);
	EXPECT_CODE(o, 1);
	EXPECT_IN(o.err, "memroy");
	EXPECT_IN(o.err, "hint: ");
	outcome_free(&o);
	o = vmctl(&f, NULL, "call", "vm.get", "vm=nope", NULL);
	EXPECT_CODE(o, 3);
	EXPECT_IN(o.out, "\"kind\":\"not_found\"");
	outcome_free(&o);
	EXPECT(0, "ok", "host", "doctor");
	EXPECT(0, "\"role\":\"admin\"", "daemon", "info", "-o", "json");
	EXPECT(0, "vmd " PACKAGE_VERSION, "version");
}

/* A user without a daemon: vmctl starts one, once, and the next vmctl finds it. */
Test(it_vmctl, session_daemon_on_demand)
{
	char command[2048];

	if (geteuid() != 0)
		cr_skip_test("needs root to become another user");
	snprintf(
		command, sizeof(command),
		"build=%s; cd %s && chmod 711 . && mkdir -p user/run && cp $build/vmctl $build/vmd user && "
		"chmod 755 user/vmctl user/vmd && chmod 700 user/run && chown -R 65534 user && "
		"cd user && env -u VMD_SOCKET VMD_TEST_ROOT=%s HOME=$PWD XDG_RUNTIME_DIR=$PWD/run "
		"XDG_STATE_HOME=$PWD/state XDG_CONFIG_HOME=$PWD/config setpriv --reuid 65534 "
		"--regid 65534 --clear-groups sh -c '"
		"(./vmctl create one & ./vmctl create two & wait) > /dev/null; "
		"test \"$(./vmctl list -q | sort | tr -d \"\\n\")\" = onetwo || exit 1; "
		"./vmctl -o json daemon info | grep -q \"\\\"mode\\\":\\\"session\\\"\" || exit 2; "
		"test $(grep -c Ready state/vmd/vmd.log) = 1 || exit 3; "
		"kill $(./vmctl call daemon.info --fields pid | tr -dc 0-9)'",
		test_build(""), s.root, s.root);
	cr_assert_eq(WEXITSTATUS(system(command)), 0);
	scene_wait_processes(&s, 0, 20000);
}
