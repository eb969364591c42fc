/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What the service manager is told (sd_notify(3)): ready, reloading, stopping, a status line, and
 * the watchdog's sign of life. Without a service manager all of it does nothing.
 */
#include <ev.h>
#include <stdint.h>

#include "common/macros.h"

/* Embedded in its owner; the watchdog runs between notify_start and notify_stop. */
struct notify {
	struct ev_loop *loop;
	ev_timer watchdog;
};

/*
 * Starts the watchdog's timer on the loop when the service manager asked for one (WATCHDOG_USEC):
 * a sign of life goes out each half interval as long as the loop turns. Otherwise there is no timer
 * and no wake-up. Call once, on the loop's thread.
 */
void notify_start(struct notify *n, struct ev_loop *loop);
/* Ends the timer; harmless when it never ran. */
void notify_stop(struct notify *n);

/* Start-up is done, or a reload ended; with the status line. */
void notify_ready(const char *format, ...) PRINTF_LIKE(1, 2);
/* A reload begins; notify_ready ends it. */
void notify_reloading(void);
/* Shutting down. */
void notify_stopping(const char *format, ...) PRINTF_LIKE(1, 2);
/* Stopping (or starting) takes longer: the service manager waits for so long from now on. */
void notify_extend(uint64_t ms);
/* One line for people, shown by systemctl status. */
void notify_status(const char *format, ...) PRINTF_LIKE(1, 2);
