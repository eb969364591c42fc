/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Finds the processes that belong to a directory: by a variable in their environment, their command
 * line, their working directory or an open file. No cgroup and no parentage is needed for it, so
 * nothing that was started can hide by being adopted.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Fills pids (at most max) with the processes of the directory other than this one; the count. */
size_t procs_of(const char *dir, pid_t *pids, size_t max);
/* Kills all of them, again and again until there is none. */
void procs_kill_all(const char *dir);
