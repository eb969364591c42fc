/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * An epoll loop with a thread of its own: where devices do their I/O. Everything of a device that
 * is not a register lives in its loop's thread. vCPU threads and the control thread reach in by
 * ioloop_call() only.
 */
#include <stdbool.h>
#include <stdint.h>

struct ioloop;

struct io_watch {
	int fd; /* borrowed; closed by its owner after ioloop_unwatch() */
	/* In the loop's thread; may add, change and remove watches, its own among them. */
	void (*ready)(struct io_watch *w, uint32_t epoll_events);
};

/* Called first thing in every loop thread that is started (its seccomp filter); set once, before.
 */
void ioloop_set_thread_init(void (*init)(void));

/* A loop without a thread yet. name (≤ 15 bytes) is the thread's name. 0 or negative errno. */
int ioloop_new(const char *name, struct ioloop **ret);
/* Starts the thread with a small stack. Until then watches may be added from the starting thread.
 */
int ioloop_start(struct ioloop *l);
/* Ends and joins the thread, if it was started; frees. NULL is fine. Not from the loop's thread. */
struct ioloop *ioloop_free(struct ioloop *l);

/* In the loop's thread, or while it is paused or not started. 0 or negative errno. */
int ioloop_watch(struct ioloop *l, struct io_watch *w, uint32_t epoll_events);
int ioloop_change(struct ioloop *l, struct io_watch *w, uint32_t epoll_events);
/* No handler of w is called after this returns, not even for an event already fetched. */
void ioloop_unwatch(struct ioloop *l, struct io_watch *w);

/*
 * Runs fn(arg) in the loop's thread between two handlers and waits for it; directly when called in
 * that thread, or while the loop is paused or not started (such calls run one at a time). The
 * caller may hold locks that nothing in the loop takes; a loop must not call one that calls it.
 */
void ioloop_call(struct ioloop *l, void (*fn)(void *arg), void *arg);
/* After pause() no handler runs until resume(). Waits for the running one. Pauses are counted.
 * Control thread. */
void ioloop_pause(struct ioloop *l);
void ioloop_resume(struct ioloop *l);
