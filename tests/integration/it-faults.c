/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that die or stop, full disks, missing programs: what is told afterwards is true. */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "tests/lib/scene.h"

static struct scene s;

static void setup(void)
{
	scene_setup(&s);
	call_ok(&s.client, "events.subscribe", NULL);
}

static void teardown(void)
{
	scene_teardown(&s);
}

TestSuite(faults, .timeout = 300, .init = setup, .fini = teardown);

static pid_t engine_pid(const char *name)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", name);
	pid_t pid = (pid_t)member_int(info, "pid");

	json_decref(info);
	return pid;
}

static void start_bare(const char *name)
{
	guest_create_bare(&s, name, NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", name);
}

/* The same guest, in the same process, with its console, after the daemon was away. */
static void expect_same_guest(pid_t pid, int console)
{
	guest_expect_state(&s, "a", "running");
	cr_assert_eq(engine_pid("a"), pid);
	/* The stream that was open all the time, and a new one. */
	cr_assert_str_eq(console_run(console, "echo $word"), "kept");
	close(console);
	console = console_open(&s, "a", true);
	console_expect(console, "login:", 10000);
	cr_assert_str_eq(console_run(console, "echo $word"), "kept");
	close(console);
}

Test(faults, a_killed_daemon_finds_its_guest_again)
{
	int console;
	pid_t pid;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	console_run(console, "word=kept");
	pid = engine_pid("a");
	for (int i = 0; i < 3; i++) {
		scene_kill_daemon(&s);
		/* Nobody but the guest's own processes is needed for its console. */
		cr_assert_str_eq(console_run(console, "echo alone"), "alone");
		scene_start(&s);
	}
	expect_same_guest(pid, console);
	call_ok(&s.client, "vm.stop", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "stopped");
}

Test(faults, a_stopped_daemon_leaves_guests_running)
{
	int console;
	pid_t pid;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	console_run(console, "word=kept");
	pid = engine_pid("a");
	scene_stop(&s);
	cr_assert_eq(kill(pid, 0), 0);
	scene_start(&s);
	expect_same_guest(pid, console);
}

Test(faults, an_exit_while_the_daemon_was_away_is_told)
{
	json_t *info;
	pid_t pid;

	start_bare("a");
	pid = engine_pid("a");
	scene_kill_daemon(&s);
	cr_assert_eq(kill(pid, SIGSEGV), 0);
	scene_wait_processes(&s, 1, 10000); /* the shim keeps the record */
	scene_start(&s);
	call_ok(&s.client, "vm.wait", "{s:s, s:s}", "vm", "a", "for", "stopped");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_str_eq(member_str(info, "state"), "failed");
	cr_assert_eq(member_int(info, "exit.signal"), SIGSEGV);
	json_decref(info);
	scene_wait_processes(&s, 0, 10000);
}

Test(faults, a_killed_engine_is_a_failed_guest)
{
	json_t *info, *event;

	start_bare("a");
	start_bare("b");
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	event = event_wait(&s.client, "vm.state", "a", "state", "failed", 10000);
	cr_assert(member_str(event, "data.cause")[0]);
	json_decref(event);
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_eq(member_int(info, "exit.signal"), SIGKILL);
	cr_assert(json_is_null(member(info, "pid")));
	json_decref(info);
	guest_expect_state(&s, "b", "running");
	scene_wait_processes(&s, 2, 10000);
	/* It can be started again. */
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
}

Test(faults, a_killed_shim_is_never_told_as_running)
{
	const char *state;
	pid_t shim;

	start_bare("a");
	shim = scene_find_process(&s, "vmd-shim");
	cr_assert_gt(shim, 0);
	cr_assert_eq(kill(shim, SIGKILL), 0);
	/* The engine ends with its shim, or is out of reach; in no case a second one may start. */
	json_decref(call_raw(&s.client, "vm.wait",
	                     json_pack("{s:s, s:i}", "vm", "a", "timeout_ms", 20000), NULL, 0));
	state = guest_state(&s, "a");
	if (strcmp(state, "unresponsive") == 0)
		call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	scene_wait_processes(&s, 0, 20000);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
}

Test(faults, a_stopped_engine_is_unresponsive_and_comes_back)
{
	pid_t pid;

	scene_config(&s, "[guest]\nqmp_timeout = 1s\n");
	call_ok(&s.client, "daemon.reload", NULL);
	start_bare("a");
	pid = engine_pid("a");
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	call_refused(&s.client, "timeout", "vm.pause", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "unresponsive");
	/* Not stopped: it lives, and a second one must not be started. */
	call_refused(&s.client, "wrong_state", "vm.start", "{s:s}", "vm", "a");
	cr_assert_eq(kill(pid, SIGCONT), 0);
	json_decref(call(&s.client, "vm.wait", "{s:s, s:s, s:i}", "vm", "a", "for", "running",
	                 "timeout_ms", 30000));
	/* And the hard end works on a stopped one. */
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "stopped");
}

Test(faults, a_second_daemon_changes_nothing)
{
	const char *output;

	start_bare("a");
	cr_assert_neq(scene_start_refused(&s, &output), 0);
	cr_assert(strstr(output, "state"), "it said: %s", output);
	call_ok(&s.client, "daemon.ping", NULL);
	guest_expect_state(&s, "a", "running");
}

Test(faults, a_guest_runs_once_even_with_two_daemons)
{
	struct scene second = s;
	json_t *info, *params;
	const char *uuid;
	char disk[256];

	snprintf(disk, sizeof(disk), "%s", scene_disk(&s, "shared.img", 1 << 20));
	guest_create_bare(&s, "a",
	                  json_pack("{s:[{s:s, s:s}]}", "disks", "path", disk, "format", "raw"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	uuid = member_str(info, "uuid");
	snprintf(second.state_dir, sizeof(second.state_dir), "%.60s/state2", s.root);
	snprintf(second.runtime_dir, sizeof(second.runtime_dir), "%.60s/run2", s.root);
	snprintf(second.socket, sizeof(second.socket), "%.60s/run2/vmd.sock", s.root);
	scene_start(&second);
	params = json_pack("{s:s, s:s, s:o, s:[{s:s, s:s}]}", "name", "a", "uuid", uuid, "boot",
	                   engine_bare_boot(), "disks", "path", disk, "format", "raw");
	call_ok(&second.client, "vm.create", "{s:o}", "definition", engine_define(params));
	call_refused(&second.client, "busy", "vm.start", "{s:s}", "vm", "a");
	scene_stop(&second);
	json_decref(info);
	guest_expect_state(&s, "a", "running");
}

Test(faults, qemu_that_is_missing_is_told)
{
	struct refusal r;
	json_t *info;
	const char *reason;
	json_t *reply, *engine;
	size_t i;

	scene_stop(&s);
	s.program_path = scene_path(&s, "empty-path");
	cr_assert_eq(mkdir(s.program_path, 0700), 0);
	scene_start(&s);
	info = call(&s.client, "host.info", NULL);
	json_array_foreach(member(info, "engines"), i, engine) {
		if (strcmp(member_str(engine, "name"), "qemu") != 0)
			continue;
		reason = member_str(engine, "reason");
		cr_expect(json_is_false(member(engine, "available")), "%s", reason);
	}
	json_decref(info);
	reply = call_raw(&s.client, "vm.create",
	                 json_pack("{s:{s:s, s:s}}", "definition", "name", "a", "engine", "qemu"),
	                 NULL, 0);
	if (json_object_get(reply, "result"))
		r = call_refused(&s.client, "unsupported", "vm.start", "{s:s}", "vm", "a");
	else
		r = refusal_of(reply);
	cr_assert_str_eq(r.kind, "unsupported", "%s", r.message);
	cr_assert(strstr(r.message, "qemu"), "%s", r.message);
	json_decref(reply);
}

Test(faults, a_guest_whose_engine_is_gone_can_be_managed)
{
	guest_create_bare(&s, "a",
	                  json_pack("{s:s, s:{s:b}}", "engine", "qemu", "protect", "delete", 1));
	scene_stop(&s);
	s.program_path = scene_path(&s, "empty-path");
	cr_assert_eq(mkdir(s.program_path, 0700), 0);
	scene_start(&s);
	call_refused(&s.client, "unsupported", "vm.update", "{s:s, s:{s:s}}", "vm", "a", "set",
	             "memory", "96M");
	call_refused(&s.client, "denied", "vm.delete", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:b}, s:{s:s}}}", "vm", "a", "set", "protect",
	        "delete", 0, "labels", "why", "no engine");
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", "a");
}

/* A stand-in of either engine: speaks garbage where QMP is due, then ends. */
Test(faults, an_engine_that_answers_garbage_fails_its_start_only)
{
	static const char script[] = "#!/bin/sh\n"
				     "case \"$*\" in *version*|*help*) echo 'QEMU emulator "
				     "version 7.2.0'; exit 0;; esac\n"
				     "for fd in 3 4 5 6 7 8 9; do echo 'garbage }{' >&$fd; done "
				     "2>/dev/null\nexec sleep 1000\n";
	const char *dir = scene_path(&s, "fake");
	char path[4200];
	int fd;

	start_bare("bystander");
	scene_stop(&s);
	cr_assert_eq(mkdir(dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/qemu-system-x86_64", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	cr_assert_eq(fd_write_all(fd, script, sizeof(script) - 1), 0);
	close(fd);
	if (engine_is("kvm")) {
		s.vmm = path;
	} else {
		snprintf(path, sizeof(path), "%s:%s", dir, getenv("PATH"));
		s.program_path = path;
	}
	scene_config(&s, "[guest]\nqmp_timeout = 2s\n");
	scene_start(&s);
	guest_create_bare(&s, "a", NULL);
	call_refused(&s.client, "engine_failed", "vm.start", "{s:s}", "vm", "a");
	guest_expect_state(&s, "bystander", "running");
	scene_wait_processes(&s, 2, 10000);
	s.program_path = s.vmm = NULL;
}

/* A guest with megabytes that are not zero: firmware is such, a bare guest if told. */
static void start_with_memory_in_use(const char *name)
{
	json_t *boot = engine_bare_boot();
	int console;

	if (engine_is("kvm"))
		json_object_set_new(boot, "cmdline", json_string("test=dirty mib=4 rate=1"));
	guest_create_bare(&s, name, json_pack("{s:o}", "boot", boot));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", name);
	if (!engine_is("kvm"))
		return;
	console = console_open(&s, name, true);
	console_expect(console, "dirty: ready", 20000);
	close(console);
}

/* Room for definitions, but not for the memory of a guest. */
Test(faults, a_snapshot_without_room_leaves_the_guest_and_nothing_else)
{
	json_t *list;

	scene_stop(&s);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", s.state_dir, "tmpfs", 0, "size=512K,mode=0700") < 0)
		cr_skip_test("a tmpfs cannot be mounted here (no privileges)");
	scene_config(&s, "[events]\nring = 64K\n");
	scene_start(&s);
	start_with_memory_in_use("a");
	call_refused(&s.client, "no_space", "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	guest_expect_state(&s, "a", "running");
	call_refused(&s.client, "no_space", "vm.suspend", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
	list = call(&s.client, "snapshot.list", "{s:s}", "vm", "a");
	cr_assert_eq(json_array_size(member(list, "snapshots")), 0);
	json_decref(list);
	/* What had been written of the memory is gone: there is room again. */
	call_ok(&s.client, "vm.create", "{s:{s:s}}", "definition", "name", "fits");
}

/* A state directory that is too small for anything more. */
Test(faults, a_full_state_directory_refuses_changes_and_recovers)
{
	char filler[160];
	int fd, made = 0;
	struct refusal r;

	scene_stop(&s);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", s.state_dir, "tmpfs", 0, "size=2M,mode=0700") < 0)
		cr_skip_test("a tmpfs cannot be mounted here (no privileges)");
	scene_config(&s, "[events]\nring = 64K\n");
	scene_start(&s);
	start_bare("a");
	snprintf(filler, sizeof(filler), "%s/filler", s.state_dir);
	fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(fd, filler, sizeof(filler)) > 0)
		continue;
	close(fd);
	for (;; made++) {
		json_t *reply;
		char name[16];

		snprintf(name, sizeof(name), "n%d", made);
		cr_assert_lt(made, 20000, "a full disk is never told");
		reply = call_raw(&s.client, "vm.create",
		                 json_pack("{s:{s:s}}", "definition", "name", name), NULL, 0);
		if (json_object_get(reply, "error")) {
			r = refusal_of(reply);
			json_decref(reply);
			break;
		}
		json_decref(reply);
	}
	cr_assert_str_eq(r.kind, "no_space", "%s", r.message);
	guest_expect_state(&s, "a", "running");
	cr_assert_eq(unlink(filler), 0);
	call_ok(&s.client, "vm.create", "{s:{s:s}}", "definition", "name", "fits");
	/* What was promised is there after a crash, what was refused is not. */
	scene_kill_daemon(&s);
	scene_start(&s);
	guest_expect_state(&s, "fits", "defined");
	guest_expect_state(&s, "a", "running");
	{
		char name[16];

		snprintf(name, sizeof(name), "n%d", made);
		call_refused(&s.client, "not_found", "vm.get", "{s:s}", "vm", name);
	}
}
