/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Guests made of /bin/sh scripts under the real vmd-shim. The engine's script finds the console as
 * descriptor 3 and, when asked for, QMP as 4.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/engine.h"
#include "daemon/fiber.h"
#include "daemon/shim.h"

#define FX_UUID "11111111-2222-4333-8444-555555555555"

struct fx {
	char dir[64], run[80], state[80];
	struct launch launch;
	struct shim_params params;
	struct shim *shim;
	struct waitq q; /* woken by every callback */
	struct shim_exit exit, helper_exit;
	bool exited, lost, helper_exited, ready[_SHIM_READY_MAX];
	uint64_t ready_us[_SHIM_READY_MAX];
};

/* Runs fn(fx) in a fiber on a loop of its own, with fresh directories that are removed after. */
void fx_run(void (*fn)(struct fx *fx));
/* A process of the guest: /bin/sh -c script. The engine must be added last. */
void fx_add(struct fx *fx, const char *name, const char *script, bool vital);
void fx_engine(struct fx *fx, const char *script, bool qmp);
/* shim_start() and release of what the guest got; for failures too. */
int fx_start(struct fx *fx, struct vmd_error *err);
void fx_must_start(struct fx *fx, const char *script);
/* Waits for a flag that a callback sets; fails the test after 20 s. */
void fx_wait(struct fx *fx, const bool *flag);
/* Releases the shim and waits until its process has gone. */
void fx_release(struct fx *fx);
/* Ends the guest however it is, for the end of a test. */
void fx_kill(struct fx *fx);
/* Reads until end of file or until the text ends with `until` (may be NULL); text for free(). */
char *fx_read(int fd, const char *until, size_t *ret_len);
/* The whole file dir/name, for free(); NULL when it is not there. */
char *fx_file(const char *dir, const char *name);
/* The same once the file holds text. */
char *fx_file_with(const char *dir, const char *name, const char *text);
/* pid of the shim, from its identity record. */
pid_t fx_shim_pid(struct fx *fx);
/* Whether a process exists that is not a zombie. */
bool fx_alive(pid_t pid);
extern const struct shim_ops fx_ops;
