/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine kvm: our own monitor, vmd-vmm, which runs virtio guests on the host's KVM. */
#include "config.h"

#include <string.h>

#include "daemon/engine.h"
#include "daemon/host.h"

int engine_kvm_available(const struct host_facts *host, struct vmd_error *err)
{
	if (!host->kvm_usable)
		return error_set(err, ERROR_UNSUPPORTED, "KVM is not usable: %s", host->kvm_reason);
	return error_set(err, ERROR_UNSUPPORTED,
	                 "the monitor program of engine 'kvm', vmd-vmm, is not installed");
}

static int kvm_check(const struct host_facts *host, const json_t *definition,
                     struct engine_choice *choice, struct vmd_error *err)
{
	int r = engine_check_caps(&engine_kvm, host, definition, err);

	if (r == 0 && strcmp(engine_arch(host, definition), host->arch) != 0)
		r = engine_refuse(err, "definition.arch",
		                  "engine 'kvm' runs guests of the host's architecture %s only",
		                  host->arch);
	if (r == 0)
		r = engine_kvm_available(host, err);
	if (r == 0)
		*choice = (struct engine_choice){ &engine_kvm, "kvm", "KVM is usable" };
	return r;
}

static int kvm_prepare(struct vmd *vmd UNUSED, const json_t *definition UNUSED,
                       const struct engine_choice *choice UNUSED,
                       const struct prepare_opts *opts UNUSED, struct launch *launch UNUSED,
                       struct vmd_error *err)
{
	return error_set(err, ERROR_UNSUPPORTED,
	                 "the monitor program of engine 'kvm', vmd-vmm, is not installed");
}

const struct engine engine_kvm = {
	.name = "kvm",
	.caps = { [CAP_X86_64] = true, [CAP_KERNEL] = true },
	.check = kvm_check,
	.prepare = kvm_prepare,
};
