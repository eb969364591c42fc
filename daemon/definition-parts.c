/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/definition-parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/engine.h"

unsigned definition_cpu_count(const json_t *definition)
{
	const json_t *cpus = json_object_get(definition, "cpus");
	const json_t *topology = json_object_get(cpus, "topology");

	if (json_is_integer(cpus))
		return (unsigned)json_integer_value(cpus);
	return (unsigned)jsonx_int(cpus, "count",
	                           jsonx_int(topology, "sockets", 1) *
	                                   jsonx_int(topology, "cores", 1) *
	                                   jsonx_int(topology, "threads", 1));
}

unsigned definition_disk_queues(const json_t *definition, const json_t *disk)
{
	return (unsigned)jsonx_int(disk, "queues", MIN_OF(definition_cpu_count(definition), 4u));
}

bool definition_forwards_tcp(const json_t *definition)
{
	const json_t *nic, *entry;
	size_t i, k;

	json_array_foreach(json_object_get(definition, "nics"), i, nic)
		json_array_foreach(json_object_get(nic, "forward"), k, entry)
			if (strncmp(json_string_value(entry), "tcp:", 4) == 0)
				return true;
	return false;
}

int parse_forward(const char *text, struct forward *ret)
{
	const char *rest = text + 4;
	size_t n = strcspn(rest, ":");
	uint64_t host, guest;
	char port[8];

	*ret = (struct forward){ .udp = strncmp(text, "udp:", 4) == 0 };
	if (!ret->udp && strncmp(text, "tcp:", 4) != 0)
		return -EINVAL;
	if (memchr(rest, '.', n)) {
		if (n >= sizeof(ret->address) || rest[n] != ':')
			return -EINVAL;
		memcpy(ret->address, rest, n);
		rest += n + 1;
		n = strcspn(rest, ":");
	}
	if (n >= sizeof(port) || rest[n] != ':')
		return -EINVAL;
	memcpy(port, rest, n);
	port[n] = '\0';
	if (parse_u64(port, &host) < 0 || parse_u64(rest + n + 1, &guest) < 0 || !host || !guest ||
	    host > 65535 || guest > 65535)
		return -EINVAL;
	ret->host_port = (unsigned)host;
	ret->guest_port = (unsigned)guest;
	return 0;
}

static int check_topology(const json_t *definition, struct vmd_error *err)
{
	const json_t *topology = json_object_get(json_object_get(definition, "cpus"), "topology");
	unsigned count = definition_cpu_count(definition);
	int64_t product = jsonx_int(topology, "sockets", 1) * jsonx_int(topology, "cores", 1) *
	                  jsonx_int(topology, "threads", 1);

	if (topology && product != (int64_t)count)
		return error_set_field(err, "definition.cpus.topology",
		                       "sockets x cores x threads is %lld, the count is %u",
		                       (long long)product, count);
	return 0;
}

/* A limit of 0 would be none at all. */
static int check_bandwidth(const json_t *disk, size_t index, struct vmd_error *err)
{
	json_t *bandwidth = json_object_get(disk, "bandwidth"), *value;
	const char *key;

	json_object_foreach(bandwidth, key, value) {
		char field[96];

		snprintf(field, sizeof(field), "definition.disks[%zu].bandwidth.%.16s", index, key);
		if (jsonx_size(bandwidth, key, 0) == 0)
			return error_set_field(err, field,
			                       "a limit of 0 bytes lets nothing through");
	}
	return 0;
}

/* Of the formats, qcow2 is the one whose overlays are opened with their base. */
static int check_base(const json_t *disk, size_t index, struct vmd_error *err)
{
	const char *format = jsonx_str(disk, "format", "raw");
	char field[64];

	if (!json_object_get(disk, "backing") || strcmp(format, "qcow2") == 0)
		return 0;
	snprintf(field, sizeof(field), "definition.disks[%zu].backing", index);
	return error_set_field(err, field,
	                       "a disk of format '%s' has no backing file (qcow2 may have one)",
	                       format);
}

static int check_disks(const json_t *definition, struct vmd_error *err)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(definition, "disks"), i, disk) {
		char field[64];

		snprintf(field, sizeof(field), "definition.disks[%zu].queues", i);
		if (json_object_get(disk, "queues") &&
		    strcmp(jsonx_str(disk, "bus", "virtio"), "virtio") != 0)
			return error_set_field(err, field,
			                       "only disks on bus 'virtio' have queues");
		if (check_base(disk, i, err) < 0 || check_bandwidth(disk, i, err) < 0)
			return -EINVAL;
	}
	return 0;
}

/* Several queues need a tap device that can be opened as often, and a card that has them. */
static int check_nics(const json_t *definition, struct vmd_error *err)
{
	const json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(definition, "nics"), i, nic) {
		char field[64];

		if (jsonx_int(nic, "queues", 1) == 1)
			continue;
		snprintf(field, sizeof(field), "definition.nics[%zu].queues", i);
		if (strcmp(jsonx_str(nic, "model", "virtio"), "virtio") != 0)
			return error_set_field(err, field,
			                       "only cards of model 'virtio' have several queues");
		if (!json_is_string(json_object_get(nic, "ifname")))
			return error_set_field(err, field,
			                       "several queues go with a tap device by name");
	}
	return 0;
}

static int check_backing(const json_t *definition, struct vmd_error *err)
{
	const char *pages = jsonx_str(json_object_get(definition, "memory_backing"), "hugepages",
	                              "transparent");
	bool huge = strcmp(pages, "1G") == 0;
	const char *pool = huge ? "/sys/kernel/mm/hugepages/hugepages-1048576kB"
	                        : "/sys/kernel/mm/hugepages/hugepages-2048kB";

	if (strcmp(pages, "transparent") == 0)
		return 0;
	if (jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES) % (huge ? 1u << 30 : 2u << 20))
		return error_set_field(err, "definition.memory",
		                       "memory has to be a whole number of pages of %s", pages);
	if (access(pool, F_OK) == 0)
		return 0;
	(void)error_set(err, ERROR_UNSUPPORTED, "this host has no hugepages of %s", pages);
	if (err)
		snprintf(err->field, sizeof(err->field), "definition.memory_backing.hugepages");
	return -EOPNOTSUPP;
}

static int check_nested(const json_t *definition, struct vmd_error *err)
{
	const json_t *cpus = json_object_get(definition, "cpus");
	const char *model = jsonx_str(cpus, "model", "host");

	if (!jsonx_bool(cpus, "nested", false) || strcmp(model, "host") == 0 ||
	    strcmp(model, "max") == 0)
		return 0;
	return error_set_field(err, "definition.cpus.nested",
	                       "goes with the CPU models 'host' and 'max', not '%.48s'", model);
}

static int check_forwards(const json_t *definition, struct vmd_error *err)
{
	const json_t *nic, *forward;
	size_t i, k;

	json_array_foreach(json_object_get(definition, "nics"), i, nic)
		json_array_foreach(json_object_get(nic, "forward"), k, forward) {
			struct forward f;
			char field[96];

			snprintf(field, sizeof(field), "definition.nics[%zu].forward[%zu]", i, k);
			if (parse_forward(json_string_value(forward), &f) < 0)
				return error_set_field(err, field, "'%.64s' is no port forward",
				                       json_string_value(forward));
		}
	return 0;
}

static int check_actions(const json_t *definition, struct vmd_error *err)
{
	if (!json_object_get(json_object_get(definition, "actions"), "on_watchdog") ||
	    jsonx_bool(definition, "watchdog", false))
		return 0;
	(void)error_set_field(err, "definition.actions.on_watchdog", "the guest has no watchdog");
	error_hint(err, "set definition.watchdog to true");
	return -EINVAL;
}

int definition_check_parts(const json_t *definition, struct vmd_error *err)
{
	int r = check_topology(definition, err);

	if (r == 0)
		r = check_disks(definition, err);
	if (r == 0)
		r = check_nics(definition, err);
	if (r == 0)
		r = check_forwards(definition, err);
	if (r == 0)
		r = check_backing(definition, err);
	if (r == 0)
		r = check_nested(definition, err);
	return r == 0 ? check_actions(definition, err) : r;
}
