/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lib/guest.h"
#include "tests.h"

const struct guest_test guest_tests[] = {
	{ "hello", test_hello },
	{ "echo", test_echo },
	{ "idle", test_idle },
	{ "memory", test_memory },
	{ "hole", test_hole },
	{ "acpi", test_acpi },
	{ "smp", test_smp },
	{ "cpuid", test_cpuid },
	{ "tick", test_tick },
	{ "exits", test_exits },
	{ "clock", test_clock },
	{ "panic", test_panic },
	{ "button", test_button },
	{ "resets", test_resets },
	{ "pci", test_pci },
	{ "blk", test_blk },
	{ "blk-readonly", test_blk_readonly },
	{ "blk-write", test_blk_write },
	{ "blk-verify", test_blk_verify },
	{ "net-ping", test_net_ping },
	{ "net-loop", test_net_loop },
	{ "net-echo", test_net_echo },
	{ "rng", test_rng },
	{ "balloon", test_balloon },
	{ "console", test_console },
	{ "dirty", test_dirty },
	{ NULL, NULL },
};
