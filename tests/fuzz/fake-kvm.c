/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/fuzz/fake-kvm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common/macros.h"
#include "tests/fuzz/fuzz.h"

#define RUN_BYTES   (3u * 4096)
#define DATA_AT     4096u /* of an I/O exit, in the run area */
#define BLOB_BYTES  4096u
#define MAX_BLOBS   32u
#define MSRS        8u
#define KICK_SIGNAL SIGUSR1

/* What was set by one kind of request, to be got again. */
struct blob {
	uint64_t nr;
	uint8_t data[BLOB_BYTES] __attribute__((aligned(8)));
};

struct cpu {
	int fd; /* the monitor's; it is closed when this number is used anew */
	struct kvm_run *run;
	struct blob blobs[MAX_BLOBS];
	unsigned n_blobs;
	int exit_fd; /* one count: run holds an exit */
	atomic_bool waits;
};

static struct cpu cpus[FAKE_KVM_CPUS];
static unsigned n_cpus;
static struct blob chips[3];
static _Atomic unsigned calls, fail_at;
static int fail_error;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t waits_now = PTHREAD_COND_INITIALIZER; /* some cpu's waits became true */

/* Registers of this processor: the time stamp counter, its deadline, and some that are plain. */
static const uint32_t msr_list[MSRS] = {
	0x174, 0x10, 0x175, 0x277, 0x6E0, 0xC0000080, 0x3B, 0x1A0
};

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);

static void forget_cpu(struct cpu *c)
{
	if (c->run)
		(void)munmap(c->run, RUN_BYTES);
	if (c->exit_fd > 0)
		close(c->exit_fd);
	memset(c, 0, sizeof(*c));
}

int fake_kvm_new(void)
{
	for (unsigned i = 0; i < n_cpus; i++)
		forget_cpu(&cpus[i]);
	n_cpus = 0;
	memset(chips, 0, sizeof(chips));
	atomic_store(&calls, 0);
	fake_kvm_fail(0, 0);
	return memfd_create("fake-kvm", MFD_CLOEXEC);
}

void fake_kvm_fail(unsigned n, int error)
{
	fail_error = error;
	atomic_store(&fail_at, n ? atomic_load(&calls) + n : 0);
}

unsigned fake_kvm_calls(void)
{
	return atomic_load(&calls);
}

static int fail_with(int error)
{
	errno = error;
	return -1;
}

static struct cpu *find_cpu(int fd)
{
	/* The newest first: a number may have been given again. */
	for (unsigned i = n_cpus; i--;)
		if (cpus[i].fd == fd)
			return &cpus[i];
	return NULL;
}

static int new_cpu(void)
{
	struct cpu *c = &cpus[n_cpus];

	FUZZ_CHECK(n_cpus < FAKE_KVM_CPUS);
	c->fd = memfd_create("fake-vcpu", MFD_CLOEXEC);
	c->exit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	FUZZ_CHECK(c->fd >= 0 && c->exit_fd >= 0 && ftruncate(c->fd, RUN_BYTES) == 0);
	c->run = mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	FUZZ_CHECK(c->run != MAP_FAILED);
	n_cpus++;
	return c->fd;
}

/* All features, so that every model can be asked for; an Intel of four cores. */
static int get_cpuid(struct kvm_cpuid2 *t)
{
	static const uint32_t leaves[] = { 0,   1,          4,          7,          0xB,
		                           0xD, 0x80000000, 0x80000001, 0x80000007, 0x80000008 };

	if (t->nent < ARRAY_SIZE(leaves))
		return fail_with(E2BIG);
	memset(t->entries, 0, ARRAY_SIZE(leaves) * sizeof(t->entries[0]));
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
		t->entries[i] = (struct kvm_cpuid_entry2){
			.function = leaves[i], .eax = 0x0000FF30, .ebx = ~0u, .ecx = ~0u, .edx = ~0u
		};
	t->entries[0] = (struct kvm_cpuid_entry2){
		.eax = 0x1F, .ebx = 0x756E6547, .ecx = 0x6C65746E, .edx = 0x49656E69
	};
	t->entries[6].eax = 0x80000008;
	t->nent = ARRAY_SIZE(leaves);
	return 0;
}

static int get_msr_list(struct kvm_msr_list *l)
{
	if (l->nmsrs < MSRS)
		return fail_with(E2BIG);
	l->nmsrs = MSRS;
	memcpy(l->indices, msr_list, sizeof(msr_list));
	return 0;
}

static struct blob *blob_of(struct cpu *c, unsigned nr)
{
	for (unsigned i = 0; i < c->n_blobs; i++)
		if (c->blobs[i].nr == nr)
			return &c->blobs[i];
	FUZZ_CHECK(c->n_blobs < MAX_BLOBS);
	c->blobs[c->n_blobs].nr = nr;
	return &c->blobs[c->n_blobs++];
}

static int copy_msrs(struct cpu *c, struct kvm_msrs *m, bool set)
{
	uint64_t *values = (uint64_t *)(void *)blob_of(c, _IOC_NR(KVM_GET_MSRS))->data;

	for (uint32_t i = 0; i < m->nmsrs; i++) {
		unsigned k = 0;

		while (k < MSRS && msr_list[k] != m->entries[i].index)
			k++;
		/* Unknown ones are ignored at a set of the firmware's, as KVM can be told to do;
		 * a value with its top bit is one that a processor would not take. */
		if (k == MSRS && !set)
			return (int)i;
		if (k == MSRS)
			continue;
		if (set && m->entries[i].data >> 63)
			return (int)i;
		if (set)
			values[k] = m->entries[i].data;
		else
			m->entries[i].data = values[k];
	}
	return (int)m->nmsrs;
}

/* What KVM checks of saved state, as far as a monitor must reckon with a refusal. */
static bool refuses(unsigned long request, const void *arg)
{
	const struct kvm_mp_state *mp = arg;
	const struct kvm_sregs *s = arg;
	const struct kvm_xcrs *x = arg;

	switch (request) {
	case KVM_SET_MP_STATE:
		return mp->mp_state > KVM_MP_STATE_SIPI_RECEIVED;
	case KVM_SET_SREGS:
	case KVM_SET_SREGS2:
		return s->cr0 >> 32;
	case KVM_SET_XCRS:
		return x->nr_xcrs > KVM_MAX_XCRS || x->flags;
	}
	return false;
}

/* The numbers of the pairs of requests: the one that gets, the one that sets. */
static const struct {
	unsigned long get, set;
	size_t bytes;
} pairs[] = {
	{ KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs) },
	{ KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs) },
	{ KVM_GET_SREGS2, KVM_SET_SREGS2, sizeof(struct kvm_sregs2) },
	{ KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state) },
	{ KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs) },
	{ KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs) },
	{ KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state) },
	{ KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events) },
	{ KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(struct kvm_xsave) },
};

static int cpu_state(struct cpu *c, unsigned long request, void *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct blob *b;

		if (request != pairs[i].get && request != pairs[i].set)
			continue;
		b = blob_of(c, _IOC_NR(pairs[i].get));
		if (request == pairs[i].get) {
			memcpy(arg, b->data, pairs[i].bytes);
			return 0;
		}
		if (refuses(request, arg))
			return fail_with(EINVAL);
		memcpy(b->data, arg, pairs[i].bytes);
		return 0;
	}
	fprintf(stderr, "fake-kvm: request 0x%lx is not known\n", request);
	abort();
}

static void tell_that_it_waits(struct cpu *c)
{
	pthread_mutex_lock(&lock);
	atomic_store(&c->waits, true);
	pthread_cond_broadcast(&waits_now);
	pthread_mutex_unlock(&lock);
}

/* Until c waits or is_over(arg), which nobody tells: it is looked at again and again. It does not
 * spin, for that would take the processor's thread its time. */
static void wait_for(struct cpu *c, bool (*is_over)(void *arg), void *arg)
{
	while (!atomic_load(&c->waits) && !is_over(arg)) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 50000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_mutex_lock(&lock);
		if (!atomic_load(&c->waits))
			(void)pthread_cond_timedwait(&waits_now, &lock, &until);
		pthread_mutex_unlock(&lock);
	}
}

/* A kick that comes between the look at immediate_exit and the wait ends the wait: the signal is
 * only let in there, as in the kernel. */
static int run_cpu(struct cpu *c)
{
	struct pollfd p = { .fd = c->exit_fd, .events = POLLIN };
	sigset_t kick, before;
	eventfd_t n;
	int r;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	if (__atomic_load_n(&c->run->immediate_exit, __ATOMIC_SEQ_CST)) {
		r = -1;
	} else {
		tell_that_it_waits(c);
		r = ppoll(&p, 1, NULL, &before);
		atomic_store(&c->waits, false);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r > 0 && eventfd_read(c->exit_fd, &n) == 0)
		return 0;
	c->run->exit_reason = KVM_EXIT_INTR;
	return fail_with(EINTR);
}

bool fake_kvm_exit(unsigned cpu, const struct kvm_run *exit, const uint8_t *data,
                   bool (*is_over)(void *arg), void *arg)
{
	struct cpu *c = &cpus[cpu];

	if (cpu >= n_cpus)
		return false;
	wait_for(c, is_over, arg);
	if (is_over(arg))
		return false;
	*c->run = *exit;
	if (exit->exit_reason == KVM_EXIT_IO) {
		size_t bytes = (size_t)exit->io.size * exit->io.count;

		FUZZ_CHECK(bytes <= RUN_BYTES - DATA_AT);
		c->run->io.data_offset = DATA_AT;
		memcpy((uint8_t *)c->run + DATA_AT, data, bytes);
	}
	atomic_store(&c->waits, false);
	eventfd_write(c->exit_fd, 1);
	wait_for(c, is_over, arg);
	return true;
}

static int chip(unsigned long request, struct kvm_irqchip *c)
{
	if (c->chip_id >= ARRAY_SIZE(chips))
		return fail_with(EINVAL);
	if (request == KVM_GET_IRQCHIP)
		memcpy(&c->chip, chips[c->chip_id].data, sizeof(c->chip));
	else
		memcpy(chips[c->chip_id].data, &c->chip, sizeof(c->chip));
	return 0;
}

static int call(int fd, unsigned long request, void *arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CREATE_VM:
		return memfd_create("fake-vm", MFD_CLOEXEC);
	case KVM_CREATE_VCPU:
		return new_cpu();
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_BYTES;
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)arg != KVM_CAP_XSAVE2;
	case KVM_GET_SUPPORTED_CPUID:
		return get_cpuid(arg);
	case KVM_GET_MSR_INDEX_LIST:
		return get_msr_list(arg);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return copy_msrs(find_cpu(fd), arg, request == KVM_SET_MSRS);
	case KVM_GET_TSC_KHZ:
		return 2000000;
	case KVM_SET_TSC_KHZ:
	case KVM_GET_STATS_FD:
		return fail_with(ENOTTY);
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		return chip(request, arg);
	case KVM_GET_CLOCK:
		memset(arg, 0, sizeof(struct kvm_clock_data));
		return 0;
	case KVM_SET_CLOCK:
	case KVM_SET_CPUID2:
	case KVM_SET_IDENTITY_MAP_ADDR:
	case KVM_SET_TSS_ADDR:
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_CREATE_IRQCHIP:
	case KVM_SET_GSI_ROUTING:
	case KVM_IRQFD:
	case KVM_IOEVENTFD:
	case KVM_IRQ_LINE:
	case KVM_KVMCLOCK_CTRL:
	case KVM_NMI:
		return 0;
	}
	return cpu_state(find_cpu(fd), request, arg);
}

/* KVM has a type of its own among the requests. */
static bool is_kvm(unsigned long request)
{
	return _IOC_TYPE(request) == KVMIO;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	unsigned n;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (!is_kvm(request))
		return __real_ioctl(fd, request, arg);
	if (request == KVM_RUN)
		return run_cpu(find_cpu(fd));
	n = atomic_fetch_add(&calls, 1) + 1;
	if (n == atomic_load(&fail_at))
		return fail_with(fail_error);
	return call(fd, request, arg);
}
