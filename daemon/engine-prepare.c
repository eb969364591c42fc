/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From an engine's plan to descriptors, sockets and helper processes; the same for every engine. */
#include "config.h"

#include "daemon/engine-prepare.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "daemon/definition-parts.h"
#include "daemon/engine-files.h"
#include "daemon/fiber.h"
#include "daemon/guest.h"
#include "daemon/helpers.h"
#include "daemon/host.h"
#include "daemon/vmd.h"

static int check_ports(const struct preparation *p, struct vmd_error *err)
{
	const json_t *nic, *entry;
	size_t i, k;

	json_array_foreach(json_object_get(p->definition, "nics"), i, nic) {
		json_array_foreach(json_object_get(nic, "forward"), k, entry) {
			struct forward f;
			char field[96];
			int r;

			snprintf(field, sizeof(field), "definition.nics[%zu].forward[%zu]", i, k);
			r = parse_forward(json_string_value(entry), &f);
			if (r == 0)
				r = engine_check_port(f.udp, f.address, f.host_port, field, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static struct opening *add_opening(struct preparation *p, size_t plan_index,
                                   enum engine_file_type type, const char *path)
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
		add_opening(p, plan_index, ENGINE_FILE_IMAGE, jsonx_str(disk, "path", ""));

	o->file.writable = !jsonx_bool(disk, "readonly", false);
	o->file.format = jsonx_str(disk, "format", "raw");
	o->file.least_bytes = jsonx_size(disk, "size", 0);
	o->file.direct = strcmp(jsonx_str(disk, "cache", ""), "none") == 0;
	o->file.has_base = json_object_get(disk, "backing");
	snprintf(o->file.field, sizeof(o->file.field), "definition.disks[%zu].path", index);
	snprintf(o->file.base_field, sizeof(o->file.base_field), "definition.disks[%zu].backing",
	         index);
}

static void plan_backing(struct preparation *p, size_t plan_index, size_t index)
{
	const json_t *disk = json_array_get(json_object_get(p->definition, "disks"), index);
	const json_t *backing = json_object_get(disk, "backing");
	struct opening *o =
		add_opening(p, plan_index, ENGINE_FILE_IMAGE, jsonx_str(backing, "path", ""));

	o->file.is_base = true;
	o->file.format = jsonx_str(backing, "format", "raw");
	snprintf(o->file.field, sizeof(o->file.field), "definition.disks[%zu].backing.path", index);
	snprintf(o->file.base_field, sizeof(o->file.base_field), "definition.disks[%zu].backing",
	         index);
}

static void plan_boot_file(struct preparation *p, size_t plan_index, const char *key,
                           enum engine_file_type type)
{
	const json_t *boot = json_object_get(p->definition, "boot");
	struct opening *o = add_opening(p, plan_index, type, jsonx_str(boot, key, ""));

	snprintf(o->file.field, sizeof(o->file.field), "definition.boot.%s", key);
}

static void plan_device(struct preparation *p, size_t plan_index, const char *path,
                        const char *field)
{
	struct opening *o = add_opening(p, plan_index, ENGINE_FILE_DEVICE, path);

	o->file.writable = true;
	snprintf(o->file.field, sizeof(o->file.field), "%s", field);
}

/* What the worker has to open for one descriptor of the plan; sockets are made later. */
static void plan_opening(struct preparation *p, size_t i)
{
	const struct plan_fd *fd = &p->plan.fds[i];
	bool arm = strcmp(p->arch, "aarch64") == 0;
	const json_t *nic = json_array_get(json_object_get(p->definition, "nics"), fd->index);
	struct opening *o;

	switch (fd->kind) {
	case PLAN_FD_KERNEL:
		plan_boot_file(p, i, "kernel",
		               arm ? ENGINE_FILE_KERNEL_ARM : ENGINE_FILE_KERNEL_X86);
		break;
	case PLAN_FD_INITRD:
		plan_boot_file(p, i, "initrd", ENGINE_FILE_DATA);
		break;
	case PLAN_FD_ISO:
		plan_boot_file(p, i, "iso", ENGINE_FILE_IMAGE);
		break;
	case PLAN_FD_FIRMWARE:
		(void)add_opening(p, i, ENGINE_FILE_DATA,
		                  arm ? p->host->aavmf_code : p->host->ovmf_code);
		break;
	case PLAN_FD_NVRAM:
		p->nvram_template = arm ? p->host->aavmf_vars : p->host->ovmf_vars;
		add_opening(p, i, ENGINE_FILE_IMAGE, p->nvram)->file.writable = true;
		break;
	case PLAN_FD_DISK:
		plan_disk(p, i, fd->index);
		break;
	case PLAN_FD_BACKING:
		plan_backing(p, i, fd->index);
		break;
	case PLAN_FD_TAP:
		if (json_is_object(json_object_get(nic, "ifname")))
			break; /* held already */
		o = add_opening(p, i, ENGINE_FILE_TAP, jsonx_str(nic, "ifname", ""));
		o->file.multi_queue = jsonx_int(nic, "queues", 1) > 1;
		snprintf(o->file.field, sizeof(o->file.field), "definition.nics[%zu].ifname",
		         fd->index);
		break;
	case PLAN_FD_VHOST_NET:
		plan_device(p, i, "/dev/vhost-net", "definition.nics");
		break;
	case PLAN_FD_VSOCK:
		plan_device(p, i, "/dev/vhost-vsock", "definition.vsock");
		break;
	case PLAN_FD_KVM:
		plan_device(p, i, "/dev/kvm", "definition.engine");
		break;
	case PLAN_FD_QMP:
	case PLAN_FD_CONSOLE:
	case PLAN_FD_PASST:
	case PLAN_FD_TPM:
	case PLAN_FD_SHARE:
	case PLAN_FD_STORAGE:
	case PLAN_FD_EXPORT:
	case PLAN_FD_CONFIG:
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
		struct opening *o = add_opening(p, SIZE_MAX, ENGINE_FILE_DIRECTORY,
		                                jsonx_str(share, "path", ""));

		snprintf(o->file.field, sizeof(o->file.field), "definition.shares[%zu].path", i);
	}
}

/* In a worker thread: everything that may block on files. */
static int open_all(void *arg)
{
	struct preparation *p = arg;
	int r = check_ports(p, &p->error);

	if (r == 0 && p->nvram_template)
		r = engine_file_from_template(p->nvram, p->nvram_template, &p->error);
	if (r == 0 && p->tpm_dir[0]) {
		r = fs_mkdir_p(p->tpm_dir, 0700);
		if (r < 0)
			return error_set_errno(&p->error, -r, "cannot make '%s'", p->tpm_dir);
	}
	if (p->stale_socket[0])
		(void)unlink(p->stale_socket);
	for (size_t i = 0; i < p->n_openings && r >= 0; i++) {
		r = engine_file_open(&p->openings[i].file, &p->error);
		if (r < 0)
			p->failed = i;
		else
			p->openings[i].fd = r;
	}
	return r < 0 ? r : 0;
}

/* Names the guest that holds a locked image when it is one of ours. */
static void name_holder(const struct preparation *p, struct vmd_error *err)
{
	const char *path, *holder;

	if (err->kind != ERROR_BUSY || p->failed >= p->n_openings || !p->opts->holder_of)
		return;
	path = p->openings[p->failed].file.path;
	holder = p->opts->holder_of(p->vmd, path, p->definition);
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

/* The index in launch.fds of a memfd that holds the engine's configuration. */
static int make_config(struct preparation *p, struct launch *l, size_t *ret_index,
                       struct vmd_error *err)
{
	cleanup_free char *text = jsonx_dump(p->plan.config);
	cleanup_close int fd = memfd_create("vmd-config", MFD_CLOEXEC);
	int r;

	if (!text || fd < 0)
		return error_set_errno(err, text ? errno : ENOMEM, "cannot make a memfd");
	r = fd_write_all(fd, text, strlen(text));
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r == 0)
		r = launch_add_fd(l, TAKE_FD(fd));
	if (r < 0)
		return error_set_errno(err, -r, "cannot hand the configuration to the engine");
	*ret_index = (size_t)r;
	return 0;
}

/* The index in launch.fds of a socket of the plan, made with its helper. */
static int make_socket(struct preparation *p, const struct plan_fd *fd, struct launch *l,
                       size_t *ret_index, struct vmd_error *err)
{
	const json_t *nics = json_object_get(p->definition, "nics");
	const json_t *shares = json_object_get(p->definition, "shares");
	int r;

	switch (fd->kind) {
	case PLAN_FD_CONFIG:
		return make_config(p, l, ret_index, err);
	case PLAN_FD_TAP:
		return take_held_tap(p, fd->index, l, ret_index, err);
	case PLAN_FD_PASST:
		return helper_add_passt(l, p->host, json_array_get(nics, fd->index), fd->index,
		                        ret_index, err);
	case PLAN_FD_SHARE:
		return helper_add_virtiofsd(l, p->host, json_array_get(shares, fd->index),
		                            fd->index, p->opts->runtime_dir, ret_index, err);
	case PLAN_FD_STORAGE:
		return helper_add_export(l, p->opts->runtime_dir, fd->index, ret_index,
		                         &p->export_index, err);
	case PLAN_FD_EXPORT: /* of the one before */
		*ret_index = p->export_index;
		return 0;
	case PLAN_FD_TPM:
		return helper_add_swtpm(l, p->host, p->tpm_dir, ret_index, err);
	default:
		break;
	}
	r = launch_add_socket(l, ret_index);
	if (r < 0)
		return error_set_errno(err, -r, "cannot make a socket");
	*(fd->kind == PLAN_FD_QMP ? &l->qmp_fd : &l->console_fd) = r;
	return 0;
}

/* The process gets its part of the plan's descriptors. */
static void give_fds(const struct plan *plan, const size_t *index, bool storage,
                     struct launch_proc *proc)
{
	for (size_t i = 0; i < plan->n_fds; i++)
		if (plan->fds[i].storage == storage)
			(void)launch_proc_add_fd(proc, index[i], plan->fds[i].number);
}

static int add_procs(struct preparation *p, const size_t *index, struct launch *l,
                     struct vmd_error *err)
{
	struct launch_proc *proc;

	if (p->plan.storage_argv) {
		proc = helper_add_storage(l, TAKE_PTR(p->plan.storage_argv), err);
		if (!proc)
			return -E2BIG;
		give_fds(&p->plan, index, true, proc);
	}
	proc = launch_add_proc(l, "engine", TAKE_PTR(p->plan.argv), err);
	if (!proc)
		return -E2BIG;
	give_fds(&p->plan, index, false, proc);
	return 0;
}

static int fill_launch(struct preparation *p, struct launch *l, struct vmd_error *err)
{
	size_t index[LAUNCH_MAX_FDS];

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
	return add_procs(p, index, l, err);
}

struct preparation *preparation_new(struct vmd *vmd, const json_t *definition,
                                    const struct prepare_opts *opts, struct vmd_error *err)
{
	struct preparation *p = calloc(1, sizeof(*p));

	if (!p) {
		(void)error_set_errno(err, ENOMEM, "cannot start the guest");
		return NULL;
	}
	p->vmd = vmd;
	p->definition = definition;
	p->host = &vmd->host;
	p->opts = opts;
	p->arch = engine_arch(p->host, definition);
	return p;
}

void preparation_free(struct preparation *p)
{
	for (size_t i = 0; i < p->n_openings; i++)
		cleanup_close_p(&p->openings[i].fd);
	plan_deinit(&p->plan);
	free(p);
}

bool preparation_has_passt(const struct preparation *p)
{
	cleanup_free char *text = NULL;

	if (!p->host->passt[0] || fs_read_file(AT_FDCWD, "/proc/net/route", 65536, &text, NULL) < 0)
		return false;
	/* Destination 00000000 with mask 00000000 is the default route. */
	for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
		unsigned destination, mask;

		if (sscanf(line + 1, "%*s %x %*x %*x %*d %*d %*d %x", &destination, &mask) == 2 &&
		    !destination && !mask)
			return true;
	}
	return false;
}

int preparation_run(struct preparation *p, struct launch *launch, struct vmd_error *err)
{
	int r;

	plan_openings(p);
	p->failed = SIZE_MAX;
	r = work_run(open_all, p);
	if (r < 0) {
		name_holder(p, &p->error);
		if (err)
			*err = p->error;
		return r;
	}
	return fill_launch(p, launch, err);
}
