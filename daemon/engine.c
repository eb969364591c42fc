/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"

void launch_init(struct launch *l)
{
	memset(l, 0, sizeof(*l));
	l->qmp_fd = l->console_fd = -EBADF;
}

void launch_deinit(struct launch *l)
{
	for (size_t i = 0; i < l->n_fds; i++)
		cleanup_close_p(&l->fds[i]);
	for (size_t i = 0; i < l->n_procs; i++) {
		free(l->procs[i].name);
		json_decref(l->procs[i].argv);
	}
	cleanup_close_p(&l->qmp_fd);
	cleanup_close_p(&l->console_fd);
	launch_init(l);
}

int launch_add_fd(struct launch *l, int fd)
{
	if (l->n_fds == LAUNCH_MAX_FDS) {
		close(fd);
		return -E2BIG;
	}
	l->fds[l->n_fds] = fd;
	return (int)l->n_fds++;
}

const char *engine_arch(const struct host_facts *host, const json_t *definition)
{
	return jsonx_str(definition, "arch", host->arch);
}

int engine_refuse(struct vmd_error *err, const char *field, const char *format, ...)
{
	char text[sizeof(err->message)];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (err && err->kind == ERROR_NONE)
		snprintf(err->field, sizeof(err->field), "%s", field);
	return error_set(err, ERROR_UNSUPPORTED, "%s", text);
}

int engine_check_room(const struct host_facts *host, const json_t *definition,
                      struct vmd_error *err)
{
	const json_t *backing = json_object_get(definition, "memory_backing");
	bool at_once = jsonx_bool(backing, "prealloc", false) ||
	               strcmp(jsonx_str(backing, "hugepages", "transparent"), "transparent") != 0;
	uint64_t bytes = jsonx_size(definition, "memory", DEFAULT_MEMORY_BYTES);
	char have[32];

	if (!at_once || bytes <= host->memory_bytes)
		return 0;
	return engine_refuse(err, "definition.memory",
	                     "this host has %s of memory, and the guest's is taken at its start",
	                     format_size(have, sizeof(have), host->memory_bytes));
}

static bool wants_firmware(const json_t *definition, const char *arch, const char *name)
{
	const json_t *boot = json_object_get(definition, "boot");
	const char *firmware = jsonx_str(boot, "firmware", NULL);
	bool aarch64 = strcmp(arch, "aarch64") == 0;

	if (json_object_get(boot, "kernel"))
		return false;
	return strcmp(firmware ? firmware : aarch64 ? "uefi" : "bios", name) == 0;
}

static bool in_list(const json_t *definition, const char *list, const char *key, const char *plain)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(definition, list), i, entry) {
		const json_t *value = json_object_get(entry, key);

		if (value && (!plain || strcmp(json_string_value(value), plain) != 0))
			return true;
	}
	return false;
}

static bool has_path(const json_t *definition, const char *a, const char *b)
{
	return json_object_get(json_object_get(definition, a), b) != NULL;
}

static bool wants(const json_t *d, const char *arch, enum engine_cap cap)
{
	const json_t *display = json_object_get(d, "display");
	const char *screen = jsonx_str(display, "type", json_string_value(display));
	const char *model = jsonx_str(json_object_get(d, "cpus"), "model", "host");
	const json_t *tpm = json_object_get(d, "tpm");

	switch (cap) {
	case CAP_X86_64:
		return strcmp(arch, "x86_64") == 0;
	case CAP_AARCH64:
		return strcmp(arch, "aarch64") == 0;
	case CAP_MACHINE_TYPE:
		return json_object_get(d, "machine") != NULL;
	case CAP_CPU_LEVELS:
		return strncmp(model, "x86-64-v", 8) == 0;
	case CAP_CPU_NAMES:
		return strncmp(model, "x86-64-v", 8) != 0 && strcmp(model, "host") != 0 &&
		       strcmp(model, "max") != 0;
	case CAP_KERNEL:
		return has_path(d, "boot", "kernel");
	case CAP_BIOS:
		return wants_firmware(d, arch, "bios");
	case CAP_UEFI:
		return wants_firmware(d, arch, "uefi");
	case CAP_ISO:
		return has_path(d, "boot", "iso");
	case CAP_DISK_FORMATS:
		return in_list(d, "disks", "format", "raw");
	case CAP_DISK_BUSES:
		return in_list(d, "disks", "bus", "virtio");
	case CAP_DISK_LIMITS:
		return in_list(d, "disks", "bandwidth", NULL) || in_list(d, "disks", "iops", NULL);
	case CAP_NIC_MODELS:
		return in_list(d, "nics", "model", "virtio");
	case CAP_OWN_USER_NETWORK:
		return false; /* matters only where the host has no passt: the engine's check */
	case CAP_VIRTIO_CONSOLE:
		return strcmp(jsonx_str(json_object_get(d, "console"), "device", ""), "virtio") ==
		       0;
	case CAP_DISPLAY:
		return screen && strcmp(screen, "none") != 0;
	case CAP_VSOCK:
		return json_object_get(d, "vsock") != NULL;
	case CAP_TPM:
		return json_is_true(tpm) || json_is_object(tpm);
	case CAP_SHARES:
		return json_array_size(json_object_get(d, "shares")) > 0;
	case CAP_WATCHDOG:
		return jsonx_bool(d, "watchdog", false);
	case CAP_TEST_DEVICE:
		return jsonx_bool(d, "test_device", false);
	case _CAP_MAX:
		break;
	}
	return false;
}

int engine_check_caps(const struct engine *engine, const struct host_facts *host,
                      const json_t *definition, struct vmd_error *err)
{
	const char *arch = engine_arch(host, definition);

	for (int cap = 0; cap < _CAP_MAX; cap++) {
		const struct engine_cap_info *info = &engine_caps[cap];
		char field[64];

		if (info->has[engine->id] || !wants(definition, arch, cap))
			continue;
		snprintf(field, sizeof(field), "definition.%s", info->field);
		return engine_refuse(err, field, "engine '%s' has no %s", engine->name, info->what);
	}
	if (!wants(definition, arch, CAP_X86_64) && !wants(definition, arch, CAP_AARCH64))
		return engine_refuse(err, "definition.arch", "no engine runs guests of '%.32s'",
		                     arch);
	return 0;
}

/* An older passt leaves clients of a server that speaks first waiting; QEMU has a network of its
 * own. */
static int check_forwards(const struct host_facts *host, const json_t *definition,
                          struct vmd_error *err)
{
	if (!host->passt[0] || !definition_forwards_tcp(definition) || host_passt_forwards(host))
		return 0;
	return engine_refuse(err, "definition.nics",
	                     "this host's passt fails at TCP forwards, QEMU's own user network "
	                     "does not");
}

int engine_choose(const struct host_facts *host, const json_t *definition,
                  struct engine_choice *ret, struct vmd_error *err)
{
	const char *wanted = jsonx_str(definition, "engine", "auto");
	struct vmd_error why_not_kvm = VMD_ERROR_INIT;
	char text[sizeof(ret->reason)];
	int r;

	if (strcmp(wanted, "kvm") == 0)
		return engine_kvm.check(host, definition, ret, err);
	if (strcmp(wanted, "qemu") == 0)
		return engine_qemu.check(host, definition, ret, err);
	if (check_forwards(host, definition, &why_not_kvm) == 0 &&
	    engine_kvm.check(host, definition, ret, &why_not_kvm) == 0)
		return 0;
	r = engine_qemu.check(host, definition, ret, err);
	/* With KVM in use, what is left to tell is why it is QEMU that uses it. */
	if (r == 0 && strcmp(ret->accel, "kvm") == 0) {
		snprintf(text, sizeof(text), "%.180s", why_not_kvm.message);
		snprintf(ret->reason, sizeof(ret->reason), "%s", text);
	}
	return r;
}
