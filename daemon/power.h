/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Stopping and suspending a guest (lock held): shared by the API and by host shutdown. All wait. */
#include "daemon/guest.h"

struct job;

/* Soft stop for timeout_ms, then, with force, the hard way. job may be NULL. */
int power_stop(struct guest *g, uint64_t timeout_ms, bool force, const char *cause,
               const char *actor, struct job *job, struct vmd_error *err);
/* Memory to disk, process gone. On failure the guest goes on as before. */
int power_suspend(struct guest *g, const char *cause, const char *actor, struct job *job,
                  struct vmd_error *err);
/* The definition's on_host_shutdown: stop (default), suspend, kill or leave. */
int power_host_shutdown(struct guest *g, struct vmd_error *err);
/* The definition's stop_timeout_ms, or the daemon's. */
uint64_t power_stop_timeout_ms(const struct guest *g);
