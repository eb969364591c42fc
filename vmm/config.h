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
 *            {"id": "disk1", "vhost_user_fd": 11, "readonly": false, "serial": "…", "queues": 1}],
 *  "nics": [{"id": "nic0", "mac": "52:54:00:…", "mtu": 0, "tap_fds": [12]},
 *           {"id": "nic1", "mac": "…", "stream_fd": 13}],
 *  "rng": true, "balloon": {"deflate_on_oom": true, "free_page_reporting": true},
 *  "pvpanic": true,
 *  "actions": {"reboot": "reset"|"shutdown", "panic": "pause"|"shutdown"|"none"},
 *  "incoming": false, "paused": false, "test_device": false}
 *
 * Members that are absent are off, 1, or as their first word above; unknown ones are refused: vmd
 * and its monitor are of one release when the guest starts.
 */
