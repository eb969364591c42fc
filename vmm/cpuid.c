/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/cpuid.h"

#include <stdio.h>
#include <string.h>

#include "common/macros.h"

enum cpu_register {
	EAX,
	EBX,
	ECX,
	EDX
};

/* The features that the levels of the x86-64 psABI are made of. */
static const struct feature {
	const char *name;
	unsigned level;
	uint32_t function;
	enum cpu_register reg;
	unsigned bit;
} level_features[] = {
	{ "cmov", 1, 1, EDX, 15 },
	{ "cx8", 1, 1, EDX, 8 },
	{ "fpu", 1, 1, EDX, 0 },
	{ "fxsr", 1, 1, EDX, 24 },
	{ "mmx", 1, 1, EDX, 23 },
	{ "sse", 1, 1, EDX, 25 },
	{ "sse2", 1, 1, EDX, 26 },
	{ "syscall", 1, 0x80000001, EDX, 11 },
	{ "lm", 1, 0x80000001, EDX, 29 },
	{ "sse3", 2, 1, ECX, 0 },
	{ "ssse3", 2, 1, ECX, 9 },
	{ "cx16", 2, 1, ECX, 13 },
	{ "sse4.1", 2, 1, ECX, 19 },
	{ "sse4.2", 2, 1, ECX, 20 },
	{ "popcnt", 2, 1, ECX, 23 },
	{ "lahf", 2, 0x80000001, ECX, 0 },
	{ "fma", 3, 1, ECX, 12 },
	{ "movbe", 3, 1, ECX, 22 },
	{ "xsave", 3, 1, ECX, 26 },
	{ "avx", 3, 1, ECX, 28 },
	{ "f16c", 3, 1, ECX, 29 },
	{ "bmi1", 3, 7, EBX, 3 },
	{ "avx2", 3, 7, EBX, 5 },
	{ "bmi2", 3, 7, EBX, 8 },
	{ "lzcnt", 3, 0x80000001, ECX, 5 },
	{ "avx512f", 4, 7, EBX, 16 },
	{ "avx512dq", 4, 7, EBX, 17 },
	{ "avx512cd", 4, 7, EBX, 28 },
	{ "avx512bw", 4, 7, EBX, 30 },
	{ "avx512vl", 4, 7, EBX, 31 },
};

/*
 * What every level model has beside its level: what kernels need or what protects them, and what
 * KVM gives on every host. All other features of the host are hidden, so that the model is the same
 * everywhere.
 */
#define LEAF1_ECX (1u << 21 | 1u << 24 | 1u << 31) /* x2apic, tsc-deadline, hypervisor */
#define LEAF1_EDX 0x078BFBFFu /* the base: vme to pat, pse36, clflush, mmx, fxsr, sse, sse2 */
#define LEAF7_EBX (1u << 0 | 1u << 7 | 1u << 20) /* fsgsbase, smep, smap */
#define LEAF7_ECX (1u << 2)                      /* umip */
/* md_clear, ibrs, stibp, l1d_flush, arch_capabilities, ssbd: against the host's own defects. */
#define LEAF7_EDX    (1u << 10 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29 | 1u << 31)
#define LEAFX1_EDX   (0x0183F3FFu | 1u << 11 | 1u << 20 | 1u << 27 | 1u << 29)
#define LEAFX8_EBX   (1u << 12 | 1u << 14 | 1u << 15 | 1u << 24 | 1u << 25 | 1u << 26)
#define LEVEL_FAMILY 0x00060FB1u /* one signature for all hosts: family 15, model 107 */

#define XCR0_SSE    0x3u
#define XCR0_AVX    0x7u
#define XCR0_AVX512 0xE7u

static uint32_t *cpu_register(struct kvm_cpuid_entry2 *e, enum cpu_register reg)
{
	switch (reg) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

void cpu_topology_init(struct cpu_topology *t, const struct vmm_cpus *c)
{
	*t = (struct cpu_topology){ .thread_bits = bits_for(c->threads),
		                    .core_bits = bits_for(c->cores),
		                    .threads = c->threads,
		                    .cores = c->cores,
		                    .sockets = c->sockets };
}

uint32_t cpu_apic_id(const struct cpu_topology *t, unsigned index)
{
	unsigned thread = index % t->threads, core = index / t->threads % t->cores,
		 socket = index / t->threads / t->cores;

	return socket << (t->thread_bits + t->core_bits) | core << t->thread_bits | thread;
}

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

static bool is_amd(struct cpuid_table *t)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, 0, 0);

	/* "Auth" of AuthenticAMD, "Hygo" of HygonGenuine. */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6F677948);
}

static void remove_leaf(struct cpuid_table *t, uint32_t function)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->nent; i++)
		if (t->entries[i].function != function)
			t->entries[kept++] = t->entries[i];
	t->nent = kept;
}

static struct kvm_cpuid_entry2 *add_leaf(struct cpuid_table *t, uint32_t function, uint32_t index)
{
	struct kvm_cpuid_entry2 *e;

	if (t->nent == CPUID_MAX_ENTRIES)
		return NULL;
	e = &t->entries[t->nent++];
	*e = (struct kvm_cpuid_entry2){ .function = function,
		                        .index = index,
		                        .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
	return e;
}

static void mask(struct cpuid_table *t, uint32_t function, enum cpu_register reg, uint32_t keep)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, function, 0);

	if (e)
		*cpu_register(e, reg) &= keep;
}

/* What no guest gets: performance counters, and virtualization unless asked for. */
static void hide_common(struct cpuid_table *t, const struct vmm_cpus *c)
{
	mask(t, 1, ECX, ~(1u << 15));                     /* pdcm */
	mask(t, 0x80000001, ECX, ~(1u << 23 | 1u << 24)); /* perfctr_core, perfctr_nb */
	mask(t, 0x80000007, EDX, ~(1u << 8)); /* invariant TSC: it would not be, after a restore */
	remove_leaf(t, 0xA);
	remove_leaf(t, 0x80000022);
	remove_leaf(t, 0x80000026);
	if (c->nested)
		return;
	mask(t, 1, ECX, ~(1u << 5));          /* vmx */
	mask(t, 0x80000001, ECX, ~(1u << 2)); /* svm */
	remove_leaf(t, 0x8000000A);
}

static int check_level(struct cpuid_table *t, unsigned level, struct vmd_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_features); i++) {
		const struct feature *f = &level_features[i];
		struct kvm_cpuid_entry2 *e = cpuid_find(t, f->function, 0);

		if (f->level <= level && (!e || !(*cpu_register(e, f->reg) >> f->bit & 1)))
			return error_set(err, ERROR_UNSUPPORTED,
			                 "this host's processor has no '%s', which cpus.model "
			                 "'x86-64-v%u' promises",
			                 f->name, level);
	}
	return 0;
}

static uint32_t level_mask(uint32_t function, enum cpu_register reg, unsigned level)
{
	uint32_t keep = 0;

	for (size_t i = 0; i < ARRAY_SIZE(level_features); i++) {
		const struct feature *f = &level_features[i];

		if (f->function == function && f->reg == reg && f->level <= level)
			keep |= 1u << f->bit;
	}
	return keep;
}

/* The saved registers of the components in xcr0, and what else leaf 0xD says of them. */
static void cut_xsave(struct cpuid_table *t, uint32_t xcr0)
{
	uint32_t size = 576, kept = 0; /* legacy area and header */

	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];
		bool keep = e->function != 0xD || e->index < 2 ||
		            (e->index < 32 && (xcr0 >> e->index & 1));

		if (!keep)
			continue;
		if (e->function == 0xD && e->index >= 2)
			size = MAX_OF(size, e->ebx + e->eax);
		t->entries[kept++] = *e;
	}
	t->nent = kept;
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];

		if (e->function == 0xD && e->index == 0) {
			e->eax &= xcr0;
			e->edx = 0;
			e->ebx = e->ecx = size;
		} else if (e->function == 0xD && e->index == 1) {
			e->eax &= 1; /* xsaveopt; compacted formats differ from host to host */
			e->ebx = e->ecx = e->edx = 0;
		}
	}
}

static void drop_above(struct cpuid_table *t, uint32_t basic, uint32_t extended)
{
	struct kvm_cpuid_entry2 *e;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->nent; i++) {
		uint32_t f = t->entries[i].function;

		if ((f > basic && f < 0x40000000) || (f >= 0x80000000 && f > extended))
			continue;
		t->entries[kept++] = t->entries[i];
	}
	t->nent = kept;
	e = cpuid_find(t, 0, 0);
	if (e)
		e->eax = MIN_OF(e->eax, basic);
	e = cpuid_find(t, 0x80000000, 0);
	if (e)
		e->eax = MIN_OF(e->eax, extended);
}

static void cut_to_level(struct cpuid_table *t, unsigned level)
{
	static const char brand[48] = "vmd x86-64 processor";
	struct kvm_cpuid_entry2 *e;

	drop_above(t, 0xD, 0x80000008);
	mask(t, 1, ECX, LEAF1_ECX | level_mask(1, ECX, level));
	mask(t, 1, EDX, LEAF1_EDX | level_mask(1, EDX, level));
	mask(t, 7, EBX, LEAF7_EBX | level_mask(7, EBX, level));
	mask(t, 7, ECX, LEAF7_ECX);
	mask(t, 7, EDX, LEAF7_EDX);
	mask(t, 7, EAX, 0);
	for (uint32_t i = 1; (e = cpuid_find(t, 7, i)) && e->index == i; i++)
		e->eax = e->ebx = e->ecx = e->edx = 0;
	mask(t, 0x80000001, ECX, level_mask(0x80000001, ECX, level) | 1u << 1);
	mask(t, 0x80000001, EDX, LEAFX1_EDX);
	mask(t, 0x80000008, EBX, LEAFX8_EBX);
	mask(t, 6, EAX, 1u << 2); /* arat */
	cut_xsave(t, level < 3 ? XCR0_SSE : level == 3 ? XCR0_AVX : XCR0_AVX512);
	if (level < 3)
		remove_leaf(t, 0xD);
	e = cpuid_find(t, 1, 0);
	if (e)
		e->eax = LEVEL_FAMILY;
	e = cpuid_find(t, 0x80000001, 0);
	if (e)
		e->eax = LEVEL_FAMILY;
	for (uint32_t i = 0; i < 3; i++) {
		e = cpuid_find(t, 0x80000002 + i, 0);
		if (e)
			memcpy(&e->eax, brand + i * 16, 16);
	}
}

/* Leaf 4 and its twin of AMD: which processors share a cache. Level 3 is one per socket. */
static void set_caches(struct cpuid_table *t, uint32_t function, const struct cpu_topology *topo)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];
		unsigned level, sharing;

		if (e->function != function || !(e->eax & 0x1F))
			continue;
		level = e->eax >> 5 & 7;
		sharing = level < 3 ? 1u << topo->thread_bits
		                    : 1u << (topo->thread_bits + topo->core_bits);
		e->eax = (e->eax & 0x3FFF) | (sharing - 1) << 14;
		if (function == 4)
			e->eax |= ((1u << topo->core_bits) - 1) << 26;
	}
}

static void add_topology_leaf(struct cpuid_table *t, uint32_t function,
                              const struct cpu_topology *topo)
{
	struct kvm_cpuid_entry2 *e;

	remove_leaf(t, function);
	e = add_leaf(t, function, 0);
	if (e) {
		e->eax = topo->thread_bits;
		e->ebx = topo->threads;
		e->ecx = 1u << 8; /* threads */
	}
	e = add_leaf(t, function, 1);
	if (e) {
		e->eax = topo->thread_bits + topo->core_bits;
		e->ebx = topo->threads * topo->cores;
		e->ecx = 2u << 8 | 1; /* cores */
	}
	e = add_leaf(t, function, 2);
	if (e)
		e->ecx = 2;
}

/*
 * Kernels take the threads of a core of AMD's from leaf 0x8000001E and from nothing else. It is
 * data only, so a guest has it also where a level has cut it off, or the host is older than it
 * (cpuid_for_cpu() fills it).
 */
static void add_topology_extensions(struct cpuid_table *t)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, 0x80000000, 0);

	if (e)
		e->eax = MAX_OF(e->eax, 0x8000001Eu);
	e = cpuid_find(t, 0x80000001, 0);
	if (e)
		e->ecx |= 1u << 22; /* topoext */
	if (!cpuid_find(t, 0x8000001E, 0))
		(void)add_leaf(t, 0x8000001E, 0);
}

static void set_topology(struct cpuid_table *t, const struct vmm_cpus *c)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, 0, 0);
	uint32_t most = e ? e->eax : 0;
	struct cpu_topology topo;
	unsigned per_socket;
	bool amd = is_amd(t);

	cpu_topology_init(&topo, c);
	per_socket = 1u << (topo.thread_bits + topo.core_bits);
	e = cpuid_find(t, 1, 0);
	if (e) {
		e->ebx = (e->ebx & 0xFF00) | per_socket << 16;
		e->edx = (e->edx & ~(1u << 28)) | (per_socket > 1 ? 1u << 28 : 0); /* htt */
	}
	set_caches(t, 4, &topo);
	set_caches(t, 0x8000001D, &topo);
	if (most >= 0xB)
		add_topology_leaf(t, 0xB, &topo);
	if (most >= 0x1F)
		add_topology_leaf(t, 0x1F, &topo);
	if (!amd)
		return;
	e = cpuid_find(t, 0x80000001, 0);
	if (e) /* cmp_legacy: more than one logical processor */
		e->ecx = (e->ecx & ~2u) | (per_socket > 1 ? 2u : 0);
	e = cpuid_find(t, 0x80000008, 0);
	if (e)
		e->ecx = (topo.threads * topo.cores - 1) | (topo.thread_bits + topo.core_bits)
		                                                   << 12;
	add_topology_extensions(t);
}

int cpuid_cut(struct cpuid_table *t, const struct vmm_cpus *c, bool tsc_deadline,
              struct vmd_error *err)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, 1, 0);
	int r = 0;

	if (!e)
		return error_set(err, ERROR_UNSUPPORTED, "KVM tells no CPUID leaf 1");
	e->ecx |= 1u << 31; /* hypervisor */
	if (tsc_deadline)
		e->ecx |= 1u << 24;
	hide_common(t, c);
	if (c->model != VMM_CPU_HOST) {
		r = check_level(t, c->model, err);
		if (r == 0)
			cut_to_level(t, c->model);
	}
	if (r == 0)
		set_topology(t, c);
	return r;
}

void cpuid_for_cpu(struct cpuid_table *t, const struct vmm_cpus *c, uint32_t apic_id)
{
	struct cpu_topology topo;
	unsigned core;

	cpu_topology_init(&topo, c);
	core = apic_id >> topo.thread_bits & ((1u << topo.core_bits) - 1);
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0x00FFFFFF) | apic_id << 24;
			break;
		case 0xB:
		case 0x1F:
			e->edx = apic_id;
			break;
		case 0x8000001E:
			e->eax = apic_id;
			e->ebx = (topo.threads - 1) << 8 | core;
			e->ecx = apic_id >> (topo.thread_bits + topo.core_bits);
			break;
		}
	}
}

int cpuid_same(const struct cpuid_table *a, const struct cpuid_table *b, struct vmd_error *err)
{
	for (uint32_t i = 0; i < MAX_OF(a->nent, b->nent); i++) {
		const struct kvm_cpuid_entry2 *x = &a->entries[MIN_OF(i, CPUID_MAX_ENTRIES - 1)],
					      *y = &b->entries[MIN_OF(i, CPUID_MAX_ENTRIES - 1)];

		if (i < a->nent && i < b->nent && memcmp(x, y, sizeof(*x)) == 0)
			continue;
		return error_set(err, ERROR_INVALID,
		                 "the guest was saved on another kind of processor, or with other "
		                 "settings: CPUID leaf 0x%x.%u differs",
		                 i < a->nent ? x->function : y->function,
		                 i < a->nent ? x->index : y->index);
	}
	return 0;
}
