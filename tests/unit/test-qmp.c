/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/procutil.h"
#include "common/strbuf.h"
#include "daemon/fiber.h"
#include "daemon/qmp.h"

/*
 * A fake engine that follows a script, in a thread: each step waits for a line that holds `expect`
 * (NULL: waits for nothing), then sends `send` with %ID% replaced by the id of that line.
 */
struct step {
	const char *expect;
	const char *send;
};

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"
#define OK       "{\"return\": {}, \"id\": \"%ID%\"}\r\n"

struct fake {
	int fd; /* the fake's end */
	const struct step *steps;
	size_t n;
	char *blob; /* sent after the steps, may be NULL */
	size_t blob_len;
	bool hold;      /* keep the socket open afterwards, until the client closes */
	bool deaf;      /* the same, and read nothing more */
	unsigned n_fds; /* descriptors sent with a byte each, after the steps */
	int got_fd;
	char seen[8192]; /* all that the client sent */
	size_t seen_len;
};

static bool read_line(struct fake *f, char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size) {
		int fds[4];
		size_t n_fds;

		if (fd_recv(f->fd, line + n, 1, fds, 4, &n_fds) <= 0)
			return false;
		if (n_fds)
			f->got_fd = fds[0];
		if (f->seen_len < sizeof(f->seen) - 1)
			f->seen[f->seen_len++] = line[n];
		if (line[n++] == '\n')
			break;
	}
	line[n] = '\0';
	return true;
}

static void send_text(struct fake *f, const char *text, const char *line)
{
	const char *mark = strstr(text, "%ID%");
	const char *id = strstr(line, "\"id\":\"");

	if (!mark || !id) {
		(void)!write(f->fd, text, strlen(text));
		return;
	}
	id += 6;
	(void)!write(f->fd, text, (size_t)(mark - text));
	(void)!write(f->fd, id, strcspn(id, "\""));
	(void)!write(f->fd, mark + 4, strlen(mark + 4));
}

static void *fake_thread(void *arg)
{
	struct fake *f = arg;
	char line[1024] = "";

	for (size_t i = 0; i < f->n; i++) {
		if (f->steps[i].expect) {
			do {
				if (!read_line(f, line, sizeof(line)))
					goto out;
			} while (!strstr(line, f->steps[i].expect));
		}
		if (f->steps[i].send)
			send_text(f, f->steps[i].send, line);
	}
	for (unsigned i = 0; i < f->n_fds; i++)
		(void)!fd_send(f->fd, "\n", 1, (int[]){ f->fd, f->fd }, 2);
	for (size_t done = 0; done < f->blob_len;) {
		ssize_t n = send(f->fd, f->blob + done, f->blob_len - done, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (f->deaf)
		(void)poll(&(struct pollfd){ .fd = f->fd }, 1, 30000);
	while (f->hold && read_line(f, line, sizeof(line)))
		;
out:
	close(f->fd);
	return NULL;
}

struct client {
	struct fake fake;
	struct qmp *qmp;
	bool fresh;
	void (*body)(struct client *c);
	char events[256]; /* names, each followed by a space */
	unsigned n_events;
	uint64_t event_us;
	char closed[200];
	bool free_in_event;
	struct waitq changed;
};

static void on_event(void *userdata, const char *name, const json_t *data UNUSED, uint64_t time_us)
{
	struct client *c = userdata;

	if (strlen(c->events) + strlen(name) + 2 < sizeof(c->events)) {
		strcat(c->events, name);
		strcat(c->events, " ");
	}
	c->n_events++;
	c->event_us = time_us;
	waitq_wake_all(&c->changed);
	if (c->free_in_event) {
		qmp_free(c->qmp);
		c->qmp = NULL;
	}
}

static void on_closed(void *userdata, const char *reason)
{
	struct client *c = userdata;

	snprintf(c->closed, sizeof(c->closed), "%s", reason);
	waitq_wake_all(&c->changed);
}

static const struct qmp_ops ops = { .on_event = on_event, .on_closed = on_closed };

static void client_fiber(void *arg)
{
	struct client *c = arg;

	c->body(c);
	qmp_free(c->qmp);
	ev_break(fiber_loop(), EVBREAK_ALL);
}

static void run_on_fd(struct client *c, int fd)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);

	fiber_init(loop);
	waitq_init(&c->changed);
	cr_assert_eq(qmp_new(fd, c->fresh, &ops, c, &c->qmp), 0);
	cr_assert_eq(fiber_start("test", client_fiber, c), 0);
	ev_run(loop, 0);
	fiber_deinit();
	ev_loop_destroy(loop);
}

/* Runs body as a fiber against the script; returns when both are at their end. */
static void run(struct client *c, const struct step *steps, size_t n)
{
	pthread_t thread;
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	c->fake.fd = sv[1];
	c->fake.steps = steps;
	c->fake.n = n;
	c->fake.got_fd = -EBADF;
	cr_assert_eq(pthread_create(&thread, NULL, fake_thread, &c->fake), 0);
	run_on_fd(c, sv[0]);
	pthread_join(thread, NULL);
}

static void wait_closed(struct client *c)
{
	while (!c->closed[0])
		cr_assert_eq(waitq_wait(&c->changed, 5000), 0);
}

TestSuite(qmp, .timeout = 60);

static void body_basic(struct client *c)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *args = json_pack("{s:i}", "value", 7);
	cleanup_json json_t *ret = NULL;

	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, &ret, &err), 0);
	cr_assert_str_eq(jsonx_str(ret, "status", ""), "running");
	cr_assert_eq(qmp_call(c->qmp, "balloon", args, NULL, 0, 5000, NULL, &err), -EREMOTEIO);
	cr_assert_eq(err.kind, ERROR_ENGINE_FAILED);
	cr_assert(strstr(err.message, "'balloon' failed: no balloon  here"), "%s", err.message);
	cr_assert_str_eq(c->events, "STOP RESUME ");
	cr_assert_eq(c->event_us, 1267020223435656ull);
}

Test(qmp, calls_errors_and_events)
{
	static const struct step steps[] = {
		{ NULL, GREETING },
		{ "\"qmp_capabilities\"", OK },
		{ "\"query-status\"",
		  "{\"event\": \"STOP\"}\r\n"
		  "{\"return\": {\"status\": \"running\"}, \"id\": \"%ID%\"}\r\n" },
		{ "\"arguments\":{\"value\":7}",
		  "{\"event\": \"RESUME\", \"timestamp\": {\"seconds\": 1267020223, "
		  "\"microseconds\": 435656}}\r\n{\"error\": {\"class\": \"X\", \"desc\": "
		  "\"no balloon\\r\\nhere\"}, \"id\": \"%ID%\"}\r\n" },
	};
	struct client c = { .fresh = true, .body = body_basic };

	run(&c, steps, ARRAY_SIZE(steps));
}

static void body_wide(struct client *c)
{
	cleanup_json json_t *ret = NULL;

	cr_assert_eq(qmp_call(c->qmp, "qom-get", NULL, NULL, 0, 5000, &ret, NULL), 0);
	cr_assert_eq(json_number_value(json_object_get(ret, "stat-swap-in")), 0x1p64);
	cr_assert_eq(json_number_value(json_object_get(ret, "stat-free-memory")), 4096);
	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, NULL, NULL), 0);
}

/* What a balloon was not told is 2^64-1 in QEMU's words: no reason to end anything. */
Test(qmp, integers_may_have_64_bits)
{
	static const struct step steps[] = {
		{ NULL, GREETING },
		{ "\"qmp_capabilities\"", OK },
		{ "\"qom-get\"", "{\"return\": {\"stat-swap-in\": 18446744073709551615, "
		                 "\"stat-free-memory\": 4096}, \"id\": \"%ID%\"}\r\n" },
		{ "\"query-status\"", OK },
	};
	struct client c = { .fresh = true, .body = body_wide };

	run(&c, steps, ARRAY_SIZE(steps));
}

static void body_pass_fd(struct client *c)
{
	cleanup_close int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	cr_assert_eq(qmp_call(c->qmp, "getfd", NULL, &fd, 1, 5000, NULL, NULL), 0);
}

Test(qmp, passes_descriptors)
{
	static const struct step steps[] = { { NULL, GREETING },
		                             { "capabilities", OK },
		                             { "getfd", OK } };
	struct client c = { .fresh = true, .body = body_pass_fd };
	struct stat st, null;

	run(&c, steps, ARRAY_SIZE(steps));
	cr_assert_geq(c.fake.got_fd, 0);
	cr_assert_eq(fstat(c.fake.got_fd, &st), 0);
	cr_assert_eq(stat("/dev/null", &null), 0);
	cr_assert_eq(st.st_rdev, null.st_rdev);
}

static void body_adopted(struct client *c)
{
	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, NULL, NULL), 0);
	cr_assert_str_eq(c->events, "SHUTDOWN ");
}

/* The rest of a message that somebody else began to read, events, replies to others' commands, and
 * an error for the second negotiation: all harmless. */
Test(qmp, adopts_a_connection_in_use)
{
	static const struct step steps[] = {
		{ NULL,
		  "us\": 1}}\r\n{\"event\": \"SHUTDOWN\"}\r\n{\"return\": {}, \"id\": \"1-1\"}\r\n" },
		{ "\xff{", "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"complete\"}, "
		           "\"id\": \"%ID%\"}\r\n" },
		{ "query-status", OK },
	};
	struct client c = { .fresh = false, .body = body_adopted };

	run(&c, steps, ARRAY_SIZE(steps));
}

static void body_fails(struct client *c)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(qmp_call(c->qmp, "stop", NULL, NULL, 0, 20000, NULL, &err), -EPIPE);
	cr_assert_eq(err.kind, ERROR_ENGINE_FAILED);
	wait_closed(c);
	cr_assert_eq(qmp_call(c->qmp, "cont", NULL, NULL, 0, 1000, NULL, NULL), -EPIPE);
}

static void expect_closed(const struct step *steps, size_t n, char *blob, size_t blob_len,
                          const char *why)
{
	struct client c = { .fresh = true, .body = body_fails };

	c.fake.blob = blob;
	c.fake.blob_len = blob_len;
	c.fake.hold = true;
	if (strstr(why, "closed"))
		c.fake.hold = false;
	run(&c, steps, n);
	cr_assert(strstr(c.closed, why), "'%s' does not say '%s'", c.closed, why);
}

Test(qmp, garbage_ends_only_the_connection)
{
	static const char *const texts[] = {
		"hello\n",
		"[1,2]\n",
		"{\"QMP\": {}\n",
		"{}\n",
		"\x01\x02\xff\n",
		"{\"a\":1,\"a\":2}\n",
		"{\"error\": 5, \"id\": 3}\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct step step = { NULL, texts[i] };

		expect_closed(&step, 1, NULL, 0, "the engine sent ");
	}
}

Test(qmp, deep_nesting_is_refused)
{
	char *blob = malloc(100001);

	memset(blob, '[', 100000);
	blob[100000] = '\n';
	expect_closed(NULL, 0, blob, 100001, "nested deeper than 64");
	free(blob);
}

Test(qmp, endless_message_is_refused)
{
	char *blob = malloc(6u << 20);

	memset(blob, ' ', 6u << 20);
	expect_closed(NULL, 0, blob, 6u << 20, "more than 4 MiB");
	free(blob);
}

Test(qmp, closing_mid_reply_fails_the_call)
{
	static const struct step steps[] = { { NULL, GREETING },
		                             { "capabilities", OK },
		                             { "stop", "{\"return\": {\"a" } };

	expect_closed(steps, ARRAY_SIZE(steps), NULL, 0, "closed");
}

static void body_large(struct client *c)
{
	cleanup_json json_t *ret = NULL;

	cr_assert_eq(qmp_call(c->qmp, "qom-list", NULL, NULL, 0, 20000, &ret, NULL), 0);
	cr_assert_eq(json_string_length(ret), 3u << 20);
}

Test(qmp, large_replies_work)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	struct client c = { .fresh = true, .body = body_large };
	char *big = malloc((3u << 20) + 1);

	memset(big, 'x', 3u << 20);
	big[3u << 20] = '\0';
	strbuf_printf(&text, "{\"return\": \"%s\", \"id\": \"%%ID%%\"}\r\n", big);
	free(big);
	run(&c,
	    (struct step[]){
		    { NULL, GREETING }, { "capabilities", OK }, { "qom-list", text.data } },
	    3);
}

static void body_silence(struct client *c)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(qmp_call(c->qmp, "stop", NULL, NULL, 0, 30, NULL, &err), -ETIMEDOUT);
	cr_assert_eq(err.kind, ERROR_TIMEOUT);
	/* A late reply to the abandoned command does not answer the next one. */
	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, NULL, &err), 0);
}

Test(qmp, silence_times_out_and_late_replies_are_dropped)
{
	static const struct step steps[] = {
		{ NULL, GREETING },
		{ "capabilities", OK },
		{ "stop", NULL },
		{ "query-status", "{\"return\": {}, \"id\": \"0-0\"}\r\n" OK },
	};
	struct client c = { .fresh = true, .body = body_silence };

	run(&c, steps, ARRAY_SIZE(steps));
}

static void body_own_reply(struct client *c)
{
	cleanup_json json_t *ret = NULL;

	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, &ret, NULL), 0);
	cr_assert_str_eq(jsonx_str(ret, "status", ""), "right");
	cr_assert_str_eq(c->events, "E F ");
}

/* Replies to nobody, events that are none, and names that are too long: dropped, one by one. */
Test(qmp, only_its_own_reply_answers_a_call)
{
	static const struct step steps[] = {
		{ NULL, GREETING },
		{ "capabilities", OK },
		{ "query-status",
		  "{\"return\":{\"status\":\"wrong\"}}\n"
		  "{\"return\":{\"status\":\"wrong\"},\"id\":null}\n"
		  "{\"return\":{\"status\":\"wrong\"},\"id\":0}\n"
		  "{\"return\":{\"status\":\"wrong\"},\"id\":[\"0-1\"]}\n"
		  "{\"return\":{\"status\":\"wrong\"},\"id\":{}}\n"
		  "{\"return\":{\"status\":\"wrong\"},\"id\":\"\"}\n"
		  "{\"error\":{\"desc\":\"wrong\"},\"id\":\"7\"}\n"
		  "{\"QMP\":{}}\n"
		  "{\"event\":\"E\",\"data\":[1],\"timestamp\":{\"seconds\":-9,"
		  "\"microseconds\":9e99}}\n"
		  "{\"event\":\"F\",\"timestamp\":[],\"return\":{\"status\":\"wrong\"}}\n"
		  "{\"event\":\"0123456789012345678901234567890123456789"
		  "0123456789012345678901234567890123456789\"}\n"
		  "{\"return\":{\"status\":\"right\"},\"id\":\"%ID%\"}\n"
		  "{\"return\":{\"status\":\"twice\"},\"id\":\"0\"}\n" },
	};
	struct client c = { .fresh = true, .body = body_own_reply };

	run(&c, steps, ARRAY_SIZE(steps));
}

enum {
	MANY = 300
};
static struct qmp *many_qmp;
static struct waitq many_done;
static unsigned n_many, n_busy, n_timeout;

static void many_fiber(void *arg UNUSED)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int r = qmp_call(many_qmp, "stop", NULL, NULL, 0, 200, NULL, &err);

	n_busy += err.kind == ERROR_BUSY;
	n_timeout += r == -ETIMEDOUT;
	n_many++;
	waitq_wake_all(&many_done);
}

static void body_many(struct client *c)
{
	waitq_init(&many_done);
	many_qmp = c->qmp;
	for (int i = 0; i < MANY; i++)
		cr_assert_eq(fiber_start("many", many_fiber, NULL), 0);
	while (n_many < MANY)
		cr_assert_eq(waitq_wait(&many_done, 10000), 0);
	cr_assert_eq(n_timeout, 256);
	cr_assert_eq(n_busy, MANY - 256);
	/* Nothing of them is left that could be in the way. */
	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 5000, NULL, NULL), 0);
}

Test(qmp, commands_that_are_never_answered_are_bounded)
{
	static const struct step steps[] = { { NULL, GREETING },
		                             { "capabilities", OK },
		                             { "query-status", OK } };
	struct client c = { .fresh = true, .body = body_many };

	run(&c, steps, ARRAY_SIZE(steps));
}

static void body_deaf(struct client *c)
{
	cleanup_json json_t *args = json_object();
	char *big = calloc(1, (64 << 10) + 1);

	memset(big, 'x', 64 << 10);
	json_object_set_new(args, "x", json_string(big));
	free(big);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(qmp_call(c->qmp, "stop", args, NULL, 0, 5, NULL, NULL), -ETIMEDOUT);
	cr_assert_str_empty(c->closed);
}

/* 13 MB of commands that the peer does not take: only what was begun is kept. */
Test(qmp, a_peer_that_reads_nothing)
{
	static const struct step steps[] = { { NULL, GREETING }, { "capabilities", OK } };
	struct client c = { .fresh = true, .body = body_deaf, .fake.deaf = true };

	run(&c, steps, ARRAY_SIZE(steps));
}

static unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void body_fds(struct client *c)
{
	while (!c->n_events)
		cr_assert_eq(waitq_wait(&c->changed, 10000), 0);
}

Test(qmp, descriptors_from_the_peer_are_not_kept)
{
	static const struct step steps[] = { { NULL, GREETING }, { "capabilities", OK } };
	static char event[] = "{\"event\":\"E\"}\n";
	struct client c = { .fresh = true, .body = body_fds };
	unsigned before = count_fds();

	c.fake.n_fds = 200;
	c.fake.blob = event;
	c.fake.blob_len = strlen(event);
	c.fake.hold = true;
	run(&c, steps, ARRAY_SIZE(steps));
	cr_assert_leq(count_fds(), before + 2);
}

Test(qmp, a_line_of_100_mib_is_not_kept)
{
	static const struct step steps[] = { { NULL, GREETING }, { "capabilities", OK } };
	char *blob = malloc(100u << 20);

	memset(blob, 'x', 100u << 20);
	memcpy(blob, "{\"return\":\"", 11);
	expect_closed(steps, ARRAY_SIZE(steps), blob, 100u << 20, "more than 4 MiB");
	free(blob);
}

static void body_no_greeting(struct client *c)
{
	cr_assert_eq(qmp_call(c->qmp, "stop", NULL, NULL, 0, 30, NULL, NULL), -ETIMEDOUT);
}

Test(qmp, nothing_is_sent_before_the_greeting)
{
	struct client c = { .fresh = true, .body = body_no_greeting };

	c.fake.hold = true;
	run(&c, NULL, 0);
	cr_assert_eq(c.fake.seen_len, 0);
}

static void body_wait_freed(struct client *c)
{
	while (c->qmp)
		cr_assert_eq(waitq_wait(&c->changed, 5000), 0);
}

Test(qmp, may_be_freed_by_its_own_event)
{
	static const struct step steps[] = { { NULL, GREETING
		                               "{\"event\":\"A\"}\n{\"event\":\"B\"}\n" } };
	struct client c = { .fresh = true, .body = body_wait_freed, .free_in_event = true };

	run(&c, steps, 1);
	cr_assert_str_eq(c.events, "A ");
	cr_assert_str_empty(c.closed);
}

static void body_flood(struct client *c)
{
	unsigned first;

	while (!c->n_events)
		cr_assert_eq(waitq_wait(&c->changed, 5000), 0);
	/* Others get their turn, and what came within the second stays below the limit. */
	cr_assert_eq(fiber_sleep_ms(300), 0);
	first = c->n_events;
	cr_assert_leq(first, 9000, "%u events in 0.3 s", first);
	while (c->n_events < 20000)
		cr_assert_eq(waitq_wait(&c->changed, 5000), 0);
}

Test(qmp, a_flood_of_events_is_slowed_not_lost)
{
	struct client c = { .fresh = true, .body = body_flood };
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	static const struct step steps[] = { { NULL, GREETING } };

	for (int i = 0; i < 20000; i++)
		strbuf_append_str(&text, "{\"event\":\"E\"}\n");
	c.fake.blob = text.data;
	c.fake.blob_len = text.len;
	c.fake.hold = true;
	run(&c, steps, 1);
	cr_assert_eq(c.n_events, 20000);
}

static void body_real(struct client *c)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *status = NULL;

	cr_assert_eq(qmp_call(c->qmp, "query-status", NULL, NULL, 0, 20000, &status, &err), 0, "%s",
	             err.message);
	cr_assert_str_eq(jsonx_str(status, "status", ""), "prelaunch");
	cr_assert_eq(qmp_call(c->qmp, "no-such", NULL, NULL, 0, 5000, NULL, &err), -EREMOTEIO);
	cr_assert(strstr(err.message, "no-such has not been found"), "%s", err.message);
	cr_assert_eq(qmp_call(c->qmp, "quit", NULL, NULL, 0, 5000, NULL, NULL), 0);
	wait_closed(c);
	cr_assert(strstr(c->events, "SHUTDOWN"), "%s", c->events);
}

Test(qmp, speaks_with_a_real_qemu)
{
	static const char *const argv[] = { "qemu-system-x86_64",
		                            "-nodefaults",
		                            "-display",
		                            "none",
		                            "-machine",
		                            "none",
		                            "-S",
		                            "-chardev",
		                            "socket,id=qmp,fd=3",
		                            "-mon",
		                            "chardev=qmp,mode=control",
		                            NULL };
	struct client c = { .fresh = true, .body = body_real };
	struct spawn_fd fd = { .target = 3 };
	struct spawn_spec spec = { .path = argv[0],
		                   .argv = (char *const *)argv,
		                   .fds = &fd,
		                   .n_fds = 1,
		                   .death_signal = SIGKILL,
		                   .null_stdio = true };
	struct vmd_error err = VMD_ERROR_INIT;
	int sv[2], pidfd;
	pid_t pid;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	fd.source = sv[1];
	if (proc_spawn(&spec, &pid, &pidfd, &err) < 0)
		cr_skip_test("no QEMU: %s", err.message);
	close(sv[1]);
	run_on_fd(&c, sv[0]);
	close(pidfd);
}
