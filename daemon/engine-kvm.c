/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine kvm: our own monitor, vmd-vmm, which runs virtio guests on the host's KVM. */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine-prepare.h"
#include "daemon/host.h"
#include "daemon/vmm-config.h"

int engine_kvm_available(const struct host_facts *host, struct vmd_error *err)
{
	if (!host->kvm_usable)
		return error_set(err, ERROR_UNSUPPORTED, "KVM is not usable: %s", host->kvm_reason);
	if (host->vmm[0])
		return 0;
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
		r = vmm_check(host, definition, err);
	if (r == 0)
		r = engine_kvm_available(host, err);
	if (r < 0)
		return r;
	*choice = (struct engine_choice){ .engine = &engine_kvm, .accel = "kvm" };
	snprintf(choice->reason, sizeof(choice->reason), "%.180s", host->kvm_reason);
	return 0;
}

static int kvm_prepare(struct vmd *vmd, const json_t *definition,
                       const struct engine_choice *choice UNUSED, const struct prepare_opts *opts,
                       struct launch *launch, struct vmd_error *err)
{
	struct preparation *p = preparation_new(vmd, definition, opts, err);
	int r;

	if (!p)
		return -ENOMEM;
	r = vmm_build(&(struct vmm_input){ definition, p->host, opts->incoming }, &p->plan, err);
	if (r == 0)
		r = preparation_run(p, launch, err);
	preparation_free(p);
	if (r < 0)
		launch_deinit(launch);
	return r;
}

const struct engine engine_kvm = {
	.name = "kvm",
	.id = ENGINE_KVM,
	.check = kvm_check,
	.prepare = kvm_prepare,
};
