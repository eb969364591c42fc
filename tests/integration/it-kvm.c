/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine kvm through the API, as its users see it. */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "tests/integration/kvm-fixture.h"

#define GUEST TEST_BUILD_DIR "/tests/guest/bare.elf"

TestSuite(kvm, .timeout = 300, .init = kvm_setup, .fini = kvm_teardown);

/* Defines guest "a"; more (stolen, may be NULL) has further members. */
static void create(const char *cmdline, json_t *more)
{
	json_t *d = json_pack("{s:s, s:s, s:s, s:{s:s, s:s}}", "name", "a", "engine", "auto",
	                      "memory", "64M", "boot", "kernel", GUEST, "cmdline", cmdline);

	if (more) {
		cr_assert_eq(json_object_update(d, more), 0);
		json_decref(more);
	}
	call_ok(&s.client, "vm.create", "{s:o}", "definition", d);
}

static void start(void)
{
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
}

static void expect_state_event(const char *state)
{
	json_decref(event_wait(&s.client, "vm.state", "a", "state", state, 60000));
}

static json_t *info(void)
{
	return call(&s.client, "vm.get", "{s:s}", "vm", "a");
}

static void expect_log(const char *words)
{
	const char *text = kvm_console_log();

	cr_assert(strstr(text, words), "'%s' is not in:\n%s", words, text);
}

/* Starts the guest and waits until it has powered itself off; every test in it went well. */
static void run_to_end(void)
{
	json_t *i;

	start();
	expect_state_event("stopped");
	i = info();
	cr_expect_eq(member_int(i, "exit.code"), 0);
	json_decref(i);
	expect_log("guest: done");
	cr_assert(!strstr(kvm_console_log(), "FAIL"), "%s", kvm_console_log());
}

Test(kvm, auto_takes_it_and_says_why)
{
	json_t *i;

	create("test=hello,acpi,memory,pci,cpuid,clock", NULL);
	run_to_end();
	expect_log("hello from a bare guest");
	i = info();
	cr_expect_str_eq(member_str(i, "engine.name"), "kvm");
	cr_expect_str_eq(member_str(i, "engine.accel"), "kvm");
	cr_expect_str_eq(member_str(i, "engine.reason"), "told so by the test");
	json_decref(i);
}

Test(kvm, a_guest_has_what_its_definition_says)
{
	const char *disk = scene_disk(&s, "disk.img", 8 << 20);
	const char *fixed = scene_disk(&s, "fixed.img", 1 << 20);

	create("test=smp,blk,rng,balloon cpus=3 disk=0 serial=SER-7",
	       json_pack("{s:i, s:[{s:s, s:s, s:s, s:s}, {s:s, s:s, s:b}]}", "cpus", 3, "disks",
	                 "path", disk, "format", "raw", "serial", "SER-7", "discard", "unmap",
	                 "path", fixed, "format", "raw", "readonly", 1));
	run_to_end();
	expect_log("smp: cpu 2 ");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s, s:s}}}", "vm", "a", "set", "boot",
	        "kernel", GUEST, "cmdline", "test=blk-readonly disk=1");
	run_to_end();
}

Test(kvm, devices_nobody_asked_for_do_not_exist)
{
	create("test=pci", json_pack("{s:b, s:b}", "rng", 0, "balloon", 0));
	run_to_end();
	expect_log("pci: 00.0 ");
	cr_expect(!strstr(kvm_console_log(), "pci: 01.0 "), "%s", kvm_console_log());
}

Test(kvm, what_the_guest_wrote_is_in_the_file)
{
	const char *disk = scene_disk(&s, "disk.img", 4 << 20);
	json_t *disks = json_pack("{s:[{s:s, s:s}]}", "disks", "path", disk, "format", "raw");
	char before[4096] = "", after[4096] = "";
	int fd = open(disk, O_RDONLY | O_CLOEXEC);

	create("test=blk-write at=0 count=8 seed=77", disks);
	cr_assert_eq(pread(fd, before, sizeof(before), 0), (ssize_t)sizeof(before));
	run_to_end();
	cr_assert_eq(pread(fd, after, sizeof(after), 0), (ssize_t)sizeof(after));
	cr_expect_neq(memcmp(before, after, sizeof(after)), 0);
	close(fd);
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s, s:s}}}", "vm", "a", "set", "boot",
	        "kernel", GUEST, "cmdline", "test=blk-verify at=0 count=8 seed=77");
	run_to_end();
}

#define FLAT TEST_BUILD_DIR "/tests/guest/multiboot.elf"

/* In the shape of kvm-unit-tests. Without the device nobody hears it. */
Test(kvm, a_test_guest_ends_by_the_test_device)
{
	json_t *i;

	create("unused", json_pack("{s:b, s:{s:s, s:s}}", "test_device", 1, "boot", "kernel", FLAT,
	                           "cmdline", "some arguments"));
	start();
	expect_state_event("failed");
	i = info();
	cr_expect_eq(member_int(i, "exit.code"), 7);
	json_decref(i);
	expect_log("multiboot: some arguments\n");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:b}}", "vm", "a", "set", "test_device", 0);
	start();
	expect_state_event("running");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	cr_expect_eq(strlen(kvm_console_log()), strlen("multiboot: some arguments\n"));
}

Test(kvm, the_console_goes_both_ways)
{
	int fd;

	create("test=echo", NULL);
	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "ready", 20000);
	console_type(fd, "how are you\n");
	console_expect(fd, "echo: how are you", 20000);
	console_type(fd, "end\n");
	console_expect(fd, "guest: done", 20000);
	close(fd);
	expect_state_event("stopped");
}

/* A guest whose memory always changes and can tell whether it is still consistent. */
static int start_dirty(void)
{
	int fd;

	create("test=dirty mib=4 rate=100", NULL);
	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "dirty: ready", 20000);
	return fd;
}

static unsigned long verified(int fd)
{
	static const char words[] = "dirty: verified counter ";
	const char *line = NULL;
	size_t from = strlen(kvm_console_log());

	console_type(fd, "verify\n");
	console_expect(fd, words, 20000);
	console_expect(fd, "\n", 20000);
	/* The log gets a line when it is whole. */
	for (int i = 0; i < 2000 && !line; i++) {
		line = strstr(kvm_console_log() + from, words);
		if (!line)
			(void)poll(NULL, 0, 10);
	}
	cr_assert(line, "the line is not in the log");
	return strtoul(line + strlen(words), NULL, 10);
}

Test(kvm, memory_goes_back_to_a_snapshot)
{
	int fd = start_dirty();
	unsigned long before, later, back;

	before = verified(fd);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	later = verified(fd);
	cr_expect_gt(later, before);
	while (verified(fd) < later + 2000)
		;
	later = verified(fd);
	close(fd);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "running");
	fd = console_open(&s, "a", false);
	back = verified(fd);
	cr_expect_lt(back, later, "%lu, later %lu", back, later);
	cr_expect_geq(back, before);
	close(fd);
}

/* Its devices stand still before its first instruction, as those of any guest that was stopped. */
Test(kvm, a_guest_that_never_ran_can_be_saved)
{
	int fd;

	create("test=dirty mib=4 rate=100", NULL);
	call_ok(&s.client, "vm.start", "{s:s, s:b}", "vm", "a", "paused", 1);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "paused");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	fd = console_open(&s, "a", true);
	console_expect(fd, "dirty: ready", 20000);
	close(fd);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "paused");
	fd = console_open(&s, "a", false);
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	console_expect(fd, "dirty: ready", 20000);
	close(fd);
}

Test(kvm, suspend_keeps_memory_over_the_daemon)
{
	int fd = start_dirty();
	unsigned long before = verified(fd);
	json_int_t pid;
	json_t *i = info();

	pid = member_int(i, "pid");
	json_decref(i);
	close(fd);
	call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "suspended");
	scene_wait_processes(&s, 0, 10000);
	scene_stop(&s);
	scene_start(&s);
	guest_expect_state(&s, "a", "suspended");
	start();
	i = info();
	cr_expect_neq(member_int(i, "pid"), pid);
	json_decref(i);
	fd = console_open(&s, "a", false);
	cr_expect_geq(verified(fd), before);
	close(fd);
}

/* One byte of the state, or of what the manifest says of it: told before a vCPU exists. */
Test(kvm, damaged_memory_is_refused)
{
	int fd = start_dirty();
	cleanup_free char *name = NULL;
	json_t *snapshot;
	char path[512];
	char byte = 0;

	close(fd);
	snapshot = call(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	snprintf(path, sizeof(path), "%s/snapshots/%s/ram", s.state_dir,
	         member_str(snapshot, "snapshot.uuid"));
	json_decref(snapshot);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(pread(fd, &byte, 1, 200), 1);
	byte ^= 4;
	cr_assert_eq(pwrite(fd, &byte, 1, 200), 1);
	call_refused(&s.client, "invalid", "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	guest_expect_state(&s, "a", "running");
	byte ^= 4;
	cr_assert_eq(pwrite(fd, &byte, 1, 200), 1);
	cr_assert_eq(ftruncate(fd, 66 << 20 >> 1), 0);
	call_refused(&s.client, "invalid", "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	guest_expect_state(&s, "a", "running");
	close(fd);
}

Test(kvm, pause_stops_the_guest)
{
	int fd = start_dirty();
	unsigned long before, after;
	json_t *i;

	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	expect_state_event("paused");
	i = call(&s.client, "vm.qmp", "{s:s, s:s}", "vm", "a", "command", "query-status");
	cr_expect_str_eq(member_str(i, "return.status"), "paused");
	json_decref(i);
	call_refused(&s.client, "wrong_state", "vm.pause", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	before = verified(fd);
	after = verified(fd);
	cr_expect_geq(after, before);
	close(fd);
}

Test(kvm, the_power_button_is_a_soft_stop)
{
	int fd;
	json_t *i;

	create("test=button", NULL);
	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "button: ", 20000);
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "a", "timeout_ms", 20000);
	i = info();
	cr_expect_str_eq(member_str(i, "state"), "stopped");
	cr_expect(json_is_true(member(i, "exit.exited")));
	cr_expect_eq(member_int(i, "exit.code"), 0);
	json_decref(i);
	expect_log("guest: button ok");
	close(fd);
}

Test(kvm, a_stop_insists_and_a_kill_is_at_once)
{
	json_t *i;

	create("test=idle end=halt", NULL);
	start();
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "a", "timeout_ms", 100);
	guest_expect_state(&s, "a", "stopped");
	start();
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	i = info();
	cr_expect_eq(member_int(i, "exit.signal"), SIGKILL);
	json_decref(i);
	scene_wait_processes(&s, 0, 10000);
}

Test(kvm, a_reboot_is_the_same_process_or_a_stop)
{
	create("test=resets count=3", NULL);
	run_to_end();
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s}}}", "vm", "a", "set", "actions",
	        "on_reboot", "stop");
	start();
	expect_state_event("stopped");
	cr_expect(!strstr(kvm_console_log() + strlen(kvm_console_log()) / 2,
	                  "guest: done\nguest: done"));
}

Test(kvm, a_panic_is_told_and_follows_its_action)
{
	create("test=panic", json_pack("{s:{s:s}}", "actions", "on_panic", "pause"));
	start();
	json_decref(event_wait(&s.client, "vm.panic", "a", NULL, NULL, 20000));
	expect_state_event("paused");
}

Test(kvm, a_triple_fault_is_a_reset)
{
	create("test=resets count=2 way=triple", NULL);
	run_to_end();
}

Test(kvm, a_killed_monitor_is_a_failed_guest_and_is_restarted_as_told)
{
	json_t *i;

	create("test=idle end=halt", json_pack("{s:{s:s, s:i, s:i}}", "restart", "policy",
	                                       "on-failure", "backoff_ms", 10, "max_restarts", 1));
	start();
	for (int n = 0; n < 2; n++) {
		i = info();
		cr_expect_eq(member_int(i, "restarts"), n);
		kill((pid_t)member_int(i, "pid"), SIGKILL);
		json_decref(i);
		expect_state_event(n == 0 ? "running" : "failed");
		if (n == 0)
			expect_state_event("running");
	}
}

Test(kvm, a_killed_daemon_finds_its_guest_again)
{
	int fd = start_dirty();
	unsigned long before = verified(fd);

	scene_kill_daemon(&s);
	scene_start(&s);
	guest_expect_state(&s, "a", "running");
	cr_expect_geq(verified(fd), before);
	close(fd);
}

static json_int_t sum(const json_t *numbers)
{
	json_int_t total = 0;
	const json_t *n;
	size_t i;

	json_array_foreach(numbers, i, n)
		total += json_integer_value(n);
	return total;
}

Test(kvm, counters_are_told)
{
	const char *disk = scene_disk(&s, "disk.img", 4 << 20);
	json_t *stats;
	int fd;

	create("test=blk-write,echo at=0 count=16 seed=5",
	       json_pack("{s:i, s:[{s:s, s:s}], s:[{s:s}]}", "cpus", 2, "disks", "path", disk,
	                 "format", "raw", "nics", "network", "none"));
	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "echo: ready", 20000);
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_eq(json_array_size(member(stats, "cpus")), 2);
	cr_expect_gt(member_int(stats, "cpus.0.thread_id"), 1);
	cr_expect_gt(member_int(stats, "disks.0.write_bytes"), 0);
	cr_expect_gt(member_int(stats, "disks.0.write_ops"), 0);
	cr_expect_eq(sum(member(stats, "disks.0.latency_us.write")),
	             member_int(stats, "disks.0.write_ops"));
	cr_expect_gt(member_int(stats, "cpus.0.exits.io"), 0);
	cr_expect_eq(member_int(stats, "cpus.1.exits.io"), 0);
	/* KVM's own counters, where it has them. */
	if (member(stats, "cpus.0.exits.total")) {
		cr_expect_gt(member_int(stats, "cpus.0.exits.total"), 0);
		cr_expect_geq(member_int(stats, "cpus.0.exits.halt"), 0);
		cr_expect_geq(member_int(stats, "cpus.0.halted_us"), 0);
	}
	cr_expect_eq(member_int(stats, "nics.0.tx_packets"), 0);
	cr_expect_eq(member_int(stats, "memory.actual_bytes"), 64ll << 20);
	cr_expect(!member(stats, "memory.guest"), "of which no guest has said anything");
	json_decref(stats);
	close(fd);
}

Test(kvm, the_balloon_is_set_and_tells_what_the_guest_says)
{
	json_t *stats;
	int fd;

	create("test=balloon follow=1", NULL);
	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "balloon: following", 20000);
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_eq(member_int(stats, "memory.guest.free_bytes"), 12345ll * 4096);
	cr_expect_eq(member_int(stats, "memory.guest.total_bytes"), 64ll << 20);
	cr_expect_gt(member_int(stats, "memory.guest.updated_us"), 0);
	cr_expect(!member(stats, "memory.guest.caches_bytes"), "of which the guest said nothing");
	json_decref(stats);
	json_decref(call(&s.client, "vm.qmp", "{s:s, s:s, s:{s:I}}", "vm", "a", "command",
	                 "balloon", "arguments", "value", (json_int_t)32 << 20));
	console_expect(fd, "balloon: actual ", 20000);
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_eq(member_int(stats, "memory.actual_bytes"), 32ll << 20);
	json_decref(stats);
	close(fd);
}

Test(kvm, what_it_cannot_do_is_refused_by_name)
{
	static const char *const wishes[] = {
		"{\"arch\":\"aarch64\"}", "{\"vsock\":{\"cid\":7}}",
		"{\"display\":\"vnc\"}",  "{\"shares\":[{\"path\":\"/tmp\",\"tag\":\"t\"}]}",
		"{\"tpm\":true}",         "{\"watchdog\":true}"
	};

	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++) {
		json_t *d = json_loads(wishes[i], 0, NULL), *reply;
		struct refusal r;
		char field[64];

		snprintf(field, sizeof(field), "definition.%s",
		         json_object_iter_key(json_object_iter(d)));
		json_object_set_new(d, "name", json_string("b"));
		json_object_set_new(d, "engine", json_string("kvm"));
		json_object_set_new(d, "boot", json_pack("{s:s}", "kernel", GUEST));
		reply = call_raw(&s.client, "vm.create", json_pack("{s:o}", "definition", d), NULL,
		                 0);
		r = refusal_of(reply);
		cr_expect_str_eq(r.kind, "unsupported", "%s: %s", wishes[i], r.message);
		cr_expect_eq(strncmp(r.field, field, strlen(field)), 0, "%s: %s", r.field,
		             r.message);
		json_decref(reply);
	}
}

/* Whether a line of /proc/PID/FILE has both words; lines that have neither are skipped. */
static bool has_line(json_int_t pid, const char *file, const char *word, const char *other)
{
	char path[64], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%lld/%s", (long long)pid, file);
	f = fopen(path, "re");
	cr_assert(f, "%s", path);
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, word) && strstr(line, other);
	(void)fclose(f);
	return found;
}

Test(kvm, the_monitor_has_an_empty_root)
{
	char path[64];
	json_int_t pid;
	struct dirent *e;
	json_t *i;
	DIR *d;

	create("test=idle", NULL);
	start();
	i = info();
	pid = member_int(i, "pid");
	json_decref(i);
	snprintf(path, sizeof(path), "/proc/%lld/root", (long long)pid);
	d = opendir(path);
	if (!d && errno == EACCES)
		cr_skip_test("only root may look");
	cr_assert(d);
	while ((e = readdir(d)))
		cr_expect(e->d_name[0] == '.', "'%s' is in its root", e->d_name);
	(void)closedir(d);
	/* Nor does ".." lead out of it. */
	snprintf(path, sizeof(path), "/proc/%lld/root/../etc", (long long)pid);
	cr_expect_eq(access(path, F_OK), -1);
	cr_expect(!has_line(pid, "status", "CapEff", "1"));
#ifndef VMD_SANITIZERS /* whose run-time makes calls of its own */
	cr_expect(has_line(pid, "status", "Seccomp:", "2"));
#endif
}

Test(kvm, memory_is_given_in_huge_pages)
{
	json_int_t pid;
	json_t *i;

	create("test=idle", NULL);
	start();
	i = info();
	pid = member_int(i, "pid");
	json_decref(i);
	cr_expect(has_line(pid, "smaps", "VmFlags:", " hg "));
	/* The kernel gives none to a memfd, whatever it is asked. */
	cr_expect(!has_line(pid, "maps", "guest-ram", ""));
}

/* A network of its own for vmd and its guests. */
static void tap_setup(void)
{
	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		cr_skip_test("no /dev/net/tun");
	if (unshare(CLONE_NEWNET) < 0)
		cr_skip_test("no network namespace can be made: %m");
	kvm_setup();
}

TestSuite(kvm_tap, .timeout = 300, .init = tap_setup, .fini = kvm_teardown);

/* The guest's driver takes one pair of queues of three, so the others are taken off the device. */
Test(kvm_tap, a_card_of_several_queues_reaches_the_host)
{
	static const char make[] = "ip tuntap add vmdq mode tap multi_queue && "
				   "ip addr add 198.51.100.1/30 dev vmdq && ip link set vmdq up";

	cr_assert_eq(system(make), 0, "%s", make);
	create("test=net-ping ip=198.51.100.2 peer=198.51.100.1",
	       json_pack("{s:i, s:[{s:s, s:s, s:i}]}", "cpus", 3, "nics", "network", "tap",
	                 "ifname", "vmdq", "queues", 3));
	run_to_end();
	expect_log("net: ping of 1514 bytes answered");
}
