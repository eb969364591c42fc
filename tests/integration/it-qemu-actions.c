/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What follows an act of the guest: each value of each of `actions`, with guests that act. */
#include "config.h"

#include <unistd.h>

#include "tests/integration/qemu-fixture.h"

TestSuite(qemu_actions, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

#define LONG_MS 120000

/* Guest "a" that does this at the end of its boot. */
static void start_acting(const char *act, const char *actions)
{
	guest_create(&s, "a", "x86_64", act, js("{'actions': %s}", actions));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
}

static void expect_cause(const char *state, const char *cause)
{
	json_t *event = event_wait(&s.client, "vm.state", "a", "state", state, LONG_MS);

	cr_expect_str_eq(member_str(event, "data.cause"), cause);
	json_decref(event);
}

static json_int_t pid_of(void)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	json_int_t pid = member_int(info, "pid");

	json_decref(info);
	return pid;
}

Test(qemu_actions, a_poweroff_stops)
{
	start_acting("vmd.do=poweroff", "{'on_poweroff': 'stop'}");
	expect_cause("stopped", "guest-shutdown");
}

Test(qemu_actions, a_poweroff_can_restart)
{
	start_acting("vmd.do=poweroff", "{'on_poweroff': 'restart'}");
	expect_cause("running", "start");
	expect_cause("stopped", "guest-shutdown");
	expect_cause("running", "restart-policy");
}

Test(qemu_actions, a_reboot_restarts_in_the_same_process)
{
	json_int_t pid;
	int console;

	start_acting("vmd.do=reboot", "{'on_reboot': 'restart'}");
	pid = pid_of();
	console = console_open(&s, "a", true);
	console_expect(console, "vmd-guest: init", LONG_MS);
	console_expect(console, "vmd-guest: init", LONG_MS);
	cr_expect_eq(pid_of(), pid);
	close(console);
}

Test(qemu_actions, a_reboot_can_stop)
{
	start_acting("vmd.do=reboot", "{'on_reboot': 'stop'}");
	expect_cause("stopped", "guest-reset");
}

Test(qemu_actions, a_panic_stops)
{
	start_acting("vmd.do=panic", "{'on_panic': 'stop'}");
	json_decref(event_wait(&s.client, "vm.panic", "a", NULL, NULL, LONG_MS));
	expect_cause("failed", "guest-panic");
}

Test(qemu_actions, a_panic_can_restart)
{
	start_acting("vmd.do=panic", "{'on_panic': 'restart'}");
	expect_cause("running", "start");
	expect_cause("failed", "guest-panic");
	expect_cause("running", "restart-policy");
}

Test(qemu_actions, a_panic_can_pause)
{
	json_int_t pid;

	start_acting("vmd.do=panic", "{'on_panic': 'pause'}");
	pid = pid_of();
	expect_cause("paused", "guest-panic");
	cr_expect_eq(pid_of(), pid);
}

/*
 * Programs the watchdog by hand, since the x86_64 kit's kernel has no driver for it: the register
 * file is mapped by way of devmem's own path; two words unlock each write of a timer.
 */
static int fire_watchdog(const char *actions)
{
	int console = boot_kit("x86_64", NULL, "{'watchdog': true, 'actions': %s}", actions);

	console_run(console, "d=$(grep -l 0x25ab /sys/bus/pci/devices/*/device); d=${d%/device}; "
	                     "echo 1 >$d/enable; rm /dev/mem; ln -s $d/resource0 /dev/mem; "
	                     "m='busybox devmem'; u() { $m 12 16 0x80; $m 12 16 0x86; }; "
	                     "u; $m 0 32 1; u; $m 4 32 1; u; $m 12 16 0x100");
	console_type(console, "printf '\\2' | dd of=$d/config bs=1 seek=104 2>/dev/null\n");
	json_decref(event_wait(&s.client, "vm.watchdog", "a", NULL, NULL, LONG_MS));
	return console;
}

static bool have_watchdog(void)
{
	return engine_can("watchdog", "definition.watchdog",
	                  "{'watchdog': true, 'actions': {'on_watchdog': 'pause'}}");
}

Test(qemu_actions, a_watchdog_restarts)
{
	int console;

	if (!have_watchdog())
		return;
	console = fire_watchdog("{}");
	console_expect(console, "vmd-guest: init", LONG_MS);
	guest_expect_state(&s, "a", "running");
	close(console);
}

Test(qemu_actions, a_watchdog_can_stop)
{
	if (!have_watchdog())
		return;
	close(fire_watchdog("{'on_watchdog': 'stop'}"));
	expect_cause("failed", "watchdog");
}

Test(qemu_actions, a_watchdog_can_pause)
{
	if (!have_watchdog())
		return;
	close(fire_watchdog("{'on_watchdog': 'pause'}"));
	expect_cause("paused", "watchdog");
}

Test(qemu_actions, a_watchdog_can_be_told_only)
{
	int console;

	if (!have_watchdog())
		return;
	console = fire_watchdog("{'on_watchdog': 'none'}");
	expect_output(console, "echo goes-on", "goes-on");
	guest_expect_state(&s, "a", "running");
	close(console);
}

Test(qemu_actions, an_action_without_its_device_is_refused)
{
	expect_refused("invalid", "definition.actions.on_watchdog", "no watchdog",
	               "{'actions': {'on_watchdog': 'pause'}}");
}
