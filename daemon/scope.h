/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Guests in control groups of their own. Under systemd each one lives in a transient scope below
 * vmd-guests.slice, so that nothing done to vmd.service (stop, restart, limits, out of memory)
 * reaches it. When the host goes down, the scopes are stopped after vmd.service.
 */
#include <stdbool.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

/* Whether this daemon is a service of the system's systemd. */
bool scope_is_wanted(void);

/*
 * Moves the process, which has no children yet, into a new scope for the guest. Waits, in a fiber;
 * failure is logged only: the guest then stays in the service's group, whose KillMode spares it.
 */
void scope_enter(pid_t pid, const char *uuid, const char *name);

/* A connection to systemd, for root directly, else by D-Bus. 0 or negative errno. May block
 * shortly; any thread. */
int scope_open_bus(sd_bus **ret);
