/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Real guests through their states. */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/timeutil.h"
#include "tests/integration/qemu-fixture.h"

TestSuite(lifecycle, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

static void expect_state_event(const char *vm, const char *state)
{
	json_decref(event_wait(&s.client, "vm.state", vm, "state", state, 120000));
}

/* From create to delete with one guest, as a user would. */
static void live(const char *arch)
{
	json_t *info;
	int console;

	/* The kernel's own words are what ready.kernel is known by. */
	guest_create(&s, "web", arch, "loglevel=7", NULL);
	guest_expect_state(&s, "web", "defined");
	guest_boot(&s, "web");
	expect_state_event("web", "starting");
	expect_state_event("web", "running");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "web");
	cr_assert_str_eq(member_str(info, "state"), "running");
	cr_assert_str_eq(member_str(info, "engine.name"), engine_name());
	cr_assert(member_str(info, "engine.reason")[0]);
	cr_assert_gt(member_int(info, "pid"), 1);
	/* Readiness came in its order, with times. */
	cr_assert_gt(member_int(info, "ready.kernel"), 0);
	cr_assert_geq(member_int(info, "ready.init"), member_int(info, "ready.kernel"));
	cr_assert_geq(member_int(info, "ready.login"), member_int(info, "ready.init"));
	json_decref(info);
	console = console_open(&s, "web", true);
	console_expect(console, "vmd-guest: init", 10000);
	console_expect(console, "login:", 10000);
	cr_assert_str_eq(console_run(console, "uname -m"), arch);
	close(console);
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "web", "timeout_ms", 120000);
	expect_state_event("web", "stopping");
	expect_state_event("web", "stopped");
	guest_expect_state(&s, "web", "stopped");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "web");
	cr_assert(json_is_null(member(info, "pid")));
	cr_assert(json_is_true(member(info, "exit.exited")));
	cr_assert_eq(member_int(info, "exit.code"), 0);
	json_decref(info);
	/* Soft: the guest did it itself, and its log has the words. */
	info = call(&s.client, "vm.logs", "{s:s}", "vm", "web");
	cr_assert(strstr(member_str(info, "text"), "vmd-guest: power off"));
	json_decref(info);
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", "web");
	json_decref(event_wait(&s.client, "vm.deleted", "web", NULL, NULL, 5000));
	call_refused(&s.client, "not_found", "vm.get", "{s:s}", "vm", "web");
}

Test(lifecycle, x86_64)
{
	live("x86_64");
}

Test(lifecycle, aarch64)
{
	if (engine_can("aarch64", "definition.arch", "{'arch': 'aarch64'}"))
		live("aarch64");
}

/* The names of all members with the first letter of their type, in order, as one line. */
static void add_shape(const json_t *value, char *out, size_t len)
{
	static const char types[] = "oasiibbn"; /* enum json_type; a number is one */
	size_t used = strlen(out);
	const char *key;
	json_t *sub;

	snprintf(out + used, len - used, "%c", types[json_typeof(value)]);
	if (json_is_array(value) && json_array_size(value) > 0)
		add_shape(json_array_get(value, 0), out, len);
	if (!json_is_object(value))
		return;
	json_object_foreach((json_t *)(uintptr_t)value, key, sub) {
		used = strlen(out);
		snprintf(out + used, len - used, " %s:", key);
		add_shape(sub, out, len);
	}
	used = strlen(out);
	snprintf(out + used, len - used, ";");
}

/* What not every engine can know: counts of KVM, and of networks that are QEMU's own. */
static void drop_optional(json_t *stats)
{
	static const char *const names[] = { "exits",    "halted_us",  "rx_bytes",
		                             "tx_bytes", "rx_packets", "tx_packets" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		json_object_del(member(stats, "cpus.0"), names[i]);
		json_object_del(member(stats, "nics.0"), names[i]);
	}
}

static void expect_shape(const char *method, const char *expected)
{
	json_t *reply = call(&s.client, method, "{s:s}", "vm", "a"), *sorted;
	cleanup_free char *text = json_dumps(reply, JSON_SORT_KEYS);
	char shape[4096] = "";

	sorted = json_loads(text, 0, NULL);
	json_object_del(sorted, "definition"); /* what the caller said */
	drop_optional(sorted);
	add_shape(sorted, shape, sizeof(shape));
	cr_expect_str_eq(shape, expected, "%s is of shape\n%s", method, shape);
	json_decref(sorted);
	json_decref(reply);
}

/* Who reads what is told of a guest need not ask for the engine. */
Test(lifecycle, what_is_told_has_one_shape)
{
	guest_create_bare(&s, "a",
	                  json_pack("{s:[{s:s, s:s}], s:[{s:s}]}", "disks", "path",
	                            scene_disk(&s, "disk.img", 1 << 20), "format", "raw", "nics",
	                            "network", "none"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_shape("vm.stats",
	             "o cpus:ao index:i thread_id:i time_us:i; disks:ao errors:i flush_ops:i "
	             "index:i latency_us:o flush:ai read:ai write:ai; read_bytes:i read_ops:i "
	             "read_time_us:i write_bytes:i write_ops:i write_time_us:i; memory:o "
	             "actual_bytes:i configured_bytes:i; nics:ao index:i mac:s; process:o "
	             "cpu_us:i pid:i rss_bytes:i; time_us:i uptime_us:i;");
	expect_shape("vm.get",
	             "o cause:s created_us:i engine:o accel:s name:s reason:s; exit:n generation:i "
	             "job:n name:s owner:i pending:a pid:i ready:o; restarts:i since_us:i "
	             "started_us:i state:s uuid:s;");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	expect_shape("vm.get",
	             "o cause:s created_us:i engine:o accel:s name:s reason:s; exit:o code:i "
	             "core:b exited:b known:b signal:i stderr:s time_us:i; generation:i job:n "
	             "name:s owner:i pending:a pid:n ready:o; restarts:i since_us:i "
	             "started_us:n state:s uuid:s;");
}

Test(lifecycle, pause_stops_time_in_the_guest)
{
	char before[256];
	json_t *info;
	int console;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	expect_state_event("a", "paused");
	info = call(&s.client, "vm.qmp", "{s:s, s:s}", "vm", "a", "command", "query-status");
	cr_assert_str_eq(member_str(info, "return.status"), "paused");
	json_decref(info);
	call_refused(&s.client, "wrong_state", "vm.pause", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	expect_state_event("a", "running");
	snprintf(before, sizeof(before), "%s", console_run(console, "echo still-here"));
	cr_assert_str_eq(before, "still-here");
	call_refused(&s.client, "wrong_state", "vm.resume", "{s:s}", "vm", "a");
	close(console);
}

Test(lifecycle, reset_boots_again_in_the_same_process)
{
	json_int_t pid;
	json_t *info;
	int console;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	pid = member_int(info, "pid");
	json_decref(info);
	console = console_open(&s, "a", false);
	call_ok(&s.client, "vm.reset", "{s:s}", "vm", "a");
	console_expect(console, "vmd-guest: init", 120000);
	console_expect(console, "login:", 120000);
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_eq(member_int(info, "pid"), pid);
	json_decref(info);
	close(console);
}

Test(lifecycle, kill_is_at_once)
{
	json_t *info;

	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "stopped");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert(json_is_false(member(info, "exit.exited")));
	cr_assert_eq(member_int(info, "exit.signal"), SIGKILL);
	json_decref(info);
	scene_wait_processes(&s, 0, 10000);
	call_refused(&s.client, "wrong_state", "vm.kill", "{s:s}", "vm", "a");
}

Test(lifecycle, stop_without_a_listening_guest_ends_hard_after_the_limit)
{
	uint64_t start;

	guest_create(&s, "deaf", "x86_64", "vmd.power=ignore", NULL);
	guest_boot(&s, "deaf");
	start = now_monotonic_us();
	call_refused(&s.client, "timeout", "vm.stop", "{s:s, s:i, s:b}", "vm", "deaf", "timeout_ms",
	             500, "force", 0);
	cr_assert_geq(now_monotonic_us() - start, 500000);
	guest_expect_state(&s, "deaf", "running");
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "deaf", "timeout_ms", 500);
	guest_expect_state(&s, "deaf", "stopped");
}

Test(lifecycle, a_guest_that_powers_off_by_itself_is_stopped)
{
	json_t *info;

	guest_create(&s, "a", "x86_64", "vmd.do=poweroff", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	info = call(&s.client, "vm.wait", "{s:s, s:s, s:i}", "vm", "a", "for", "stopped",
	            "timeout_ms", 120000);
	cr_assert_str_eq(member_str(info, "state"), "stopped");
	json_decref(info);
	scene_wait_processes(&s, 0, 10000);
}

Test(lifecycle, a_reboot_can_mean_stop)
{
	guest_create(&s, "a", "x86_64", "vmd.do=reboot",
	             json_pack("{s:{s:s}}", "actions", "on_reboot", "stop"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_state_event("a", "stopped");
}

Test(lifecycle, a_panic_is_an_event_and_pauses_when_told)
{
	guest_create(&s, "a", "x86_64", "vmd.do=panic",
	             json_pack("{s:{s:s}}", "actions", "on_panic", "pause"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	json_decref(event_wait(&s.client, "vm.panic", "a", NULL, NULL, 120000));
	expect_state_event("a", "paused");
}

Test(lifecycle, a_failing_guest_is_restarted_up_to_the_cap)
{
	guest_create_bare(&s, "a",
	                  json_pack("{s:{s:s, s:i, s:i}}", "restart", "policy", "on-failure",
	                            "backoff_ms", 10, "max_restarts", 2));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_state_event("a", "running");
	for (int i = 0; i < 3; i++) {
		json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");

		cr_assert_eq(member_int(info, "restarts"), i);
		kill((pid_t)member_int(info, "pid"), SIGKILL);
		json_decref(info);
		expect_state_event("a", i < 2 ? "running" : "failed");
	}
}

Test(lifecycle, suspend_keeps_memory_over_a_new_process)
{
	json_int_t pid;
	json_t *info;
	int console;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	console_run(console, "word=kept; echo in-tmpfs >/run/state");
	close(console);
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	pid = member_int(info, "pid");
	json_decref(info);
	call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "suspended");
	scene_wait_processes(&s, 0, 10000);
	/* Also over a restart of the daemon. */
	scene_stop(&s);
	scene_start(&s);
	guest_expect_state(&s, "a", "suspended");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_neq(member_int(info, "pid"), pid);
	json_decref(info);
	console = console_open(&s, "a", false);
	cr_assert_str_eq(console_run(console, "echo $word; cat /run/state"), "kept\nin-tmpfs");
	close(console);
}

Test(lifecycle, consoles_have_many_readers_and_late_ones_get_the_ring)
{
	int first, second, watcher, idle;

	guest_create(&s, "a", "x86_64", NULL, NULL);
	guest_boot(&s, "a");
	first = console_open(&s, "a", false);
	idle = console_open(&s, "a", false); /* never read: delays nobody */
	console_run(first,
	            "head -c 600000 /dev/zero | tr '\\0' x | fold -w 100 >/dev/null; "
	            "for i in $(seq 400); do echo "
	            "0123456789012345678901234567890123456789012345678901234567890123456789; "
	            "done");
	second = console_open(&s, "a", true);
	console_expect(second, "login:", 10000);
	cr_assert_str_eq(console_run(second, "echo two"), "two");
	console_expect(first, "two", 10000);
	watcher = console_open(&s, "a", true);
	console_expect(watcher, "two", 10000);
	close(first);
	close(second);
	close(watcher);
	close(idle);
}

/* One line from a server in the guest, through a forwarded port of the host. */
Test(lifecycle, user_network_forwards_a_port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
		                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	char forward[32], text[64] = "";
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), console;

	/* A port that is free now. */
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	snprintf(forward, sizeof(forward), "tcp:%d:80", ntohs(addr.sin_port));
	guest_create(
		&s, "a", "x86_64", NULL,
		json_pack("{s:[{s:s, s:[s]}]}", "nics", "network", "user", "forward", forward));
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	console_expect(console, "vmd-guest: eth0 ", 60000);
	console_run(console, "(echo hello-from-the-guest | nc -l -p 80 &); "
	                     "until grep -q ':0050 .* 0A ' /proc/net/tcp*; do :; done");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(write(fd, "\n", 1), 1);
	cr_assert_gt(fd_read_all(fd, text, sizeof(text) - 1), 0);
	cr_assert_str_eq(text, "hello-from-the-guest\n");
	close(fd);
	close(console);
}

Test(lifecycle, disks_are_readable_and_writable_as_defined)
{
	const char *path = scene_disk(&s, "disk.img", 1 << 20);
	char text[16] = "";
	int console, fd;

	guest_create(&s, "a", "x86_64", NULL,
	             json_pack("{s:[{s:s, s:s}, {s:s, s:s, s:b}]}", "disks", "path", path, "format",
	                       "raw", "path", scene_disk(&s, "ro.img", 1 << 20), "format", "raw",
	                       "readonly", 1));
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	cr_assert_str_eq(console_run(console,
	                             "echo to-disk | dd of=/dev/vda conv=fsync 2>/dev/null "
	                             "&& echo written"),
	                 "written");
	cr_assert_str_eq(console_run(console, "cat /sys/block/vdb/ro; cat /sys/block/vda/ro"),
	                 "1\n0");
	close(console);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_gt(fd_read_all(fd, text, 7), 0);
	cr_assert_str_eq(text, "to-disk");
	close(fd);
}

Test(lifecycle, autostart_runs_guests_when_the_daemon_starts)
{
	guest_create_bare(&s, "auto", json_pack("{s:{s:b}}", "autostart", "enabled", 1));
	guest_create_bare(&s, "manual", NULL);
	scene_stop(&s);
	scene_start(&s);
	call_ok(&s.client, "vm.wait", "{s:s, s:s, s:i}", "vm", "auto", "for", "running",
	        "timeout_ms", 60000);
	guest_expect_state(&s, "manual", "defined");
}
