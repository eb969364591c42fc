/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Tests of engine kvm with the bare guests of tests/guest. They run on any /dev/kvm, also on one
 * that is too slow or too incomplete for Linux; so the prober is told to find it usable. That real
 * kernels run is shown by tests/host.
 */
#include "tests/lib/scene.h"

extern struct scene s;

/* Skips the test where no virtual machine can be made. */
void kvm_need(void);
/* Starts a vmd that takes KVM for usable; skips the test where no virtual machine can be made. */
void kvm_setup(void);
void kvm_teardown(void);

/* Guest a's console so far, the last 64 KiB of it (static storage). */
const char *kvm_console_log(void);
