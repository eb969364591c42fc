/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmd-vmm against whoever holds its control socket, and against guests that only it can stand. */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "tests/integration/monitor-fixture.h"
#include "tests/lib/scene.h"

#define IDLE     "bare.elf", "test=echo end=halt"
#define SOME_KIB 1024 /* what a monitor may need more than before, whatever is done to it */

TestSuite(monitor, .timeout = 400);

static struct monitor m;

static void expect_guest_runs(void)
{
	console_type(m.console, "still there\n");
	monitor_expect_console(&m, "echo: still there", 20000);
}

static void begin_idle(void)
{
	monitor_begin(&m, IDLE, NULL);
	monitor_expect_console(&m, "echo: ready", 20000);
}

/* Sends the command until the socket takes no more for a while. How many were sent whole; the rest
 * of the last one is given, which is still owed. */
static unsigned send_without_reading(const char *command, const char **ret_rest)
{
	size_t len = strlen(command), at = 0;
	unsigned n = 0;

	for (;;) {
		struct pollfd p = { .fd = m.qmp.fd, .events = POLLOUT };
		ssize_t sent;

		if (poll(&p, 1, 300) == 0)
			break;
		sent = send(m.qmp.fd, command + at, len - at, MSG_DONTWAIT | MSG_NOSIGNAL);
		cr_assert(sent > 0 || errno == EAGAIN, "%s", strerror(errno));
		at += sent > 0 ? (size_t)sent : 0;
		if (at == len) {
			at = 0;
			n++;
		}
		cr_assert_lt(n, 1000000u, "the monitor reads on for ever");
	}
	*ret_rest = at ? command + at : NULL;
	return n;
}

/* Long replies to short commands, and nobody reads: it stops to take commands, keeps little, and
 * owes no reply in the end. */
Test(monitor, a_client_that_never_reads)
{
	static const char command[] = "{\"execute\":\"x-vmd-stats\"}";
	struct monitor_use before;
	const char *rest;
	unsigned n;

	begin_idle();
	before = monitor_use(&m);
	n = send_without_reading(command, &rest);
	cr_expect_gt(n, 100);
	monitor_expect_no_more(&m, &before, SOME_KIB);
	expect_guest_runs();
	for (unsigned i = 0; i < n; i++) {
		json_t *reply = monitor_reply(&m);

		cr_assert(json_object_get(json_object_get(reply, "return"), "vcpus"),
		          "reply %u of %u", i, n);
		json_decref(reply);
	}
	if (rest)
		json_decref(monitor_ask(&m, rest));
	monitor_expect_sane(&m);
	monitor_expect_no_more(&m, &before, SOME_KIB);
	monitor_end(&m);
}

/* Each piece is refused once, and what follows on the next line is heard. */
Test(monitor, what_is_no_json)
{
	static const char *const pieces[] = {
		"rubbish\n",
		"[1,2,3]\n",
		"\"text\"\n",
		"12\n",
		"}\n",
		"{\"a\":]\n",
		"{\"execute\":\"query-status\",\"execute\":\"quit\"}\n",
		"{\"execute\":\"query-status\",\"id\":1e999}\n",
		"{\"execute\":\"query-status\",\"id\":99999999999999999999}\n",
		"{\"execute\":\"query-\\ud800status\"}\n",
		"{\"execute\":\"query-status\xC0\x80\"}\n",
		"{\"execute\":\"query-status\\u0000\"}\n",
		"{'execute':'query-status'}\n",
		"{\"execute\":\"query-status\",}\n",
		"{\"execute\":nul}\n",
	};

	begin_idle();
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		json_t *reply = monitor_ask(&m, pieces[i]);

		cr_expect(json_object_get(reply, "error"), "%s", pieces[i]);
		json_decref(reply);
		monitor_expect_sane(&m);
	}
	monitor_end(&m);
}

/* One error, whatever its length. */
static void expect_refused(const char *begin, const char *unit, size_t times)
{
	size_t len = strlen(unit);
	cleanup_free char *text = malloc(len * times + 2);
	struct monitor_use before = monitor_use(&m);
	json_t *reply;

	for (size_t i = 0; i < times; i++)
		memcpy(text + i * len, unit, len);
	text[len * times] = '\n';
	monitor_send(&m, begin);
	cr_assert(client_send(&m.qmp, text, len * times + 1));
	reply = monitor_reply(&m);
	cr_expect(json_object_get(reply, "error"), "%s%s", begin, unit);
	json_decref(reply);
	monitor_expect_sane(&m);
	monitor_expect_no_more(&m, &before, SOME_KIB);
}

Test(monitor, messages_without_end)
{
	begin_idle();
	expect_refused("{\"execute\":\"", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 1u << 20);
	expect_refused("", "{\"a\":", 100000);
	expect_refused("{\"a\":", "[", 100000);
	expect_refused("{\"a\":\"", "\\\"", 1000000);
	expect_refused("{", "\"execute\":\"quit\",", 100000);
	expect_refused("", "\x01\x02\xfe\x80 {", 100000);
	expect_guest_runs();
	monitor_end(&m);
}

Test(monitor, bytes_one_by_one_and_begun_anew)
{
	static const char command[] = " \t\r\n{\"execute\" : \"query-status\" , \"id\":\"}{\\\"\"}";
	json_t *reply;

	begin_idle();
	for (size_t i = 0; i + 1 < sizeof(command); i++)
		cr_assert(client_send(&m.qmp, command + i, 1));
	reply = monitor_reply(&m);
	cr_expect_str_eq(jsonx_str(reply, "id", ""), "}{\"");
	json_decref(reply);
	/* 0xFF forgets what was begun, and says nothing. */
	for (int i = 0; i < 1000; i++)
		monitor_send(&m, "{\"execute\":\"quit\",\"a\":[{\"\xFF");
	monitor_expect_sane(&m);
	expect_guest_runs();
	monitor_end(&m);
}

Test(monitor, nothing_before_the_negotiation)
{
	monitor_start(&m, IDLE, NULL);
	for (int i = 0; i < 3; i++)
		monitor_expect_error(&m,
		                     i == 0   ? "{\"execute\":\"quit\"}"
		                     : i == 1 ? "{\"execute\":\"system_reset\"}"
		                              : "{\"execute\":\"no-such\"}",
		                     "Expecting capabilities negotiation");
	monitor_expect_error(
		&m, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
		"no such capabilities");
	monitor_expect_error(&m, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"x\":1}}",
	                     "no such capabilities");
	monitor_expect_error(&m, "{\"execute\":\"query-status\"}",
	                     "Expecting capabilities negotiation");
	json_decref(monitor_ask(
		&m, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}"));
	monitor_expect_error(&m, "{\"execute\":\"qmp_capabilities\"}", "already complete");
	monitor_expect_sane(&m);
	monitor_end(&m);
}

Test(monitor, what_it_does_not_know)
{
	static const char *const wrong[][2] = {
		{ "{}", "lacks member 'execute'" },
		{ "{\"execute\":7}", "lacks member 'execute'" },
		{ "{\"exec-oob\":\"quit\"}", "lacks member 'execute'" },
		{ "{\"execute\":\"quit\",\"arguments\":[]}", "must be an object" },
		{ "{\"execute\":\"quit\",\"arguments\":null}", "must be an object" },
		{ "{\"execute\":\"quit\",\"control\":{}}", "'control' is unexpected" },
		{ "{\"execute\":\"quit\",\"arguments\":{\"a\":1}}", "'a' is unexpected" },
		{ "{\"execute\":\"\"}", "has not been found" },
		{ "{\"execute\":\"human-monitor-command\"}", "has not been found" },
		{ "{\"execute\":\"balloon\"}", "'value' is missing" },
		{ "{\"execute\":\"balloon\",\"arguments\":{\"value\":\"1\"}}",
		  "expected: integer" },
		{ "{\"execute\":\"balloon\",\"arguments\":{\"value\":-1}}", "expects a size" },
		{ "{\"execute\":\"balloon\",\"arguments\":{\"value\":9223372036854775807}}",
		  "expects a size" },
		{ "{\"execute\":\"balloon\",\"arguments\":{\"value\":1.5}}", "expected: integer" },
		{ "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"x\"}}",
		  "No file descriptor" },
		{ "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"x\"}}", "not found" },
		{ "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:sh\"}}",
		  "only migration" },
		{ "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:x\"}}", "not found" },
		{ "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:x\"}}",
		  "does not wait" },
		{ "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":-1}}",
		  "expects a rate" },
	};

	begin_idle();
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		monitor_expect_error(&m, wrong[i][0], wrong[i][1]);
	expect_guest_runs();
	monitor_end(&m);
}

/* They come back as they are, with errors too. */
Test(monitor, an_id_is_any_value)
{
	static const char *const ids[] = { "null",        "true",
		                           "0",           "-9223372036854775808",
		                           "1.5",         "\"\"",
		                           "[]",          "{\"id\":[{},null]}",
		                           "\"\\u0000\"", "\"\xF0\x9F\x92\xA9\"" };
	char command[128];

	begin_idle();
	for (size_t i = 0; i < 2 * sizeof(ids) / sizeof(ids[0]); i++) {
		const char *id = ids[i / 2];
		cleanup_json json_t *reply = NULL, *want = NULL;

		snprintf(command, sizeof(command), "{\"id\":%s,\"execute\":\"%s\"}", id,
		         i % 2 ? "query-status" : "nonesuch");
		want = json_loads(id, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		reply = monitor_ask(&m, command);
		if (want && strstr(id, "u0000")) {
			cr_expect(json_object_get(reply, "error"));
			continue;
		}
		cr_expect(want && json_equal(json_object_get(reply, "id"), want), "%s", id);
		cr_expect(json_object_get(reply, i % 2 ? "return" : "error"), "%s", id);
	}
	monitor_expect_sane(&m);
	monitor_end(&m);
}

static void send_with_fds(const char *text, size_t n)
{
	int fds[FDIO_MAX_FDS];

	for (size_t i = 0; i < n; i++)
		fds[i] = STDERR_FILENO;
	cr_assert_eq(fd_send(m.qmp.fd, text, strlen(text), fds, n), (ssize_t)strlen(text));
}

/* Descriptors that nobody takes do not stay, in whatever way they come. */
Test(monitor, descriptors_that_nobody_wants)
{
	static const char getfd[] = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"x\"}}";
	static const char refused[] = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":7}}";
	static const char pieces[][24] = { " ", "{\"execute\":", "\"query-status\"", "}" };
	struct monitor_use before;

	begin_idle();
	before = monitor_use(&m);
	for (int round = 0; round < 100; round++) {
		send_with_fds("{\"execute\":\"query-status\"}", FDIO_MAX_FDS);
		json_decref(monitor_reply(&m));
		send_with_fds(getfd, FDIO_MAX_FDS);
		json_decref(monitor_reply(&m));
		send_with_fds(refused, 1);
		json_decref(monitor_reply(&m));
		send_with_fds("rubbish\n", 2);
		json_decref(monitor_reply(&m));
		for (size_t i = 0; i < 4; i++)
			send_with_fds(pieces[i], 3);
		json_decref(monitor_reply(&m));
		send_with_fds("{\"execute\":\"quit\"\xFF", 5);
	}
	monitor_expect_sane(&m);
	/* Names are few. */
	for (int i = 0; i < 3; i++) {
		char named[96];
		json_t *reply;

		snprintf(named, sizeof(named),
		         "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"n%d\"}}", i);
		send_with_fds(named, 1);
		reply = monitor_reply(&m);
		cr_expect(json_object_get(reply, "return"));
		json_decref(reply);
	}
	send_with_fds("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"n4\"}}", 1);
	monitor_expect_error(&m, "", "Too many named");
	for (int i = 0; i < 3; i++) {
		char named[96];

		snprintf(named, sizeof(named),
		         "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"n%d\"}}", i);
		json_decref(monitor_ask(&m, named));
	}
	json_decref(monitor_ask(&m, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"x\"}}"));
	monitor_expect_no_more(&m, &before, SOME_KIB);
	monitor_end(&m);
}

/* The guest lives on without its control, in peace; a signal ends it in good order. */
Test(monitor, a_client_that_goes_away_in_the_middle)
{
	struct pollfd p = { .events = POLLIN };
	struct proc_status status;
	const char *rest;

	begin_idle();
	(void)send_without_reading("{\"execute\":\"query-cpus-fast\"}", &rest);
	client_close(&m.qmp);
	expect_guest_runs();
	expect_guest_runs();
	p.fd = m.pidfd;
	cr_assert_eq(proc_signal(m.pidfd, SIGTERM), 0);
	cr_assert_eq(poll(&p, 1, 20000), 1);
	cr_assert_eq(proc_reap(m.pidfd, &status), 1);
	cr_expect(status.exited && status.code == 0);
	close(m.pidfd);
	close(m.console);
}

static json_int_t stat_of(const char *name)
{
	cleanup_json json_t *reply = monitor_ask(&m, "{\"execute\":\"x-vmd-stats\"}");

	return json_integer_value(json_object_get(json_object_get(reply, "return"), name));
}

static void expect_status(const char *status)
{
	cleanup_json json_t *reply = monitor_ask(&m, "{\"execute\":\"query-status\"}");

	cr_expect_str_eq(jsonx_str(json_object_get(reply, "return"), "status", ""), status);
}

/* Takes what the monitor tells until so many resets are done. */
static void follow_resets(json_int_t count, uint64_t timeout_ms)
{
	uint64_t end = now_monotonic_us() + timeout_ms * 1000;

	while (stat_of("resets") < count) {
		cr_assert_lt(now_monotonic_us(), end, "%d resets", (int)stat_of("resets"));
		(void)poll(NULL, 0, 100);
	}
}

/* By the FADT's register, the keyboard controller and a triple fault in turn; none is lost, and
 * nothing grows. */
Test(monitor, a_thousand_resets_by_the_guest)
{
	struct monitor_use before;

	monitor_begin(&m, "bare.elf", "test=resets count=1000 end=halt",
	              "{\"reset_interval_ms\":0}");
	monitor_expect_console(&m, "resets: 100\n", 100000);
	before = monitor_use(&m);
	follow_resets(1000, 300000);
	monitor_expect_console(&m, "guest: done", 20000);
	monitor_expect_sane(&m);
	cr_expect_eq(m.n_resets, 1000);
	monitor_expect_no_more(&m, &before, SOME_KIB);
	monitor_end(&m);
}

Test(monitor, a_thousand_resets_from_outside)
{
	struct monitor_use before;

	begin_idle();
	for (int i = 0; i < 1000; i++) {
		json_t *reply = monitor_ask(&m, "{\"execute\":\"system_reset\"}");

		cr_assert(json_object_get(reply, "return"));
		json_decref(reply);
		if (i == 100)
			before = monitor_use(&m);
	}
	monitor_expect_no_more(&m, &before, SOME_KIB);
	monitor_expect_console(&m, "echo: ready", 20000);
	cr_expect_eq(m.n_resets, 1000);
	monitor_end(&m);
}

/* The burst is free; then each reset takes its interval, and the monitor hears everything
 * meanwhile. */
Test(monitor, a_reset_loop_is_slowed)
{
	uint64_t start = now_monotonic_us();

	monitor_begin(&m, "bare.elf", "test=resets count=10000 end=halt",
	              "{\"reset_interval_ms\":1500}");
	follow_resets(22, 100000);
	cr_expect_geq(now_monotonic_us() - start, 2 * 1500000u);
	monitor_end(&m);
}

/* Nobody sees a guest that waits for its reset: it is made before the guest stands still, and once
 * only. */
Test(monitor, a_reset_that_waits_is_made_by_a_pause)
{
	json_int_t resets;

	monitor_begin(&m, "bare.elf", "test=resets count=10000 end=halt",
	              "{\"reset_interval_ms\":60000}");
	while ((resets = stat_of("resets")) < 20)
		;
	(void)poll(NULL, 0, 500); /* the 21st waits now */
	cr_expect_eq(stat_of("resets"), 20);
	expect_status("running");
	json_decref(monitor_ask(&m, "{\"execute\":\"inject-nmi\"}"));
	json_decref(monitor_ask(&m, "{\"execute\":\"stop\"}"));
	cr_expect_eq(stat_of("resets"), 21);
	expect_status("paused");
	json_decref(monitor_ask(&m, "{\"execute\":\"cont\"}"));
	(void)poll(NULL, 0, 500);
	cr_expect_eq(stat_of("resets"), 21, "held back again");
	json_decref(monitor_ask(&m, "{\"execute\":\"system_reset\"}"));
	cr_expect_eq(stat_of("resets"), 22, "whoever has the button is not held back");
	monitor_end(&m);
}

/*
 * The guest runs on for as long as the monitor needs for some commands that came together; while
 * these are run, nobody looks at what the guest does. Then it is saved.
 */
static void run_a_moment_and_save(int fd)
{
	static const char getfd[] = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}";
	enum {
		COMMANDS = 150
	};
	char text[4096] = "{\"execute\":\"cont\"}";

	cr_assert_eq(fd_send(m.qmp.fd, getfd, strlen(getfd), (int[]){ fd }, 1),
	             (ssize_t)strlen(getfd));
	json_decref(monitor_reply(&m));
	for (int i = 0; i < COMMANDS; i++)
		strcat(text, "{\"execute\":\"query-kvm\"}");
	strcat(text, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:s\"}}");
	monitor_send(&m, text);
	for (int i = 0; i < COMMANDS + 2; i++)
		json_decref(monitor_reply(&m));
	for (;;) {
		cleanup_json json_t *reply = monitor_ask(&m, "{\"execute\":\"query-migrate\"}");
		const char *s = jsonx_str(json_object_get(reply, "return"), "status", "none");

		if (strcmp(s, "active") == 0)
			continue;
		cr_assert_str_eq(s, "completed");
		return;
	}
}

/* A guest is saved again and again while it resets itself by a port: whenever that is, the reset is
 * not lost. */
Test(monitor, no_reset_is_lost_in_a_snapshot)
{
	cleanup_close int file = memfd_create("state", MFD_CLOEXEC);
	uint64_t end = now_monotonic_us() + 100000000u;

	monitor_begin(&m, "bare.elf", "test=resets count=20 way=i8042 end=halt",
	              "{\"reset_interval_ms\":0}");
	/* So slow that events are looked at before it is saved. */
	json_decref(monitor_ask(&m, "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
	                            "{\"max-bandwidth\":20000000}}"));
	while (stat_of("resets") < 20) {
		cr_assert_lt(now_monotonic_us(), end, "%s", "a reset is lost");
		cr_assert_eq(ftruncate(file, 0), 0);
		run_a_moment_and_save(file);
	}
	json_decref(monitor_ask(&m, "{\"execute\":\"cont\"}"));
	monitor_expect_console(&m, "guest: resets ok", 20000);
	monitor_end(&m);
}

/* Events of a guest that makes many, and nobody reads: counted and dropped, and the rest is whole
 * lines. */
Test(monitor, events_that_nobody_reads)
{
	struct monitor_use before;
	const char *rest;
	unsigned n;

	monitor_begin(&m, "bare.elf", "test=resets count=300 way=triple end=halt",
	              "{\"reset_interval_ms\":0}");
	monitor_expect_console(&m, "resets: 0\n", 20000);
	before = monitor_use(&m);
	n = send_without_reading("{\"execute\":\"x-vmd-stats\"}", &rest);
	monitor_expect_console(&m, "guest: done", 100000);
	monitor_expect_no_more(&m, &before, SOME_KIB);
	for (unsigned i = 0; i < n; i++)
		json_decref(monitor_reply(&m));
	if (rest)
		json_decref(monitor_ask(&m, rest));
	cr_expect_eq(stat_of("resets"), 300);
	cr_expect_gt(stat_of("events_dropped"), 0);
	cr_expect_lt(m.n_resets, 300);
	monitor_expect_sane(&m);
	monitor_end(&m);
}

/* What the guest is refused has a name, and what its processor held is kept: once, and bounded. */
Test(monitor, a_processor_that_cannot_go_on)
{
	cleanup_json json_t *stats = NULL;
	const json_t *failure;

	monitor_begin(&m, "hostile.elf", "test=nowhere end=halt", NULL);
	monitor_expect_console(&m, "nowhere: now", 20000);
	for (int i = 0; i < 100 && !json_object_get(json_object_get(stats, "return"), "failure");
	     i++) {
		json_decref(stats);
		(void)poll(NULL, 0, 50);
		stats = monitor_ask(&m, "{\"execute\":\"x-vmd-stats\"}");
	}
	failure = json_object_get(json_object_get(stats, "return"), "failure");
	cr_assert(failure, "no failure is told");
	cr_expect_eq(strncmp(jsonx_str(failure, "reason", ""), "internal-error", 14), 0);
	cr_expect_str_eq(jsonx_str(json_object_get(failure, "registers"), "rip", ""), "0xd0000000");
	cr_expect_eq(json_integer_value(json_object_get(failure, "exit_reason")), 17);
	/* It stands still under a name, and nothing but a reset brings it on. */
	monitor_expect_error(&m, "{\"execute\":\"cont\"}", "reset the guest first");
	expect_status("internal-error");
	json_decref(monitor_ask(&m, "{\"execute\":\"stop\"}"));
	expect_status("internal-error");
	json_decref(monitor_ask(&m, "{\"execute\":\"system_reset\"}"));
	expect_status("paused");
	json_decref(monitor_ask(&m, "{\"execute\":\"cont\"}"));
	monitor_expect_console(&m, "nowhere: now", 20000);
	monitor_end(&m);
}
