/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What vmd-vmm is told to be: one JSON document in a memfd, "vmd-vmm --config-fd 3". Everything
 * that is a file, socket or device is a descriptor number of this process; nothing is opened by
 * path.
 *
 * {"version": 1, "name": "web", "uuid": "…",
 *  "kvm_fd": 4, "qmp_fd": 5,
 *  "memory": {"bytes": 268435456, "hugepages": "transparent"|"off"|"2M"|"1G", "prealloc": false},
 *  "cpus": {"count": 2, "model": "host"|"x86-64-v1".."x86-64-v4", "sockets": 1, "cores": 2,
 *           "threads": 1, "nested": false},
 *  "boot": {"kernel_fd": 6, "initrd_fd": 7, "cmdline": "console=ttyS0"},
 *  "console": {"fd": 8, "device": "serial"|"virtio"},
 *  "ports": [{"name": "org.qemu.guest_agent.0", "fd": 9}],
 *  "disks": [{"id": "disk0", "fd": 10, "readonly": false, "discard": false, "cache": "writeback",
 *             "serial": "…", "queues": 1, "limits": {"bytes_per_s": 0, "read_bytes_per_s": 0, …}},
 *            {"id": "disk1", "vhost_user_fd": 11, as above}],           served by another process
 *  "nics": [{"id": "nic0", "mac": "52:54:00:…", "mtu": 0, "tap_fds": [12]},
 *           {"id": "nic1", "mac": "…", "stream_fd": 13},
 *           {"id": "nic2", "mac": "…"}],                       nothing is connected to this one
 *  "rng": true, "balloon": {"deflate_on_oom": true, "free_page_reporting": true},
 *  "pvpanic": true,
 *  "actions": {"reboot": "reset"|"shutdown", "panic": "pause"|"shutdown"|"none"},
 *  "reset_interval_ms": 1000,       of a guest that resets itself again and again; 0: no limit
 *  "incoming": false, "paused": false, "test_device": false}
 *
 * Members that are absent are off, 1, or as their first word above; unknown ones are refused: vmd
 * and its monitor are of one release when the guest starts.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "devices/models.h"

#define VMM_MAX_CPUS    64
#define VMM_MAX_DISKS   16
#define VMM_MAX_NICS    8
#define VMM_MIN_MEMORY  (16ull << 20)
#define VMM_MAX_MEMORY  (1ull << 40)
#define VMM_CONFIG_MAX  (256u << 10) /* bytes of the document */
#define VMM_CMDLINE_MAX 2048

enum vmm_hugepages {
	VMM_PAGES_TRANSPARENT,
	VMM_PAGES_OFF,
	VMM_PAGES_2M,
	VMM_PAGES_1G
};
enum vmm_cpu_model {
	VMM_CPU_HOST,
	VMM_CPU_V1,
	VMM_CPU_V2,
	VMM_CPU_V3,
	VMM_CPU_V4
};
enum vmm_console {
	VMM_CONSOLE_SERIAL,
	VMM_CONSOLE_VIRTIO
};
enum vmm_on_reboot {
	VMM_REBOOT_RESET,
	VMM_REBOOT_SHUTDOWN
};
enum vmm_on_panic {
	VMM_PANIC_PAUSE,
	VMM_PANIC_SHUTDOWN,
	VMM_PANIC_NONE
};

struct vmm_cpus {
	unsigned count, sockets, cores, threads;
	unsigned model; /* enum vmm_cpu_model */
	bool nested;
};

struct vmm_disk {
	char id[32], serial[21];
	int fd, vhost_user_fd; /* one of them is -EBADF */
	bool readonly, discard;
	unsigned cache, queues; /* enum blk_cache */
	struct io_limits limits;
};

struct vmm_nic {
	char id[32];
	uint8_t mac[6];
	unsigned mtu, n_taps;
	int tap_fds[VIRTIO_NET_MAX_PAIRS], stream_fd;
};

struct vmm_port {
	char name[64];
	int fd;
};

struct vmm_config {
	char name[128], uuid[40];
	int kvm_fd, qmp_fd;
	uint64_t memory_bytes;
	unsigned hugepages; /* enum vmm_hugepages */
	bool prealloc;
	struct vmm_cpus cpus;
	int kernel_fd, initrd_fd; /* -EBADF: none */
	char cmdline[VMM_CMDLINE_MAX];
	int console_fd;
	unsigned console; /* enum vmm_console */
	struct vmm_port ports[VIRTIO_CONSOLE_MAX_PORTS];
	struct vmm_disk disks[VMM_MAX_DISKS];
	struct vmm_nic nics[VMM_MAX_NICS];
	unsigned n_ports, n_disks, n_nics;
	bool rng, balloon, deflate_on_oom, free_page_reporting, pvpanic;
	unsigned on_reboot, on_panic; /* enum vmm_on_reboot, vmm_on_panic */
	unsigned reset_interval_ms;
	bool incoming, paused, test_device;
};

/* Reads and checks the document. The descriptors stay open numbers of this process; each is given
 * close-on-exec and may occur once. -EINVAL with the member's path in err->field. */
int vmm_config_parse(const char *text, size_t len, struct vmm_config *ret, struct vmd_error *err);
/* The same from a descriptor (pread, so a memfd may be read twice). */
int vmm_config_read(int fd, struct vmm_config *ret, struct vmd_error *err);
/* Closes every descriptor from 3 on that the configuration does not name, and keep_fd. */
int vmm_config_close_others(const struct vmm_config *c, int keep_fd);
