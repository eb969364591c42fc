/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine qemu: any guest, with KVM when guest and host architecture match and KVM works, else by
 * emulation. Network "user" is passt's where it is installed and the host has a default route
 * (passt does not run without one), else QEMU's own user network, which also serves TCP forwards
 * where the installed passt fails at them.
 */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "daemon/engine.h"
#include "daemon/fiber.h"
#include "daemon/guest.h"
#include "daemon/host.h"
#include "daemon/qemu-cmdline.h"
#include "daemon/qemu-files.h"
#include "daemon/qemu-helpers.h"
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

/* A descriptor of the plan that is a file, and what becomes of it. */
struct opening {
	struct qemu_file file;
	size_t plan_index; /* in plan.fds; SIZE_MAX: checked only */
	int fd;
};

struct preparation {
	const json_t *definition;
	const struct host_facts *host;
	const struct prepare_opts *opts;
	const char *arch;
	struct qemu_plan plan;
	struct opening openings[LAUNCH_MAX_FDS + 8];
	size_t n_openings;
	size_t failed; /* index of the opening that failed */
	char nvram[512], tpm_dir[512], vnc[256];
	const char *nvram_template;
	struct vmd_error error; /* of the worker */
};

static bool has_default_route(void)
{
	cleanup_free char *text = NULL;

	/* Destination 00000000 with mask 00000000 is the default route. */
	if (fs_read_file(AT_FDCWD, "/proc/net/route", 65536, &text, NULL) == 0)
		for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
			unsigned destination, mask;

			if (sscanf(line + 1, "%*s %x %*x %*x %*d %*d %*d %x", &destination,
			           &mask) == 2 &&
			    !destination && !mask)
				return true;
		}
	return false;
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

static int check_ports(const struct preparation *p, struct vmd_error *err)
{
	const json_t *nic, *entry;
	size_t i, k;

	json_array_foreach(json_object_get(p->definition, "nics"), i, nic) {
		json_array_foreach(json_object_get(nic, "forward"), k, entry) {
			struct qemu_forward f;
			char field[96];
			int r;

			snprintf(field, sizeof(field), "definition.nics[%zu].forward[%zu]", i, k);
			r = qemu_parse_forward(json_string_value(entry), &f);
			if (r == 0)
				r = qemu_check_port(f.udp, f.address, f.host_port, field, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static struct opening *add_opening(struct preparation *p, size_t plan_index,
                                   enum qemu_file_type type, const char *path)
{
	struct opening *o = &p->openings[p->n_openings++];

	*o = (struct opening){ .file = { .type = type, .path = path, .format = "raw" },
		               .plan_index = plan_index,
		               .fd = -EBADF };
	return o;
}

static void plan_disk(struct preparation *p, size_t plan_index, size_t index)
{
	const json_t *disk = json_array_get(json_object_get(p->definition, "disks"), index);
	struct opening *o =
		add_opening(p, plan_index, QEMU_FILE_IMAGE, jsonx_str(disk, "path", ""));

	o->file.writable = !jsonx_bool(disk, "readonly", false);
	o->file.format = jsonx_str(disk, "format", "raw");
	o->file.least_bytes = jsonx_size(disk, "size", 0);
	snprintf(o->file.field, sizeof(o->file.field), "definition.disks[%zu].path", index);
}

static void plan_boot_file(struct preparation *p, size_t plan_index, const char *key,
                           enum qemu_file_type type)
{
	const json_t *boot = json_object_get(p->definition, "boot");
	struct opening *o = add_opening(p, plan_index, type, jsonx_str(boot, key, ""));

	snprintf(o->file.field, sizeof(o->file.field), "definition.boot.%s", key);
}

/* What the worker has to open for one descriptor of the plan; sockets are made later. */
static void plan_opening(struct preparation *p, size_t i)
{
	const struct qemu_fd *fd = &p->plan.fds[i];
	bool arm = strcmp(p->arch, "aarch64") == 0;
	const json_t *nic = json_array_get(json_object_get(p->definition, "nics"), fd->index);
	struct opening *o;

	switch (fd->kind) {
	case QEMU_FD_KERNEL:
		plan_boot_file(p, i, "kernel", arm ? QEMU_FILE_KERNEL_ARM : QEMU_FILE_KERNEL_X86);
		break;
	case QEMU_FD_INITRD:
		plan_boot_file(p, i, "initrd", QEMU_FILE_DATA);
		break;
	case QEMU_FD_ISO:
		plan_boot_file(p, i, "iso", QEMU_FILE_IMAGE);
		break;
	case QEMU_FD_FIRMWARE:
		(void)add_opening(p, i, QEMU_FILE_DATA,
		                  arm ? p->host->aavmf_code : p->host->ovmf_code);
		break;
	case QEMU_FD_NVRAM:
		p->nvram_template = arm ? p->host->aavmf_vars : p->host->ovmf_vars;
		add_opening(p, i, QEMU_FILE_IMAGE, p->nvram)->file.writable = true;
		break;
	case QEMU_FD_DISK:
		plan_disk(p, i, fd->index);
		break;
	case QEMU_FD_TAP:
		if (json_is_object(json_object_get(nic, "ifname")))
			break; /* held already */
		o = add_opening(p, i, QEMU_FILE_TAP, jsonx_str(nic, "ifname", ""));
		snprintf(o->file.field, sizeof(o->file.field), "definition.nics[%zu].ifname",
		         fd->index);
		break;
	case QEMU_FD_VHOST_NET:
	case QEMU_FD_VSOCK:
		o = add_opening(p, i, QEMU_FILE_DEVICE,
		                fd->kind == QEMU_FD_VSOCK ? "/dev/vhost-vsock" : "/dev/vhost-net");
		o->file.writable = true;
		snprintf(o->file.field, sizeof(o->file.field), "definition.%s",
		         fd->kind == QEMU_FD_VSOCK ? "vsock" : "nics");
		break;
	case QEMU_FD_QMP:
	case QEMU_FD_CONSOLE:
	case QEMU_FD_PASST:
	case QEMU_FD_TPM:
	case QEMU_FD_SHARE:
	case _QEMU_FD_KIND_MAX:
		break;
	}
}

static void plan_openings(struct preparation *p)
{
	const json_t *share;
	size_t i;

	for (i = 0; i < p->plan.n_fds; i++)
		plan_opening(p, i);
	json_array_foreach(json_object_get(p->definition, "shares"), i, share) {
		struct opening *o =
			add_opening(p, SIZE_MAX, QEMU_FILE_DIRECTORY, jsonx_str(share, "path", ""));

		snprintf(o->file.field, sizeof(o->file.field), "definition.shares[%zu].path", i);
	}
}

/* In a worker thread: everything that may block on files. */
static int open_all(void *arg)
{
	struct preparation *p = arg;
	int r = check_ports(p, &p->error);

	if (r == 0 && p->nvram_template)
		r = qemu_file_from_template(p->nvram, p->nvram_template, &p->error);
	if (r == 0 && p->tpm_dir[0]) {
		r = fs_mkdir_p(p->tpm_dir, 0700);
		if (r < 0)
			return error_set_errno(&p->error, -r, "cannot make '%s'", p->tpm_dir);
	}
	if (p->vnc[0])
		(void)unlink(p->vnc); /* of a former run */
	for (size_t i = 0; i < p->n_openings && r >= 0; i++) {
		r = qemu_file_open(&p->openings[i].file, &p->error);
		if (r < 0)
			p->failed = i;
		else
			p->openings[i].fd = r;
	}
	return r < 0 ? r : 0;
}

/* Names the guest that holds a locked image when it is one of ours. */
static void name_holder(struct vmd *vmd, const struct preparation *p, struct vmd_error *err)
{
	const char *path = p->openings[p->failed].file.path, *holder;

	if (err->kind != ERROR_BUSY || p->failed >= p->n_openings || !p->opts->holder_of)
		return;
	holder = p->opts->holder_of(vmd, path, p->definition);
	if (holder)
		snprintf(err->message, sizeof(err->message), "'%.200s' is in use by guest '%s'",
		         path, holder);
}

/* The index in launch.fds of a copy of the tap device that came as a descriptor. The guest keeps
 * its own, for the next start. */
static int take_held_tap(struct preparation *p, size_t nic, struct launch *l, size_t *ret_index,
                         struct vmd_error *err)
{
	const json_t *entry = json_array_get(json_object_get(p->definition, "nics"), nic);
	const struct held_fds *held = p->opts->held;
	size_t n = (size_t)jsonx_int(json_object_get(entry, "ifname"), "fd", 0);
	char field[48];
	int fd, r;

	snprintf(field, sizeof(field), "definition.nics[%zu].ifname", nic);
	if (!held || n >= held->n) {
		(void)error_set_field(err, field,
		                      "the tap device's descriptor is lost: vmd was "
		                      "restarted after it was given");
		error_hint(err, "give it again: vm.update with \"nics\", or name the device");
		return -EINVAL;
	}
	fd = fcntl(held->fds[n], F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot copy a descriptor");
	r = launch_add_fd(l, fd);
	if (r < 0)
		return error_set_errno(err, -r, "the guest needs too many descriptors");
	*ret_index = (size_t)r;
	return 0;
}

/* The index in launch.fds of a socket of the plan, made with its helper. */
static int make_socket(struct preparation *p, const struct qemu_fd *fd, struct launch *l,
                       size_t *ret_index, struct vmd_error *err)
{
	const json_t *nics = json_object_get(p->definition, "nics");
	const json_t *shares = json_object_get(p->definition, "shares");
	int r;

	switch (fd->kind) {
	case QEMU_FD_TAP:
		return take_held_tap(p, fd->index, l, ret_index, err);
	case QEMU_FD_PASST:
		return qemu_add_passt(l, p->host, json_array_get(nics, fd->index), fd->index,
		                      ret_index, err);
	case QEMU_FD_SHARE:
		return qemu_add_virtiofsd(l, p->host, json_array_get(shares, fd->index), fd->index,
		                          p->opts->runtime_dir, ret_index, err);
	case QEMU_FD_TPM:
		return qemu_add_swtpm(l, p->host, p->tpm_dir, ret_index, err);
	default:
		break;
	}
	r = launch_add_socket(l, ret_index);
	if (r < 0)
		return error_set_errno(err, -r, "cannot make a socket");
	*(fd->kind == QEMU_FD_QMP ? &l->qmp_fd : &l->console_fd) = r;
	return 0;
}

static int fill_launch(struct preparation *p, struct launch *l, struct vmd_error *err)
{
	size_t index[LAUNCH_MAX_FDS];
	struct launch_proc *engine;

	for (size_t i = 0; i < p->plan.n_fds; i++)
		index[i] = SIZE_MAX;
	for (size_t i = 0; i < p->n_openings; i++) {
		int r;

		if (p->openings[i].plan_index == SIZE_MAX)
			continue;
		r = launch_add_fd(l, TAKE_FD(p->openings[i].fd));
		if (r < 0)
			return error_set_errno(err, -r, "the guest needs too many descriptors");
		index[p->openings[i].plan_index] = (size_t)r;
	}
	for (size_t i = 0; i < p->plan.n_fds; i++) {
		int r = index[i] == SIZE_MAX ? make_socket(p, &p->plan.fds[i], l, &index[i], err)
		                             : 0;

		if (r < 0)
			return r;
	}
	engine = launch_add_proc(l, "engine", TAKE_PTR(p->plan.argv), err);
	if (!engine)
		return -E2BIG;
	for (size_t i = 0; i < p->plan.n_fds; i++)
		(void)launch_proc_add_fd(engine, index[i], p->plan.fds[i].number);
	return 0;
}

static int plan_paths(struct preparation *p, struct vmd_error *err)
{
	const json_t *tpm = json_object_get(p->definition, "tpm");
	size_t n;

	snprintf(p->nvram, sizeof(p->nvram), "%s/nvram.fd", p->opts->state_dir);
	if (json_is_true(tpm) || json_is_object(tpm))
		snprintf(p->tpm_dir, sizeof(p->tpm_dir), "%s/tpm", p->opts->state_dir);
	n = strlen(qemu_vnc_path(p->definition, p->opts->runtime_dir, p->vnc, sizeof(p->vnc)));
	if (n > 107)
		return engine_refuse(err, "definition.display",
		                     "the socket's path '%s' is longer than 107 bytes", p->vnc);
	return 0;
}

static int run_preparation(struct vmd *vmd, struct preparation *p,
                           const struct engine_choice *choice, struct launch *launch,
                           struct vmd_error *err)
{
	struct qemu_input in = {
		.definition = p->definition,
		.host = p->host,
		.accel = choice->accel,
		.incoming = p->opts->incoming,
		.passt = p->host->passt[0] && has_default_route(),
		.vhost_net = strcmp(choice->accel, "kvm") == 0 &&
		             access("/dev/vhost-net", R_OK | W_OK) == 0,
		.runtime_dir = p->opts->runtime_dir,
	};
	int r = plan_paths(p, err);

	if (r == 0)
		r = qemu_build(&in, &p->plan, err);
	if (r < 0)
		return r;
	plan_openings(p);
	p->failed = SIZE_MAX;
	r = work_run(open_all, p);
	if (r < 0) {
		name_holder(vmd, p, &p->error);
		if (err)
			*err = p->error;
		return r;
	}
	return fill_launch(p, launch, err);
}

static int qemu_prepare(struct vmd *vmd, const json_t *definition,
                        const struct engine_choice *choice, const struct prepare_opts *opts,
                        struct launch *launch, struct vmd_error *err)
{
	struct preparation *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return error_set_errno(err, ENOMEM, "cannot start the guest");
	p->definition = definition;
	p->host = &vmd->host;
	p->opts = opts;
	p->arch = engine_arch(p->host, definition);
	r = host_query_qemu(&vmd->host);
	if (r < 0)
		r = error_set_errno(err, -r, "cannot ask QEMU what it can do");
	if (r == 0)
		r = check_names(p, choice, err);
	if (r == 0)
		r = check_bootable(p, err);
	if (r == 0)
		r = run_preparation(vmd, p, choice, launch, err);
	for (size_t i = 0; i < p->n_openings; i++)
		cleanup_close_p(&p->openings[i].fd);
	qemu_plan_deinit(&p->plan);
	free(p);
	if (r < 0)
		launch_deinit(launch);
	return r;
}

const struct engine engine_qemu = {
	.name = "qemu",
	.caps = { [CAP_X86_64] = true,
	          [CAP_AARCH64] = true,
	          [CAP_MACHINE_TYPE] = true,
	          [CAP_CPU_MODEL] = true,
	          [CAP_KERNEL] = true,
	          [CAP_BIOS] = true,
	          [CAP_UEFI] = true,
	          [CAP_ISO] = true,
	          [CAP_DISK_FORMATS] = true,
	          [CAP_DISK_BUSES] = true,
	          [CAP_DISK_LIMITS] = true,
	          [CAP_NIC_MODELS] = true,
	          [CAP_VIRTIO_CONSOLE] = true,
	          [CAP_DISPLAY] = true,
	          [CAP_VSOCK] = true,
	          [CAP_TPM] = true,
	          [CAP_SHARES] = true,
	          [CAP_WATCHDOG] = true },
	.check = qemu_engine_check,
	.prepare = qemu_prepare,
};
