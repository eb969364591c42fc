/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Model-specific registers: which ones a processor's state consists of, on this host. */
#include <linux/kvm.h>
#include <stdint.h>

#include "devices/state.h"

#define MSR_MAX 512

struct msr_list {
	uint32_t n;
	uint32_t *index; /* owned; in the order in which they are to be set */
};

/* Has the memory layout of struct kvm_msrs. */
struct msr_values {
	uint32_t n, padding;
	struct kvm_msr_entry *entries; /* owned; n of them */
};

/* KVM's list, ordered: the time stamp counter first, its deadline last. 0 or negative errno. */
int msr_list_init(struct msr_list *l, int kvm_fd);
void msr_list_deinit(struct msr_list *l);
/* Reads all of the list from a vCPU; those that KVM lists and does not have are left out. */
int msrs_get(const struct msr_list *l, int vcpu_fd, struct msr_values *ret);
/* -EINVAL with *ret_index when KVM refuses one. */
int msrs_set(int vcpu_fd, const struct msr_values *v, uint32_t *ret_index);
void msr_values_deinit(struct msr_values *v);
/* What a firmware would have set before the kernel runs: memory types, fast strings. */
int msrs_set_boot(int vcpu_fd);

void msrs_put(const struct msr_values *v, struct state_out *o);
/* Only registers that are in the list. -EINVAL with err. */
int msrs_take(struct state_section *s, const struct msr_list *l, struct msr_values *ret,
              struct vmd_error *err);
