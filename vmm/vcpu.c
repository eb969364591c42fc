/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads of the processors. Parking: want is set, then immediate_exit, then the signal. A thread
 * clears immediate_exit before it looks at want, so one of the two always stops it: no kick is lost
 * between the look and KVM_RUN.
 */
#include "config.h"

#include "vmm/vcpu.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"

enum {
#ifdef VMD_SANITIZERS
	STACK_BYTES = 1 << 20
#else
	STACK_BYTES = 64 << 10
#endif
};

#define KICK_SIGNAL SIGUSR1

static void on_kick(int sig UNUSED)
{
	/* Its arrival is all that matters: KVM_RUN returns EINTR. */
}

static int get_cpuid(struct vcpus *a, int kvm_fd, struct vmd_error *err)
{
	bool deadline = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	a->cpuid = calloc(1, sizeof(*a->cpuid));
	if (!a->cpuid)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	a->cpuid->nent = CPUID_MAX_ENTRIES;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, a->cpuid) < 0)
		return error_set_errno(err, errno, "KVM does not tell its CPUID");
	return cpuid_cut(a->cpuid, &a->config, deadline, err);
}

int vcpus_init(struct vcpus *a, int kvm_fd, int vm_fd, const struct vmm_cpus *c, struct bus *pio,
               struct bus *mmio, struct vmd_error *err)
{
	struct sigaction action = { .sa_handler = on_kick };
	struct cpu_topology topo;
	int bytes, xsave, r;

	a->vm_fd = vm_fd;
	a->config = *c;
	a->pio = pio;
	a->mmio = mmio;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	(void)sigaction(KICK_SIGNAL, &action, NULL);
	a->v = calloc(c->count, sizeof(a->v[0]));
	if (!a->v)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	a->n = c->count;
	cpu_topology_init(&topo, c);
	for (unsigned i = 0; i < a->n; i++) {
		a->v[i].all = a;
		a->v[i].index = i;
		a->v[i].fd = a->v[i].stats_fd = -EBADF;
		a->v[i].apic_id = cpu_apic_id(&topo, i);
	}
	bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (bytes < (int)sizeof(struct kvm_run))
		return error_set(err, ERROR_UNSUPPORTED, "KVM has no run area");
	a->run_bytes = (size_t)bytes;
	a->has_sregs2 = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
	xsave = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	a->xsave_bytes = MAX_OF((uint32_t)MAX_OF(xsave, 0), (uint32_t)sizeof(struct kvm_xsave));
	r = msr_list_init(&a->msrs, kvm_fd);
	if (r < 0)
		return error_set_errno(err, -r, "KVM does not list its registers");
	return get_cpuid(a, kvm_fd, err);
}

void vcpus_deinit(struct vcpus *a)
{
	if (a->started) {
		pthread_mutex_lock(&a->lock);
		atomic_store(&a->want, VCPUS_END);
		pthread_cond_broadcast(&a->changed);
		pthread_mutex_unlock(&a->lock);
		for (unsigned i = 0; i < a->n; i++)
			(void)pthread_join(a->v[i].thread, NULL);
	}
	for (unsigned i = 0; i < a->n; i++) {
		if (a->v[i].run)
			(void)munmap(a->v[i].run, a->run_bytes);
		cleanup_close_p(&a->v[i].fd);
		cleanup_close_p(&a->v[i].stats_fd);
	}
	free(a->v);
	free(a->cpuid);
	msr_list_deinit(&a->msrs);
	msr_values_deinit(&a->reset_msrs);
	a->v = NULL;
	a->n = 0;
	a->cpuid = NULL;
}

/* KVM sees the answer to an access only when it is entered again; it may split one in many. */
static void complete_access(struct vcpu *v)
{
	while (v->in_completion && !v->broken) {
		v->in_completion = false;
		v->run->immediate_exit = 1;
		/* seccomp vcpu: ioctl KVM_RUN. */
		if (ioctl(v->fd, KVM_RUN, 0) == 0)
			(void)vcpu_handle_exit(v);
	}
}

/* seccomp vcpu: futex. Waits until it may run; false when it is to end. */
static bool park(struct vcpu *v)
{
	struct vcpus *a = v->all;
	bool go_on;

	complete_access(v);
	pthread_mutex_lock(&a->lock);
	a->parked++;
	pthread_cond_broadcast(&a->changed);
	while (atomic_load(&a->want) == VCPUS_PARK)
		pthread_cond_wait(&a->changed, &a->lock);
	a->parked--;
	go_on = atomic_load(&a->want) == VCPUS_RUN;
	pthread_mutex_unlock(&a->lock);
	return go_on;
}

static void count(struct vcpu *v, enum vcpu_exit exit)
{
	/* One writer: no locked instruction is needed. */
	atomic_store_explicit(&v->exits[exit],
	                      atomic_load_explicit(&v->exits[exit], memory_order_relaxed) + 1,
	                      memory_order_relaxed);
}

static void run_failed(struct vcpu *v, int e)
{
	char reason[64];

	if (e == EINTR || e == EAGAIN) {
		count(v, VCPU_EXIT_KICK);
		return;
	}
	snprintf(reason, sizeof(reason), "kvm-run: %.48s", strerror(e));
	vcpu_fail(v, reason);
}

/* One that must not be entered again before a reset waits until all stand still. */
static void rest(struct vcpu *v)
{
	struct vcpus *a = v->all;

	pthread_mutex_lock(&a->lock);
	while (atomic_load(&a->want) == VCPUS_RUN)
		pthread_cond_wait(&a->changed, &a->lock);
	pthread_mutex_unlock(&a->lock);
}

static void *run_vcpu(void *arg)
{
	struct vcpu *v = arg;
	struct vcpus *a = v->all;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->index);
	(void)pthread_setname_np(pthread_self(), name);
	atomic_store(&v->tid, (pid_t)syscall(SYS_gettid));
	if (a->thread_init)
		a->thread_init();
	while (park(v)) {
		for (;;) {
			v->run->immediate_exit = 0;
			atomic_thread_fence(memory_order_seq_cst);
			if (atomic_load(&a->want) != VCPUS_RUN)
				break;
			v->in_completion = false;
			if (v->broken)
				rest(v);
			else if (ioctl(v->fd, KVM_RUN, 0) < 0)
				run_failed(v, errno);
			else
				(void)vcpu_handle_exit(v);
		}
	}
	return NULL;
}

int vcpus_start_threads(struct vcpus *a)
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r == 0)
		r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (unsigned i = 0; r == 0 && i < a->n; i++) {
		r = pthread_create(&a->v[i].thread, &attr, run_vcpu, &a->v[i]);
		if (r != 0)
			a->n = i; /* those that exist are ended by vcpus_deinit() */
	}
	a->started = true;
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int create_one(struct vcpu *v, struct cpuid_table *cpuid)
{
	struct vcpus *a = v->all;

	/* seccomp main: ioctl KVM_CREATE_VCPU, KVM_SET_CPUID2 (a snapshot is loaded). */
	v->fd = ioctl(a->vm_fd, KVM_CREATE_VCPU, (unsigned long)v->apic_id);
	if (v->fd < 0)
		return -errno;
	v->run = mmap(NULL, a->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return -errno;
	}
	v->stats_fd = kvm_stats_open(v->fd);
	cpuid_for_cpu(cpuid, &a->config, v->apic_id);
	if (ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0)
		return -errno;
	return msrs_set_boot(v->fd);
}

int vcpus_create(struct vcpus *a, struct vmd_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < a->n; i++)
		r = create_one(&a->v[i], a->cpuid);
	cpuid_for_cpu(a->cpuid, &a->config, 0);
	if (r == 0)
		r = msrs_get(&a->msrs, a->v[0].fd, &a->reset_msrs);
	if (r == 0 && ioctl(a->v[0].fd, KVM_GET_LAPIC, &a->reset_lapic) < 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(err, -r, "KVM cannot make the guest's processors");
	return 0;
}

static void set_segments(struct kvm_sregs *s, bool is_64)
{
	struct kvm_segment code = { .limit = 0xFFFFFFFF,
		                    .selector = 0x10,
		                    .type = 11,
		                    .present = 1,
		                    .s = 1,
		                    .l = is_64,
		                    .db = !is_64,
		                    .g = 1 };
	struct kvm_segment data = code;

	data.selector = 0x18;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){ .limit = 0x67, .type = 11, .present = 1 };
	s->gdt.base = BOOT_GDT;
	s->gdt.limit = 31;
	s->idt.limit = 0;
}

int vcpus_set_entry(struct vcpus *a, const struct boot_entry *entry)
{
	struct kvm_regs regs = { .rip = entry->rip,
		                 .rsp = BOOT_STACK,
		                 .rsi = entry->rsi,
		                 .rax = entry->rax,
		                 .rbx = entry->rbx,
		                 .rflags = 2 };
	struct kvm_sregs s;

	/* seccomp main: ioctl KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS. */
	if (ioctl(a->v[0].fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	set_segments(&s, entry->mode == BOOT_64);
	s.cr0 = 0x11; /* PE, ET */
	if (entry->mode == BOOT_64) {
		s.cr0 |= 1u << 31;
		s.cr3 = BOOT_PAGES;
		s.cr4 = 0x20;   /* PAE */
		s.efer = 0x500; /* LME, LMA */
	}
	if (ioctl(a->v[0].fd, KVM_SET_SREGS, &s) < 0 || ioctl(a->v[0].fd, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

void vcpus_ask_park(struct vcpus *a)
{
	pthread_mutex_lock(&a->lock);
	if (atomic_load(&a->want) == VCPUS_RUN)
		atomic_store(&a->want, VCPUS_PARK);
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	if (!a->started)
		return;
	for (unsigned i = 0; i < a->n; i++) {
		if (a->v[i].run)
			__atomic_store_n(&a->v[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		/* seccomp vcpu, main: tgkill with the kick signal only. */
		if (!pthread_equal(a->v[i].thread, pthread_self()))
			(void)pthread_kill(a->v[i].thread, KICK_SIGNAL);
	}
}

void vcpus_park(struct vcpus *a)
{
	vcpus_ask_park(a);
	pthread_mutex_lock(&a->lock);
	while (a->started && a->parked < a->n)
		pthread_cond_wait(&a->changed, &a->lock);
	pthread_mutex_unlock(&a->lock);
}

void vcpus_run(struct vcpus *a)
{
	for (unsigned i = 0; i < a->n; i++)
		/* The guest's watchdogs are told that time passed without it; EINVAL when it has
		 * no kvmclock. seccomp main: ioctl KVM_KVMCLOCK_CTRL. */
		(void)ioctl(a->v[i].fd, KVM_KVMCLOCK_CTRL, 0);
	pthread_mutex_lock(&a->lock);
	atomic_store(&a->want, VCPUS_RUN);
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
}

void vcpus_nmi(struct vcpus *a)
{
	for (unsigned i = 0; i < a->n; i++)
		(void)ioctl(a->v[i].fd, KVM_NMI, 0); /* seccomp main: ioctl KVM_NMI. */
}
