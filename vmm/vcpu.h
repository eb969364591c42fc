/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The guest's processors: one thread each. All of them run or all stand still (parked): the control
 * thread asks, and waits until the last one has left the guest.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "devices/bus.h"
#include "devices/state.h"
#include "vmm/boot.h"
#include "vmm/cpuid.h"
#include "vmm/kvm-stats.h"
#include "vmm/msr.h"

enum vcpu_exit {
	VCPU_EXIT_IO,
	VCPU_EXIT_MMIO,
	VCPU_EXIT_KICK,
	VCPU_EXIT_OTHER,
	_VCPU_EXIT_MAX
};

/* What a processor came to that concerns the machine. */
enum vcpu_event {
	VCPU_TRIPLE_FAULT, /* or another way to ask KVM for a reset */
	VCPU_SHUTDOWN,
	VCPU_FAILED /* it cannot go on; see vcpus->failure */
};

/* Why a processor could not go on, and what it held. Only the first of a run is kept. */
struct vcpu_failure {
	bool valid;
	unsigned cpu;
	char reason[64]; /* "internal-error: emulation failed" */
	uint32_t exit_reason, n_data;
	uint64_t data[4]; /* as KVM gives them */
	struct kvm_regs regs;
	uint64_t cr0, cr2, cr3, cr4, efer, cs_base;
	uint16_t cs, ss;
	uint8_t insn_len, insn[15]; /* the instruction, when KVM tells it */
};

struct vcpus;

struct vcpu {
	struct vcpus *all;
	unsigned index;
	uint32_t apic_id;
	int fd;       /* -EBADF until vcpus_create() */
	int stats_fd; /* KVM's own counters; -EBADF where it has none */
	struct kvm_run *run;
	pthread_t thread;
	_Atomic pid_t tid;
	bool in_completion; /* an access was answered and KVM has not seen it yet; its thread */
	bool broken;        /* must not be entered again before a reset; its thread */
	_Atomic uint64_t exits[_VCPU_EXIT_MAX];
};

enum vcpus_want {
	VCPUS_PARK,
	VCPUS_RUN,
	VCPUS_END
};

struct vcpus {
	int vm_fd; /* borrowed */
	unsigned n;
	struct vcpu *v;
	size_t run_bytes;
	struct bus *pio, *mmio; /* borrowed */
	struct vmm_cpus config;
	struct cpuid_table *cpuid;         /* owned: as cpuid_cut() leaves it */
	struct kvm_stats_layout kvm_stats; /* read when it is asked for, by the control thread */
	bool kvm_stats_known;
	struct msr_list msrs;
	struct msr_values reset_msrs; /* of the first processor at power-on */
	struct kvm_lapic_state reset_lapic;
	bool has_sregs2;
	uint32_t xsave_bytes; /* of KVM_GET_XSAVE2, or sizeof(struct kvm_xsave) */

	/* A vCPU thread, about to park or to go on; must not wait for vCPUs. */
	void (*on_event)(struct vcpus *all, struct vcpu *v, enum vcpu_event event);
	void (*thread_init)(void); /* first thing in each thread: its seccomp filter */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic int want;            /* enum vcpus_want; written under lock */
	unsigned parked;             /* under lock */
	bool started;                /* threads exist */
	struct vcpu_failure failure; /* under lock */
};

/* Asks kvm_fd for what is needed later and settles the CPUID; no vCPU yet. */
int vcpus_init(struct vcpus *a, int kvm_fd, int vm_fd, const struct vmm_cpus *c, struct bus *pio,
               struct bus *mmio, struct vmd_error *err);
void vcpus_deinit(struct vcpus *a);
/* The threads, parked. 0 or negative errno. */
int vcpus_start_threads(struct vcpus *a);
/* The vCPUs in KVM, as at power-on. */
int vcpus_create(struct vcpus *a, struct vmd_error *err);
/* The first processor begins at entry, the others wait for it. Parked. */
int vcpus_set_entry(struct vcpus *a, const struct boot_entry *entry);
/* All as at power-on. Parked. 0 or negative errno. */
int vcpus_reset(struct vcpus *a);

/* Asks for it, and does not wait: from any thread. */
void vcpus_ask_park(struct vcpus *a);
/* Until all have left the guest and every answered access is complete. Control thread. */
void vcpus_park(struct vcpus *a);
void vcpus_run(struct vcpus *a);
/* A non-maskable interrupt for each. Parked. */
void vcpus_nmi(struct vcpus *a);

/* Sections "cpuid" and "vcpu" per processor. Parked. 0 or negative errno. */
int vcpus_save(struct vcpus *a, struct state_out *o);
/* First all of it is read and checked, then vCPUs are made (create) and given it. */
struct vcpus_saved;
int vcpus_load_parse(struct vcpus *a, struct state_in *in, struct vcpus_saved **ret,
                     struct vmd_error *err);
int vcpus_load_apply(struct vcpus *a, const struct vcpus_saved *saved, struct vmd_error *err);
struct vcpus_saved *vcpus_saved_free(struct vcpus_saved *saved);

/* One exit of v, in its thread. False: it must not be entered again (v->broken is set, or an
 * event was told). */
bool vcpu_handle_exit(struct vcpu *v);
/* Notes the failure with the registers and tells the machine. Its thread. */
void vcpu_fail(struct vcpu *v, const char *reason);
