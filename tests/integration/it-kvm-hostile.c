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
#include "tests/integration/kvm-fixture.h"

/* Of the monitor itself, beyond the guest's memory. */
#define MOST_KIB (16 << 10)

TestSuite(kvm_hostile, .timeout = 300, .init = kvm_setup, .fini = kvm_teardown);

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
	console_expect(fd, "guest: done", 120000);
	close(fd);
	expect_all_ok(tests);
	guest_expect_state(&s, "a", "running");
	expect_small(tests);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
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
