/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Stands in for the kernel's KVM, so that the whole monitor runs where there is none and every exit
 * is the test's to choose. Programs link it with -Wl,--wrap=ioctl: calls of KVM's ioctls end here,
 * others go to the kernel. What is set can be got again, KVM_RUN waits for fake_kvm_exit() or a
 * kick. One virtual machine at a time.
 */
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_KVM_CPUS 4

/* A machine as new. The descriptor of "/dev/kvm", the caller's. Other threads are not in KVM. */
int fake_kvm_new(void);
/*
 * Lets a vCPU leave the guest with this exit and waits until the monitor has dealt with it: it has
 * entered the guest again, or is_over(arg) says that it will not. io and mmio are as in struct
 * kvm_run; io.data_offset is set here, data holds size * count bytes for an OUT. False when the
 * vCPU does not run. Control thread.
 */
bool fake_kvm_exit(unsigned cpu, const struct kvm_run *exit, const uint8_t *data,
                   bool (*is_over)(void *arg), void *arg);
/* The n-th call from now on fails with that errno; 0: none does. KVM_RUN does not count. */
void fake_kvm_fail(unsigned n, int error);
/* How many calls there were since fake_kvm_new(). */
unsigned fake_kvm_calls(void);
