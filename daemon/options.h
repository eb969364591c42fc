/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The command line of vmd and the directories that follow from it. */
#include "daemon/conf.h"

/*
 * Fills the command-line part of config. 0: go on; 1: an option such as --help has been answered;
 * -EINVAL: usage error, told on stderr.
 */
int options_parse(int argc, char **argv, struct config *config);

/* Makes the state and runtime directories (0700, 0755 for the system runtime directory) and checks
 * that they are ours and not writable by others. */
int options_make_dirs(const struct config *config, struct vmd_error *err);
