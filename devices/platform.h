/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What a guest can ask of the machine as a whole through its small chips; vmm/ implements it. */

enum platform_event {
	PLATFORM_RESET,       /* the guest wants to begin anew */
	PLATFORM_POWEROFF,    /* ACPI S5 */
	PLATFORM_PANICKED,    /* pvpanic: its kernel gave up */
	PLATFORM_CRASHLOADED, /* pvpanic: it panicked and goes on in a crash kernel */
	PLATFORM_TEST_EXIT    /* test device; value is the exit status */
};

struct platform {
	/* Any vCPU thread, with no device's lock held; only notes it down. */
	void (*event)(struct platform *p, enum platform_event event, unsigned value);
};
