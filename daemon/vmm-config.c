/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/vmm-config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"
#include "daemon/storage-args.h"

#define MIB         (1u << 20)
#define LEAST_MIB   16
#define MOST_BYTES  (1ull << 40)
#define MOST_CPUS   64
#define MOST_DISKS  16
#define MOST_SLOTS  27 /* of 32: host bridge, and those of rng, balloon, console and the last */
#define MOST_QUEUES 4  /* of a disk nobody gave a number for */

static int check_cpus(const struct host_facts *host, const json_t *definition,
                      struct vmd_error *err)
{
	const json_t *cpus = json_object_get(definition, "cpus");
	const char *model = jsonx_str(cpus, "model", "host"), *field = "definition.cpus.model";
	unsigned level = strncmp(model, "x86-64-v", 8) == 0 ? (unsigned)(model[8] - '0') : 0;

	if (definition_cpu_count(definition) > MOST_CPUS)
		return engine_refuse(
			err, json_is_integer(cpus) ? "definition.cpus" : "definition.cpus.count",
			"engine 'kvm' has at most %d processors", MOST_CPUS);
	if (strcmp(model, "host") == 0 || strcmp(model, "max") == 0)
		return 0;
	if (!level || level > 4 || model[9])
		return engine_refuse(err, field, "there is no CPU level '%s' (x86-64-v1 to v4)",
		                     model);
	if (level > host->cpu_level)
		return engine_refuse(err, field,
		                     "this host's processor is of level x86-64-v%u only",
		                     host->cpu_level);
	return 0;
}

static int check_memory(const struct host_facts *host, const json_t *definition,
                        struct vmd_error *err)
{
	uint64_t bytes = jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES);

	if (bytes < MIB || bytes % MIB)
		return error_set_field(err, "definition.memory",
		                       "memory has to be a whole number of MiB, at least 1M");
	if (bytes < LEAST_MIB * (uint64_t)MIB)
		return engine_refuse(err, "definition.memory",
		                     "a guest of engine 'kvm' has at least %dM", LEAST_MIB);
	if (bytes > MOST_BYTES)
		return engine_refuse(err, "definition.memory",
		                     "engine 'kvm' has at most 1T of memory");
	return engine_check_room(host, definition, err);
}

static bool is_raw(const json_t *disk)
{
	return strcmp(jsonx_str(disk, "format", "raw"), "raw") == 0;
}

static int check_disks(const struct host_facts *host, const json_t *definition,
                       struct vmd_error *err)
{
	const json_t *disks = json_object_get(definition, "disks"), *disk;
	char field[64];
	size_t i;

	if (json_array_size(disks) > MOST_DISKS)
		return engine_refuse(err, "definition.disks", "engine 'kvm' has at most %d disks",
		                     MOST_DISKS);
	json_array_foreach(disks, i, disk) {
		if (is_raw(disk) || host->storage_daemon[0])
			continue;
		snprintf(field, sizeof(field), "definition.disks[%zu].%s", i,
		         json_object_get(disk, "disk") ? "disk" : "format");
		(void)engine_refuse(err, field,
		                    "qemu-storage-daemon is not installed, and engine 'kvm' reads "
		                    "no format but raw by itself");
		error_hint(err, "install qemu-storage-daemon (Debian: qemu-system-common), or use "
		                "a raw disk");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int check_devices(const struct host_facts *host, const json_t *definition,
                         struct vmd_error *err)
{
	const json_t *nics = json_object_get(definition, "nics"), *nic;
	size_t i, slots = json_array_size(json_object_get(definition, "disks"));

	if (slots + json_array_size(nics) > MOST_SLOTS)
		return engine_refuse(err, "definition.disks",
		                     "engine 'kvm' has room for %d disks and network cards",
		                     MOST_SLOTS);
	json_array_foreach(nics, i, nic) {
		const char *network = jsonx_str(nic, "network", "none");
		char field[64];

		snprintf(field, sizeof(field), "definition.nics[%zu].network", i);
		if (strcmp(network, "user") == 0 && !host->passt[0]) {
			(void)engine_refuse(err, field,
			                    "passt is not installed, and engine 'kvm' has no user "
			                    "network of its own");
			error_hint(err, "install passt");
			return -EOPNOTSUPP;
		}
		if (strcmp(network, "tap") == 0 && access("/dev/net/tun", F_OK) < 0)
			return engine_refuse(err, field, "this host has no /dev/net/tun");
	}
	return 0;
}

int vmm_check(const struct host_facts *host, const json_t *definition, struct vmd_error *err)
{
	int r = definition_check_parts(definition, err);

	if (r == 0 && !json_object_get(json_object_get(definition, "boot"), "kernel"))
		r = engine_refuse(err, "definition.boot",
		                  "engine 'kvm' boots a kernel given directly only");
	if (r == 0)
		r = check_cpus(host, definition, err);
	if (r == 0)
		r = check_memory(host, definition, err);
	if (r == 0)
		r = check_disks(host, definition, err);
	if (r == 0)
		r = check_devices(host, definition, err);
	return r;
}

struct vmm_builder {
	const struct vmm_input *in;
	const json_t *definition;
	struct plan *plan;
	bool failed, full; /* out of memory; too many descriptors */
};

static void put(struct vmm_builder *b, json_t *object, const char *key, json_t *value)
{
	if (!jsonx_set(object, key, value))
		b->failed = true;
}

static void put_fd(struct vmm_builder *b, json_t *object, const char *key, enum plan_fd_kind kind,
                   size_t index)
{
	int number = plan_add_fd(b->plan, kind, index, 0);

	if (number < 0)
		b->full = true;
	put(b, object, key, json_integer(number));
}

static void put_copy(struct vmm_builder *b, json_t *object, const char *key, const json_t *from,
                     const char *from_key)
{
	json_t *value = json_object_get(from, from_key);

	if (value)
		put(b, object, key, json_incref(value));
}

static json_t *processors(struct vmm_builder *b)
{
	const json_t *cpus = json_object_get(b->definition, "cpus");
	const json_t *topology = json_object_get(cpus, "topology");
	const char *model = jsonx_str(cpus, "model", "host");
	int count = (int)definition_cpu_count(b->definition);
	json_t *o = json_pack("{s:i, s:s}", "count", count, "model",
	                      strcmp(model, "max") == 0 ? "host" : model);

	put(b, o, "sockets", json_integer(jsonx_int(topology, "sockets", 1)));
	put(b, o, "cores", json_integer(jsonx_int(topology, "cores", topology ? 1 : count)));
	put(b, o, "threads", json_integer(jsonx_int(topology, "threads", 1)));
	put(b, o, "nested", json_boolean(jsonx_bool(cpus, "nested", false)));
	return o;
}

static json_t *memory(struct vmm_builder *b)
{
	const json_t *backing = json_object_get(b->definition, "memory_backing");

	return json_pack("{s:I, s:s, s:b}", "bytes",
	                 (json_int_t)jsonx_size(b->definition, "memory", DEFAULT_MEMORY_BYTES),
	                 "hugepages", jsonx_str(backing, "hugepages", "transparent"), "prealloc",
	                 jsonx_bool(backing, "prealloc", false));
}

static json_t *boot(struct vmm_builder *b)
{
	const json_t *given = json_object_get(b->definition, "boot");
	json_t *o = json_pack("{s:s}", "cmdline", jsonx_str(given, "cmdline", ""));

	put_fd(b, o, "kernel_fd", PLAN_FD_KERNEL, 0);
	if (json_object_get(given, "initrd"))
		put_fd(b, o, "initrd_fd", PLAN_FD_INITRD, 0);
	return o;
}

static json_t *disk_limits(struct vmm_builder *b, const json_t *disk)
{
	static const struct {
		const char *object, *key, *ours;
	} names[] = {
		{ "bandwidth", "total", "bytes_per_s" },
		{ "bandwidth", "read", "read_bytes_per_s" },
		{ "bandwidth", "write", "write_bytes_per_s" },
		{ "iops", "total", "ops_per_s" },
		{ "iops", "read", "read_ops_per_s" },
		{ "iops", "write", "write_ops_per_s" },
	};
	json_t *limits = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const json_t *given = json_object_get(disk, names[i].object);

		if (json_object_get(given, names[i].key))
			put(b, limits, names[i].ours,
			    json_integer((json_int_t)jsonx_size(given, names[i].key, 0)));
	}
	return limits;
}

/* A disk that the storage daemon serves. It starts with the first of them. */
static void add_remote(struct vmm_builder *b, json_t *o, const json_t *disk, size_t index)
{
	struct storage_disk s = { .disk = disk, .index = index };

	put_fd(b, o, "vhost_user_fd", PLAN_FD_STORAGE, index);
	s.file_fd = plan_add_storage_fd(b->plan, PLAN_FD_DISK, index);
	s.listen_fd = plan_add_storage_fd(b->plan, PLAN_FD_EXPORT, index);
	if (json_object_get(disk, "backing"))
		s.base_fd = plan_add_storage_fd(b->plan, PLAN_FD_BACKING, index);
	b->full |= s.file_fd < 0 || s.listen_fd < 0 || s.base_fd < 0;
	if (!b->plan->storage_argv)
		b->plan->storage_argv = json_pack("[s]", b->in->host->storage_daemon);
	if (storage_add_disk(b->plan->storage_argv, &s) < 0)
		b->failed = true;
}

static json_t *disks(struct vmm_builder *b)
{
	json_t *list = json_array(), *disk;
	size_t i;

	json_array_foreach(json_object_get(b->definition, "disks"), i, disk) {
		json_t *o, *limits = disk_limits(b, disk);
		char id[32];

		snprintf(id, sizeof(id), "disk%zu", i);
		o = json_pack("{s:s, s:b, s:b, s:s, s:I}", "id", id, "readonly",
		              jsonx_bool(disk, "readonly", false), "discard",
		              strcmp(jsonx_str(disk, "discard", "ignore"), "unmap") == 0, "cache",
		              jsonx_str(disk, "cache", "writeback"), "queues",
		              (json_int_t)definition_disk_queues(b->definition, disk));
		if (is_raw(disk))
			put_fd(b, o, "fd", PLAN_FD_DISK, i);
		else
			add_remote(b, o, disk, i);
		put_copy(b, o, "serial", disk, "serial");
		if (json_object_size(limits))
			put(b, o, "limits", json_incref(limits));
		json_decref(limits);
		if (json_array_append_new(list, o) < 0)
			b->failed = true;
	}
	return list;
}

static json_t *tap_numbers(struct vmm_builder *b, size_t index, unsigned queues)
{
	json_t *numbers = json_array();

	for (unsigned q = 0; q < queues; q++) {
		int number = plan_add_fd(b->plan, PLAN_FD_TAP, index, q);

		b->full |= number < 0;
		if (json_array_append_new(numbers, json_integer(number)) < 0)
			b->failed = true;
	}
	return numbers;
}

static json_t *nics(struct vmm_builder *b)
{
	json_t *list = json_array(), *nic;
	size_t i;

	json_array_foreach(json_object_get(b->definition, "nics"), i, nic) {
		const char *network = jsonx_str(nic, "network", "none");
		json_t *o;
		char id[32];

		snprintf(id, sizeof(id), "nic%zu", i);
		o = json_pack("{s:s}", "id", id);
		put_copy(b, o, "mac", nic, "mac");
		if (strcmp(network, "user") == 0) {
			put_fd(b, o, "stream_fd", PLAN_FD_PASST, i);
		} else if (strcmp(network, "tap") == 0) {
			put(b, o, "tap_fds",
			    tap_numbers(b, i, (unsigned)jsonx_int(nic, "queues", 1)));
		}
		if (json_array_append_new(list, o) < 0)
			b->failed = true;
	}
	return list;
}

static void add_small_devices(struct vmm_builder *b, json_t *o)
{
	const json_t *console = json_object_get(b->definition, "console");
	const json_t *balloon = json_object_get(b->definition, "balloon");

	if (!json_is_false(console)) {
		json_t *c = json_pack("{s:s}", "device", jsonx_str(console, "device", "serial"));

		put_fd(b, c, "fd", PLAN_FD_CONSOLE, 0);
		put(b, o, "console", c);
	}
	put(b, o, "rng", json_boolean(jsonx_bool(b->definition, "rng", true)));
	if (!json_is_false(balloon))
		put(b, o, "balloon",
		    json_pack("{s:b, s:b}", "deflate_on_oom",
		              jsonx_bool(balloon, "deflate_on_oom", false), "free_page_reporting",
		              jsonx_bool(balloon, "free_page_reporting", false)));
	put(b, o, "pvpanic", json_true());
	if (jsonx_bool(b->definition, "test_device", false))
		put(b, o, "test_device", json_true());
}

/* What the monitor itself does when the guest acts; the rest of `actions` is vmd's, after the exit.
 */
static json_t *actions(const json_t *definition)
{
	const json_t *given = json_object_get(definition, "actions");
	bool reset = strcmp(jsonx_str(given, "on_reboot", "restart"), "restart") == 0;
	bool pause = strcmp(jsonx_str(given, "on_panic", "stop"), "pause") == 0;

	return json_pack("{s:s, s:s}", "reboot", reset ? "reset" : "shutdown", "panic",
	                 pause ? "pause" : "shutdown");
}

static void build(struct vmm_builder *b)
{
	json_t *o = json_pack("{s:i, s:b, s:b}", "version", 1, "paused", 1, "incoming",
	                      b->in->incoming);
	char number[16];

	b->plan->config = o;
	snprintf(number, sizeof(number), "%d", plan_add_fd(b->plan, PLAN_FD_CONFIG, 0, 0));
	b->plan->argv = json_pack("[s, s, s]", b->in->host->vmm, "--config-fd", number);
	put_copy(b, o, "name", b->definition, "name");
	put_copy(b, o, "uuid", b->definition, "uuid");
	put_fd(b, o, "kvm_fd", PLAN_FD_KVM, 0);
	put_fd(b, o, "qmp_fd", PLAN_FD_QMP, 0);
	put(b, o, "memory", memory(b));
	put(b, o, "cpus", processors(b));
	put(b, o, "boot", boot(b));
	add_small_devices(b, o);
	put(b, o, "disks", disks(b));
	put(b, o, "nics", nics(b));
	put(b, o, "actions", actions(b->definition));
}

int vmm_build(const struct vmm_input *in, struct plan *ret, struct vmd_error *err)
{
	struct vmm_builder b = { .in = in, .definition = in->definition, .plan = ret };

	*ret = (struct plan){ .argv = NULL };
	build(&b);
	if (!b.failed && !b.full && ret->argv)
		return 0;
	plan_deinit(ret);
	if (!b.full)
		return error_set_errno(err, ENOMEM, "cannot build the monitor's configuration");
	(void)error_set(err, ERROR_UNSUPPORTED, "the guest needs more than %d descriptors",
	                LAUNCH_MAX_FDS);
	return -E2BIG;
}
