/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
#include <stdbool.h>

#include "common/error.h"

struct vmd;

/*
 * Reads the configuration again (SIGHUP, daemon.reload) and takes it over as a whole, or not at
 * all: on failure err says why and everything stays as it was. With dry_run it is only checked.
 * Limits on the size of the event ring and the command line hold until the next start. Loop thread;
 * small reads.
 */
int vmd_reload(struct vmd *vmd, bool dry_run, struct vmd_error *err);
