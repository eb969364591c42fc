/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "daemon/fiber.h"
#include "daemon/qmp.h"
#include "tests/fuzz/fuzz.h"

/*
 * The daemon's end of QMP against a hostile engine: any bytes, messages that are right or nearly
 * so, replies to calls that are waiting, descriptors, an end at any moment. Every call comes to an
 * end, the end of the connection is told once and nothing after it.
 *
 * Input: fresh or adopted, then operations of a byte and what each of them takes.
 */

#define MAX_CALLS 8
#define TOO_LONG  75 /* pieces: more than a message may have */

static struct qmp *qmp;
static int peer;
static unsigned calls_begun, calls_ended, closes;
static bool free_in_event, closed;
static bool was_too_long;
static char last_id[64]; /* of the newest command that was sent */

static const char *const messages[] = {
	"{\"QMP\":{\"version\":{},\"capabilities\":[\"oob\"]}}",
	"{\"return\":{},\"id\":\"%s\"}",
	"{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"},\"id\":\"%s\"}",
	"{\"event\":\"STOP\",\"timestamp\":{\"seconds\":1,\"microseconds\":2}}",
	"{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true},\"timestamp\":{\"seconds\":-1}}",
	"{\"return\":[1,2],\"id\":\"%s\"}",
	"{\"error\":7,\"id\":\"%s\"}",
	"{\"return\":{},\"id\":5}",
	"[]",
	"{\"event\":{},\"QMP\":1}",
	"{\"event\":\"RESUME\",\"timestamp\":{\"seconds\":-1,\"microseconds\":5}}",
	"{\"event\":\"0123456789012345678901234567890123456789012345678901234567890123\"}",
};

static void on_event(void *userdata UNUSED, const char *name, const json_t *data, uint64_t time_us)
{
	FUZZ_CHECK(!closed && strlen(name) < 64 && (!data || json_is_object(data)));
	FUZZ_CHECK(time_us <= INT64_MAX);
	if (free_in_event) {
		qmp_free(qmp);
		qmp = NULL;
		closed = true;
	}
}

static void on_closed(void *userdata UNUSED, const char *reason)
{
	FUZZ_CHECK(!closed && *reason);
	closed = true;
	closes++;
}

static const struct qmp_ops ops = { on_event, on_closed };

static void turn(void)
{
	for (unsigned i = 0; i < 4; i++)
		ev_run(fiber_loop(), EVRUN_NOWAIT);
}

static void call(void *arg)
{
	struct vmd_error err = VMD_ERROR_INIT;
	json_t *value = NULL;
	int fd = STDERR_FILENO, r;

	calls_begun++;
	r = qmp_call(qmp, "query-status", NULL, &fd, *(const size_t *)arg, -1, &value, &err);
	FUZZ_CHECK((r < 0) == (err.kind != ERROR_NONE || r == -ECANCELED));
	FUZZ_CHECK(r < 0 || value);
	json_decref(value);
	calls_ended++;
}

static void op_call(struct fuzz_input *in)
{
	static size_t none, one = 1;

	if (qmp && calls_begun - calls_ended < MAX_CALLS)
		FUZZ_CHECK(fiber_start("call", call, fuzz_take(in, 1) & 1 ? &one : &none) == 0);
	turn();
}

/* Reads what the client sent and keeps the last id in it. */
static void op_read(struct fuzz_input *in UNUSED)
{
	static char text[65536];
	int fds[16];
	size_t n_fds = 0;
	ssize_t n;
	char *id;

	if (peer < 0)
		return;
	n = fd_recv(peer, text, sizeof(text) - 1, fds, 16, &n_fds);
	fd_close_many(fds, n_fds);
	if (n <= 0)
		return;
	text[n] = 0;
	for (char *at = text; (id = strstr(at, "\"id\":\"")); at = id + 6)
		snprintf(last_id, sizeof(last_id), "%.*s", (int)strcspn(id + 6, "\""), id + 6);
}

static void send_text(const char *text, size_t len, bool with_fd)
{
	int fd = STDERR_FILENO;

	if (peer >= 0)
		(void)!fd_send(peer, text, len, &fd, with_fd ? 1 : 0);
	turn();
}

/* With the last id in place of "%s". */
static size_t put_message(char *text, size_t bytes, const char *message)
{
	const char *mark = strstr(message, "%s");
	int at = mark ? (int)(mark - message) : (int)strlen(message);

	return (size_t)snprintf(text, bytes, "%.*s%s%s\r\n", at, message, mark ? last_id : "",
	                        mark ? mark + 2 : "");
}

static void op_message(struct fuzz_input *in)
{
	char text[256];
	uint8_t how = (uint8_t)fuzz_take(in, 1);
	size_t len;

	len = put_message(text, sizeof(text), messages[how % ARRAY_SIZE(messages)]);
	if (how >= 0x80) {
		size_t at = fuzz_take(in, 1) % len;

		text[at] = (char)fuzz_take(in, 1);
	}
	send_text(text, len, how & 0x40);
}

static void op_bytes(struct fuzz_input *in)
{
	char text[256];
	size_t len = fuzz_take(in, 1);

	for (size_t i = 0; i < len; i++)
		text[i] = (char)fuzz_take(in, 1);
	send_text(text, len, false);
}

static void op_close(struct fuzz_input *in)
{
	if (fuzz_take(in, 1) & 3)
		return;
	cleanup_close_p(&peer);
	turn();
}

/* Megabytes take long, so they are rare, and come once. */
static void op_long(struct fuzz_input *in)
{
	static char spaces[60000];
	uint8_t what = (uint8_t)fuzz_take(in, 1), n = (uint8_t)fuzz_take(in, 1);
	bool is_too_long = what >= 0xFE && n >= 0x80 && !was_too_long;
	size_t bytes = is_too_long ? sizeof(spaces) : 1000;

	was_too_long |= is_too_long;
	memset(spaces, what & 1 ? '[' : ' ', bytes);
	for (n = is_too_long ? TOO_LONG : n % 8; n; n--)
		send_text(spaces, bytes, false);
}

static void (*const operations[])(struct fuzz_input *in) = {
	op_message, op_call, op_read, op_message, op_bytes, op_read, op_close, op_long,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	uint8_t how = (uint8_t)fuzz_take(&in, 1);
	static struct ev_loop *loop;
	int sv[2];

	if (!loop) {
		loop = ev_loop_new(EVFLAG_AUTO);
		fiber_init(loop);
	}
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
	peer = sv[1];
	calls_begun = calls_ended = closes = 0;
	closed = was_too_long = false;
	free_in_event = how & 2;
	snprintf(last_id, sizeof(last_id), "none");
	FUZZ_CHECK(qmp_new(sv[0], how & 1, &ops, NULL, &qmp) == 0);
	turn();
	for (unsigned n = 0; in.left && n < 40; n++)
		operations[fuzz_take(&in, 1) % ARRAY_SIZE(operations)](&in);
	cleanup_close_p(&peer);
	turn();
	FUZZ_CHECK(closes <= 1);
	qmp_free(qmp);
	qmp = NULL;
	turn();
	FUZZ_CHECK(calls_begun == calls_ended && fiber_count() == 0);
	return 0;
}
