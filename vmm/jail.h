/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What the monitor gives up before a guest's first instruction: its view of the file system, every
 * privilege, and all system calls but a few per kind of thread.
 */
#include <jansson.h>

/*
 * An empty, read-only root; no capabilities; no new privileges; no core dumps. Where the host does
 * not allow one of them, the monitor goes on and jail_report() says so. While single-threaded.
 */
void jail_enter(void);
/* The calling thread's filter of system calls; a violation ends the process (SIGSYS). A thread
 * whose filter cannot be set does not go on: exits with status 70. */
void jail_filter_main(void);
void jail_filter_vcpu(void);
void jail_filter_io(void);
/* {"root": true|false, "root_error": "...", "capabilities": ..., "seccomp": true|false}. */
json_t *jail_report(void);
