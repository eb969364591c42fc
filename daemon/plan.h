/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What an engine's process needs, and its storage daemon: their arguments and what each of their
 * descriptors has to be. */
#include <jansson.h>
#include <stddef.h>

#include "daemon/engine.h"

enum plan_fd_kind {
	PLAN_FD_QMP,       /* a socket */
	PLAN_FD_CONSOLE,   /* a socket */
	PLAN_FD_KERNEL,    /* boot.kernel */
	PLAN_FD_INITRD,    /* boot.initrd */
	PLAN_FD_ISO,       /* boot.iso */
	PLAN_FD_FIRMWARE,  /* UEFI code, read-only */
	PLAN_FD_NVRAM,     /* the guest's own UEFI variables, read-write */
	PLAN_FD_DISK,      /* disks[index] */
	PLAN_FD_BACKING,   /* disks[index].backing, read-only */
	PLAN_FD_PASST,     /* a socket that passt for nics[index] serves */
	PLAN_FD_TAP,       /* nics[index].ifname */
	PLAN_FD_VHOST_NET, /* for nics[index] */
	PLAN_FD_VSOCK,     /* /dev/vhost-vsock */
	PLAN_FD_TPM,       /* a socket that swtpm serves */
	PLAN_FD_SHARE,     /* a socket that virtiofsd for shares[index] serves */
	PLAN_FD_STORAGE,   /* a socket that the storage daemon serves disks[index] on */
	PLAN_FD_EXPORT,    /* where the storage daemon listens for the one above */
	PLAN_FD_KVM,       /* /dev/kvm */
	PLAN_FD_CONFIG     /* a memfd with plan.config as text */
};

struct plan_fd {
	enum plan_fd_kind kind;
	size_t index;
	unsigned queue; /* of several descriptors of one device */
	int number;     /* in the process that gets it */
	bool storage;   /* that is the storage daemon, not the engine */
};

struct plan {
	json_t *argv;         /* array of strings */
	json_t *storage_argv; /* of the storage daemon, or NULL: none is needed */
	json_t *config;       /* of PLAN_FD_CONFIG, or NULL */
	struct plan_fd fds[LAUNCH_MAX_FDS];
	size_t n_fds;
};

/* Plans a descriptor of the engine; its number, from 3 up, or -E2BIG. */
int plan_add_fd(struct plan *plan, enum plan_fd_kind kind, size_t index, unsigned queue);
/* The same of the storage daemon. */
int plan_add_storage_fd(struct plan *plan, enum plan_fd_kind kind, size_t index);
void plan_deinit(struct plan *plan);
