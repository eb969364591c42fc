/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <string.h>

#include "common/macros.h"
#include "vmm/cpuid.h"

TestSuite(vmm_cpuid, .timeout = 20);

static struct vmd_error err;

static void add(struct cpuid_table *t, uint32_t function, uint32_t index, uint32_t eax,
                uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	t->entries[t->nent++] = (struct kvm_cpuid_entry2){ .function = function,
		                                           .index = index,
		                                           .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		                                           .eax = eax,
		                                           .ebx = ebx,
		                                           .ecx = ecx,
		                                           .edx = edx };
}

/* A host that has everything, by one of two makers. */
static void host(struct cpuid_table *t, bool amd)
{
	memset(t, 0, sizeof(*t));
	add(t, 0, 0, 0x1F, amd ? 0x68747541 : 0x756E6547, amd ? 0x444D4163 : 0x6C65746E,
	    amd ? 0x69746E65 : 0x49656E69);
	add(t, 1, 0, 0x000A0671, 0x05200800, 0xFFFFFFFF, 0xFFFFFFFF);
	add(t, 4, 0, 0x04000121, 0x02C0003F, 0x3F, 0);
	add(t, 4, 3, 0x04004163, 0x03C0003F, 0x7FFF, 0);
	add(t, 6, 0, 0xFF, 0, 0, 0);
	add(t, 7, 0, 2, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF);
	add(t, 7, 1, 0xFF, 0, 0, 0);
	add(t, 0xA, 0, 0x07300404, 0, 0, 0x603);
	add(t, 0xB, 0, 0, 0, 0, 7);
	add(t, 0xD, 0, 0x602E7, 11008, 11008, 0);
	add(t, 0xD, 1, 0xF, 0, 0, 0);
	add(t, 0xD, 2, 256, 576, 0, 0);
	add(t, 0xD, 5, 64, 1088, 0, 0);
	add(t, 0xD, 6, 512, 1152, 0, 0);
	add(t, 0xD, 7, 1024, 1664, 0, 0);
	add(t, 0xD, 18, 8192, 2816, 2, 0);
	add(t, 0x1F, 0, 0, 0, 0, 7);
	add(t, 0x40000000, 0, 0x40000001, 0, 0, 0);
	add(t, 0x40000001, 0, 0x01007EFB, 0, 0, 0);
	add(t, 0x80000000, 0, 0x80000022, 0, 0, 0);
	add(t, 0x80000001, 0, 0x000A0671, 0, 0xFFFFFFFF, 0xFFFFFFFF);
	add(t, 0x80000002, 0, 1, 2, 3, 4);
	add(t, 0x80000007, 0, 0, 0, 0, 0x100);
	add(t, 0x80000008, 0, 0x3030, 0xFFFFFFFF, 0, 0);
	add(t, 0x8000000A, 0, 1, 8, 0, 0xFFFF);
	add(t, 0x8000001D, 0, 0x121, 0, 0, 0);
	add(t, 0x8000001E, 0, 0, 0, 0, 0);
	add(t, 0x80000022, 0, 1, 0, 0, 0);
}

static int cut(struct cpuid_table *t, unsigned model, bool amd, unsigned cores, unsigned threads)
{
	struct vmm_cpus c = { .count = cores * threads,
		              .sockets = 1,
		              .cores = cores,
		              .threads = threads,
		              .model = model };

	err = (struct vmd_error)VMD_ERROR_INIT;
	host(t, amd);
	return cpuid_cut(t, &c, true, &err);
}

static bool has(struct cpuid_table *t, uint32_t function, unsigned reg, unsigned bit)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, function, 0);
	const uint32_t *regs = e ? &e->eax : NULL;

	return e && (regs[reg] >> bit & 1);
}

enum {
	A,
	B,
	C,
	D
};

Test(vmm_cpuid, a_level_has_what_it_promises_and_nothing_above)
{
	static const struct {
		uint32_t function;
		unsigned reg, bit, level;
	} features[] = {
		{ 1, D, 26, 1 }, { 1, C, 20, 2 }, { 1, C, 13, 2 },          { 1, C, 28, 3 },
		{ 7, B, 5, 3 },  { 7, B, 8, 3 },  { 0x80000001, C, 5, 3 },  { 7, B, 16, 4 },
		{ 7, B, 31, 4 }, { 1, C, 25, 9 }, { 7, B, 29, 9 },          { 7, B, 18, 9 },
		{ 7, C, 1, 9 },  { 7, D, 22, 9 }, { 0x80000001, C, 6, 9 },  { 1, C, 30, 9 },
		{ 7, B, 20, 0 }, { 1, C, 31, 0 }, { 0x80000001, D, 20, 0 }, { 1, C, 24, 0 },
	};
	struct cpuid_table t;

	for (unsigned level = 1; level <= 4; level++) {
		cr_assert_eq(cut(&t, VMM_CPU_HOST + level, false, 1, 1), 0, "%s", err.message);
		for (size_t i = 0; i < ARRAY_SIZE(features); i++)
			cr_assert_eq(
				has(&t, features[i].function, features[i].reg, features[i].bit),
				features[i].level <= level, "level %u: leaf %x, %u, bit %u", level,
				features[i].function, features[i].reg, features[i].bit);
	}
}

Test(vmm_cpuid, saved_registers_follow_the_level)
{
	struct cpuid_table t;

	cr_assert_eq(cut(&t, VMM_CPU_V2, false, 1, 1), 0);
	cr_assert_null(cpuid_find(&t, 0xD, 0));
	cr_assert_eq(cut(&t, VMM_CPU_V3, false, 1, 1), 0);
	cr_assert_eq(cpuid_find(&t, 0xD, 0)->eax, 7);
	cr_assert_eq(cpuid_find(&t, 0xD, 0)->ecx, 832);
	cr_assert_null(cpuid_find(&t, 0xD, 5));
	cr_assert_eq(cut(&t, VMM_CPU_V4, false, 1, 1), 0);
	cr_assert_eq(cpuid_find(&t, 0xD, 0)->eax, 0xE7);
	cr_assert_eq(cpuid_find(&t, 0xD, 0)->ecx, 2688);
	cr_assert_null(cpuid_find(&t, 0xD, 18));
}

Test(vmm_cpuid, a_host_that_has_less_is_refused_by_name)
{
	struct vmm_cpus c = { .count = 1, .sockets = 1, .cores = 1, .threads = 1 };
	struct cpuid_table t;

	host(&t, false);
	cpuid_find(&t, 7, 0)->ebx &= ~(1u << 5);
	err = (struct vmd_error)VMD_ERROR_INIT;
	c.model = VMM_CPU_V2;
	cr_assert_eq(cpuid_cut(&t, &c, true, &err), 0);
	host(&t, false);
	cpuid_find(&t, 7, 0)->ebx &= ~(1u << 5);
	c.model = VMM_CPU_V3;
	cr_assert_lt(cpuid_cut(&t, &c, true, &err), 0);
	cr_assert_eq(err.kind, ERROR_UNSUPPORTED);
	cr_assert(strstr(err.message, "avx2"), "%s", err.message);
}

Test(vmm_cpuid, virtualization_and_counters_are_hidden)
{
	struct vmm_cpus c = { .count = 1, .sockets = 1, .cores = 1, .threads = 1, .nested = true };
	struct cpuid_table t;

	cr_assert_eq(cut(&t, VMM_CPU_HOST, true, 1, 1), 0);
	cr_assert_not(has(&t, 1, C, 5) || has(&t, 0x80000001, C, 2));
	cr_assert_null(cpuid_find(&t, 0x8000000A, 0));
	cr_assert_null(cpuid_find(&t, 0xA, 0));
	cr_assert_not(has(&t, 1, C, 15));
	cr_assert_not(has(&t, 0x80000007, D, 8));
	host(&t, true);
	cr_assert_eq(cpuid_cut(&t, &c, true, &err), 0);
	cr_assert(has(&t, 0x80000001, C, 2));
	cr_assert_not_null(cpuid_find(&t, 0x8000000A, 0));
}

Test(vmm_cpuid, apic_ids_have_bits_per_level)
{
	struct vmm_cpus c = { .count = 12, .sockets = 2, .cores = 3, .threads = 2 };
	static const uint32_t ids[] = { 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13 };
	struct cpu_topology t;

	cpu_topology_init(&t, &c);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
		cr_assert_eq(cpu_apic_id(&t, i), ids[i], "%u", i);
}

Test(vmm_cpuid, topology_is_told_in_every_way)
{
	struct vmm_cpus c = { .count = 8, .sockets = 1, .cores = 4, .threads = 2 };
	struct cpuid_table t;

	cr_assert_eq(cut(&t, VMM_CPU_HOST, true, 4, 2), 0);
	cpuid_for_cpu(&t, &c, 5);
	cr_assert_eq(cpuid_find(&t, 1, 0)->ebx >> 16, 5u << 8 | 8);
	cr_assert(has(&t, 1, D, 28));
	cr_assert_eq(cpuid_find(&t, 4, 0)->eax >> 14, 3u << 12 | 1);
	cr_assert_eq(cpuid_find(&t, 4, 3)->eax >> 14, 3u << 12 | 7);
	cr_assert_eq(cpuid_find(&t, 0xB, 0)->eax, 1);
	cr_assert_eq(cpuid_find(&t, 0xB, 0)->ebx, 2);
	cr_assert_eq(cpuid_find(&t, 0xB, 1)->eax, 3);
	cr_assert_eq(cpuid_find(&t, 0xB, 1)->ebx, 8);
	cr_assert_eq(cpuid_find(&t, 0x1F, 1)->edx, 5);
	cr_assert_eq(cpuid_find(&t, 0x80000008, 0)->ecx, 7u | 3u << 12);
	cr_assert_eq(cpuid_find(&t, 0x8000001E, 0)->eax, 5);
	cr_assert_eq(cpuid_find(&t, 0x8000001E, 0)->ebx, 1u << 8 | 2);
}

/* Linux knows the threads of AMD's processors from leaf 0x8000001E only, and only with topoext. */
Test(vmm_cpuid, amd_threads_are_told_whatever_the_level_or_the_host)
{
	static struct cpuid_table t;
	struct vmm_cpus c = { .count = 4, .sockets = 1, .cores = 2, .threads = 2 };

	for (unsigned model = VMM_CPU_HOST; model <= VMM_CPU_V4; model++) {
		cr_assert_eq(cut(&t, model, true, 2, 2), 0);
		cr_assert_geq(cpuid_find(&t, 0x80000000, 0)->eax, 0x8000001E);
		cr_assert(has(&t, 0x80000001, C, 22));
		cpuid_for_cpu(&t, &c, 3);
		cr_assert_eq(cpuid_find(&t, 0x8000001E, 0)->eax, 3);
		cr_assert_eq(cpuid_find(&t, 0x8000001E, 0)->ebx, 1u << 8 | 1);
		cr_assert_eq(cut(&t, model, false, 2, 2), 0);
		cr_assert_eq(has(&t, 0x80000001, C, 22), model == VMM_CPU_HOST);
	}
}

Test(vmm_cpuid, any_difference_is_named)
{
	static struct cpuid_table a, b;

	cr_assert_eq(cut(&a, VMM_CPU_HOST, false, 1, 1), 0);
	b = a;
	cr_assert_eq(cpuid_same(&a, &b, &err), 0);
	b.entries[5].edx ^= 1u << 9;
	cr_assert_lt(cpuid_same(&a, &b, &err), 0);
	cr_assert(strstr(err.message, "0x7.0"), "%s", err.message);
	b = a;
	b.nent--;
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_lt(cpuid_same(&a, &b, &err), 0);
	cr_assert_lt(cpuid_same(&b, &a, &err), 0);
}
