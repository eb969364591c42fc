/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What the guest's processors say of themselves: the host's CPUID as KVM can give it, cut to the
 * model's level, with the guest's own topology. Pure: tables in, tables out.
 */
#include <linux/kvm.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/guest-config.h"

#define CPUID_MAX_ENTRIES 256

/* Has the memory layout of struct kvm_cpuid2, with room. */
struct cpuid_table {
	uint32_t nent, padding;
	struct kvm_cpuid_entry2 entries[CPUID_MAX_ENTRIES];
};

/* How APIC ids are made up: socket, core and thread each have bits of their own. */
struct cpu_topology {
	unsigned thread_bits, core_bits;
	unsigned threads, cores, sockets;
};

void cpu_topology_init(struct cpu_topology *t, const struct vmm_cpus *c);
/* The APIC id of processor index (0 .. count - 1); KVM calls the vCPU by it too. */
uint32_t cpu_apic_id(const struct cpu_topology *t, unsigned index);

/* The entry of a leaf and subleaf, or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *t, uint32_t function, uint32_t index);

/*
 * Cuts the table that KVM supports (in t) to what guests of this configuration see, all but the
 * fields that differ from processor to processor. -ENOTSUP (unsupported) when the host has less
 * than the model promises; err names what is missing.
 */
int cpuid_cut(struct cpuid_table *t, const struct vmm_cpus *c, bool tsc_deadline,
              struct vmd_error *err);
/* Fills in those of one processor. */
void cpuid_for_cpu(struct cpuid_table *t, const struct vmm_cpus *c, uint32_t apic_id);
/* Whether a guest that runs with a can go on with b: equal tables. Else -EINVAL, err says which
 * leaf differs. */
int cpuid_same(const struct cpuid_table *a, const struct cpuid_table *b, struct vmd_error *err);
