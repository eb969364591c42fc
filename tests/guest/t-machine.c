/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory map, ACPI tables, processors. */
#include "lib/acpi.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/smp.h"
#include "tests.h"

#define RAM           1
#define FADT_BYTES_V3 244 /* up to x_gpe1 */

static const char *range_type(uint32_t type)
{
	static const char *const names[] = { "?", "ram", "reserved", "acpi", "nvs", "bad" };

	return names[type < ARRAY_SIZE(names) ? type : 0];
}

static uint64_t mib_word(uint64_t address)
{
	return address * 0x9E3779B97F4A7C15ull ^ 0x5DEECE66D;
}

/* One word in each MiB, at an odd place; what other data is there comes back afterwards. */
static uint64_t touch_address(uint64_t mib)
{
	return mib + 0xFFFF8 - (mib >> 20) % 128 * 8;
}

/* All words are written before any is read: two addresses that are the same memory are found. */
static bool touch_range(uint64_t start, uint64_t end)
{
	uint64_t step = option_number("step", MIB);

	for (uint64_t mib = start; mib < end; mib += step)
		mmio_write64(touch_address(mib), mib_word(mib));
	for (uint64_t mib = start; mib < end; mib += step) {
		uint64_t v = mmio_read64(touch_address(mib));

		if (v != mib_word(mib))
			return fail("memory at 0x%lx holds 0x%lx", touch_address(mib), v);
	}
	return true;
}

static bool check_overlaps(const struct memory_range *map, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++)
			if (map[i].address < map[j].address + map[j].bytes &&
			    map[j].address < map[i].address + map[i].bytes)
				return fail("the memory ranges at 0x%lx and 0x%lx overlap",
				            map[i].address, map[j].address);
	return true;
}

/* Prints the map; writes and reads every MiB, or every step=N, of RAM that the image itself does
 * not use. Memory that is shown but not there, or there twice, is found. ram=N is how much there
 * is. */
bool test_memory(void)
{
	size_t n;
	const struct memory_range *map = memory_map(&n);
	uint64_t ram = 0, wanted = option_number("ram", 0);

	for (size_t i = 0; i < n; i++)
		print("memory: 0x%09lx-0x%09lx %s\n", map[i].address, map[i].address + map[i].bytes,
		      range_type(map[i].type));
	TRY(check_overlaps(map, n));
	for (size_t i = 0; i < n; i++) {
		uint64_t start = map[i].address, end = start + map[i].bytes;

		if (map[i].type != RAM)
			continue;
		ram += map[i].bytes;
		if (start < pages_next() && end > pages_next())
			start = pages_next();
		else if (end <= pages_next())
			continue;
		start = (start + MIB - 1) & ~(MIB - 1);
		end &= ~(MIB - 1);
		memory_map_range(start, end > start ? end - start : 0);
		TRY(touch_range(start, end));
	}
	print("memory: %lu KiB of RAM, end at 0x%lx\n", ram >> 10, memory_end());
	/* What firmware keeps for itself below 1 MiB and at the top of RAM is less than 2 MiB. */
	if (wanted && (ram > wanted || wanted - ram > 2 * MIB))
		return fail("%lu bytes of RAM, not %lu", ram, wanted);
	return true;
}

/* A hole below 4 GiB: what is neither RAM nor a device reads as ones and takes nothing. */
bool test_hole(void)
{
	static const uint64_t addresses[] = { 0xFE000000, 0xFE000FFC, 0xFD800004, 0xFF000000 };

	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		uint32_t before = mmio_read32(addresses[i]), after;

		mmio_write32(addresses[i], 0x12345678);
		after = mmio_read32(addresses[i]);
		print("hole: 0x%lx 0x%08x 0x%08x\n", addresses[i], before, after);
		if (after == 0x12345678)
			return fail("there is memory at 0x%lx", addresses[i]);
	}
	return true;
}

static bool check_table(const struct acpi_header *t)
{
	char name[5] = { 0 };

	memcpy(name, t->signature, 4);
	print("acpi: %s %u bytes revision %u at 0x%lx\n", name, t->length, t->revision,
	      (uint64_t)t);
	if (t->length < sizeof(*t) || t->length > MIB)
		return fail("%s is %u bytes long", name, t->length);
	if (!acpi_sum_ok(t, t->length))
		return fail("%s has a wrong checksum", name);
	return true;
}

static bool check_fadt(const struct acpi_fadt *f)
{
	if (f->header.length < FADT_BYTES_V3) {
		print("acpi: FADT flags 0x%x S5 type %d, of the old length\n", f->flags,
		      acpi_s5_type());
		return acpi_dsdt() ? check_table(acpi_dsdt()) : fail("there is no DSDT");
	}
	print("acpi: FADT flags 0x%x boot flags 0x%x reset %u:0x%lx=0x%x sleep %u:0x%lx S5 type %d\n",
	      f->flags, f->boot_flags, f->reset_register.space, f->reset_register.address,
	      f->reset_value, f->sleep_control.space, f->sleep_control.address, acpi_s5_type());
	if (f->x_dsdt && f->dsdt && f->x_dsdt != f->dsdt)
		return fail("the FADT knows two DSDTs");
	if (!acpi_dsdt())
		return fail("there is no DSDT");
	if (f->flags & FADT_HARDWARE_REDUCED)
		CHECK(f->sleep_control.address != 0);
	return check_table(acpi_dsdt());
}

/* Every table's checksum; the number of processors and the flags that guests go by. */
bool test_acpi(void)
{
	const char *error = acpi_root_error();
	const struct acpi_header *t;
	uint32_t ids[CPUS_MAX];
	unsigned n_cpus;

	if (error)
		return fail("%s", error);
	for (unsigned n = 0; (t = acpi_table(n)); n++)
		TRY(check_table(t));
	if (!acpi_fadt())
		return fail("there is no FADT");
	TRY(check_fadt(acpi_fadt()));
	n_cpus = acpi_cpus(ids, CPUS_MAX);
	print("acpi: %u processors\n", n_cpus);
	if (option_number("cpus", n_cpus) != n_cpus)
		return fail("%u processors, not %lu", n_cpus, option_number("cpus", 0));
	for (unsigned i = 0; i < n_cpus; i++)
		for (unsigned j = i + 1; j < n_cpus; j++)
			if (ids[i] == ids[j])
				return fail("two processors have APIC id %u", ids[i]);
	return true;
}

struct cpu_report {
	uint32_t apic_id, initial_id;
	struct cpuid_regs topology[2];
	uint64_t sum;
};

/* Leaf 0xB: level types and shifts; a little arithmetic proves that the processor really works. */
static void report_cpu(void *arg)
{
	struct cpu_report *r = arg;

	r->apic_id = apic_id();
	r->initial_id = cpuid(1, 0).ebx >> 24;
	for (unsigned i = 0; i < 2; i++)
		r->topology[i] = cpuid(0xB, i);
	r->sum = 0;
	for (uint64_t i = 1; i <= 1000; i++)
		r->sum += i;
}

static bool check_cpu(unsigned cpu, const struct cpu_report *r)
{
	print("smp: cpu %u apic %u initial %u threads %u shift %u cores %u shift %u x2apic %u\n",
	      cpu, r->apic_id, r->initial_id, r->topology[0].ebx & 0xFFFF, r->topology[0].eax & 31,
	      r->topology[1].ebx & 0xFFFF, r->topology[1].eax & 31, r->topology[0].edx);
	if (r->apic_id != smp_apic_id(cpu) || r->apic_id != r->initial_id)
		return fail("cpu %u should have APIC id %u, has %u and CPUID says %u", cpu,
		            smp_apic_id(cpu), r->apic_id, r->initial_id);
	if (cpuid(0, 0).eax >= 0xB && (r->topology[0].ebx & 0xFFFF) &&
	    r->topology[0].edx != r->apic_id)
		return fail("cpu %u: leaf 0xB tells APIC id %u", cpu, r->topology[0].edx);
	CHECK(r->sum == 500500);
	return true;
}

static void count_up(void *arg)
{
	for (int i = 0; i < 1000; i++)
		__atomic_fetch_add((uint64_t *)arg, 1, __ATOMIC_SEQ_CST);
}

/* Every processor starts, says who it is, and all count together without losing one. */
bool test_smp(void)
{
	static struct cpu_report report;
	static uint64_t counter;
	unsigned n = smp_start();

	if (option_number("cpus", n) != n)
		return fail("%u processors, not %lu", n, option_number("cpus", 0));
	report_cpu(&report);
	TRY(check_cpu(0, &report));
	for (unsigned i = 1; i < n; i++) {
		smp_run(i, report_cpu, &report);
		if (!smp_wait(i))
			return fail("cpu %u does not come back", i);
		TRY(check_cpu(i, &report));
	}
	counter = 0;
	for (unsigned i = 1; i < n; i++)
		smp_run(i, count_up, &counter);
	count_up(&counter);
	for (unsigned i = 1; i < n; i++)
		if (!smp_wait(i))
			return fail("cpu %u does not come back", i);
	if (counter != 1000ull * n)
		return fail("%u processors counted to %lu", n, counter);
	return true;
}

/* All leaves, one a line: what a reference can be compared with. */
bool test_cpuid(void)
{
	static const uint32_t bases[] = { 0, 0x40000000, 0x80000000 };
	struct cpuid_regs r;

	for (size_t i = 0; i < ARRAY_SIZE(bases); i++) {
		uint32_t last = cpuid(bases[i], 0).eax;

		if (last < bases[i] || last > bases[i] + 0x100)
			continue;
		for (uint32_t leaf = bases[i]; leaf <= last; leaf++) {
			bool levels = leaf == 4 || leaf == 7 || leaf == 0xB || leaf == 0xD;

			for (uint32_t sub = 0; sub < (levels ? 4u : 1u); sub++) {
				r = cpuid(leaf, sub);
				print("cpuid: 0x%08x.%u %08x %08x %08x %08x\n", leaf, sub, r.eax,
				      r.ebx, r.ecx, r.edx);
			}
		}
	}
	/* What every 64-bit guest needs: PAE, APIC, MSRs, TSC; long mode. */
	CHECK((cpuid(1, 0).edx & 0x270) == 0x270);
	CHECK(cpuid(0x80000001, 0).edx >> 29 & 1);
	return true;
}
