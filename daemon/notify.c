/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/notify.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "common/timeutil.h"

static void on_watchdog(struct ev_loop *loop UNUSED, ev_timer *timer UNUSED, int events UNUSED)
{
	sd_notify(0, "WATCHDOG=1");
}

void notify_start(struct notify *n, struct ev_loop *loop)
{
	uint64_t interval_us = 0;
	double period;

	n->loop = loop;
	if (sd_watchdog_enabled(0, &interval_us) <= 0)
		interval_us = 0;
	period = (double)interval_us / 2e6;
	ev_timer_init(&n->watchdog, on_watchdog, period, period);
	if (interval_us > 0)
		ev_timer_start(loop, &n->watchdog);
}

void notify_stop(struct notify *n)
{
	if (!n->loop)
		return;
	ev_timer_stop(n->loop, &n->watchdog);
	n->loop = NULL;
}

/* A status is one line: what comes after a newline would be read as another assignment. */
static void send_with_status(const char *assignments, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));

static void send_with_status(const char *assignments, const char *format, va_list args)
{
	char status[256];

	vsnprintf(status, sizeof(status), format, args);
	status[strcspn(status, "\n")] = '\0';
	sd_notifyf(0, "%sSTATUS=%s", assignments, status);
}

void notify_ready(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	send_with_status("READY=1\n", format, args);
	va_end(args);
}

void notify_reloading(void)
{
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now_monotonic_us());
}

void notify_stopping(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	send_with_status("STOPPING=1\n", format, args);
	va_end(args);
}

void notify_extend(uint64_t ms)
{
	sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu", (unsigned long long)ms * 1000);
}

void notify_status(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	send_with_status("", format, args);
	va_end(args);
}
