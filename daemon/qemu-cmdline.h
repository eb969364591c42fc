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
#include "daemon/engine.h"

struct host_facts;

enum qemu_fd_kind {
	QEMU_FD_QMP,       /* a socket */
	QEMU_FD_CONSOLE,   /* a socket */
	QEMU_FD_KERNEL,    /* boot.kernel */
	QEMU_FD_INITRD,    /* boot.initrd */
	QEMU_FD_ISO,       /* boot.iso */
	QEMU_FD_FIRMWARE,  /* UEFI code, read-only */
	QEMU_FD_NVRAM,     /* the guest's own UEFI variables, read-write */
	QEMU_FD_DISK,      /* disks[index] */
	QEMU_FD_PASST,     /* a socket that passt for nics[index] serves */
	QEMU_FD_TAP,       /* nics[index].ifname */
	QEMU_FD_VHOST_NET, /* for nics[index] */
	QEMU_FD_VSOCK,     /* /dev/vhost-vsock */
	QEMU_FD_TPM,       /* a socket that swtpm serves */
	QEMU_FD_SHARE,     /* a socket that virtiofsd for shares[index] serves */
	_QEMU_FD_KIND_MAX
};

struct qemu_fd {
	enum qemu_fd_kind kind;
	size_t index;
	int number; /* in the QEMU process */
};

struct qemu_input {
	const json_t *definition; /* schema-checked, managed disks resolved to path and format */
	const struct host_facts *host;
	const char *accel; /* "kvm" or "tcg" */
	bool incoming;
	bool passt;     /* network "user" by passt where qemu_nic_by_passt(), else by QEMU itself */
	bool vhost_net; /* tap packets by the host kernel */
	const char *runtime_dir;
};

struct qemu_plan {
	json_t *argv; /* array of strings */
	struct qemu_fd fds[LAUNCH_MAX_FDS];
	size_t n_fds;
};

/* "kernel", "disk", ...; for messages and tests. */
const char *qemu_fd_kind_name(enum qemu_fd_kind kind);

/*
 * Can QEMU run this definition on this host? Everything in it that is neither vmd's own business
 * nor turned into arguments is refused: ERROR_UNSUPPORTED or ERROR_INVALID with field and reason.
 */
int qemu_check(const struct host_facts *host, const json_t *definition, const char *accel,
               struct vmd_error *err);

/* Builds the plan of a definition that qemu_check() has accepted. 0, or -ENOMEM/-E2BIG with err. */
int qemu_build(const struct qemu_input *in, struct qemu_plan *ret, struct vmd_error *err);
void qemu_plan_deinit(struct qemu_plan *plan);

/* cpus.model, or the default for the accelerator; and QEMU's -cpu argument for it (buf is the
 * caller's, 0 or -E2BIG). */
const char *qemu_cpu_model(const json_t *definition, const char *accel);
int qemu_cpu_argument(const char *arch, const char *model, const char *accel, char *buf,
                      size_t len);
/* Number of virtual CPUs: cpus, cpus.count, or the product of cpus.topology. */
unsigned qemu_cpu_count(const json_t *definition);
/* The machine type, the architecture's default when none is named. */
const char *qemu_machine_type(const char *arch, const json_t *definition);
/* "bios", "uefi", or "" when a kernel is booted directly. */
const char *qemu_firmware(const char *arch, const json_t *definition);
/* The VNC socket's path in buf, or "" when there is no display. Returns buf. */
const char *qemu_vnc_path(const json_t *definition, const char *runtime_dir, char *buf, size_t len);

/* Is passt to serve this card? Not when it has TCP forwards that this host's passt fails at. */
bool qemu_nic_by_passt(const struct qemu_input *in, const json_t *nic);

/* A port forward taken apart: "tcp:8080:80", "udp:127.0.0.1:5353:53". */
struct qemu_forward {
	bool udp;
	char address[16]; /* "" for all */
	unsigned host_port, guest_port;
};
/* 0, or -EINVAL. */
int qemu_parse_forward(const char *text, struct qemu_forward *ret);
