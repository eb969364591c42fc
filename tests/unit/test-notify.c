/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The service manager's side is a datagram socket of this test. */
#include "config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/notify.h"

static int manager;

static void setup(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char name[64];

	/* An abstract socket: leaves nothing behind. */
	snprintf(name, sizeof(name), "@vmd-test-notify-%d", (int)getpid());
	memcpy(addr.sun_path, name, strlen(name));
	addr.sun_path[0] = '\0';
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	cr_assert_geq(manager, 0);
	cr_assert_eq(bind(manager, (struct sockaddr *)&addr,
	                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
	             0);
	setenv("NOTIFY_SOCKET", name, 1);
}

TestSuite(notify, .timeout = 10, .init = setup);

static const char *received(void)
{
	static char text[512];
	ssize_t n = recv(manager, text, sizeof(text) - 1, 0);

	cr_assert_geq(n, 0);
	text[n] = '\0';
	return text;
}

Test(notify, messages)
{
	notify_ready("%d guests", 3);
	cr_assert_str_eq(received(), "READY=1\nSTATUS=3 guests");
	notify_status("a\nREADY=1");
	cr_assert_str_eq(received(), "STATUS=a");
	notify_stopping("leaving %s", "guests");
	cr_assert_str_eq(received(), "STOPPING=1\nSTATUS=leaving guests");
}

Test(notify, reloading_carries_the_monotonic_time)
{
	unsigned long long usec = 0;

	notify_reloading();
	cr_assert_eq(sscanf(received(), "RELOADING=1\nMONOTONIC_USEC=%llu", &usec), 1);
	cr_assert_gt(usec, 0);
}

Test(notify, watchdog_beats_while_the_loop_turns)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	struct notify notify = { 0 };
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_USEC", "20000", 1);
	setenv("WATCHDOG_PID", pid, 1);
	notify_start(&notify, loop);
	ev_run(loop, EVRUN_ONCE);
	cr_assert_str_eq(received(), "WATCHDOG=1");
	ev_run(loop, EVRUN_ONCE);
	cr_assert_str_eq(received(), "WATCHDOG=1");
	notify_stop(&notify);
	cr_assert_eq(ev_pending_count(loop), 0);
	ev_loop_destroy(loop);
}

Test(notify, no_watchdog_no_timer)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	struct notify notify = { 0 };

	unsetenv("WATCHDOG_USEC");
	notify_start(&notify, loop);
	/* With nothing to wait for, ev_run returns at once. */
	ev_run(loop, 0);
	notify_stop(&notify);
	notify_stop(&notify);
	ev_loop_destroy(loop);
}
