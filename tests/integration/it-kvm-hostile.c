/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that lie to every device (tests/guest, hostile.elf). Each abuse has to end in NEEDS_RESET
 * where nothing else is right ("strict"), and the device has to work again after a reset: the guest
 * itself checks that. Here it is seen that the monitor stays, and stays small.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/integration/kvm-fixture.h"

#define GUEST_MIB 128
/* Memory of the monitor beyond all of the guest's. */
#define MOST_BYTES (16 << 20)

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

static void abuse(const char *test)
{
	json_t *stats;
	int fd;

	create(test);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	fd = console_open(&s, "a", true);
	console_expect(fd, "guest: done", 120000);
	close(fd);
	cr_expect(!strstr(kvm_console_log(), "FAIL"), "%s:\n%s", test, kvm_console_log());
	cr_expect(strstr(kvm_console_log(), " ok"), "%s:\n%s", test, kvm_console_log());
	guest_expect_state(&s, "a", "running");
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_lt(member_int(stats, "process.rss_bytes"),
	             (GUEST_MIB << 20) + (json_int_t)MOST_BYTES, "%s", test);
	json_decref(stats);
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

Test(kvm_hostile, storms_and_floods)
{
	abuse("notify-storm,flood count=2000 kib=64");
}
