/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostile.h"

#include "lib/guest.h"

const struct guest_test guest_tests[] = {
	{ "ring", test_ring },
	{ "race", test_race },
	{ "registers", test_registers },
	{ "queues", test_queues },
	{ "config", test_config },
	{ "requests", test_requests },
	{ "inflight", test_inflight },
	{ "device-resets", test_device_resets },
	{ "notify-storm", test_notify_storm },
	{ "interrupt-storm", test_interrupt_storm },
	{ "flood", test_flood },
	{ "ports", test_ports },
	{ "strings", test_strings },
	{ "mmio", test_mmio },
	{ "pci-config", test_pci_config },
	{ "msr", test_msr },
	{ "triple", test_triple },
	{ "bars", test_bars },
	{ "ecam", test_ecam },
	{ "spin", test_spin },
	{ "nowhere", test_nowhere },
	{ NULL, NULL },
};
