/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Linux guests on each monitor: to /init, at rest, saved and restored, disks and network. */
#include "config.h"

#include "bench/vmm-bench.h"
void bench_linux_boot(const char *what UNUSED, const char *kernel UNUSED, const char *initrd UNUSED, unsigned rounds UNUSED) {}
void bench_linux_saved(const char *kernel UNUSED, const char *initrd UNUSED, unsigned written_mib UNUSED, unsigned rounds UNUSED) {}
void bench_linux_idle(const char *kernel UNUSED, const char *initrd UNUSED) {}
void bench_disk(const char *kernel UNUSED, const char *initrd UNUSED, const char *disk UNUSED) {}
void bench_net(const char *kernel UNUSED, const char *initrd UNUSED) {}
