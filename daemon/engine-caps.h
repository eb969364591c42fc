/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What a definition can ask for and an engine may lack: validation, host.info and vmd-vm(5) use
 * this. */
#include <stdbool.h>

enum engine_id {
	ENGINE_KVM,
	ENGINE_QEMU,
	_ENGINE_MAX
};

enum engine_cap {
	CAP_X86_64,
	CAP_AARCH64,
	CAP_MACHINE_TYPE,
	CAP_CPU_LEVELS,
	CAP_CPU_NAMES,
	CAP_KERNEL,
	CAP_BIOS,
	CAP_UEFI,
	CAP_ISO,
	CAP_DISK_FORMATS,
	CAP_DISK_BUSES,
	CAP_DISK_LIMITS,
	CAP_NIC_MODELS,
	CAP_OWN_USER_NETWORK,
	CAP_VIRTIO_CONSOLE,
	CAP_DISPLAY,
	CAP_VSOCK,
	CAP_TPM,
	CAP_SHARES,
	CAP_WATCHDOG,
	CAP_TEST_DEVICE,
	_CAP_MAX
};

struct engine_cap_info {
	const char *name;      /* in host.info */
	const char *field;     /* of a definition */
	const char *what;      /* "engine 'x' has no ..." */
	bool has[_ENGINE_MAX]; /* can it at all, on some host */
};
extern const struct engine_cap_info engine_caps[_CAP_MAX];
