/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Child processes. Identity is a pidfd plus start time plus boot id; no signal is ever sent to a
 * bare number.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/macros.h"

#define SPAWN_MAX_FDS 128

struct spawn_fd {
	int source; /* descriptor in the parent; stays open there */
	int target; /* number in the child (>= 0) */
};

struct spawn_spec {
	const char *path; /* program; searched in PATH when it has no slash */
	char *const *argv;
	char *const *envp;          /* NULL: the parent's */
	const struct spawn_fd *fds; /* everything else but 0-2 is closed */
	size_t n_fds;
	bool new_session; /* setsid() */
	int death_signal; /* PR_SET_PDEATHSIG, 0 for none */
	bool null_stdio;  /* 0-2 not named in fds become /dev/null */
	/* In the child, last before exec; async-signal-safe calls only. A negative errno fails the
	 * start. May be NULL. */
	int (*confine)(const void *arg);
	const void *confine_arg;
};

/*
 * Starts the program with all signals at their defaults and unblocked. *ret_pidfd belongs to the
 * caller and becomes readable when the child ends; reap with proc_reap(). An exec that fails is
 * reported here (not as an exit status). 0 or negative errno with err. Main or worker thread.
 */
int proc_spawn(const struct spawn_spec *spec, pid_t *ret_pid, int *ret_pidfd,
               struct vmd_error *err) MUST_CHECK;

struct proc_status {
	bool exited; /* else killed by signal */
	int code;    /* exit status or signal number */
	bool core;
};

/* waitid(P_PIDFD). 1 when it has ended, 0 when it still runs, negative errno. */
int proc_reap(int pidfd, struct proc_status *ret) MUST_CHECK;
/* pidfd_send_signal(2). 0 or negative errno (-ESRCH: it is gone). */
int proc_signal(int pidfd, int sig);
/* Start time of a process in clock ticks since boot, proc(5) stat field 22; 0 if it cannot be read.
 */
uint64_t proc_start_time(pid_t pid);
/* This boot's id, 36 characters, from /proc/sys/kernel/random/boot_id; empty if unreadable. */
const char *proc_boot_id(void);
/* pidfd_open(2) for pid if it still has this start time. fd, or -ESRCH, or other negative errno. */
int proc_open_identity(pid_t pid, uint64_t start_time) MUST_CHECK;
