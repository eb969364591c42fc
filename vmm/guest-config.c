/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The document that vmd gives to its monitor: tables of members, one reader. */
#include "config.h"

#include "vmm/guest-config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "vmm/config-table.h"

enum {
	MAX_DEPTH = 8,
	MAX_FDS = 2 + 2 + 1 + VIRTIO_CONSOLE_MAX_PORTS + VMM_MAX_DISKS +
	          VMM_MAX_NICS * (VIRTIO_NET_MAX_PAIRS + 1)
};

#define AT(type, field) offsetof(struct type, field)

static const struct member memory_members[] = {
	{ .name = "bytes",
	  .type = U64,
	  .offset = AT(vmm_config, memory_bytes),
	  .min = VMM_MIN_MEMORY,
	  .max = VMM_MAX_MEMORY,
	  .required = true },
	{ .name = "hugepages",
	  .type = WORD,
	  .offset = AT(vmm_config, hugepages),
	  .words = (const char *const[]){ "transparent", "off", "2M", "1G", NULL } },
	{ .name = "prealloc", .type = FLAG, .offset = AT(vmm_config, prealloc) },
	{ 0 },
};

static const struct member cpu_members[] = {
	{ .name = "count",
	  .type = UINT,
	  .offset = AT(vmm_cpus, count),
	  .min = 1,
	  .max = VMM_MAX_CPUS },
	{ .name = "sockets",
	  .type = UINT,
	  .offset = AT(vmm_cpus, sockets),
	  .min = 1,
	  .max = VMM_MAX_CPUS },
	{ .name = "cores",
	  .type = UINT,
	  .offset = AT(vmm_cpus, cores),
	  .min = 1,
	  .max = VMM_MAX_CPUS },
	{ .name = "threads",
	  .type = UINT,
	  .offset = AT(vmm_cpus, threads),
	  .min = 1,
	  .max = VMM_MAX_CPUS },
	{ .name = "model",
	  .type = WORD,
	  .offset = AT(vmm_cpus, model),
	  .words = (const char *const[]){ "host", "x86-64-v1", "x86-64-v2", "x86-64-v3",
	                                  "x86-64-v4", NULL } },
	{ .name = "nested", .type = FLAG, .offset = AT(vmm_cpus, nested) },
	{ 0 },
};

static const struct member boot_members[] = {
	{ .name = "kernel_fd", .type = FD, .offset = AT(vmm_config, kernel_fd), .required = true },
	{ .name = "initrd_fd", .type = FD, .offset = AT(vmm_config, initrd_fd) },
	{ .name = "cmdline",
	  .type = TEXT,
	  .offset = AT(vmm_config, cmdline),
	  .min = 0,
	  .max = VMM_CMDLINE_MAX },
	{ 0 },
};

static const struct member console_members[] = {
	{ .name = "fd", .type = FD, .offset = AT(vmm_config, console_fd), .required = true },
	{ .name = "device",
	  .type = WORD,
	  .offset = AT(vmm_config, console),
	  .words = (const char *const[]){ "serial", "virtio", NULL } },
	{ 0 },
};

static const struct member port_members[] = {
	{ .name = "name",
	  .type = TEXT,
	  .offset = AT(vmm_port, name),
	  .min = 0,
	  .max = 64,
	  .required = true },
	{ .name = "fd", .type = FD, .offset = AT(vmm_port, fd), .required = true },
	{ 0 },
};

static const struct member limit_members[] = {
	{ .name = "bytes_per_s",
	  .type = U64,
	  .offset = AT(io_limits, bytes_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ .name = "read_bytes_per_s",
	  .type = U64,
	  .offset = AT(io_limits, read_bytes_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ .name = "write_bytes_per_s",
	  .type = U64,
	  .offset = AT(io_limits, write_bytes_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ .name = "ops_per_s",
	  .type = U64,
	  .offset = AT(io_limits, ops_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ .name = "read_ops_per_s",
	  .type = U64,
	  .offset = AT(io_limits, read_ops_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ .name = "write_ops_per_s",
	  .type = U64,
	  .offset = AT(io_limits, write_ops_per_s),
	  .min = 0,
	  .max = INT64_MAX },
	{ 0 },
};

static const struct member disk_members[] = {
	{ .name = "id",
	  .type = TEXT,
	  .offset = AT(vmm_disk, id),
	  .min = 0,
	  .max = 32,
	  .required = true },
	{ .name = "fd", .type = FD, .offset = AT(vmm_disk, fd) },
	{ .name = "vhost_user_fd", .type = FD, .offset = AT(vmm_disk, vhost_user_fd) },
	{ .name = "readonly", .type = FLAG, .offset = AT(vmm_disk, readonly) },
	{ .name = "discard", .type = FLAG, .offset = AT(vmm_disk, discard) },
	{ .name = "cache",
	  .type = WORD,
	  .offset = AT(vmm_disk, cache), /* in the order of enum blk_cache */
	  .words = (const char *const[]){ "writeback", "writethrough", "none", "unsafe", NULL } },
	{ .name = "serial", .type = TEXT, .offset = AT(vmm_disk, serial), .min = 0, .max = 21 },
	{ .name = "queues", .type = UINT, .offset = AT(vmm_disk, queues), .min = 1, .max = 16 },
	{ .name = "limits",
	  .type = OBJECT,
	  .offset = AT(vmm_disk, limits),
	  .members = limit_members },
	{ 0 },
};

static const struct member nic_members[] = {
	{ .name = "id",
	  .type = TEXT,
	  .offset = AT(vmm_nic, id),
	  .min = 0,
	  .max = 32,
	  .required = true },
	{ .name = "mac", .type = MAC_ADDRESS, .offset = AT(vmm_nic, mac), .required = true },
	{ .name = "mtu", .type = UINT, .offset = AT(vmm_nic, mtu), .min = 0, .max = 65535 },
	{ .name = "tap_fds",
	  .type = ARRAY,
	  .offset = AT(vmm_nic, tap_fds),
	  .min = 0,
	  .max = VIRTIO_NET_MAX_PAIRS,
	  .element_bytes = sizeof(int),
	  .count_offset = AT(vmm_nic, n_taps) },
	{ .name = "stream_fd", .type = FD, .offset = AT(vmm_nic, stream_fd) },
	{ 0 },
};

static const struct member balloon_members[] = {
	{ .name = "deflate_on_oom", .type = FLAG, .offset = AT(vmm_config, deflate_on_oom) },
	{ .name = "free_page_reporting",
	  .type = FLAG,
	  .offset = AT(vmm_config, free_page_reporting) },
	{ 0 },
};

static const struct member action_members[] = {
	{ .name = "reboot",
	  .type = WORD,
	  .offset = AT(vmm_config, on_reboot),
	  .words = (const char *const[]){ "reset", "shutdown", NULL } },
	{ .name = "panic",
	  .type = WORD,
	  .offset = AT(vmm_config, on_panic),
	  .words = (const char *const[]){ "pause", "shutdown", "none", NULL } },
	{ 0 },
};

static void port_defaults(void *element)
{
	*(struct vmm_port *)element = (struct vmm_port){ .fd = -EBADF };
}

static void disk_defaults(void *element)
{
	*(struct vmm_disk *)element =
		(struct vmm_disk){ .fd = -EBADF, .vhost_user_fd = -EBADF, .queues = 1 };
}

static void nic_defaults(void *element)
{
	*(struct vmm_nic *)element = (struct vmm_nic){ .stream_fd = -EBADF };
}

struct document {
	uint64_t version;
};

static const struct member version_member[] = { { .name = "version",
	                                          .type = U64,
	                                          .offset = AT(document, version),
	                                          .min = 1,
	                                          .max = 1,
	                                          .required = true },
	                                        { 0 } };

static const struct member members[] = {
	{ .name = "name",
	  .type = TEXT,
	  .offset = AT(vmm_config, name),
	  .min = 0,
	  .max = 128,
	  .required = true },
	{ .name = "uuid",
	  .type = TEXT,
	  .offset = AT(vmm_config, uuid),
	  .min = 0,
	  .max = 40,
	  .required = true },
	{ .name = "kvm_fd", .type = FD, .offset = AT(vmm_config, kvm_fd), .required = true },
	{ .name = "qmp_fd", .type = FD, .offset = AT(vmm_config, qmp_fd) },
	{ .name = "memory",
	  .type = OBJECT,
	  .offset = 0,
	  .members = memory_members,
	  .required = true },
	{ .name = "cpus", .type = OBJECT, .offset = AT(vmm_config, cpus), .members = cpu_members },
	{ .name = "boot", .type = OBJECT, .offset = 0, .members = boot_members },
	{ .name = "console", .type = OBJECT, .offset = 0, .members = console_members },
	{ .name = "ports",
	  .type = ARRAY,
	  .offset = AT(vmm_config, ports),
	  .min = 0,
	  .max = VIRTIO_CONSOLE_MAX_PORTS - 1,
	  .members = port_members,
	  .element_bytes = sizeof(struct vmm_port),
	  .count_offset = AT(vmm_config, n_ports),
	  .defaults = port_defaults },
	{ .name = "disks",
	  .type = ARRAY,
	  .offset = AT(vmm_config, disks),
	  .min = 0,
	  .max = VMM_MAX_DISKS,
	  .members = disk_members,
	  .element_bytes = sizeof(struct vmm_disk),
	  .count_offset = AT(vmm_config, n_disks),
	  .defaults = disk_defaults },
	{ .name = "nics",
	  .type = ARRAY,
	  .offset = AT(vmm_config, nics),
	  .min = 0,
	  .max = VMM_MAX_NICS,
	  .members = nic_members,
	  .element_bytes = sizeof(struct vmm_nic),
	  .count_offset = AT(vmm_config, n_nics),
	  .defaults = nic_defaults },
	{ .name = "rng", .type = FLAG, .offset = AT(vmm_config, rng) },
	{ .name = "balloon",
	  .type = OBJECT,
	  .offset = 0,
	  .members = balloon_members,
	  .count_offset = AT(vmm_config, balloon) },
	{ .name = "pvpanic", .type = FLAG, .offset = AT(vmm_config, pvpanic) },
	{ .name = "actions", .type = OBJECT, .offset = 0, .members = action_members },
	{ .name = "reset_interval_ms",
	  .type = UINT,
	  .offset = AT(vmm_config, reset_interval_ms),
	  .min = 0,
	  .max = 60000 },
	{ .name = "incoming", .type = FLAG, .offset = AT(vmm_config, incoming) },
	{ .name = "paused", .type = FLAG, .offset = AT(vmm_config, paused) },
	{ .name = "test_device", .type = FLAG, .offset = AT(vmm_config, test_device) },
	{ 0 },
};

/* "version" is read first and by itself: another version may have any other shape. */
static int read_document(json_t *doc, struct vmm_config *c, struct vmd_error *err)
{
	cleanup_json json_t *version = json_object();
	json_t *v = json_object_get(doc, "version");
	struct document d = { 0 };
	int r;

	if (v)
		json_object_set(version, "version", v);
	r = config_read(version, version_member, &d, NULL, err);
	if (r < 0)
		return r;
	json_object_del(doc, "version");
	return config_read(doc, members, c, NULL, err);
}

static size_t list_fds(const struct vmm_config *c, int fds[MAX_FDS])
{
	const int single[] = { c->kvm_fd, c->qmp_fd, c->kernel_fd, c->initrd_fd, c->console_fd };
	size_t n = 0;

	memcpy(fds, single, sizeof(single));
	n = sizeof(single) / sizeof(single[0]);
	for (unsigned i = 0; i < c->n_ports; i++)
		fds[n++] = c->ports[i].fd;
	for (unsigned i = 0; i < c->n_disks; i++)
		fds[n++] = c->disks[i].fd >= 0 ? c->disks[i].fd : c->disks[i].vhost_user_fd;
	for (unsigned i = 0; i < c->n_nics; i++) {
		fds[n++] = c->nics[i].stream_fd;
		for (unsigned k = 0; k < c->nics[i].n_taps; k++)
			fds[n++] = c->nics[i].tap_fds[k];
	}
	return n;
}

static int compare_fds(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return x < y ? -1 : x > y;
}

/* Each descriptor has one owner, or closing it would close another device's. */
static int check_fds(const struct vmm_config *c, struct vmd_error *err)
{
	int fds[MAX_FDS];
	size_t n = list_fds(c, fds);

	qsort(fds, n, sizeof(fds[0]), compare_fds);
	for (size_t i = 0; i < n; i++) {
		if (fds[i] < 0)
			continue;
		if (i && fds[i] == fds[i - 1])
			return error_set(err, ERROR_INVALID, "descriptor %d is given twice",
			                 fds[i]);
		if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0)
			return error_set_errno(err, errno, "descriptor %d", fds[i]);
	}
	return 0;
}

static bool id_is_taken(const struct vmm_config *c, const char *id)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n_disks; i++)
		n += strcmp(c->disks[i].id, id) == 0;
	for (unsigned i = 0; i < c->n_nics; i++)
		n += strcmp(c->nics[i].id, id) == 0;
	return n > 1 || !id[0];
}

static int check_devices(const struct vmm_config *c, struct vmd_error *err)
{
	for (unsigned i = 0; i < c->n_disks; i++) {
		const struct vmm_disk *d = &c->disks[i];

		if ((d->fd < 0) == (d->vhost_user_fd < 0))
			return error_set(err, ERROR_INVALID,
			                 "disks[%u]: fd or vhost_user_fd is needed, not both", i);
		if (id_is_taken(c, d->id))
			return error_set(err, ERROR_INVALID, "disks[%u].id: is empty or used twice",
			                 i);
	}
	for (unsigned i = 0; i < c->n_nics; i++) {
		const struct vmm_nic *n = &c->nics[i];

		if (n->n_taps && n->stream_fd >= 0)
			return error_set(err, ERROR_INVALID,
			                 "nics[%u]: tap_fds and stream_fd exclude each other", i);
		if (id_is_taken(c, n->id))
			return error_set(err, ERROR_INVALID, "nics[%u].id: is empty or used twice",
			                 i);
	}
	return 0;
}

static int check(struct vmm_config *c, struct vmd_error *err)
{
	uint64_t page = c->hugepages == VMM_PAGES_1G   ? 1ull << 30
	                : c->hugepages == VMM_PAGES_2M ? 2ull << 20
	                                               : 4096;
	struct vmm_cpus *cpus = &c->cpus;
	int r;

	if (!cpus->cores)
		cpus->cores = cpus->count / (cpus->sockets * cpus->threads);
	if (cpus->sockets * cpus->cores * cpus->threads != cpus->count)
		return error_set_field(err, "cpus.count",
		                       "cpus: %u is not %u sockets of %u cores of %u threads",
		                       cpus->count, cpus->sockets, cpus->cores, cpus->threads);
	if (c->memory_bytes % page)
		return error_set_field(err, "memory.bytes",
		                       "memory.bytes: is not a whole number of pages of %llu bytes",
		                       (unsigned long long)page);
	if (c->kernel_fd < 0)
		return error_set_field(err, "boot", "boot: is missing");
	r = check_devices(c, err);
	return r < 0 ? r : check_fds(c, err);
}

int vmm_config_parse(const char *text, size_t len, struct vmm_config *ret, struct vmd_error *err)
{
	cleanup_json json_t *doc = jsonx_parse(text, len, MAX_DEPTH, err);
	int r;

	*ret = (struct vmm_config){ .kvm_fd = -EBADF,
		                    .qmp_fd = -EBADF,
		                    .kernel_fd = -EBADF,
		                    .initrd_fd = -EBADF,
		                    .console_fd = -EBADF,
		                    .reset_interval_ms = 1000,
		                    .cpus = { .count = 1, .sockets = 1, .threads = 1 } };
	r = doc ? read_document(doc, ret, err) : -EINVAL;
	return r < 0 ? r : check(ret, err);
}

int vmm_config_read(int fd, struct vmm_config *ret, struct vmd_error *err)
{
	cleanup_free char *text = malloc(VMM_CONFIG_MAX);
	size_t len = 0;

	if (!text)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	for (;;) {
		ssize_t n = pread(fd, text + len, VMM_CONFIG_MAX - len, (off_t)len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "cannot read the configuration");
		len += (size_t)n;
		if (n == 0)
			break;
		if (len == VMM_CONFIG_MAX)
			return error_set(err, ERROR_INVALID,
			                 "the configuration has %u bytes or more", VMM_CONFIG_MAX);
	}
	return vmm_config_parse(text, len, ret, err);
}

int vmm_config_close_others(const struct vmm_config *c, int keep_fd)
{
	int fds[MAX_FDS + 1];
	size_t n = list_fds(c, fds);
	unsigned from = 3;

	fds[n++] = keep_fd;
	qsort(fds, n, sizeof(fds[0]), compare_fds);
	for (size_t i = 0; i < n; i++) {
		if (fds[i] < (int)from)
			continue;
		if ((unsigned)fds[i] > from &&
		    syscall(SYS_close_range, from, (unsigned)fds[i] - 1, 0) < 0)
			return -errno;
		from = (unsigned)fds[i] + 1;
	}
	return syscall(SYS_close_range, from, ~0u, 0) < 0 ? -errno : 0;
}
