/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Fibers: stackful coroutines on the one event loop, so that an operation of many steps reads as
 * plain sequential code. Only one runs at a time and it runs until it waits; no locks are needed.
 * Everything marked "waits" may be called inside a fiber only. Stacks are pooled, with a guard
 * page.
 */
#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"
#include "common/procutil.h"

struct fiber;

/* Once, before the first fiber. */
void fiber_init(struct ev_loop *loop);
void fiber_deinit(void);
struct ev_loop *fiber_loop(void);

/*
 * Starts fn(arg) at once, on its own stack; returns when it first waits or ends. 0 or -ENOMEM (fn
 * was not called). name is a static string for logs.
 */
int fiber_start(const char *name, void (*fn)(void *arg), void *arg) MUST_CHECK;
/* The running fiber, or NULL on the loop's own stack. */
struct fiber *fiber_self(void);
const char *fiber_name(const struct fiber *f);
/* Fibers that have not ended. */
unsigned fiber_count(void);

/*
 * Cancellation and deadline of a fiber: every wait then returns -ECANCELED or -ETIMEDOUT. A
 * clean-up section that must not be cut off runs between fiber_shield(true) and
 * fiber_shield(false).
 */
void fiber_cancel(struct fiber *f);
bool fiber_is_cancelled(void);
void fiber_set_deadline(uint64_t monotonic_us); /* of the running fiber; 0: none */
uint64_t fiber_deadline(void);
void fiber_shield(bool on);

/* A place to wait at. Wake-ups are level free: a wake with nobody waiting is lost. */
struct waitq {
	struct list waiters;
};
void waitq_init(struct waitq *q);
/* Waits until woken: 0, -ETIMEDOUT (timeout_ms, -1 for none, or the fiber's deadline), -ECANCELED.
 */
int waitq_wait(struct waitq *q, int64_t timeout_ms) MUST_CHECK;
void waitq_wake_one(struct waitq *q); /* the fiber resumes from the loop, not inside this call */
void waitq_wake_all(struct waitq *q);

/*
 * For completions that must not be cut short: park waits for fiber_unpark whatever the deadline or
 * cancellation; unpark of a fiber that is not waiting does nothing.
 */
void fiber_park(void);
void fiber_unpark(struct fiber *f);

/* FIFO mutex between fibers. */
struct fiber_mutex {
	struct waitq q;
	struct fiber *owner;
};
void fiber_mutex_init(struct fiber_mutex *m);
int fiber_mutex_lock(struct fiber_mutex *m) MUST_CHECK; /* 0, -ECANCELED, -ETIMEDOUT */
void fiber_mutex_unlock(struct fiber_mutex *m);

/* Waits. */
int fiber_sleep_ms(uint64_t ms);
/* Waits until fd is readable (EV_READ) or writable (EV_WRITE). 0 or as waitq_wait. */
int fiber_wait_fd(int fd, int events, int64_t timeout_ms) MUST_CHECK;

/*
 * Runs fn(arg) in a worker thread and waits for it; its return value is returned. Never cut short:
 * cancellation shows at the next wait. fn may block (files, fsync) and may touch only arg.
 */
int work_run(int (*fn)(void *arg), void *arg);

/*
 * Runs a program to its end and waits. stdout+stderr (at most max_output bytes, rest dropped) go to
 * *ret_output as a NUL-terminated string for the caller when not NULL. Killed on cancel or
 * deadline. 0 with *ret_status, or negative errno with err.
 */
int fiber_run_program(const struct spawn_spec *spec, size_t max_output, char **ret_output,
                      struct proc_status *ret_status, struct vmd_error *err) MUST_CHECK;
