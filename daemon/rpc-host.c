/* SPDX-License-Identifier: GPL-2.0-or-later */
/* host.info: what this host is and can do. */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fsutil.h"
#include "common/jsonx.h"
#include "daemon/engine.h"
#include "daemon/host.h"
#include "daemon/rpc.h"
#include "daemon/vmd.h"

static uint64_t available_bytes(void)
{
	cleanup_free char *text = NULL;
	unsigned long long kib;
	const char *line;

	if (fs_read_file(AT_FDCWD, "/proc/meminfo", 8192, &text, NULL) < 0)
		return 0;
	line = strstr(text, "\nMemAvailable:");
	return line && sscanf(line, " MemAvailable: %llu kB", &kib) == 1 ? kib * 1024u : 0;
}

/* A path, or null for "". */
static json_t *path_or_null(const char *path)
{
	return path[0] ? json_string(path) : json_null();
}

static json_t *kvm_to_json(const struct host_facts *f)
{
	return json_pack("{s:b, s:s, s:o}", "usable", f->kvm_usable, "reason", f->kvm_reason,
	                 "proof", f->kvm_proof ? json_incref(f->kvm_proof) : json_null());
}

/* Takes accel. */
static json_t *engine_to_json(const struct engine *engine, bool available, const char *reason,
                              json_t *accel)
{
	json_t *caps = json_array();

	for (int cap = 0; cap < _CAP_MAX; cap++)
		if (engine_caps[cap].has[engine->id])
			json_array_append_new(caps, json_string(engine_caps[cap].name));
	return json_pack("{s:s, s:b, s:s, s:o, s:o}", "name", engine->name, "available", available,
	                 "reason", reason, "accel", accel, "capabilities", caps);
}

static json_t *engines_to_json(const struct host_facts *f)
{
	bool qemu = f->qemu_x86_64[0] || f->qemu_aarch64[0];
	struct vmd_error err = VMD_ERROR_INIT;
	bool kvm = engine_kvm_available(f, &err) == 0;
	json_t *accel = json_pack("[s]", "tcg");

	if (f->kvm_usable)
		json_array_insert_new(accel, 0, json_string("kvm"));
	return json_pack("[o, o]",
	                 engine_to_json(&engine_kvm, kvm, kvm ? f->kvm_reason : err.message,
	                                json_pack("[s]", "kvm")),
	                 engine_to_json(&engine_qemu, qemu,
	                                qemu ? "a QEMU program is installed"
	                                     : "no QEMU program is installed",
	                                accel));
}

static void add_qemu(json_t *list, const struct host_facts *f, const char *arch, const char *path)
{
	const json_t *known = host_qemu(f, path);
	json_t *entry;

	if (!path[0])
		return;
	entry = json_pack("{s:s, s:s}", "arch", arch, "path", path);
	if (known) {
		(void)json_object_set(entry, "version", json_object_get(known, "version"));
		(void)json_object_set(entry, "machines", json_object_get(known, "machines"));
	}
	json_array_append_new(list, entry);
}

static json_t *qemu_to_json(const struct host_facts *f)
{
	json_t *list = json_array();

	add_qemu(list, f, "x86_64", f->qemu_x86_64);
	add_qemu(list, f, "aarch64", f->qemu_aarch64);
	return list;
}

int host_describe(struct vmd *vmd, json_t **ret, struct vmd_error *err)
{
	struct host_facts *f = &vmd->host;
	int r = host_probe_kvm(vmd, f);

	if (r == 0)
		r = host_query_qemu(f);
	if (r < 0)
		return error_set_errno(err, -r, "cannot tell what this host can do");
	*ret = json_pack("{s:s, s:{s:i, s:s, s:i}, s:{s:I, s:I}, s:o, s:o, s:o, "
	                 "s:{s:o, s:o, s:o, s:o, s:o}, s:{s:o, s:o}, s:{s:i, s:I, s:i, s:i, s:i}}",
	                 "arch", f->arch, "cpu", "count", (int)f->cpus, "model", f->cpu_model,
	                 "level", (int)f->cpu_level, "memory", "total_bytes",
	                 (json_int_t)f->memory_bytes, "available_bytes",
	                 (json_int_t)available_bytes(), "kvm", kvm_to_json(f), "engines",
	                 engines_to_json(f), "qemu", qemu_to_json(f), "programs", "passt",
	                 path_or_null(f->passt), "virtiofsd", path_or_null(f->virtiofsd), "swtpm",
	                 path_or_null(f->swtpm), "qemu-img", path_or_null(f->qemu_img),
	                 "qemu-storage-daemon", path_or_null(f->storage_daemon), "firmware",
	                 "x86_64-uefi", path_or_null(f->ovmf_code), "aarch64-uefi",
	                 path_or_null(f->aavmf_code), "limits", "cpus", 256, "memory_bytes",
	                 (json_int_t)f->memory_bytes, "disks", 32, "nics", 8, "shares", 8);
	return *ret ? 0 : error_set(err, ERROR_INTERNAL, "cannot describe this host");
}

static int host_info_method(struct call *call, struct vmd_error *err)
{
	json_t *info;
	int r = host_describe(call->vmd, &info, err);

	if (r == 0)
		call_reply(call, info);
	return r;
}

const struct method host_methods[] = {
	{ "host.info", ROLE_VIEWER, METHOD_FIBER, host_info_method },
	{ NULL, 0, 0, NULL },
};
