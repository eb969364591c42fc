/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why a processor left the guest: each reason has a handler, or ends the run with a name. */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/macros.h"
#include "vmm/vcpu.h"

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

static void count(struct vcpu *v, enum vcpu_exit exit)
{
	/* One writer: no locked instruction is needed. */
	atomic_store_explicit(&v->exits[exit],
	                      atomic_load_explicit(&v->exits[exit], memory_order_relaxed) + 1,
	                      memory_order_relaxed);
}

/* Room for count elements of size bytes at data_offset is KVM's promise: it made them. */
static bool on_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size;

	count(v, VCPU_EXIT_IO);
	v->in_completion = true;
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint64_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			bus_write(v->all->pio, run->io.port, size, value);
		} else {
			value = bus_read(v->all->pio, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
	return true;
}

/* KVM hands over accesses of any length up to 8; those that are no power of two reach no device. */
static bool on_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint32_t len = MIN_OF(run->mmio.len, 8u);
	bool odd = len & (len - 1);
	uint64_t value = ~0ull;

	count(v, VCPU_EXIT_MMIO);
	v->in_completion = true;
	if (!run->mmio.is_write) {
		if (len && !odd)
			value = bus_read(v->all->mmio, run->mmio.phys_addr, len);
		memcpy(run->mmio.data, &value, len);
	} else if (len && !odd) {
		value = 0;
		memcpy(&value, run->mmio.data, len);
		bus_write(v->all->mmio, run->mmio.phys_addr, len, value);
	}
	return true;
}

static void note_registers(struct vcpu *v, struct vcpu_failure *f)
{
	struct kvm_sregs s;

	/* seccomp vcpu: ioctl KVM_GET_REGS, KVM_GET_SREGS. */
	(void)ioctl(v->fd, KVM_GET_REGS, &f->regs);
	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return;
	f->cr0 = s.cr0;
	f->cr2 = s.cr2;
	f->cr3 = s.cr3;
	f->cr4 = s.cr4;
	f->efer = s.efer;
	f->cs_base = s.cs.base;
	f->cs = s.cs.selector;
	f->ss = s.ss.selector;
}

static void note_exit(const struct kvm_run *run, struct vcpu_failure *f)
{
	f->exit_reason = run->exit_reason;
	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
		f->data[f->n_data++] = run->fail_entry.hardware_entry_failure_reason;
		f->data[f->n_data++] = run->fail_entry.cpu;
	} else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		f->data[f->n_data++] = run->internal.suberror;
		for (uint32_t i = 0; i < run->internal.ndata && f->n_data < 4; i++)
			f->data[f->n_data++] = run->internal.data[i];
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
		    run->emulation_failure.ndata >= 3 &&
		    (run->emulation_failure.flags &
		     KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
			f->insn_len = MIN_OF(run->emulation_failure.insn_size, 15);
			memcpy(f->insn, run->emulation_failure.insn_bytes, f->insn_len);
		}
	} else if (run->exit_reason == KVM_EXIT_UNKNOWN) {
		f->data[f->n_data++] = run->hw.hardware_exit_reason;
	}
}

static void note(struct vcpu *v, const char *reason)
{
	struct vcpu_failure f = { .valid = true, .cpu = v->index };

	snprintf(f.reason, sizeof(f.reason), "%s", reason);
	note_exit(v->run, &f);
	note_registers(v, &f);
	pthread_mutex_lock(&v->all->lock);
	if (!v->all->failure.valid)
		v->all->failure = f;
	pthread_mutex_unlock(&v->all->lock);
}

void vcpu_fail(struct vcpu *v, const char *reason)
{
	v->broken = true;
	note(v, reason);
	v->all->on_event(v->all, v, VCPU_FAILED);
}

/* A guest that has no handler left, or means to reset itself by that. */
static bool on_shutdown(struct vcpu *v)
{
	v->broken = true;
	note(v, "triple-fault");
	v->all->on_event(v->all, v, VCPU_TRIPLE_FAULT);
	return false;
}

static bool on_system_event(struct vcpu *v)
{
	char reason[64];

	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		v->all->on_event(v->all, v, VCPU_SHUTDOWN);
		return false;
	case KVM_SYSTEM_EVENT_RESET:
		v->all->on_event(v->all, v, VCPU_TRIPLE_FAULT);
		return false;
	}
	snprintf(reason, sizeof(reason), "system-event: %u", v->run->system_event.type);
	vcpu_fail(v, reason);
	return false;
}

static bool on_internal_error(struct vcpu *v)
{
	static const char *const words[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "internal-error: emulation failed",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "internal-error: simultaneous exceptions",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "internal-error: event delivery",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] =
			"internal-error: unexpected exit of the processor",
	};
	uint32_t sub = v->run->internal.suberror;

	vcpu_fail(v, sub < ARRAY_SIZE(words) && words[sub] ? words[sub] : "internal-error");
	return false;
}

static bool on_fail_entry(struct vcpu *v)
{
	vcpu_fail(v, "fail-entry");
	return false;
}

static bool on_memory_fault(struct vcpu *v)
{
	vcpu_fail(v, "memory-fault");
	return false;
}

/* Nothing to do: it was a signal, or KVM wants to be entered again. */
static bool on_nothing(struct vcpu *v)
{
	count(v, VCPU_EXIT_KICK);
	return true;
}

/* What KVM does not give to a monitor that did not ask for it is not in the table. */
static bool (*const handlers[])(struct vcpu *v) = {
	[KVM_EXIT_IO] = on_io,
	[KVM_EXIT_MMIO] = on_mmio,
	[KVM_EXIT_HLT] = on_nothing, /* the in-kernel irqchip halts by itself */
	[KVM_EXIT_INTR] = on_nothing,
	[KVM_EXIT_IRQ_WINDOW_OPEN] = on_nothing,
	[KVM_EXIT_SHUTDOWN] = on_shutdown,
	[KVM_EXIT_SYSTEM_EVENT] = on_system_event,
	[KVM_EXIT_INTERNAL_ERROR] = on_internal_error,
	[KVM_EXIT_FAIL_ENTRY] = on_fail_entry,
	[KVM_EXIT_MEMORY_FAULT] = on_memory_fault,
};

bool vcpu_handle_exit(struct vcpu *v)
{
	uint32_t reason = v->run->exit_reason;
	char text[64];

	if (reason < ARRAY_SIZE(handlers) && handlers[reason])
		return handlers[reason](v);
	count(v, VCPU_EXIT_OTHER);
	snprintf(text, sizeof(text), "unexpected-exit: %u", reason);
	vcpu_fail(v, text);
	return false;
}
