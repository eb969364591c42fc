/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What happens to guests when the host comes up and goes down. */
#include <stdbool.h>

struct vmd;

/* Starts the guests that ask for it, in their order and with their delays, once per boot of the
 * host. Returns at once; the work goes on in a fiber. */
void boot_autostart(struct vmd *vmd);

/*
 * Whether the host itself is going down (systemd's SystemState is "stopping"), as opposed to vmd
 * being stopped or restarted. Waits for D-Bus, in a worker thread; false without systemd.
 */
bool boot_host_is_stopping(void);

/* Each live guest's on_host_shutdown action, all at once; returns when they are done. Waits. */
void boot_stop_guests(struct vmd *vmd);
