/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest-stats.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/engine.h"
#include "daemon/guest-run.h"

#define LATENCY_BUCKETS 24 /* bucket i: below 2^i microseconds; the last one the rest */

/* utime + stime of a process or thread in microseconds, proc(5) stat fields 14 and 15. */
static uint64_t cpu_time_us(const char *path)
{
	cleanup_free char *data = NULL;
	unsigned long long user, system;
	const char *p;

	if (fs_read_file(AT_FDCWD, path, 4096, &data, NULL) < 0)
		return 0;
	p = strrchr(data, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
	                 &system) != 2)
		return 0;
	return (user + system) * 1000000u / (unsigned long long)sysconf(_SC_CLK_TCK);
}

static uint64_t resident_bytes(pid_t pid)
{
	cleanup_free char *data = NULL;
	unsigned long long pages;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	if (fs_read_file(AT_FDCWD, path, 256, &data, NULL) < 0 ||
	    sscanf(data, "%*u %llu", &pages) != 1)
		return 0;
	return pages * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static json_t *process_stats(const struct guest_run *run)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/stat", run->pid);
	return json_pack("{s:i, s:I, s:I}", "pid", run->pid, "cpu_us",
	                 (json_int_t)cpu_time_us(path), "rss_bytes",
	                 (json_int_t)resident_bytes(run->pid));
}

static int add_cpu_stats(struct guest *g, json_t *out, struct vmd_error *err)
{
	cleanup_json json_t *reply = NULL;
	json_t *cpus = json_array(), *cpu;
	pid_t pid = g->run->pid;
	size_t i;
	int r = guest_qmp(g, "query-cpus-fast", NULL, &reply, err);

	json_array_foreach(reply, i, cpu) {
		int64_t tid = jsonx_int(cpu, "thread-id", 0);
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/task/%lld/stat", pid, (long long)tid);
		json_array_append_new(cpus, json_pack("{s:I, s:I, s:I}", "index",
		                                      (json_int_t)jsonx_int(cpu, "cpu-index", 0),
		                                      "thread_id", (json_int_t)tid, "time_us",
		                                      (json_int_t)cpu_time_us(path)));
	}
	(void)jsonx_set(out, "cpus", cpus);
	return r;
}

/* QMP BlockLatencyHistogramInfo, with the boundaries that we set. */
static void add_latency(json_t *out, const json_t *stats)
{
	static const struct {
		const char *ours, *qmp;
	} kinds[] = { { "read", "rd_latency_histogram" },
		      { "write", "wr_latency_histogram" },
		      { "flush", "flush_latency_histogram" } };
	json_t *latency = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		json_t *bins = json_object_get(json_object_get(stats, kinds[i].qmp), "bins");

		if (bins)
			(void)jsonx_set(latency, kinds[i].ours, json_incref(bins));
	}
	if (json_object_size(latency))
		(void)jsonx_set(out, "latency_us", json_incref(latency));
	json_decref(latency);
}

/* QMP BlockDeviceStats to our names; our device ids are "disk<index>". */
static json_t *disk_stats(const json_t *entry)
{
	static const struct {
		const char *ours, *qmp;
		int divide;
	} fields[] = {
		{ "read_bytes", "rd_bytes", 1 },
		{ "write_bytes", "wr_bytes", 1 },
		{ "read_ops", "rd_operations", 1 },
		{ "write_ops", "wr_operations", 1 },
		{ "flush_ops", "flush_operations", 1 },
		{ "read_time_us", "rd_total_time_ns", 1000 },
		{ "write_time_us", "wr_total_time_ns", 1000 },
	};
	const json_t *stats = json_object_get(entry, "stats");
	const char *name = strstr(jsonx_str(entry, "qdev", ""), "disk");
	json_t *out;
	int index;

	if (!name || sscanf(name, "disk%d", &index) != 1)
		return NULL;
	out = json_pack("{s:i}", "index", index);
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		(void)jsonx_set(
			out, fields[i].ours,
			json_integer(jsonx_int(stats, fields[i].qmp, 0) / fields[i].divide));
	(void)jsonx_set(out, "errors",
	                json_integer(jsonx_int(stats, "failed_rd_operations", 0) +
	                             jsonx_int(stats, "failed_wr_operations", 0) +
	                             jsonx_int(stats, "failed_flush_operations", 0)));
	add_latency(out, stats);
	return out;
}

static int add_disk_stats(struct guest *g, json_t *out, struct vmd_error *err)
{
	cleanup_json json_t *reply = NULL;
	json_t *disks = json_array(), *entry;
	size_t i;
	int r = guest_qmp(g, "query-blockstats", NULL, &reply, err);

	json_array_foreach(reply, i, entry) {
		json_t *stats = disk_stats(entry);

		if (stats)
			json_array_append_new(disks, stats);
	}
	(void)jsonx_set(out, "disks", disks);
	return r;
}

static void put_counter(json_t *nic, const char *ours, const char *ifname, const char *theirs)
{
	cleanup_free char *text = NULL;
	char path[128];

	snprintf(path, sizeof(path), "/sys/class/net/%.15s/statistics/%s", ifname, theirs);
	if (fs_read_file(AT_FDCWD, path, 64, &text, NULL) == 0)
		(void)jsonx_set(nic, ours, json_integer((json_int_t)strtoull(text, NULL, 10)));
}

/* Of a tap device the host tells: what it receives is what the guest sent. */
static void add_tap_counters(json_t *nic, const char *ifname)
{
	static const char *const names[][2] = { { "rx_bytes", "tx_bytes" },
		                                { "tx_bytes", "rx_bytes" },
		                                { "rx_packets", "tx_packets" },
		                                { "tx_packets", "rx_packets" } };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		put_counter(nic, names[i][0], ifname, names[i][1]);
}

static void add_own_counters(json_t *nic, const json_t *device)
{
	static const char *const ways[] = { "rx", "tx" };
	char name[16];

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		const json_t *way = json_object_get(device, ways[i]);

		if (!way)
			continue;
		snprintf(name, sizeof(name), "%s_bytes", ways[i]);
		(void)jsonx_set(nic, name, json_integer(jsonx_int(way, "bytes", 0)));
		snprintf(name, sizeof(name), "%s_packets", ways[i]);
		(void)jsonx_set(nic, name, json_integer(jsonx_int(way, "operations", 0)));
	}
}

/* own: what vmd-vmm tells (x-vmd-stats), or NULL. */
static json_t *nic_stats(const json_t *definition, const json_t *own)
{
	json_t *nics = json_array(), *nic;
	size_t i;

	json_array_foreach(json_object_get(definition, "nics"), i, nic) {
		json_t *o =
			json_pack("{s:i, s:s}", "index", (int)i, "mac", jsonx_str(nic, "mac", ""));
		const char *ifname = jsonx_str(nic, "ifname", NULL);
		char id[32];

		snprintf(id, sizeof(id), "nic%zu", i);
		if (own)
			add_own_counters(o, json_object_get(json_object_get(own, "devices"), id));
		else if (ifname)
			add_tap_counters(o, ifname);
		json_array_append_new(nics, o);
	}
	return nics;
}

/* QMP query-stats, of KVM only, by our names. */
static void add_kvm_exits(json_t *cpu, const json_t *stats)
{
	static const struct {
		const char *theirs, *ours;
	} names[] = { { "io_exits", "io" },       { "mmio_exits", "mmio" },
		      { "halt_exits", "halt" },   { "irq_exits", "interrupt" },
		      { "signal_exits", "kick" }, { "hypercalls", "hypercall" },
		      { "exits", "total" } };
	json_t *exits = json_object();
	const json_t *entry;
	size_t k;

	json_array_foreach(stats, k, entry) {
		const char *name = jsonx_str(entry, "name", "");

		if (strcmp(name, "halt_wait_ns") == 0)
			(void)jsonx_set(cpu, "halted_us",
			                json_integer(jsonx_int(entry, "value", 0) / 1000));
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (strcmp(name, names[i].theirs) == 0)
				(void)jsonx_set(exits, names[i].ours,
				                json_integer(jsonx_int(entry, "value", 0)));
	}
	if (json_object_size(exits))
		(void)jsonx_set(cpu, "exits", json_incref(exits));
	json_decref(exits);
}

/* QEMU's vCPUs come in their order; an older QEMU, or emulation, tells nothing. */
static void add_qemu_exits(struct guest *g, json_t *cpus)
{
	cleanup_json json_t *args =
		json_pack("{s:s, s:[{s:s}]}", "target", "vcpu", "providers", "provider", "kvm");
	cleanup_json json_t *reply = NULL;
	size_t i;
	json_t *entry;

	if (guest_qmp(g, "query-stats", args, &reply, NULL) < 0)
		return;
	json_array_foreach(reply, i, entry) {
		json_t *cpu = json_array_get(cpus, i);

		if (cpu)
			add_kvm_exits(cpu, json_object_get(entry, "stats"));
	}
}

static void add_own_exits(json_t *cpus, const json_t *own)
{
	static const char *const names[] = { "exits", "halted_us" };
	json_t *cpu;
	size_t i;

	json_array_foreach(cpus, i, cpu)
		for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
			json_t *value = json_object_get(
				json_array_get(json_object_get(own, "vcpus"), i), names[k]);

			if (value)
				(void)jsonx_set(cpu, names[k], json_incref(value));
		}
}

/* 5.5.6.4 of virtio 1.2, by our names, the monitor's and QEMU's. */
static const struct {
	const char *ours, *own, *qemu;
} memory_figures[] = {
	{ "total_bytes", "total", "stat-total-memory" },
	{ "free_bytes", "free", "stat-free-memory" },
	{ "available_bytes", "available", "stat-available-memory" },
	{ "caches_bytes", "caches", "stat-disk-caches" },
	{ "swap_in_bytes", "swap_in", "stat-swap-in" },
	{ "swap_out_bytes", "swap_out", "stat-swap-out" },
	{ "major_faults", "major_faults", "stat-major-faults" },
	{ "minor_faults", "minor_faults", "stat-minor-faults" },
	{ "hugetlb_allocations", "hugetlb_allocations", "stat-htlb-pgalloc" },
	{ "hugetlb_failures", "hugetlb_failures", "stat-htlb-pgfail" },
};

/* figures by their names to ours. QEMU says 2^64-1 for what it was not told. */
static json_t *guest_memory(const json_t *figures, bool is_own, double updated_us)
{
	json_t *out;

	if (updated_us <= 0 || updated_us >= 0x1p63)
		return NULL;
	out = json_pack("{s:I}", "updated_us", (json_int_t)updated_us);
	for (size_t i = 0; i < ARRAY_SIZE(memory_figures); i++) {
		const char *theirs = is_own ? memory_figures[i].own : memory_figures[i].qemu;
		const json_t *figure = json_object_get(figures, theirs);
		double value = json_number_value(figure);

		if (figure && value >= 0 && value < 0x1p63)
			(void)jsonx_set(out, memory_figures[i].ours,
			                json_integer((json_int_t)value));
	}
	return out;
}

/* The monitor asks the guest anew whenever it tells what the guest said last. */
static json_t *own_guest_memory(const json_t *own)
{
	const json_t *figures = json_object_get(
		json_object_get(json_object_get(own, "devices"), "balloon0"), "guest");

	return guest_memory(figures, true, json_number_value(json_object_get(figures, "time_us")));
}

static json_t *qemu_property(const char *name, json_t *value)
{
	json_t *args =
		json_pack("{s:s, s:s}", "path", "/machine/peripheral/balloon0", "property", name);

	if (value)
		(void)jsonx_set(args, "value", value);
	return args;
}

/* QEMU asks at an interval, and at once when it is set anew; a long one disturbs nobody. */
static json_t *qemu_guest_memory(struct guest *g)
{
	static const int intervals[] = { 0, 24 * 3600 };
	cleanup_json json_t *get = qemu_property("guest-stats", NULL), *reply = NULL;

	if (guest_qmp(g, "qom-get", get, &reply, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(intervals); i++) {
		cleanup_json json_t *set =
			qemu_property("guest-stats-polling-interval", json_integer(intervals[i]));

		if (guest_qmp(g, "qom-set", set, NULL, NULL) < 0)
			return NULL;
	}
	return guest_memory(json_object_get(reply, "stats"), false,
	                    json_number_value(json_object_get(reply, "last-update")) * 1e6);
}

static void add_memory_stats(struct guest *g, const json_t *definition, const json_t *own,
                             json_t *out)
{
	uint64_t configured = jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES);
	json_t *memory = json_pack("{s:I}", "configured_bytes", (json_int_t)configured);
	cleanup_json json_t *balloon = NULL;
	json_t *guest;

	if (!json_is_false(json_object_get(definition, "balloon")) &&
	    guest_qmp(g, "query-balloon", NULL, &balloon, NULL) == 0) {
		(void)jsonx_set(memory, "actual_bytes",
		                json_integer(jsonx_int(balloon, "actual", (int64_t)configured)));
		guest = own ? own_guest_memory(own) : qemu_guest_memory(g);
		if (guest)
			(void)jsonx_set(memory, "guest", guest);
	}
	(void)jsonx_set(out, "memory", memory);
}

int guest_stats(struct guest *g, json_t **ret, struct vmd_error *err)
{
	cleanup_json json_t *out = json_object(), *own = NULL;
	cleanup_json json_t *definition = json_loads(g->run->definition, 0, NULL);
	bool kvm = strcmp(g->engine, "kvm") == 0;
	int r;

	(void)jsonx_set(out, "time_us", json_integer((json_int_t)now_wall_us()));
	(void)jsonx_set(out, "uptime_us",
	                json_integer((json_int_t)(now_wall_us() - g->run->started_us)));
	(void)jsonx_set(out, "process", process_stats(g->run));
	r = add_cpu_stats(g, out, err);
	if (r == 0)
		r = add_disk_stats(g, out, err);
	if (r == 0 && kvm)
		r = guest_qmp(g, "x-vmd-stats", NULL, &own, err);
	if (r < 0)
		return r;
	if (kvm)
		add_own_exits(json_object_get(out, "cpus"), own);
	else
		add_qemu_exits(g, json_object_get(out, "cpus"));
	add_memory_stats(g, definition, own, out);
	(void)jsonx_set(out, "nics", nic_stats(definition, own));
	*ret = json_incref(out);
	return 0;
}

static void sort_by_latency(struct guest *g, const char *qdev)
{
	cleanup_json json_t *args = json_object();
	json_t *boundaries = json_array();

	for (unsigned b = 0; b + 1 < LATENCY_BUCKETS; b++)
		json_array_append_new(boundaries, json_integer(1000ll << b));
	(void)jsonx_set(args, "id", json_string(qdev));
	(void)jsonx_set(args, "boundaries", boundaries);
	(void)guest_qmp(g, "block-latency-histogram-set", args, NULL, NULL);
}

void guest_stats_prepare(struct guest *g)
{
	cleanup_json json_t *reply = NULL;
	const json_t *entry;
	size_t i;

	if (strcmp(g->engine, "qemu") != 0 ||
	    guest_qmp(g, "query-blockstats", NULL, &reply, NULL) < 0)
		return;
	json_array_foreach(reply, i, entry)
		if (strstr(jsonx_str(entry, "qdev", ""), "disk"))
			sort_by_latency(g, jsonx_str(entry, "qdev", ""));
}
