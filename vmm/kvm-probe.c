/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/*
 * vmd-kvm-probe: does /dev/kvm on this host really run ring-0 code, properly and at speed? A KVM
 * that is there but emulated in software, broken or forbidden must not be chosen for guests. Each
 * check is a micro-guest of its own in 64-bit mode. Prints one JSON line and always ends: an alarm
 * interrupts KVM_RUN, a second one ends the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "vmm/kvm-probe-guest.h"

#define TIME_LIMIT_S 4
/* An interpreter reaches a few million instructions a second; hardware, and even hardware that
 * another emulator emulates, some hundred million and more. */
#define LEAST_MIPS 100.0

struct report {
	bool usable;
	char reason[192];
	char hint[128];
	const char *checks[PROBE_CHECKS_MAX]; /* names of those passed */
	size_t n_checks;
	double loop_mips;
	uint64_t exit_ns;
};

static int refuse(struct report *r, const char *format, ...) PRINTF_LIKE(2, 3);
static int refuse(struct report *r, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(r->reason, sizeof(r->reason), format, ap);
	va_end(ap);
	return -1;
}

static void print_report(const struct report *r)
{
	printf("{\"usable\":%s,\"reason\":\"%s\"", r->usable ? "true" : "false", r->reason);
	if (r->hint[0])
		printf(",\"hint\":\"%s\"", r->hint);
	fputs(",\"checks\":{", stdout);
	for (size_t i = 0; i < r->n_checks; i++)
		printf("%s\"%s\":true", i ? "," : "", r->checks[i]);
	printf("},\"loop_mips\":%.1f,\"exit_ns\":%llu}\n", r->loop_mips,
	       (unsigned long long)r->exit_ns);
}

static void on_alarm(int sig)
{
	/* KVM_RUN now returns EINTR. Should the process be stuck elsewhere, the next one ends it.
	 */
	(void)signal(sig, SIG_DFL);
	(void)alarm(1);
}

/* Its handler, too, which an alarm of the machine before has removed. */
static void start_alarm(void)
{
	struct sigaction action = { .sa_handler = on_alarm };

	(void)sigaction(SIGALRM, &action, NULL);
	(void)alarm(TIME_LIMIT_S);
}

static int open_device(const char *path, struct report *r)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), version;

	if (fd < 0 && errno == ENOENT) {
		snprintf(r->hint, sizeof(r->hint),
		         "load kvm_intel or kvm_amd, and enable virtualization in the firmware");
		return refuse(r, "there is no %s", path);
	}
	if (fd < 0 && errno == EACCES) {
		snprintf(r->hint, sizeof(r->hint),
		         "add the user to the group 'kvm' and log in again");
		return refuse(r, "no permission to open %s", path);
	}
	if (fd < 0)
		return refuse(r, "cannot open %s: %s", path, strerror(errno));
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		close(fd);
		return refuse(r, "%s does not speak the KVM interface version %d", path,
		              KVM_API_VERSION);
	}
	return fd;
}

#ifdef __x86_64__

#define MEMORY_BYTES 0x100000u
#define PML4_GPA     0x1000u
#define GDT_GPA      0x4000u
#define IDT_GPA      0x5000u
#define CODE_GPA     0x10000u
#define STACK_GPA    0x80000u

struct machine {
	int vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_bytes;
};

static void machine_free(struct machine *m)
{
	if (m->run)
		munmap(m->run, m->run_bytes);
	if (m->memory)
		munmap(m->memory, MEMORY_BYTES);
	cleanup_close_p(&m->vcpu);
	cleanup_close_p(&m->vm);
}

static uint64_t guest_address(const char *symbol)
{
	return CODE_GPA + (uint64_t)(symbol - probe_guest_start);
}

static void set_gate(uint8_t *memory, unsigned vector, uint64_t handler)
{
	uint64_t gate[2];

	gate[0] = (handler & 0xFFFF) | (8ull << 16) | (0x8E00ull << 32) |
	          ((handler >> 16 & 0xFFFF) << 48);
	gate[1] = handler >> 32;
	memcpy(memory + IDT_GPA + vector * 16, gate, sizeof(gate));
}

/* Page tables that map the first GiB to itself, a flat GDT, an IDT, the code. */
static void fill_memory(uint8_t *memory)
{
	uint64_t *pml4 = (uint64_t *)(void *)(memory + PML4_GPA);
	uint64_t *pdpt = pml4 + 512, *pd = pml4 + 1024;
	uint64_t *gdt = (uint64_t *)(void *)(memory + GDT_GPA);

	pml4[0] = (PML4_GPA + 0x1000u) | 3u;
	pdpt[0] = (PML4_GPA + 0x2000u) | 3u;
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | 0x83u;
	gdt[1] = 0x00AF9B000000FFFFull;
	gdt[2] = 0x00CF93000000FFFFull;
	set_gate(memory, 3, guest_address(probe_guest_on_int3));
	set_gate(memory, 14, guest_address(probe_guest_on_page_fault));
	memcpy(memory + CODE_GPA, probe_guest_start, (size_t)(probe_guest_end - probe_guest_start));
}

static int set_cpuid(int kvm, struct machine *m)
{
	size_t size = sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2);
	cleanup_free struct kvm_cpuid2 *cpuid = calloc(1, size);

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		return -errno;
	return ioctl(m->vcpu, KVM_SET_CPUID2, cpuid) < 0 ? -errno : 0;
}

static int set_registers(struct machine *m, const struct probe_check *check, uint64_t count)
{
	struct kvm_segment code = {
		.limit = 0xFFFFFFFF, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = { .limit = 0xFFFFFFFF,
		                    .selector = 16,
		                    .type = 3,
		                    .present = 1,
		                    .s = 1,
		                    .db = 1,
		                    .g = 1 };
	struct kvm_regs regs = {
		.rip = guest_address(check->entry), .rsp = STACK_GPA, .rcx = count, .rflags = 2
	};
	struct kvm_sregs s;

	if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt.base = GDT_GPA;
	s.gdt.limit = 23;
	s.idt.base = IDT_GPA;
	s.idt.limit = 256 * 16 - 1;
	s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
	s.cr3 = PML4_GPA;
	s.cr4 = 0x620;  /* PAE OSFXSR OSXMMEXCPT */
	s.efer = 0x500; /* LME LMA */
	if (ioctl(m->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(m->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

/* 0, or -1 with the step that failed in r->reason. */
static int machine_init(struct machine *m, int kvm, struct report *r)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_BYTES };
	int size;

	m->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (m->vm < 0)
		return refuse(r, "KVM cannot make a virtual machine: %s", strerror(errno));
	(void)ioctl(m->vm, KVM_SET_TSS_ADDR, 0xFFFBD000ul);
	m->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->memory == MAP_FAILED) {
		m->memory = NULL;
		return refuse(r, "no memory for the micro-guest");
	}
	fill_memory(m->memory);
	region.userspace_addr = (uintptr_t)m->memory;
	if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return refuse(r, "KVM refuses guest memory: %s", strerror(errno));
	m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
	if (m->vcpu < 0)
		return refuse(r, "KVM cannot make a virtual processor: %s", strerror(errno));
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	m->run_bytes = size > 0 ? (size_t)size : 0;
	m->run = mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
	if (m->run == MAP_FAILED) {
		m->run = NULL;
		return refuse(r, "KVM gives no access to its run area: %s", strerror(errno));
	}
	return 0;
}

static const char *exit_name(unsigned reason)
{
	static const struct {
		unsigned reason;
		const char *name;
	} names[] = {
		{ KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR" },
		{ KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN (triple fault)" },
		{ KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY" },
		{ KVM_EXIT_EXCEPTION, "KVM_EXIT_EXCEPTION" },
		{ KVM_EXIT_UNKNOWN, "KVM_EXIT_UNKNOWN" },
		{ KVM_EXIT_HLT, "KVM_EXIT_HLT" },
		{ KVM_EXIT_IO, "an unexpected KVM_EXIT_IO" },
		{ KVM_EXIT_MMIO, "an unexpected KVM_EXIT_MMIO" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].reason == reason)
			return names[i].name;
	return "an unknown exit";
}

/* What the guest is told by its devices. 1: it ended with *ret, 0: go on, -1: unexpected. */
static int handle_exit(struct kvm_run *run, uint32_t *ret)
{
	if (run->exit_reason == KVM_EXIT_IO && run->io.count == 1) {
		uint8_t *data = (uint8_t *)run + run->io.data_offset;

		if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == PROBE_PORT_END &&
		    run->io.size == 4) {
			memcpy(ret, data, 4);
			return 1;
		}
		if (run->io.direction == KVM_EXIT_IO_IN && run->io.port == PROBE_PORT_IN)
			*data = PROBE_IN_VALUE;
		else if (run->io.direction == KVM_EXIT_IO_IN || run->io.port != PROBE_PORT_OUT)
			return -1;
		return 0;
	}
	if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.len == 4) {
		uint32_t value = PROBE_MMIO_READ;

		if (!run->mmio.is_write && run->mmio.phys_addr == PROBE_MMIO_ADDRESS + 4)
			memcpy(run->mmio.data, &value, 4);
		else if (run->mmio.is_write && run->mmio.phys_addr == PROBE_MMIO_ADDRESS)
			return memcmp(run->mmio.data, &(uint32_t){ PROBE_MMIO_WRITTEN }, 4) ? -1
			                                                                    : 0;
		else
			return -1;
		return 0;
	}
	return -1;
}

static int run_machine(struct machine *m, const struct probe_check *check, struct report *r)
{
	uint32_t value = 0;
	int done = 0;

	while (!done) {
		if (ioctl(m->vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				return refuse(r, "%s: the micro-guest did not end within %d s",
				              check->what, TIME_LIMIT_S);
			return refuse(r, "%s: KVM_RUN failed: %s", check->what, strerror(errno));
		}
		done = handle_exit(m->run, &value);
		if (done < 0)
			return refuse(r,
			              "%s in ring 0 ends in %s: this KVM does not run kernel code",
			              check->what, exit_name(m->run->exit_reason));
	}
	if (value != PROBE_GOOD)
		return refuse(
			r, "%s gives a wrong result in ring 0: this KVM does not run kernel code",
			check->what);
	return 0;
}

static int machine_open(struct machine *m, int kvm, struct report *r)
{
	int result, e;

	/* For this machine only: on a busy host it is the making of all of them that takes long. */
	start_alarm();
	result = machine_init(m, kvm, r);
	if (result == 0 && (e = set_cpuid(kvm, m)) < 0)
		result = refuse(r, "KVM refuses its own CPUID: %s", strerror(-e));
	return result;
}

/* *ret_ns is the time in the guest. */
static int run_in(struct machine *m, const struct probe_check *check, uint64_t count,
                  uint64_t *ret_ns, struct report *r)
{
	struct timespec before, after;
	int result, e = set_registers(m, check, count);

	if (e < 0)
		return refuse(r, "KVM refuses 64-bit mode: %s", strerror(-e));
	clock_gettime(CLOCK_MONOTONIC, &before);
	result = run_machine(m, check, r);
	clock_gettime(CLOCK_MONOTONIC, &after);
	*ret_ns = (uint64_t)(after.tv_sec - before.tv_sec) * 1000000000u + (uint64_t)after.tv_nsec -
	          (uint64_t)before.tv_nsec;
	return result;
}

/* Runs one check in a machine of its own. */
static int run_check(int kvm, const struct probe_check *check, struct report *r)
{
	struct machine m = { .vm = -EBADF, .vcpu = -EBADF };
	uint64_t ns;
	int result = machine_open(&m, kvm, r);

	if (result == 0)
		result = run_in(&m, check, 0, &ns, r);
	machine_free(&m);
	return result;
}

/* Best of several short runs, so that a busy host is not taken for a slow one. */
static int time_loop(struct machine *m, struct report *r)
{
	enum {
		FIRST = 8
	};
	static const uint64_t counts[] = { 100000, 100000, 100000,  100000,  100000,  100000,
		                           100000, 100000, 5000000, 5000000, 5000000, 5000000 };
	uint64_t ns;

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		double mips;

		if (run_in(m, &probe_loop, counts[i], &ns, r) < 0)
			return -1;
		mips = (double)counts[i] * 2000. / (double)MAX_OF(ns, 1u);
		r->loop_mips = MAX_OF(r->loop_mips, mips);
		/* Not before several tries: a single one may have been cut in two. */
		if (i + 1 >= FIRST && r->loop_mips < LEAST_MIPS / 5)
			break;
	}
	return 0;
}

/* In one machine, since making one costs far more than the runs in it. */
static int measure_speed(int kvm, struct report *r)
{
	struct machine m = { .vm = -EBADF, .vcpu = -EBADF };
	uint64_t ns = 0;
	int result = machine_open(&m, kvm, r);

	if (result == 0)
		result = time_loop(&m, r);
	if (result == 0)
		result = run_in(&m, &probe_exits, 200, &ns, r);
	machine_free(&m);
	if (result < 0)
		return result;
	r->exit_ns = ns / 200;
	if (r->loop_mips < LEAST_MIPS)
		return refuse(
			r,
			"ring-0 code runs at %.1f million instructions/s only: this KVM is emulated",
			r->loop_mips);
	return 0;
}

static int probe(int kvm, struct report *r)
{
	struct report first = { 0 };
	int result = 0;

	/* All checks run, so that the report tells all that works; the first failure is the reason.
	 */
	for (size_t i = 0; i < probe_n_checks; i++) {
		struct report one = { 0 };

		if (run_check(kvm, &probe_checks[i], &one) == 0) {
			r->checks[r->n_checks++] = probe_checks[i].name;
		} else if (result == 0) {
			result = -1;
			first = one;
		}
	}
	if (measure_speed(kvm, r) < 0 && result == 0)
		return -1;
	if (result < 0)
		memcpy(r->reason, first.reason, sizeof(r->reason));
	return result;
}

#else

static int probe(int kvm UNUSED, struct report *r)
{
	return refuse(r,
	              "there is no micro-guest for this processor architecture to prove KVM with");
}

#endif

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/kvm";
	struct report r = { 0 };
	cleanup_close int kvm = -EBADF;

	if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
		fputs("Usage: vmd-kvm-probe [DEVICE]\n", stderr);
		return 64;
	}
	start_alarm();
	kvm = open_device(device, &r);
	if (kvm >= 0 && probe(kvm, &r) == 0) {
		r.usable = true;
		snprintf(r.reason, sizeof(r.reason),
		         "a micro-guest ran ring-0 code properly at %.0f million instructions/s",
		         r.loop_mips);
	}
	print_report(&r);
	return fflush(stdout) == 0 ? 0 : 1;
}
