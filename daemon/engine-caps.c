/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/engine-caps.h"

#define BOTH                                              \
	{                                                 \
		[ENGINE_KVM] = true, [ENGINE_QEMU] = true \
	}
#define QEMU_ONLY                    \
	{                            \
		[ENGINE_QEMU] = true \
	}

const struct engine_cap_info engine_caps[_CAP_MAX] = {
	[CAP_X86_64] = { "x86_64", "arch", "x86_64 guests", BOTH },
	[CAP_AARCH64] = { "aarch64", "arch", "aarch64 guests", QEMU_ONLY },
	[CAP_MACHINE_TYPE] = { "machine", "machine", "machine types and options", QEMU_ONLY },
	[CAP_CPU_LEVELS] = { "cpu_levels", "cpus.model", "CPU models x86-64-v1 to v4", BOTH },
	[CAP_CPU_NAMES] = { "cpu_names", "cpus.model", "CPU models by name", QEMU_ONLY },
	[CAP_KERNEL] = { "kernel", "boot.kernel", "direct kernel boot", BOTH },
	[CAP_BIOS] = { "bios", "boot.firmware", "boot by BIOS", QEMU_ONLY },
	[CAP_UEFI] = { "uefi", "boot.firmware", "boot by UEFI", QEMU_ONLY },
	[CAP_ISO] = { "iso", "boot.iso", "ISO images", QEMU_ONLY },
	[CAP_DISK_FORMATS] = { "disk_formats", "disks", "disk formats but raw", BOTH },
	[CAP_DISK_BUSES] = { "disk_buses", "disks", "disk buses but virtio", QEMU_ONLY },
	[CAP_DISK_LIMITS] = { "disk_limits", "disks", "disk limits", BOTH },
	[CAP_NIC_MODELS] = { "nic_models", "nics", "network cards but virtio", QEMU_ONLY },
	[CAP_OWN_USER_NETWORK] = { "own_user_network", "nics", "user network without passt",
	                           QEMU_ONLY },
	[CAP_VIRTIO_CONSOLE] = { "virtio_console", "console", "a virtio console", BOTH },
	[CAP_DISPLAY] = { "display", "display", "displays", QEMU_ONLY },
	[CAP_VSOCK] = { "vsock", "vsock", "vsock", QEMU_ONLY },
	[CAP_TPM] = { "tpm", "tpm", "a TPM", QEMU_ONLY },
	[CAP_SHARES] = { "shares", "shares", "shared directories", QEMU_ONLY },
	[CAP_WATCHDOG] = { "watchdog", "watchdog", "a watchdog", QEMU_ONLY },
	[CAP_TEST_DEVICE] = { "test_device", "test_device", "a test device", BOTH },
};
