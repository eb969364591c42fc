/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU, or QEMU on this host, cannot do, told by field and reason before anything starts. */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"
#include "daemon/qemu-cmdline.h"

#define MIB             (1u << 20)
#define VSOCK_DEVICE    "/dev/vhost-vsock"
#define UNIX_PATH_MAX   107
#define X86_CPUS_MAX    255 /* more need interrupt remapping */
#define GIC2_CPUS_MAX   8
#define PROCESS_MAX_CPU 256

struct subject {
	const struct host_facts *host;
	const json_t *definition;
	const char *arch, *accel;
	bool arm, kvm;
};

static bool has(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int check_program(const struct subject *s, struct vmd_error *err)
{
	if (host_qemu_path(s->host, s->arch)[0])
		return 0;
	(void)engine_refuse(err, "definition.arch", "qemu-system-%s is not installed", s->arch);
	error_hint(err, "install %s", s->arm ? "qemu-system-arm" : "qemu-system-x86");
	return -EOPNOTSUPP;
}

static int check_machine(const struct subject *s, struct vmd_error *err)
{
	const json_t *machine = json_object_get(s->definition, "machine");
	const json_t *options = json_object_get(machine, "options"), *value;
	const char *field =
		json_is_string(machine) ? "definition.machine" : "definition.machine.type";
	const char *type = qemu_machine_type(s->arch, s->definition), *key;
	bool known = s->arm ? strcmp(type, "virt") == 0 || has(type, "virt-")
	                    : strcmp(type, "q35") == 0 || strcmp(type, "pc") == 0 ||
	                              has(type, "pc-q35-") || has(type, "pc-i440fx-");

	if (strcmp(type, "microvm") == 0 && !s->arm)
		return engine_refuse(err, field,
		                     "machine 'microvm' has no PCI bus for the devices");
	if (!known)
		return engine_refuse(err, field,
		                     "'%s' is no machine type that %s guests are built on (%s)",
		                     type, s->arch, s->arm ? "virt" : "q35, pc");
	json_object_foreach((json_t *)options, key, value) {
		bool arm_only = strcmp(key, "gic") == 0, both = strcmp(key, "acpi") == 0;
		char path[64];

		snprintf(path, sizeof(path), "definition.machine.options.%.24s", key);
		if (!both && arm_only != s->arm)
			return engine_refuse(err, path, "%s machines have no option '%s'", s->arch,
			                     key);
		/* SeaBIOS makes some by itself when QEMU gives none. */
		if (both && !s->arm && !json_is_true(value))
			return engine_refuse(err, path, "%s machines always have ACPI tables",
			                     s->arch);
	}
	return 0;
}

static int check_cpu_model(const struct subject *s, struct vmd_error *err)
{
	const char *model = qemu_cpu_model(s->definition, s->accel);
	unsigned level = has(model, "x86-64-v") ? (unsigned)(model[8] - '0') : 0;
	const char *field = "definition.cpus.model";

	if (strcmp(model, "host") == 0 && !s->kvm)
		return engine_refuse(err, field,
		                     "CPU model 'host' needs KVM; this guest is emulated%s%s",
		                     s->host->kvm_usable ? "" : ": ",
		                     s->host->kvm_usable ? "" : s->host->kvm_reason);
	if (!level)
		return 0;
	if (level > 4 || model[9])
		return engine_refuse(err, field, "there is no CPU level '%s' (x86-64-v1 to v4)",
		                     model);
	if (s->arm)
		return engine_refuse(err, field, "'%s' is a level of x86_64, the guest is %s",
		                     model, s->arch);
	if (s->kvm && level > s->host->cpu_level)
		return engine_refuse(err, field,
		                     "this host's processor is of level x86-64-v%u only",
		                     s->host->cpu_level);
	if (!s->kvm && level == 4)
		return engine_refuse(err, field,
		                     "QEMU's emulation has no AVX-512, which x86-64-v4 needs");
	return 0;
}

static unsigned most_cpus(const struct subject *s)
{
	const json_t *machine = json_object_get(s->definition, "machine");

	if (!s->arm)
		return X86_CPUS_MAX;
	return strcmp(jsonx_str(json_object_get(machine, "options"), "gic", ""), "2") == 0
	               ? GIC2_CPUS_MAX
	               : PROCESS_MAX_CPU;
}

static int check_cpus(const struct subject *s, struct vmd_error *err)
{
	const json_t *cpus = json_object_get(s->definition, "cpus");
	unsigned count = definition_cpu_count(s->definition);
	const char *field = json_is_integer(cpus) ? "definition.cpus" : "definition.cpus.count";

	if (jsonx_bool(cpus, "nested", false) && s->arm)
		return engine_refuse(err, "definition.cpus.nested",
		                     "aarch64 guests cannot run guests of their own");
	if (count > most_cpus(s))
		return engine_refuse(err, field, "this machine has at most %u processors",
		                     most_cpus(s));
	return check_cpu_model(s, err);
}

static int check_memory(const struct subject *s, struct vmd_error *err)
{
	uint64_t bytes = jsonx_size(s->definition, "memory", DEFAULT_MEMORY_BYTES);

	if (bytes < MIB || bytes % MIB)
		return error_set_field(err, "definition.memory",
		                       "memory has to be a whole number of MiB, at least 1M");
	return engine_check_room(s->host, s->definition, err);
}

static int check_boot(const struct subject *s, struct vmd_error *err)
{
	const char *firmware = qemu_firmware(s->arch, s->definition);
	bool found = (s->arm ? s->host->aavmf_code : s->host->ovmf_code)[0];

	if (s->arm && strcmp(firmware, "bios") == 0)
		return engine_refuse(err, "definition.boot.firmware", "%s guests have no BIOS",
		                     s->arch);
	if (strcmp(firmware, "uefi") == 0 && !found) {
		(void)engine_refuse(err, "definition.boot.firmware",
		                    "there is no UEFI firmware for %s guests on this host",
		                    s->arch);
		error_hint(err, "install %s", s->arm ? "qemu-efi-aarch64" : "ovmf");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int check_disks(const struct subject *s, struct vmd_error *err)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(s->definition, "disks"), i, disk) {
		const char *bus = jsonx_str(disk, "bus", "virtio");
		const char *format = jsonx_str(disk, "format", "raw");
		bool sized = strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0;
		char field[96];

		snprintf(field, sizeof(field), "definition.disks[%zu].bus", i);
		if (strcmp(bus, "sata") == 0 && jsonx_bool(disk, "readonly", false))
			return engine_refuse(err, field, "a disk on 'sata' cannot be read-only");
		if (strcmp(bus, "sata") == 0 && s->arm)
			return engine_refuse(err, field, "%s guests have no SATA", s->arch);
		snprintf(field, sizeof(field), "definition.disks[%zu].size", i);
		if (json_object_get(disk, "size") && !sized)
			return engine_refuse(err, field,
			                     "the size of a '%s' image cannot be told beforehand",
			                     format);
	}
	return 0;
}

static int check_nics(const struct subject *s, struct vmd_error *err)
{
	const json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(s->definition, "nics"), i, nic) {
		char field[96];

		snprintf(field, sizeof(field), "definition.nics[%zu].network", i);
		if (strcmp(jsonx_str(nic, "network", ""), "tap") == 0 &&
		    access("/dev/net/tun", F_OK) < 0)
			return engine_refuse(err, field, "this host has no /dev/net/tun");
	}
	return 0;
}

static int check_shares(const struct subject *s, struct vmd_error *err)
{
	const json_t *shares = json_object_get(s->definition, "shares"), *share;
	bool old = has(s->host->virtiofsd, "/usr/lib/qemu/"); /* the one that was QEMU's */
	size_t i;

	if (json_array_size(shares) && !s->host->virtiofsd[0]) {
		(void)engine_refuse(err, "definition.shares", "virtiofsd is not installed");
		error_hint(err, "install qemu-system-common or virtiofsd");
		return -EOPNOTSUPP;
	}
	if (json_array_size(shares) && old && geteuid() != 0) {
		(void)engine_refuse(err, "definition.shares", "%s runs as root only",
		                    s->host->virtiofsd);
		error_hint(err, "install virtiofsd 1.0 or later");
		return -EOPNOTSUPP;
	}
	json_array_foreach(shares, i, share) {
		char field[96];

		snprintf(field, sizeof(field), "definition.shares[%zu].readonly", i);
		if (jsonx_bool(share, "readonly", false) && old)
			return engine_refuse(err, field, "%s has no read-only mode",
			                     s->host->virtiofsd);
	}
	return 0;
}

static int check_devices(const struct subject *s, struct vmd_error *err)
{
	const json_t *tpm = json_object_get(s->definition, "tpm");

	if (json_object_get(s->definition, "vsock") && access(VSOCK_DEVICE, F_OK) < 0) {
		(void)engine_refuse(err, "definition.vsock", "this host has no %s", VSOCK_DEVICE);
		error_hint(err, "modprobe vhost_vsock");
		return -EOPNOTSUPP;
	}
	if ((json_is_true(tpm) || json_is_object(tpm)) && !s->host->swtpm[0]) {
		(void)engine_refuse(err, "definition.tpm", "swtpm is not installed");
		error_hint(err, "install swtpm");
		return -EOPNOTSUPP;
	}
	if (s->arm && jsonx_bool(s->definition, "test_device", false))
		return engine_refuse(err, "definition.test_device", "%s guests have no test device",
		                     s->arch);
	if (s->arm && strcmp(jsonx_str(tpm, "model", "tis"), "crb") == 0)
		return engine_refuse(err, "definition.tpm.model",
		                     "%s guests have no TPM of model 'crb'", s->arch);
	return 0;
}

static int check_display(const struct subject *s, struct vmd_error *err)
{
	const char *socket = jsonx_str(json_object_get(s->definition, "display"), "socket", "");

	if (strlen(socket) > UNIX_PATH_MAX)
		return error_set_field(err, "definition.display.socket",
		                       "a socket's path has at most %d bytes", UNIX_PATH_MAX);
	return 0;
}

int qemu_check(const struct host_facts *host, const json_t *definition, const char *accel,
               struct vmd_error *err)
{
	static int (*const checks[])(const struct subject *s, struct vmd_error *err) = {
		check_program, check_machine, check_cpus,   check_memory,  check_boot,
		check_disks,   check_nics,    check_shares, check_devices, check_display,
	};
	struct subject s = { .host = host,
		             .definition = definition,
		             .arch = engine_arch(host, definition),
		             .accel = accel,
		             .kvm = strcmp(accel, "kvm") == 0 };
	int r = definition_check_parts(definition, err);

	s.arm = strcmp(s.arch, "aarch64") == 0;
	for (size_t i = 0; i < ARRAY_SIZE(checks) && r == 0; i++)
		r = checks[i](&s, err);
	return r;
}
