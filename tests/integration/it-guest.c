/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verbs that meet each other, and daemons that die between two steps of one. */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

TestSuite(guest, .timeout = 300, .init = setup, .fini = teardown);

static json_t *get(const char *name)
{
	return call(&s.client, "vm.get", "{s:s}", "vm", name);
}

static pid_t engine_pid(const char *name)
{
	json_t *info = get(name);
	pid_t pid = (pid_t)member_int(info, "pid");

	json_decref(info);
	return pid;
}

static void expect_cause(const char *name, const char *state, const char *cause)
{
	json_t *info = get(name);

	cr_assert_str_eq(member_str(info, "state"), state, "%s: %s, %s", name,
	                 member_str(info, "state"), member_str(info, "cause"));
	cr_assert(strstr(member_str(info, "cause"), cause), "%s: the cause is '%s', not '%s'", name,
	          member_str(info, "cause"), cause);
	json_decref(info);
}

static void start_bare(const char *name, json_t *more)
{
	guest_create_bare(&s, name, more);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", name);
}

/* A change that is not waited for; the id of its job (static storage). */
static const char *begin(const char *method, const char *name)
{
	static char id[40];
	json_t *reply = call(&s.client, method, "{s:s, s:b}", "vm", name, "wait", 0);

	snprintf(id, sizeof(id), "%s", member_str(reply, "job.id"));
	json_decref(reply);
	return id;
}

static void again(void)
{
	scene_kill_daemon(&s);
	scene_start(&s);
	call_ok(&s.client, "events.subscribe", NULL);
}

Test(guest, a_kill_reaches_a_guest_whose_shim_is_stopped)
{
	pid_t shim;

	start_bare("a", NULL);
	start_bare("b", NULL);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "b");
	shim = scene_find_process(&s, "vmd-shim");
	cr_assert_eq(kill(shim, SIGSTOP), 0);
	again();
	expect_cause("a", "unresponsive", "no-shim");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	expect_cause("a", "stopped", "kill");
	scene_wait_processes(&s, 0, 10000);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
}

Test(guest, a_stopped_shim_is_waited_for)
{
	pid_t shim;

	start_bare("a", NULL);
	shim = scene_find_process(&s, "vmd-shim");
	cr_assert_eq(kill(shim, SIGSTOP), 0);
	again();
	guest_expect_state(&s, "a", "unresponsive");
	cr_assert_eq(kill(shim, SIGCONT), 0);
	call_ok(&s.client, "vm.wait", "{s:s, s:s, s:i}", "vm", "a", "for", "running", "timeout_ms",
	        10000);
}

Test(guest, a_kill_ends_a_start_at_any_step)
{
	guest_create_bare(&s, "a", NULL);
	for (int i = 0; i < 30; i++) {
		char job[40];

		snprintf(job, sizeof(job), "%s", begin("vm.start", "a"));
		usleep((useconds_t)(i * 7000));
		call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
		/* What the reply promised holds at once, and stays. */
		guest_expect_state(&s, "a", "stopped");
		json_decref(
			call_raw(&s.client, "job.wait", json_pack("{s:s}", "job", job), NULL, 0));
		guest_expect_state(&s, "a", "stopped");
		scene_wait_processes(&s, 0, 10000);
	}
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
}

Test(guest, a_crash_during_a_soft_stop_is_told_as_such)
{
	char job[40];

	start_bare("a", NULL);
	snprintf(job, sizeof(job), "%s", begin("vm.stop", "a"));
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopping", 10000));
	cr_assert_eq(kill(engine_pid("a"), SIGSEGV), 0);
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "failed", 10000));
	expect_cause("a", "failed", "signal 11");
	call_ok(&s.client, "job.wait", "{s:s}", "job", job);
}

Test(guest, a_stop_that_the_daemon_did_not_see_end_is_no_crash)
{
	json_t *job;
	char id[40];

	start_bare("a", NULL);
	snprintf(id, sizeof(id), "%s", begin("vm.stop", "a"));
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopping", 10000));
	{
		pid_t pid = engine_pid("a");

		scene_kill_daemon(&s);
		cr_assert_eq(kill(pid, SIGKILL), 0);
		scene_wait_processes(&s, 1, 10000);
	}
	scene_start(&s);
	expect_cause("a", "stopped", "stop");
	/* The job that was at work has its end too, a true one. */
	job = call(&s.client, "job.get", "{s:s}", "job", id);
	cr_assert_str_eq(member_str(job, "state"), "done");
	cr_assert_str_eq(member_str(job, "result.state"), "stopped");
	json_decref(job);
}

Test(guest, a_stop_that_was_cut_off_is_not_told_as_done)
{
	json_t *job;
	char id[40];

	start_bare("a", NULL);
	snprintf(id, sizeof(id), "%s", begin("vm.stop", "a"));
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopping", 10000));
	again();
	guest_expect_state(&s, "a", "running");
	job = call(&s.client, "job.get", "{s:s}", "job", id);
	cr_assert_str_eq(member_str(job, "state"), "failed");
	json_decref(job);
	/* It runs as somebody wants again: its end is a crash. */
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	call_ok(&s.client, "vm.wait", "{s:s, s:s}", "vm", "a", "for", "failed");
	expect_cause("a", "failed", "signal 9");
}

static json_t *restart_policy(int backoff_ms)
{
	return json_pack("{s:{s:s, s:i, s:i, s:i}}", "restart", "policy", "on-failure",
	                 "backoff_ms", backoff_ms, "max_backoff_ms", 60000, "max_restarts", 3);
}

Test(guest, a_planned_restart_survives_the_daemon_and_comes_once)
{
	json_t *info;

	start_bare("a", restart_policy(3000));
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	json_decref(event_wait(&s.client, "vm.restart_planned", "a", NULL, NULL, 10000));
	again();
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "running", 20000));
	info = get("a");
	cr_assert_eq(member_int(info, "restarts"), 1);
	json_decref(info);
}

Test(guest, an_exit_while_the_daemon_was_away_is_followed_by_one_restart)
{
	json_t *info;
	pid_t pid;

	start_bare("a", restart_policy(100));
	pid = engine_pid("a");
	scene_kill_daemon(&s);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	scene_wait_processes(&s, 1, 10000);
	scene_start(&s);
	call_ok(&s.client, "vm.wait", "{s:s, s:s, s:i}", "vm", "a", "for", "running", "timeout_ms",
	        20000);
	info = get("a");
	cr_assert_eq(member_int(info, "restarts"), 1);
	json_decref(info);
}

Test(guest, waiting_for_the_end_outlasts_a_planned_restart)
{
	static const char wait[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.wait\","
				   "\"params\":{\"vm\":\"a\"}}\n";

	start_bare("a", restart_policy(500));
	for (int i = 0; i < 3; i++) {
		struct client other;
		bool closed;

		cr_assert(client_open(&other, s.socket));
		cr_assert(client_send(&other, wait, sizeof(wait) - 1));
		cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
		json_decref(event_wait(&s.client, "vm.state", "a", "state", "failed", 10000));
		json_decref(event_wait(&s.client, "vm.state", "a", "state", "running", 10000));
		cr_assert_null(client_read(&other, 10, &closed), "told as stopped at restart %d",
		               i);
		client_close(&other);
	}
}

Test(guest, a_planned_restart_can_be_called_off)
{
	start_bare("a", restart_policy(60000));
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	json_decref(event_wait(&s.client, "vm.restart_planned", "a", NULL, NULL, 10000));
	call_ok(&s.client, "vm.stop", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.wait", "{s:s, s:i}", "vm", "a", "timeout_ms", 1000);
	again();
	call_ok(&s.client, "vm.wait", "{s:s, s:i}", "vm", "a", "timeout_ms", 1000);
	call_refused(&s.client, "wrong_state", "vm.stop", "{s:s}", "vm", "a");
}

Test(guest, a_restart_that_cannot_start_is_tried_again)
{
	const char *disk = scene_disk(&s, "disk.img", 1 << 20);
	char aside[300];
	json_t *more = restart_policy(300);

	json_object_set_new(more, "disks",
	                    json_pack("[{s:s, s:s}]", "path", disk, "format", "raw"));
	start_bare("a", more);
	snprintf(aside, sizeof(aside), "%s.aside", disk);
	cr_assert_eq(rename(disk, aside), 0);
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "starting", 10000));
	json_decref(event_wait(&s.client, "vm.restart_planned", "a", NULL, NULL, 10000));
	cr_assert_eq(rename(aside, disk), 0);
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "running", 10000));
}

Test(guest, what_was_paused_by_an_operation_runs_on_after_the_daemon_died)
{
	guest_create_bare(&s, "a", json_pack("{s:s}", "memory", "1G"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	json_decref(call(&s.client, "snapshot.create", "{s:s, s:s, s:b}", "vm", "a", "snapshot",
	                 "one", "wait", 0));
	json_decref(event_wait(&s.client, "job.progress", "a", "stage", "saving memory", 10000));
	again();
	guest_expect_state(&s, "a", "running");
	{
		json_t *status = call(&s.client, "vm.qmp", "{s:s, s:s}", "vm", "a", "command",
		                      "query-status");

		cr_assert_str_eq(member_str(status, "return.status"), "running");
		json_decref(status);
	}
	usleep(500000); /* what was under way in the engine does not pause it later */
	guest_expect_state(&s, "a", "running");
	/* Where saving is quick, it was whole before the daemon was killed. */
	json_decref(call_raw(&s.client, "snapshot.delete",
	                     json_pack("{s:s, s:s}", "vm", "a", "snapshot", "one"), NULL, 0));
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
}

Test(guest, a_suspend_that_the_daemon_did_not_see_end_is_one)
{
	pid_t pid;

	start_bare("a", NULL);
	pid = engine_pid("a");
	for (int i = 0; i < 8; i++) {
		const char *state;

		(void)begin("vm.suspend", "a");
		usleep((useconds_t)(i * 40000));
		again();
		state = guest_state(&s, "a");
		if (strcmp(state, "running") != 0)
			expect_cause("a", "suspended", "");
		if (strcmp(state, "suspended") == 0)
			call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	}
	(void)pid;
	guest_expect_state(&s, "a", "running");
}

Test(guest, a_resume_that_the_daemon_did_not_see_end_loses_no_memory)
{
	start_bare("a", NULL);
	for (int i = 0; i < 10; i++) {
		const char *state;

		call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
		(void)begin("vm.start", "a");
		usleep((useconds_t)(i * 30000));
		again();
		state = guest_state(&s, "a");
		if (strcmp(state, "running") != 0)
			expect_cause("a", "suspended", "");
		if (strcmp(state, "suspended") == 0)
			call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	}
}

Test(guest, an_update_of_a_suspended_guest_counts_from_its_next_boot)
{
	json_t *info;

	start_bare("a", NULL);
	call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:s, s:i}}", "vm", "a", "set", "memory", "96M",
	        "cpus", 2);
	info = get("a");
	cr_assert_eq(json_array_size(member(info, "pending")), 2);
	json_decref(info);
	again();
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	info = get("a");
	cr_assert_str_eq(member_str(info, "state"), "running");
	cr_assert_eq(json_array_size(member(info, "pending")), 2);
	json_decref(info);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	info = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_assert_eq(json_array_size(member(info, "cpus")), 2);
	json_decref(info);
}

Test(guest, pending_is_what_waits_for_the_next_start)
{
	json_t *info;

	start_bare("a", NULL);
	info = call(&s.client, "vm.update", "{s:s, s:{s:s, s:{s:s}}, s:b}", "vm", "a", "set",
	            "memory", "96M", "labels", "tier", "x", "dry_run", 1);
	cr_assert_eq(json_array_size(member(info, "pending")), 1);
	cr_assert_str_eq(member_str(info, "pending.0"), "memory");
	json_decref(info);
	info = get("a");
	cr_assert_eq(json_array_size(member(info, "pending")), 0);
	json_decref(info);
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s}, s:{s:b}, s:{s:s}, s:i}}", "vm", "a",
	        "set", "labels", "tier", "x", "protect", "stop", 1, "restart", "policy", "always",
	        "stop_timeout_ms", 5000);
	info = get("a");
	cr_assert_eq(json_array_size(member(info, "pending")), 0);
	json_decref(info);
	/* In force at once, as they say: the guard refuses, and the policy brings it back. */
	call_refused(&s.client, "denied", "vm.stop", "{s:s}", "vm", "a");
	cr_assert_eq(kill(engine_pid("a"), SIGKILL), 0);
	json_decref(event_wait(&s.client, "vm.restart_planned", "a", NULL, NULL, 10000));
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "running", 20000));
	call_ok(&s.client, "vm.update", "{s:s, s:{s:n}}", "vm", "a", "set", "protect");
}

Test(guest, memory_that_is_not_stated_is_told)
{
	struct refusal refusal;
	json_t *list;

	call_ok(&s.client, "vm.create", "{s:{s:s}}", "definition", "name", "a");
	list = call(&s.client, "vm.list", "{}");
	cr_assert_eq(member_int(list, "vms.0.memory_bytes"), 512 << 20);
	json_decref(list);
	/* What is as wanted needs no advice. */
	refusal = call_refused(&s.client, "wrong_state", "vm.kill", "{s:s}", "vm", "a");
	cr_assert_str_eq(refusal.hint, "");
}

Test(guest, a_kill_of_a_suspend_leaves_no_image)
{
	start_bare("a", NULL);
	for (int i = 0; i < 8; i++) {
		json_t *info = get("a");
		char path[300];

		snprintf(path, sizeof(path), "%s",
		         scene_path(&s, "state/guests/%s/suspend", member_str(info, "uuid")));
		json_decref(info);
		(void)begin("vm.suspend", "a");
		usleep((useconds_t)(i * 40000));
		call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
		guest_expect_state(&s, "a", "stopped");
		call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
		cr_assert_lt(access(path, F_OK), 0, "after %d ms: %s", i * 40, path);
	}
}

Test(guest, a_stop_that_may_not_force_leaves_a_paused_guest_paused)
{
	start_bare("a", NULL);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	call_refused(&s.client, "timeout", "vm.stop", "{s:s, s:i, s:b}", "vm", "a", "timeout_ms", 0,
	             "force", 0);
	guest_expect_state(&s, "a", "paused");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
}

Test(guest, a_renamed_guest_has_nothing_pending)
{
	json_t *info;

	start_bare("a", NULL);
	call_ok(&s.client, "vm.rename", "{s:s, s:s}", "vm", "a", "name", "b");
	info = get("b");
	cr_assert_eq(json_array_size(member(info, "pending")), 0);
	json_decref(info);
	again();
	info = get("b");
	cr_assert_eq(json_array_size(member(info, "pending")), 0);
	json_decref(info);
}

Test(guest, a_disk_of_a_running_guest_stays)
{
	call_ok(&s.client, "disk.create", "{s:s, s:s}", "name", "data", "size", "1M");
	start_bare("a", json_pack("{s:[{s:s}]}", "disks", "disk", "data"));
	call_ok(&s.client, "vm.update", "{s:s, s:{s:[]}}", "vm", "a", "set", "disks");
	call_refused(&s.client, "busy", "disk.delete", "{s:s}", "disk", "data");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	call_ok(&s.client, "disk.delete", "{s:s}", "disk", "data");
}

Test(guest, a_disk_that_is_being_made_cannot_be_deleted)
{
	for (int i = 0; i < 20; i++) {
		json_t *reply = call(&s.client, "disk.create", "{s:s, s:s, s:b}", "name", "data",
		                     "size", "1G", "wait", 0);
		char job[40];

		snprintf(job, sizeof(job), "%s", member_str(reply, "job.id"));
		json_decref(reply);
		reply = call_raw(&s.client, "disk.delete", json_pack("{s:s}", "disk", "data"), NULL,
		                 0);
		json_decref(reply);
		call_ok(&s.client, "job.wait", "{s:s}", "job", job);
		json_decref(call_raw(&s.client, "disk.delete", json_pack("{s:s}", "disk", "data"),
		                     NULL, 0));
	}
	call_ok(&s.client, "daemon.ping", NULL);
}
