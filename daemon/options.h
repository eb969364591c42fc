/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The command line of vmd and the directories that follow from it. */
#include "daemon/conf.h"

/*
 * Fills the command-line part of config. 0: go on; 1: an option such as --help has been answered;
 * -EINVAL: usage error, told on stderr.
 */
int options_parse(int argc, char **argv, struct config *config);

/* Make a directory with its parents (0700, 0755 for the system runtime directory) and check that it
 * is ours and not writable by others. */
int options_make_state_dir(const struct config *config, struct vmd_error *err);
int options_make_runtime_dir(const struct config *config, struct vmd_error *err);
