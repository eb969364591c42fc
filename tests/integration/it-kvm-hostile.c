/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that lie to every device (tests/guest, hostile.elf). Each abuse has to end in NEEDS_RESET
 * where nothing else is right ("strict"), and the device has to work again after a reset: the guest
 * itself checks that. Here it is seen that the monitor stays, and stays small.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/timeutil.h"
#include "tests/integration/kvm-fixture.h"

/* Of the monitor itself, beyond the guest's memory. */
#define MOST_KIB (16 << 10)

TestSuite(kvm_hostile, .timeout = 500, .init = kvm_setup, .fini = kvm_teardown);

static void create(const char *test)
{
	char cmdline[128];

	snprintf(cmdline, sizeof(cmdline), "test=%s strict end=halt", test);
	call_ok(&s.client, "vm.create",
	        "{s:{s:s, s:s, s:s, s:i, s:{s:s, s:s}, s:[{s:s, s:s}], s:[{s:s}]}}", "definition",
	        "name", "a", "engine", "kvm", "memory", "128M", "cpus", 2, "boot", "kernel",
	        TEST_BUILD_DIR "/tests/guest/hostile.elf", "cmdline", cmdline, "disks", "path",
	        scene_disk(&s, "disk.img", 8 << 20), "format", "raw", "nics", "network", "none");
}

/* Each of the comma-separated tests (up to the first blank) said "ok". */
static void expect_all_ok(const char *tests)
{
	const char *log = kvm_console_log();
	size_t len = strcspn(tests, " ");

	cr_expect(!strstr(log, "FAIL"), "%s:\n%s", tests, log);
	for (size_t at = 0, n; at < len; at += n + 1) {
		char line[64];

		n = strcspn(tests + at, ", ");
		snprintf(line, sizeof(line), "guest: %.*s ok", (int)n, tests + at);
		cr_expect(strstr(log, line), "no '%s' in:\n%s", line, log);
	}
}

/* The guest's memory is a memfd, and counts as shared. */
static void expect_small(const char *tests)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cleanup_free char *text = NULL;
	char path[48];
	const char *anon;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)member_int(info, "pid"));
	json_decref(info);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 65536, &text, NULL), 0);
	anon = strstr(text, "RssAnon:");
	cr_assert(anon);
#ifndef VMD_SANITIZERS
	cr_expect_lt(strtol(anon + strlen("RssAnon:"), NULL, 10), MOST_KIB, "%s", tests);
#else
	(void)tests; /* their shadow memory is not the monitor's */
#endif
}

static void abuse(const char *tests)
{
	int fd;

	create(tests);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	fd = console_open(&s, "a", true);
	console_expect(fd, "guest: done", 400000);
	close(fd);
	expect_all_ok(tests);
	guest_expect_state(&s, "a", "running");
	expect_small(tests);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
}

/* A guest that minds its own business: memory that always changes. */
static int start_neighbour(void)
{
	int fd;

	call_ok(&s.client, "vm.create", "{s:{s:s, s:s, s:s, s:{s:s, s:s}}}", "definition", "name",
	        "b", "engine", "kvm", "memory", "32M", "boot", "kernel",
	        TEST_BUILD_DIR "/tests/guest/bare.elf", "cmdline", "test=dirty mib=1 rate=50");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "b");
	fd = console_open(&s, "b", true);
	console_expect(fd, "dirty: ready", 60000);
	return fd;
}

/* It still runs, and its memory is its own. */
static void expect_neighbour_well(int fd)
{
	guest_expect_state(&s, "b", "running");
	console_type(fd, "verify\n");
	console_expect(fd, "dirty: verified counter ", 60000);
}

Test(kvm_hostile, rings)
{
	abuse("ring");
}

Test(kvm_hostile, rings_that_change_under_the_device)
{
	abuse("race rounds=5");
}

Test(kvm_hostile, registers)
{
	abuse("registers,queues,config,pci-config,msr");
}

Test(kvm_hostile, requests)
{
	abuse("requests,strings");
}

Test(kvm_hostile, resets_with_requests_in_flight)
{
	abuse("inflight,device-resets count=50 rounds=5");
}

Test(kvm_hostile, storms)
{
	abuse("notify-storm count=2000");
}

/* What the local APIC has accepted comes after the mask; what the device says later does not. */
Test(kvm_hostile, vectors_masked_in_a_storm)
{
	abuse("interrupt-storm count=60");
}

Test(kvm_hostile, floods)
{
	abuse("flood kib=64");
}

/* Two at a time: each port and the BARs of each device, at every width. */
Test(kvm_hostile, every_port)
{
	int neighbour = start_neighbour();

	abuse("ports write-end=0x1000 write-step=64");
	expect_neighbour_well(neighbour);
	close(neighbour);
}

Test(kvm_hostile, every_register_of_every_device)
{
	abuse("bars");
}

Test(kvm_hostile, configuration_space_and_places_without_anybody)
{
	abuse("ecam,mmio step=64M");
}

/* A guest that takes all processors and hears no interrupt. */
static int start_spinning(unsigned cpus, unsigned spinning)
{
	char cmdline[64];
	int fd;

	snprintf(cmdline, sizeof(cmdline), "test=spin spinning=%u end=halt", spinning);
	call_ok(&s.client, "vm.create", "{s:{s:s, s:s, s:s, s:i, s:{s:s, s:s}}}", "definition",
	        "name", "a", "engine", "kvm", "memory", "64M", "cpus", (int)cpus, "boot", "kernel",
	        TEST_BUILD_DIR "/tests/guest/hostile.elf", "cmdline", cmdline);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	fd = console_open(&s, "a", true);
	console_expect(fd, " processors", 120000);
	return fd;
}

static void expect_all_move(int fd)
{
	console_type(fd, "?\n");
	console_expect(fd, "spin: all move", 60000);
}

static void use_all_verbs(int fd)
{
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "paused");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	expect_all_move(fd);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	expect_all_move(fd);
	close(fd);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "running");
	fd = console_open(&s, "a", false);
	expect_all_move(fd);
	call_ok(&s.client, "vm.reset", "{s:s}", "vm", "a");
	console_expect(fd, " processors", 120000);
	close(fd);
}

Test(kvm_hostile, spinning_processors_obey)
{
	int neighbour = start_neighbour(), fd = start_spinning(3, 2);

	use_all_verbs(fd);
	expect_neighbour_well(neighbour);
	close(neighbour);
	/* A stop asks, and after its time insists. */
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "a", "timeout_ms", 300);
	guest_expect_state(&s, "a", "stopped");
}

/* All of them start, move and obey; few spin, as they would take the host from the other tests. */
Test(kvm_hostile, sixty_four_processors_obey)
{
	use_all_verbs(start_spinning(64, 1));
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	scene_wait_processes(&s, 0, 10000);
}

/* It stands still under a name, with what its processor held, and can be reset. */
Test(kvm_hostile, a_processor_that_cannot_go_on_is_told)
{
	json_t *event;

	create("nowhere");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	event = event_wait(&s.client, "vm.cpu_failed", "a", NULL, NULL, 60000);
	cr_expect_eq(strncmp(member_str(event, "data.reason"), "internal-error", 14), 0);
	cr_expect_str_eq(member_str(event, "data.registers.rip"), "0xd0000000");
	json_decref(event);
	json_decref(event_wait(&s.client, "vm.state", "a", "cause", "internal-error", 60000));
	guest_expect_state(&s, "a", "paused");
	call_ok(&s.client, "vm.reset", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	json_decref(event_wait(&s.client, "vm.cpu_failed", "a", NULL, NULL, 60000));
}

/* The daemon tells of a loop without end, but not of each turn; the sum is right. */
Test(kvm_hostile, a_reset_loop_is_not_a_flood_of_events)
{
	int neighbour = start_neighbour();
	uint64_t start = now_monotonic_us();
	unsigned told = 0;
	json_int_t resets = 0;
	int fd;

	call_ok(&s.client, "vm.create", "{s:{s:s, s:s, s:s, s:{s:s, s:s}}}", "definition", "name",
	        "a", "engine", "kvm", "memory", "32M", "boot", "kernel",
	        TEST_BUILD_DIR "/tests/guest/bare.elf", "cmdline",
	        "test=resets count=18 end=halt way=triple");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	fd = console_open(&s, "a", true);
	console_expect(fd, "guest: done", 120000);
	close(fd);
	while (resets < 18) {
		json_t *event = event_wait(&s.client, "vm.reset", "a", NULL, NULL, 20000);

		resets += 1 + json_integer_value(member(event, "data.skipped"));
		told++;
		json_decref(event);
	}
	cr_expect_eq(resets, 18);
	cr_expect_leq(told, 11 + (now_monotonic_us() - start) / 1000000);
	expect_neighbour_well(neighbour);
	close(neighbour);
}
