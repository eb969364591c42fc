/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * From a guest definition to QEMU's command line: pure, nothing is opened or asked. The argument
 * list names descriptors by number; the plan tells what each of them has to be.
 *
 * Names in the running QEMU that the rest of vmd may count on: block nodes "disk<i>" (format),
 * "disk<i>-file" (protocol), "disk<i>-limit" (throttle filter, when limited), devices "disk<i>",
 * "nic<i>" with netdev "net<i>", "cd0" on node "iso0", "balloon0", "watchdog0"; chardevs "qmp" and
 * "console0".
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "daemon/plan.h"

struct host_facts;

struct qemu_input {
	const json_t *definition; /* schema-checked, managed disks resolved to path and format */
	const struct host_facts *host;
	const char *accel; /* "kvm" or "tcg" */
	bool incoming;
	bool passt;     /* network "user" by passt where qemu_nic_by_passt(), else by QEMU itself */
	bool vhost_net; /* tap packets by the host kernel */
	const char *runtime_dir;
};

/*
 * Can QEMU run this definition on this host? Everything in it that is neither vmd's own business
 * nor turned into arguments is refused: ERROR_UNSUPPORTED or ERROR_INVALID with field and reason.
 */
int qemu_check(const struct host_facts *host, const json_t *definition, const char *accel,
               struct vmd_error *err);

/* Builds the plan of a definition that qemu_check() has accepted. 0, or -ENOMEM/-E2BIG with err. */
int qemu_build(const struct qemu_input *in, struct plan *ret, struct vmd_error *err);

/* cpus.model, or the default for the accelerator; and QEMU's -cpu argument for it (buf is the
 * caller's, 0 or -E2BIG). */
const char *qemu_cpu_model(const json_t *definition, const char *accel);
int qemu_cpu_argument(const char *arch, const char *model, const char *accel, char *buf,
                      size_t len);
/* The machine type, the architecture's default when none is named. */
const char *qemu_machine_type(const char *arch, const json_t *definition);
/* "bios", "uefi", or "" when a kernel is booted directly. */
const char *qemu_firmware(const char *arch, const json_t *definition);
/* The VNC socket's path in buf, or "" when there is no display. Returns buf. */
const char *qemu_vnc_path(const json_t *definition, const char *runtime_dir, char *buf, size_t len);

/* Is passt to serve this card? Not when it has TCP forwards that this host's passt fails at. */
bool qemu_nic_by_passt(const struct qemu_input *in, const json_t *nic);
