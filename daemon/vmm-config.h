/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * From a guest definition to what vmd-vmm is told (vmm/config.h): pure, nothing is opened or asked.
 * Ids in the running monitor that the rest of vmd may count on: "disk<i>", "nic<i>".
 */
#include "daemon/plan.h"

struct host_facts;

/*
 * Can our monitor run this definition, which the capability table has passed, on this host?
 * ERROR_UNSUPPORTED or ERROR_INVALID with field and reason.
 */
int vmm_check(const struct host_facts *host, const json_t *definition, struct vmd_error *err);

struct vmm_input {
	const json_t *definition; /* accepted by vmm_check(), managed disks resolved */
	const struct host_facts *host;
	bool incoming;
};

/* 0, or -ENOMEM or -E2BIG with err. */
int vmm_build(const struct vmm_input *in, struct plan *ret, struct vmd_error *err);
