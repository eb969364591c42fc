/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * vmd-vmm by itself, with a test in vmd's place at its control socket. One guest of one processor
 * and 16 MiB, with a serial console, a NIC that leads nowhere, rng and balloon.
 */
#include <sys/types.h>

#include "tests/lib/client.h"

struct monitor {
	pid_t pid;
	int pidfd, console;
	struct client qmp;
	unsigned n_resets; /* RESET events that monitor_reply() and monitor_ask() have skipped */
};

/* Starts a guest with a kernel of tests/guest and waits for the greeting; nothing is negotiated
 * yet. more: further members of the configuration, as JSON, or NULL. Skips without /dev/kvm. */
void monitor_start(struct monitor *m, const char *elf, const char *cmdline, const char *more);
/* The same, and negotiates. */
void monitor_begin(struct monitor *m, const char *elf, const char *cmdline, const char *more);
/* SIGKILL, and waits. */
void monitor_end(struct monitor *m);

void monitor_send(struct monitor *m, const char *text);
/* The next message that is no event; NULL when the monitor has closed. Fails after 20 s. */
json_t *monitor_reply(struct monitor *m);
/* Sends one command, a JSON text, and gives the reply. */
json_t *monitor_ask(struct monitor *m, const char *command);
/* The reply to it is an error whose description has the words. */
void monitor_expect_error(struct monitor *m, const char *command, const char *words);
/* It answers, to this question and to none before. */
void monitor_expect_sane(struct monitor *m);
/* Waits until the guest has written text since the last call. */
void monitor_expect_console(struct monitor *m, const char *text, int timeout_ms);

/* What the process has. */
struct monitor_use {
	unsigned fds, threads;
	long anon_kib;
};
struct monitor_use monitor_use(const struct monitor *m);
/* No descriptor and no thread more, and not more than kib of memory. */
void monitor_expect_no_more(const struct monitor *m, const struct monitor_use *before, long kib);
