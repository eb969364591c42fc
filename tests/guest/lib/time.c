/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Time: the TSC, whose frequency kvmclock tells, or which is compared with the local APIC's timer:
 * that counts nanoseconds with KVM and with QEMU's emulation alike. Waiting is halting: a guest
 * that spins takes a whole processor of the host.
 */
#include "guest.h"
#include "irq.h"

#define KVM_LEAF           0x40000000u
#define KVM_FEATURE_CLOCK2 (1u << 3)
#define MSR_KVM_CLOCK_NEW  0x4B564D01u
#define CALIBRATION_NS     2000000u
#define APIC_TIMER_NOW     0xFEE00390u
#define SLICE_NS           1000000u

struct kvm_clock {
	uint32_t version, pad;
	uint64_t tsc, system_ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
} __attribute__((aligned(32)));

static uint64_t hz, tsc_start;

static uint64_t hz_from_kvm_clock(void)
{
	static volatile struct kvm_clock clock;
	struct cpuid_regs r = cpuid(KVM_LEAF, 0);
	uint64_t f;

	if (r.ebx != 0x4B4D564B || r.ecx != 0x564B4D56 || r.edx != 0x4D) /* KVMKVMKVM */
		return 0;
	if (!(cpuid(KVM_LEAF + 1, 0).eax & KVM_FEATURE_CLOCK2))
		return 0;
	wrmsr(MSR_KVM_CLOCK_NEW, (uint64_t)&clock | 1);
	(void)cpuid(0, 0); /* an exit: the host fills the page at the next entry at the latest */
	if (clock.mul == 0)
		return 0;
	f = (1000000000ull << 32) / clock.mul;
	wrmsr(MSR_KVM_CLOCK_NEW, 0);
	return clock.shift < 0 ? f << -clock.shift : f >> clock.shift;
}

static uint64_t hz_from_apic(void)
{
	uint64_t start, tsc;
	uint32_t passed;

	apic_timer(0xFFFFFFFF);
	start = mmio_read32(APIC_TIMER_NOW);
	tsc = rdtsc();
	do {
		passed = (uint32_t)start - mmio_read32(APIC_TIMER_NOW);
	} while (passed < CALIBRATION_NS);
	tsc = rdtsc() - tsc;
	apic_timer(0);
	return tsc * 1000000000ull / passed;
}

uint64_t tsc_hz(void)
{
	if (!hz) {
		apic_init();
		hz = hz_from_kvm_clock();
		if (!hz)
			hz = hz_from_apic();
		tsc_start = rdtsc();
	}
	return hz;
}

uint64_t now_ns(void)
{
	uint64_t f = tsc_hz(), t = rdtsc() - tsc_start;

	return t / f * 1000000000ull + t % f * 1000000000ull / f;
}

/* The timer is armed with interrupts off, so its interrupt cannot come before the halt. */
static void halt_for(uint64_t ns)
{
	apic_timer((uint32_t)(ns < 1000 ? 1000 : ns));
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

bool wait_for(bool (*condition)(void *arg), void *arg, uint64_t us)
{
	uint64_t end = now_ns() + us * 1000, now;
	bool met = false;

	__asm__ volatile("cli" : : : "memory");
	while (!(met = condition && condition(arg)) && (now = now_ns()) < end)
		halt_for(end - now < SLICE_NS ? end - now : SLICE_NS);
	return met;
}

void sleep_us(uint64_t us)
{
	(void)wait_for(NULL, NULL, us);
}
