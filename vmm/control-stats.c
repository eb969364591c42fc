/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the monitor knows of itself and its guest, for query-blockstats and x-vmd-stats. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/macros.h"
#include "vmm/control.h"
#include "vmm/jail.h"

/* As QMP BlockLatencyHistogramInfo; the boundaries are nanoseconds there. */
static void put_histogram(json_t *out, const json_t *stats, const char *theirs)
{
	json_t *bins = json_object_get(stats, "latency_us"), *boundaries = json_array();
	char name[40];

	for (size_t i = 0; i + 1 < json_array_size(bins); i++)
		json_array_append_new(boundaries, json_integer(1000ll << i));
	snprintf(name, sizeof(name), "%s_latency_histogram", theirs);
	json_object_set_new(out, name,
	                    json_pack("{s:o, s:O*}", "boundaries", boundaries, "bins", bins));
}

/* QEMU's names for what a device counts per kind of operation. */
static void put_operation(json_t *out, const json_t *stats, const char *ours, const char *theirs)
{
	const json_t *s = json_object_get(stats, ours);
	char name[40];

	snprintf(name, sizeof(name), "%s_operations", theirs);
	json_object_set_new(out, name, json_integer(jsonx_int(s, "operations", 0)));
	snprintf(name, sizeof(name), "%s_total_time_ns", theirs);
	json_object_set_new(out, name, json_integer(jsonx_int(s, "total_ns", 0)));
	snprintf(name, sizeof(name), "failed_%s_operations", theirs);
	json_object_set_new(out, name, json_integer(jsonx_int(s, "errors", 0)));
	put_histogram(out, s, theirs);
	if (strcmp(theirs, "flush") == 0)
		return;
	snprintf(name, sizeof(name), "%s_bytes", theirs);
	json_object_set_new(out, name, json_integer(jsonx_int(s, "bytes", 0)));
}

json_t *control_blockstats(struct control *c)
{
	struct machine *m = c->machine;
	json_t *all = json_array();

	for (unsigned i = 0; i < m->n_devices; i++) {
		struct virtio_device *d = m->devices[i].device;
		cleanup_json json_t *stats = NULL;
		json_t *out;

		if (d->ops->id != VIRTIO_ID_BLOCK)
			continue;
		stats = virtio_device_stats(d);
		out = json_object();
		put_operation(out, stats, "read", "rd");
		put_operation(out, stats, "write", "wr");
		put_operation(out, stats, "flush", "flush");
		put_operation(out, stats, "discard", "unmap");
		json_array_append_new(all, json_pack("{s:s, s:s, s:o}", "device", "", "qdev", d->id,
		                                     "stats", out));
	}
	return all;
}

static json_t *hex(uint64_t v)
{
	char text[20];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)v);
	return json_string(text);
}

json_t *control_failure(const struct vcpu_failure *f)
{
	const struct {
		const char *name;
		uint64_t value;
	} registers[] = {
		{ "rip", f->regs.rip }, { "rsp", f->regs.rsp }, { "rflags", f->regs.rflags },
		{ "rax", f->regs.rax }, { "rbx", f->regs.rbx }, { "rcx", f->regs.rcx },
		{ "rdx", f->regs.rdx }, { "rsi", f->regs.rsi }, { "rdi", f->regs.rdi },
		{ "rbp", f->regs.rbp }, { "r8", f->regs.r8 },   { "r9", f->regs.r9 },
		{ "r10", f->regs.r10 }, { "r11", f->regs.r11 }, { "r12", f->regs.r12 },
		{ "r13", f->regs.r13 }, { "r14", f->regs.r14 }, { "r15", f->regs.r15 },
		{ "cs", f->cs },        { "ss", f->ss },        { "cs_base", f->cs_base },
		{ "cr0", f->cr0 },      { "cr2", f->cr2 },      { "cr3", f->cr3 },
		{ "cr4", f->cr4 },      { "efer", f->efer },
	};
	json_t *regs = json_object(), *data = json_array();
	char insn[2 * sizeof(f->insn) + 1] = "";

	for (size_t i = 0; i < ARRAY_SIZE(registers); i++)
		json_object_set_new(regs, registers[i].name, hex(registers[i].value));
	for (uint32_t i = 0; i < f->n_data; i++)
		json_array_append_new(data, hex(f->data[i]));
	for (uint8_t i = 0; i < f->insn_len; i++)
		snprintf(insn + 2 * i, 3, "%02x", f->insn[i]);
	return json_pack("{s:i, s:s, s:i, s:o, s:s, s:o}", "cpu", (int)f->cpu, "reason", f->reason,
	                 "exit_reason", (int)f->exit_reason, "data", data, "instruction", insn,
	                 "registers", regs);
}

/* Some fifty descriptors, which a start does not wait for. */
static const struct kvm_stats_layout *layout_of(struct vcpus *a)
{
	if (!a->kvm_stats_known && a->v[0].stats_fd >= 0)
		(void)kvm_stats_layout_read(a->v[0].stats_fd, &a->kvm_stats);
	a->kvm_stats_known = true;
	return &a->kvm_stats;
}

/* What only KVM knows, by the names of vm.stats; what this kernel does not count is not there. */
static void put_kvm_stats(json_t *out, json_t *exits, const struct vcpu *v)
{
	static const struct {
		enum kvm_stat which;
		const char *name;
	} causes[] = { { KVM_STAT_EXITS, "total" },
		       { KVM_STAT_HALT_EXITS, "halt" },
		       { KVM_STAT_IRQ_EXITS, "interrupt" },
		       { KVM_STAT_HYPERCALLS, "hypercall" } };
	const struct kvm_stats_layout *layout = layout_of(v->all);
	uint64_t value;

	for (size_t i = 0; i < ARRAY_SIZE(causes); i++)
		if (kvm_stats_read(v->stats_fd, layout, causes[i].which, &value) == 0)
			json_object_set_new(exits, causes[i].name, json_integer((json_int_t)value));
	if (kvm_stats_read(v->stats_fd, layout, KVM_STAT_HALT_NS, &value) == 0)
		json_object_set_new(out, "halted_us", json_integer((json_int_t)(value / 1000)));
}

static json_t *vcpu_stats(const struct vcpu *v)
{
	static const char *const names[_VCPU_EXIT_MAX] = { [VCPU_EXIT_IO] = "io",
		                                           [VCPU_EXIT_MMIO] = "mmio",
		                                           [VCPU_EXIT_KICK] = "kick",
		                                           [VCPU_EXIT_OTHER] = "other" };
	json_t *exits = json_object(), *out;

	for (int i = 0; i < _VCPU_EXIT_MAX; i++)
		json_object_set_new(exits, names[i],
		                    json_integer((json_int_t)atomic_load_explicit(
					    &v->exits[i], memory_order_relaxed)));
	out = json_pack("{s:i, s:i, s:o}", "index", (int)v->index, "thread_id",
	                (int)atomic_load(&v->tid), "exits", exits);
	put_kvm_stats(out, exits, v);
	return out;
}

static json_t *device_stats(struct machine *m)
{
	json_t *all = json_object();
	struct serial_stats s;

	for (unsigned i = 0; i < m->n_devices; i++)
		json_object_set_new(all, m->devices[i].device->id,
		                    virtio_device_stats(m->devices[i].device));
	if (m->has_serial) {
		serial_get_stats(&m->serial, &s);
		json_object_set_new(all, "serial0",
		                    json_pack("{s:I, s:I, s:I}", "sent_bytes",
		                              (json_int_t)s.sent_bytes, "received_bytes",
		                              (json_int_t)s.received_bytes, "dropped_bytes",
		                              (json_int_t)s.dropped_bytes));
	}
	return all;
}

json_t *control_stats(struct control *c)
{
	struct machine *m = c->machine;
	json_t *vcpus = json_array(), *out;

	for (unsigned i = 0; i < m->vcpus.n; i++)
		json_array_append_new(vcpus, vcpu_stats(&m->vcpus.v[i]));
	out = json_pack("{s:o, s:o, s:o, s:i, s:I, s:I, s:I}", "vcpus", vcpus, "devices",
	                device_stats(m), "jail", jail_report(), "resets", (int)m->resets,
	                "events_dropped", (json_int_t)c->events_dropped, "port_misses",
	                (json_int_t)__atomic_load_n(&m->pio.misses, __ATOMIC_RELAXED),
	                "memory_misses",
	                (json_int_t)__atomic_load_n(&m->mmio.misses, __ATOMIC_RELAXED));
	if (out && m->vcpus.failure.valid)
		json_object_set_new(out, "failure", control_failure(&m->vcpus.failure));
	return out;
}
