/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every reason for which KVM can leave the guest, also those that it should not have. */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/vcpu.h"

TestSuite(vmm_exit, .timeout = 20);

static struct bus pio, mmio;
static struct vcpus all;
static struct vcpu cpu;
static union {
	struct kvm_run run;
	uint8_t bytes[8192];
} area;
static unsigned n_events;
static enum vcpu_event last_event;

static void on_event(struct vcpus *a UNUSED, struct vcpu *v UNUSED, enum vcpu_event event)
{
	last_event = event;
	n_events++;
}

static void setup(void)
{
	bus_init(&pio);
	bus_init(&mmio);
	pthread_mutex_init(&all.lock, NULL);
	all.pio = &pio;
	all.mmio = &mmio;
	all.on_event = on_event;
	cpu = (struct vcpu){ .all = &all, .index = 3, .fd = -EBADF, .run = &area.run };
}

static void begin(uint32_t reason)
{
	memset(&area, 0, sizeof(area));
	area.run.exit_reason = reason;
	all.failure.valid = false;
	cpu.broken = false;
	n_events = 0;
}

static void expect_failed(enum vcpu_event event, const char *reason)
{
	uint32_t exit = area.run.exit_reason;

	cr_expect_not(vcpu_handle_exit(&cpu), "exit %u", exit);
	cr_expect(cpu.broken, "exit %u", exit);
	cr_expect_eq(n_events, 1, "exit %u", exit);
	cr_expect_eq(last_event, event, "exit %u", exit);
	cr_expect(all.failure.valid);
	cr_expect_eq(all.failure.cpu, 3);
	cr_expect_eq(all.failure.exit_reason, exit);
	cr_expect_str_eq(all.failure.reason, reason);
}

Test(vmm_exit, each_reason_goes_on_or_has_a_name, .init = setup)
{
	static const uint32_t handled[] = { KVM_EXIT_HLT, KVM_EXIT_INTR, KVM_EXIT_IRQ_WINDOW_OPEN,
		                            KVM_EXIT_IO, KVM_EXIT_MMIO };
	static const uint32_t large[] = { 64, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF };
	char text[64];

	for (size_t i = 0; i < ARRAY_SIZE(handled); i++) {
		begin(handled[i]);
		cr_expect(vcpu_handle_exit(&cpu), "exit %u", handled[i]);
		cr_expect_eq(n_events, 0);
	}
	for (uint32_t i = 0; i < 64 + ARRAY_SIZE(large); i++) {
		uint32_t reason = i < 64 ? i : large[i - 64];
		bool known = reason == KVM_EXIT_SHUTDOWN || reason == KVM_EXIT_SYSTEM_EVENT ||
		             reason == KVM_EXIT_INTERNAL_ERROR || reason == KVM_EXIT_FAIL_ENTRY ||
		             reason == 39 /* KVM_EXIT_MEMORY_FAULT */;

		for (size_t k = 0; k < ARRAY_SIZE(handled); k++)
			known |= reason == handled[k];
		if (known)
			continue;
		begin(reason);
		snprintf(text, sizeof(text), "unexpected-exit: %u", reason);
		expect_failed(VCPU_FAILED, text);
	}
}

Test(vmm_exit, what_ends_a_processor_keeps_what_kvm_says, .init = setup)
{
	begin(KVM_EXIT_SHUTDOWN);
	expect_failed(VCPU_TRIPLE_FAULT, "triple-fault");
	begin(KVM_EXIT_UNKNOWN);
	area.run.hw.hardware_exit_reason = 0x123456789;
	expect_failed(VCPU_FAILED, "unexpected-exit: 0");
	cr_expect_eq(all.failure.n_data, 1);
	cr_expect_eq(all.failure.data[0], 0x123456789);
	begin(KVM_EXIT_FAIL_ENTRY);
	area.run.fail_entry.hardware_entry_failure_reason = 0x80000021;
	area.run.fail_entry.cpu = 5;
	expect_failed(VCPU_FAILED, "fail-entry");
	cr_expect_eq(all.failure.n_data, 2);
	cr_expect_eq(all.failure.data[0], 0x80000021);
	cr_expect_eq(all.failure.data[1], 5);
	begin(39);
	expect_failed(VCPU_FAILED, "memory-fault");
}

Test(vmm_exit, internal_errors_have_names_and_bounds, .init = setup)
{
	static const char *const names[] = { NULL, "internal-error: emulation failed",
		                             "internal-error: simultaneous exceptions",
		                             "internal-error: event delivery",
		                             "internal-error: unexpected exit of the processor" };

	for (uint32_t sub = 0; sub < 8; sub++) {
		begin(KVM_EXIT_INTERNAL_ERROR);
		area.run.internal.suberror = sub;
		area.run.internal.ndata = UINT32_MAX;
		expect_failed(VCPU_FAILED, sub < ARRAY_SIZE(names) && names[sub]
		                                   ? names[sub]
		                                   : "internal-error");
		cr_expect_leq(all.failure.n_data, ARRAY_SIZE(all.failure.data));
		cr_expect_eq(all.failure.data[0], sub);
	}
	begin(KVM_EXIT_INTERNAL_ERROR);
	area.run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	area.run.emulation_failure.ndata = 3;
	area.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	area.run.emulation_failure.insn_size = 255;
	memset(area.run.emulation_failure.insn_bytes, 0x0F, 15);
	expect_failed(VCPU_FAILED, names[1]);
	cr_expect_eq(all.failure.insn_len, 15);
	cr_expect_eq(all.failure.insn[14], 0x0F);
}

Test(vmm_exit, system_events_end_reset_or_fail, .init = setup)
{
	begin(KVM_EXIT_SYSTEM_EVENT);
	area.run.system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
	cr_expect_not(vcpu_handle_exit(&cpu));
	cr_expect_eq(last_event, VCPU_SHUTDOWN);
	begin(KVM_EXIT_SYSTEM_EVENT);
	area.run.system_event.type = KVM_SYSTEM_EVENT_RESET;
	cr_expect_not(vcpu_handle_exit(&cpu));
	cr_expect_eq(last_event, VCPU_TRIPLE_FAULT);
	begin(KVM_EXIT_SYSTEM_EVENT);
	area.run.system_event.type = 77;
	expect_failed(VCPU_FAILED, "system-event: 77");
}

/* The first one is the cause; what other processors come to afterwards follows from it. */
Test(vmm_exit, the_first_failure_is_kept, .init = setup)
{
	begin(KVM_EXIT_FAIL_ENTRY);
	expect_failed(VCPU_FAILED, "fail-entry");
	area.run.exit_reason = KVM_EXIT_DEBUG;
	cr_expect_not(vcpu_handle_exit(&cpu));
	cr_expect_str_eq(all.failure.reason, "fail-entry");
	cr_expect_eq(n_events, 2);
}

/* No access reaches beyond the 8 bytes that there are. */
Test(vmm_exit, memory_accesses_of_any_length, .init = setup)
{
	static const uint32_t lengths[] = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 255, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
		for (uint8_t write = 0; write < 2; write++) {
			uint32_t n = MIN_OF(lengths[i], 8u);

			begin(KVM_EXIT_MMIO);
			area.run.mmio.phys_addr = 0xFFFFFFFFFFFFFFFFull - i;
			area.run.mmio.len = lengths[i];
			area.run.mmio.is_write = write;
			cr_expect(vcpu_handle_exit(&cpu));
			for (uint32_t k = 0; k < 8; k++)
				cr_expect_eq(area.run.mmio.data[k], !write && k < n ? 0xFF : 0);
			cr_expect_eq(area.run.mmio.len, lengths[i]);
		}
}
