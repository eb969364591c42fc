/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What KVM itself counts of a vCPU (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD): above all
 * how long it stood halted, which never leaves the kernel.
 */
#include <stdint.h>

enum kvm_stat {
	KVM_STAT_HALT_NS,
	KVM_STAT_EXITS,
	KVM_STAT_HALT_EXITS,
	KVM_STAT_IRQ_EXITS,
	KVM_STAT_HYPERCALLS,
	_KVM_STAT_MAX
};

/* Where each lies in the file; the same for all vCPUs of a kernel. 0: this kernel has it not. */
struct kvm_stats_layout {
	uint64_t offset[_KVM_STAT_MAX];
};

/* A vCPU's file of counters, from before its first run on (later the ioctl waits for the vCPU). The
 * caller closes it. -errno when this KVM has none. */
int kvm_stats_open(int vcpu_fd);
/* Reads the descriptors of such a file. -EBADMSG when they make no sense, or another errno; then
 * all offsets are 0. */
int kvm_stats_layout_read(int fd, struct kvm_stats_layout *ret);
/* One counter. -ENODATA when there is none. Any thread. */
int kvm_stats_read(int fd, const struct kvm_stats_layout *layout, enum kvm_stat which,
                   uint64_t *ret);
