/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine qemu: any guest, with KVM when guest and host architecture match and KVM works, else by
 * emulation. Network "user" is passt's where it is installed and the host has a default route
 * (passt does not run without one), else QEMU's own user network, which also serves TCP forwards
 * where the installed passt fails at them.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "daemon/engine-prepare.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/qemu-cmdline.h"
#include "daemon/vmd.h"

static int qemu_engine_check(const struct host_facts *host, const json_t *definition,
                             struct engine_choice *choice, struct vmd_error *err)
{
	const char *arch = engine_arch(host, definition);
	bool native = strcmp(arch, host->arch) == 0;
	bool kvm = native && host->kvm_usable;
	int r = engine_check_caps(&engine_qemu, host, definition, err);

	if (r == 0)
		r = qemu_check(host, definition, kvm ? "kvm" : "tcg", err);
	if (r < 0)
		return r;
	*choice = (struct engine_choice){ .engine = &engine_qemu, .accel = kvm ? "kvm" : "tcg" };
	if (!native)
		snprintf(choice->reason, sizeof(choice->reason),
		         "emulated: the guest's architecture %.16s is not the host's %s", arch,
		         host->arch);
	else if (!kvm)
		snprintf(choice->reason, sizeof(choice->reason),
		         "emulated, since KVM is not usable: %.140s", host->kvm_reason);
	else
		snprintf(choice->reason, sizeof(choice->reason), "%.180s", host->kvm_reason);
	return 0;
}

static bool has_name(const json_t *names, const char *name)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(names, i, entry)
		if (strcmp(json_string_value(entry), name) == 0)
			return true;
	return false;
}

/* Names that only QEMU itself knows; what it did not tell is left to it. */
static int check_names(const struct preparation *p, const struct engine_choice *choice,
                       struct vmd_error *err)
{
	const json_t *cpus = json_object_get(p->definition, "cpus");
	const json_t *machine = json_object_get(p->definition, "machine");
	const char *path = host_qemu_path(p->host, p->arch);
	const json_t *known = host_qemu(p->host, path);
	const json_t *machines = json_object_get(known, "machines");
	const json_t *models = json_object_get(known, "cpus");
	const char *type = qemu_machine_type(p->arch, p->definition);
	const char *model = qemu_cpu_model(p->definition, choice->accel);

	if (machine && json_array_size(machines) && !has_name(machines, type))
		return engine_refuse(
			err,
			json_is_string(machine) ? "definition.machine" : "definition.machine.type",
			"QEMU %s has no machine type '%s'", jsonx_str(known, "version", ""), type);
	if (jsonx_str(cpus, "model", NULL) && strncmp(model, "x86-64-v", 8) != 0 &&
	    json_array_size(models) && !has_name(models, model))
		return engine_refuse(err, "definition.cpus.model", "QEMU %s has no CPU model '%s'",
		                     jsonx_str(known, "version", ""), model);
	return 0;
}

/* A guest that nobody gave anything to boot is a slip; firmware by itself has to be asked for. */
static int check_bootable(const struct preparation *p, struct vmd_error *err)
{
	const json_t *boot = json_object_get(p->definition, "boot");

	if (json_object_get(boot, "kernel") || json_object_get(boot, "iso") ||
	    json_object_get(boot, "firmware") ||
	    json_array_size(json_object_get(p->definition, "disks")) ||
	    json_array_size(json_object_get(boot, "order")))
		return 0;
	(void)error_set_field(err, "definition.boot", "there is nothing to boot from");
	error_hint(err, "give boot.kernel, boot.iso or a disk");
	return -EINVAL;
}

static int plan_paths(struct preparation *p, struct vmd_error *err)
{
	const json_t *tpm = json_object_get(p->definition, "tpm");
	size_t n;

	snprintf(p->nvram, sizeof(p->nvram), "%s/nvram.fd", p->opts->state_dir);
	if (json_is_true(tpm) || json_is_object(tpm))
		snprintf(p->tpm_dir, sizeof(p->tpm_dir), "%s/tpm", p->opts->state_dir);
	n = strlen(qemu_vnc_path(p->definition, p->opts->runtime_dir, p->stale_socket,
	                         sizeof(p->stale_socket)));
	if (n > 107)
		return engine_refuse(err, "definition.display",
		                     "the socket's path '%s' is longer than 107 bytes",
		                     p->stale_socket);
	return 0;
}

static int make_plan(struct preparation *p, const struct engine_choice *choice,
                     struct vmd_error *err)
{
	struct qemu_input in = {
		.definition = p->definition,
		.host = p->host,
		.accel = choice->accel,
		.incoming = p->opts->incoming,
		.passt = preparation_has_passt(p),
		.vhost_net = strcmp(choice->accel, "kvm") == 0 &&
		             access("/dev/vhost-net", R_OK | W_OK) == 0,
		.runtime_dir = p->opts->runtime_dir,
	};
	int r = check_names(p, choice, err);

	if (r == 0)
		r = check_bootable(p, err);
	if (r == 0)
		r = plan_paths(p, err);
	return r == 0 ? qemu_build(&in, &p->plan, err) : r;
}

static int qemu_prepare(struct vmd *vmd, const json_t *definition,
                        const struct engine_choice *choice, const struct prepare_opts *opts,
                        struct launch *launch, struct vmd_error *err)
{
	struct preparation *p = preparation_new(vmd, definition, opts, err);
	int r;

	if (!p)
		return -ENOMEM;
	r = host_query_qemu(&vmd->host);
	if (r < 0)
		r = error_set_errno(err, -r, "cannot ask QEMU what it can do");
	if (r == 0)
		r = make_plan(p, choice, err);
	if (r == 0)
		r = preparation_run(p, launch, err);
	preparation_free(p);
	if (r < 0)
		launch_deinit(launch);
	return r;
}

const struct engine engine_qemu = {
	.name = "qemu",
	.id = ENGINE_QEMU,
	.check = qemu_engine_check,
	.prepare = qemu_prepare,
};
