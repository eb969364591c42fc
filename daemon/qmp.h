/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * QMP client (QEMU docs/interop/qmp-spec) on the loop, one connection per guest, many commands in
 * flight. The other end is hostile: message size (4 MiB), depth (64) and rate are limited and any
 * nonsense ends only this connection.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct qmp;

struct qmp_ops {
	/* Event with its name, data (may be NULL) and time in wall microseconds. */
	void (*on_event)(void *userdata, const char *name, const json_t *data, uint64_t time_us);
	/* The connection ended (reason is a sentence); all pending commands have failed. Called
	 * from the loop, never inside another qmp_ call. */
	void (*on_closed)(void *userdata, const char *reason);
};

/*
 * Takes the socket fd. With fresh: expects the greeting and negotiates capabilities (oob off). Else
 * (adopted after a daemon restart, capabilities already negotiated): first sends the 0xFF byte that
 * resets the peer's JSON parser and ignores replies that are not ours.
 */
int qmp_new(int fd, bool fresh, const struct qmp_ops *ops, void *userdata, struct qmp **ret);
void qmp_free(struct qmp *q);

/*
 * Runs one command and waits (fiber). args is borrowed, may be NULL; fds go along by SCM_RIGHTS.
 * *ret_return (new reference) may be NULL. -EREMOTEIO with err (ERROR_ENGINE_FAILED) carrying
 * QEMU's desc; -ETIMEDOUT when there is no reply within timeout_ms; -EPIPE when closed.
 */
int qmp_call(struct qmp *q, const char *command, const json_t *args, const int *fds, size_t n_fds,
             int64_t timeout_ms, json_t **ret_return, struct vmd_error *err);
