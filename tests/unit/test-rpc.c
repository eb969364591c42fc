/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/strbuf.h"
#include "daemon/fiber.h"
#include "daemon/peer.h"
#include "tests/unit/rpc-fixture.h"

TestSuite(rpc, .timeout = 20, .init = rpc_setup, .fini = rpc_teardown);

#define CALL(id, method, params) \
	"{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\",\"params\":" params "}"

Test(rpc, a_read)
{
	int fd = connect_as(ROLE_VIEWER);
	cleanup_json json_t *reply = ask(fd, CALL("7", "vm.get", "{\"vm\":\"web\"}"));

	cr_assert_str_eq(jsonx_str(reply, "jsonrpc", ""), "2.0");
	cr_assert_eq(jsonx_int(reply, "id", 0), 7);
	cr_assert_str_eq(jsonx_str(json_object_get(reply, "result"), "name", ""), "web");
}

Test(rpc, ids)
{
	int fd = connect_as(ROLE_VIEWER);
	json_t *reply = ask(fd, CALL("\"a\\\"\\n\\u00e4\"", "vm.get", "{\"vm\":\"web\"}"));

	cr_assert_str_eq(jsonx_str(reply, "id", ""), "a\"\n\xc3\xa4");
	json_decref(reply);
	reply = ask(fd, CALL("null", "vm.get", "{\"vm\":\"web\"}"));
	cr_assert(json_is_null(json_object_get(reply, "id")));
	json_decref(reply);
	expect_kind(ask(fd, CALL("1.5", "vm.get", "{\"vm\":\"web\"}")), "invalid_request");
	expect_kind(ask(fd, CALL("[]", "vm.get", "{\"vm\":\"web\"}")), "invalid_request");
	/* A notification has no reply, not even for an error. */
	send_text(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"vm.get\",\"params\":{\"vm\":\"w\"}}\n");
	send_text(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}\n");
	expect_silence(fd);
}

Test(rpc, bad_requests)
{
	static const struct {
		const char *line, *kind;
	} cases[] = {
		{ "{", "parse" },
		{ "nonsense", "parse" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"vm.list\"}", "parse" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}", "parse" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":99999999999999999999999,\"method\":\"x\"}",
		  "parse" },
		{ "[", "parse" },
		{ "[]", "invalid_request" },
		{ "17", "invalid_request" },
		{ "\"text\"", "invalid_request" },
		{ "{\"id\":1,\"method\":\"vm.list\"}", "invalid_request" },
		{ "{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"vm.list\"}", "invalid_request" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":1}", "invalid_request" },
		{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", "invalid_request" },
		{ CALL("1", "vm.get", "[\"web\"]"), "invalid" },
		{ CALL("1", "vm.get", "\"web\""), "invalid_request" },
		{ CALL("1", "vm.gte", "{}"), "method_not_found" },
		{ CALL("1", "vm.get", "{}"), "invalid" },
		{ CALL("1", "vm.get", "{\"vm\":5}"), "invalid" },
		{ CALL("1", "vm.get", "{\"vm\":\"web\",\"feilds\":[]}"), "invalid" },
		{ CALL("1", "vm.get", "{\"vm\":\"web\",\"timeout_ms\":-1}"), "invalid" },
		{ CALL("1", "vm.get", "{\"vm\":\"none\"}"), "not_found" },
	};
	int fd = connect_as(ROLE_ADMIN);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *reply = ask(fd, cases[i].line);
		const char *kind = jsonx_str(
			json_object_get(json_object_get(reply, "error"), "data"), "kind", "none");

		cr_assert_str_eq(kind, cases[i].kind, "case %zu: %s", i, cases[i].line);
		json_decref(reply);
	}
	/* The connection is as good as new. */
	json_decref(ask(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}")));
}

Test(rpc, mistyped_names_get_a_hint)
{
	int fd = connect_as(ROLE_VIEWER);
	cleanup_json json_t *method = ask(fd, CALL("1", "vm.gte", "{}"));
	cleanup_json json_t *field = ask(fd, CALL("1", "vm.get", "{\"vm\":\"w\",\"feilds\":[]}"));
	const json_t *data = json_object_get(json_object_get(method, "error"), "data");

	cr_assert(strstr(jsonx_str(data, "hint", ""), "vm.get"));
	data = json_object_get(json_object_get(field, "error"), "data");
	cr_assert(strstr(jsonx_str(data, "hint", ""), "fields"));
	cr_assert_str_eq(jsonx_str(data, "field", ""), "feilds");
}

Test(rpc, a_hundred_thousand_deep)
{
	char *text = malloc(100002);
	int fd = connect_as(ROLE_VIEWER);

	memset(text, '[', 100000);
	strcpy(text + 100000, "\n");
	send_text(fd, text);
	expect_kind(next_reply(fd), "parse");
	json_decref(ask(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}")));
	free(text);
}

Test(rpc, too_long_a_message_ends_the_connection)
{
	char *text = malloc(60001), *all;
	int fd = connect_as(ROLE_VIEWER), more = 20;

	memset(text, 'x', 60000);
	text[60000] = '\0';
	while (more--)
		send_text(fd, text);
	all = read_to_end(fd);
	cr_assert(strstr(all, "invalid_request"), "%s", all);
	cr_assert_eq(peers_count(rpc_peers(vmd.rpc)), 0u);
	free(all);
	free(text);
}

Test(rpc, roles)
{
	int fd = connect_as(ROLE_VIEWER);

	expect_kind(ask(fd, CALL("1", "vm.reset", "{\"vm\":\"web\"}")), "denied");
	cr_assert_str_empty(handler_trace);
	fd = connect_as(ROLE_OPERATOR);
	json_decref(ask(fd, CALL("1", "vm.reset", "{\"vm\":\"web\"}")));
	cr_assert_str_eq(handler_trace, "reset:web done:web ");
}

Test(rpc, batches)
{
	int fd = connect_as(ROLE_VIEWER);
	cleanup_json json_t *reply = ask(
		fd,
		"[" CALL("1", "vm.get", "{\"vm\":\"web\"}") ",5," CALL(
			"2", "no.such",
			"{}") ","
			      "{\"jsonrpc\":\"2.0\",\"method\":\"vm.get\",\"params\":{\"vm\":\"web\"}}]");
	struct strbuf big = STRBUF_INIT;

	cr_assert_eq(json_array_size(reply), 3u);
	cr_assert_not_null(json_object_get(json_array_get(reply, 0), "result"));
	cr_assert(json_is_null(json_object_get(json_array_get(reply, 1), "id")));
	cr_assert_eq(jsonx_int(json_array_get(reply, 2), "id", 0), 2);

	strbuf_append_char(&big, '[');
	for (unsigned i = 0; i <= vmd.config.max_batch; i++)
		strbuf_printf(&big, "%s1", i ? "," : "");
	strbuf_append_char(&big, ']');
	expect_kind(ask(fd, big.data), "invalid_request");
	strbuf_deinit(&big);

	send_text(fd, "[{\"jsonrpc\":\"2.0\",\"method\":\"vm.list\"}]\n");
	expect_silence(fd);
}

Test(rpc, a_batch_waits_for_its_slowest)
{
	int fd = connect_as(ROLE_ADMIN);
	cleanup_json json_t *reply =
		ask(fd, "[" CALL("1", "vm.reset", "{\"vm\":\"slow\"}") "," CALL(
				"2", "vm.get", "{\"vm\":\"web\"}") "]");

	cr_assert_eq(json_array_size(reply), 2u);
	cr_assert_eq(jsonx_int(json_array_get(reply, 0), "id", 0), 2);
	cr_assert_eq(jsonx_int(json_array_get(reply, 1), "id", 0), 1);
}

Test(rpc, content_length)
{
	static const char call[] = CALL("1", "vm.get", "{\"vm\":\"web\"}");
	static const char answer[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"name\":\"web\"}}";
	int fd = connect_as(ROLE_VIEWER);
	char text[256], want[256];
	char *all;

	snprintf(text, sizeof(text), "Content-Length: %zu\r\n\r\n%s", strlen(call), call);
	snprintf(want, sizeof(want), "Content-Length: %zu\r\n\r\n%s", strlen(answer), answer);
	for (size_t i = 0; text[i]; i++) {
		char c[2] = { text[i], '\0' };

		send_text(fd, c);
		turn();
	}
	all = read_until(fd, want);
	cr_assert_str_eq(all, want);
	free(all);
}

static char *http(int fd, const char *fields, const char *body, const char *until)
{
	char text[1024];

	snprintf(text, sizeof(text), "POST / HTTP/1.1\r\nContent-Length: %zu\r\n%s\r\n%s",
	         strlen(body), fields, body);
	send_text(fd, text);
	return until ? read_until(fd, until) : read_to_end(fd);
}

Test(rpc, http)
{
	int fd = connect_as(ROLE_ADMIN);
	char *all = http(fd, "", CALL("1", "vm.get", "{\"vm\":\"web\"}"), "\"web\"}}\n");

	cr_assert_eq(strncmp(all, "HTTP/1.1 200 OK\r\n", 17), 0, "%s", all);
	free(all);
	all = http(fd, "", CALL("1", "no.such", "{}"), "}}}\n");
	cr_assert_eq(strncmp(all, "HTTP/1.1 404 ", 13), 0, "%s", all);
	free(all);
	all = http(fd, "", "rubbish", "}}}\n");
	cr_assert_eq(strncmp(all, "HTTP/1.1 400 ", 13), 0, "%s", all);
	free(all);
	all = http(fd, "", "{\"jsonrpc\":\"2.0\",\"method\":\"vm.list\"}", "\r\n\r\n");
	cr_assert_eq(strncmp(all, "HTTP/1.1 204 ", 13), 0, "%s", all);
	free(all);
	all = http(fd, "", CALL("1", "events.subscribe", "{}"), "}}}\n");
	cr_assert(strstr(all, "unsupported"), "%s", all);
	free(all);
	all = http(fd, "Connection: close\r\n", CALL("1", "vm.reset", "{\"vm\":\"slow\"}"), NULL);
	cr_assert(strstr(all, "\"result\":{}"), "%s", all);
	free(all);
}

/* Answers come in the order of the requests, although the first takes longer. */
Test(rpc, http_pipelined)
{
	int fd = connect_as(ROLE_ADMIN);
	char *all;

	send_text(fd, "POST / HTTP/1.1\r\nContent-Length: 67\r\n\r\n"
	              "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.reset\",\"params\":{\"vm\":"
	              "\"slow\"}}"
	              "POST / HTTP/1.1\r\nContent-Length: 64\r\n\r\n"
	              "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"vm.get\",\"params\":{\"vm\":"
	              "\"web\"}}");
	all = read_until(fd, "\"web\"}}\n");
	cr_assert_lt(strstr(all, "\"id\":1"), strstr(all, "\"id\":2"), "%s", all);
	free(all);
}

Test(rpc, http_refusals)
{
	static const char *const cases[][2] = {
		{ "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 " },
		{ "POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 411 " },
		{ "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", "HTTP/1.1 413 " },
		{ "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 400 " },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int fd = connect_as(ROLE_ADMIN);
		char *all;

		send_text(fd, cases[i][0]);
		all = read_to_end(fd);
		cr_assert_eq(strncmp(all, cases[i][1], strlen(cases[i][1])), 0, "%s", all);
		free(all);
		close(fd);
	}
}

/* --- descriptors --- */

static int pipe_with(const char *text)
{
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_eq(write(p[1], text, strlen(text)), (ssize_t)strlen(text));
	close(p[1]);
	return p[0];
}

Test(rpc, descriptors_belong_to_their_message)
{
	int fd = connect_as(ROLE_VIEWER);
	int fds[2] = { pipe_with("one"), pipe_with("two") };
	cleanup_json json_t *first = NULL, *second = NULL, *third = NULL;
	unsigned before = open_fds();

	send_text(fd, CALL("1", "host.info", "{}") "\n");
	send_fds(fd, CALL("2", "host.info", "{}") "\n", fds, 2);
	send_text(fd, CALL("3", "host.info", "{}") "\n");
	first = next_reply(fd);
	second = next_reply(fd);
	third = next_reply(fd);
	cr_assert_eq(jsonx_int(json_object_get(first, "result"), "fds", -1), 0);
	cr_assert_eq(jsonx_int(json_object_get(second, "result"), "fds", -1), 2);
	cr_assert_str_eq(jsonx_str(json_object_get(second, "result"), "text", ""), "onetwo");
	cr_assert_eq(jsonx_int(json_object_get(third, "result"), "fds", -1), 0);
	cr_assert_eq(open_fds(), before, "descriptors were left open");
}

Test(rpc, descriptors_of_a_split_message)
{
	int fd = connect_as(ROLE_VIEWER);
	int in = pipe_with("late");
	cleanup_json json_t *reply = NULL;

	send_text(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,");
	turn();
	send_fds(fd, "\"method\":", &in, 1);
	turn();
	send_text(fd, "\"host.info\"}\n");
	reply = next_reply(fd);
	cr_assert_str_eq(jsonx_str(json_object_get(reply, "result"), "text", ""), "late");
}

/* In two parts, since no more than 32 go with one sendmsg(2) of the fixture. */
Test(rpc, too_many_descriptors_are_told)
{
	int fd = connect_as(ROLE_VIEWER), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	unsigned before = open_fds();
	int many[32];
	char *all;

	for (size_t i = 0; i < 32; i++)
		many[i] = null;
	send_fds(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,", many, 32);
	turn();
	send_fds(fd, "\"method\":\"host.info\"}\n", many, 1);
	all = read_to_end(fd);
	cr_assert(strstr(all, "\"kind\":\"invalid_request\"") && strstr(all, "32 descriptors"),
	          "%s", all);
	free(all);
	cr_assert_eq(open_fds(), before - 1, "descriptors were left open");
	close(fd);
}

Test(rpc, unwanted_descriptors_are_closed)
{
	int fd = connect_as(ROLE_VIEWER), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	unsigned before = open_fds();
	int many[32];

	for (size_t i = 0; i < 32; i++)
		many[i] = null;
	send_fds(fd, "\n\n", many, 32);
	send_fds(fd, "rubbish\n", many, 32);
	send_fds(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}") "\n", many, 32);
	expect_kind(next_reply(fd), "parse");
	json_decref(next_reply(fd));
	cr_assert_eq(open_fds(), before);
	send_fds(fd, "half a mess", many, 32);
	turn();
	close(fd);
	turn();
	turn();
	cr_assert_eq(open_fds(), before - 2);
}

Test(rpc, a_descriptor_goes_with_its_reply)
{
	int fd = connect_as(ROLE_VIEWER), got[4];
	char text[512], hi[3] = "";
	size_t n_fds = 0;
	ssize_t n;

	send_text(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}") "\n" CALL("2", "console.open",
	                                                                "{\"vm\":\"web\"}") "\n");
	while ((n = fd_recv(fd, text, sizeof(text) - 1, got, 4, &n_fds)) == -EAGAIN)
		turn();
	text[n] = '\0';
	if (!n_fds)
		while ((n = fd_recv(fd, text, sizeof(text) - 1, got, 4, &n_fds)) == -EAGAIN)
			turn();
	cr_assert_eq(n_fds, 1u);
	text[n] = '\0';
	cr_assert(strstr(text, "\"stream\":{\"fd\":0}"), "%s", text);
	cr_assert_eq(read(got[0], hi, 2), 2);
	cr_assert_str_eq(hi, "hi");
	/* Not in a batch: the descriptor's place would be unclear. */
	send_text(fd, "[" CALL("3", "console.open", "{\"vm\":\"web\"}") "]\n");
	{
		cleanup_json json_t *batch = next_reply(fd);

		expect_kind(json_incref(json_array_get(batch, 0)), "unsupported");
	}
}

/* --- order, time, cancel --- */

Test(rpc, changes_of_one_guest_keep_their_order)
{
	int fd = connect_as(ROLE_ADMIN);

	send_text(fd, CALL("1", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	send_text(fd, CALL("2", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	send_text(fd, CALL("3", "vm.reset", "{\"vm\":\"other\"}") "\n");
	send_text(fd, CALL("4", "vm.kill", "{\"vm\":\"slow\"}") "\n");
	for (int i = 0; i < 4; i++) {
		static const int order[] = { 3, 4, 1, 2 };
		cleanup_json json_t *reply = next_reply(fd);

		cr_assert_eq(jsonx_int(reply, "id", 0), order[i], "reply %d", i);
	}
	cr_assert_str_eq(handler_trace, "reset:slow reset:other done:other kill:slow done:slow "
	                                "reset:slow done:slow ");
}

Test(rpc, create_comes_before_what_follows_it)
{
	int fd = connect_as(ROLE_ADMIN);

	send_text(fd, CALL("1", "vm.create", "{\"definition\":{\"name\":\"slow\"}}") "\n" CALL(
			      "2", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	json_decref(next_reply(fd));
	json_decref(next_reply(fd));
	cr_assert_str_eq(handler_trace, "create:slow reset:slow done:slow ");
}

Test(rpc, timeout)
{
	int fd = connect_as(ROLE_ADMIN);

	expect_kind(ask(fd, CALL("1", "vm.stats", "{\"vm\":\"web\",\"timeout_ms\":5}")), "timeout");
	/* Also of a change that has not had its turn yet. */
	send_text(fd, CALL("1", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	send_text(fd, CALL("2", "vm.reset", "{\"vm\":\"slow\",\"timeout_ms\":5}") "\n");
	expect_kind(next_reply(fd), "timeout");
	json_decref(next_reply(fd));
}

Test(rpc, cancel_request)
{
	int fd = connect_as(ROLE_ADMIN);
	json_t *reply;

	send_text(fd, CALL("\"x\"", "vm.stats", "{\"vm\":\"web\"}") "\n");
	send_text(fd,
	          "{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":5}}\n");
	expect_silence(fd);
	send_text(
		fd,
		"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":\"x\"}}\n");
	reply = next_reply(fd);
	cr_assert_str_eq(jsonx_str(reply, "id", ""), "x");
	expect_kind(reply, "cancelled");
}

Test(rpc, cancel_of_a_waited_job_lets_it_go_on)
{
	int fd = connect_as(ROLE_ADMIN);

	send_text(fd, CALL("1", "vm.start", "{\"vm\":\"web\"}") "\n");
	turn();
	send_text(fd,
	          "{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
	expect_kind(next_reply(fd), "cancelled");
	while (fiber_count())
		turn();
	cr_assert_str_eq(handler_trace, "start:web ");
	expect_silence(fd);
}

Test(rpc, a_connection_that_ends_takes_its_waits_along_but_no_changes)
{
	int fd = connect_as(ROLE_ADMIN);

	send_text(fd, CALL("1", "vm.stats", "{\"vm\":\"web\"}") "\n");
	send_text(fd, CALL("2", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	turn();
	cr_assert_eq(fiber_count(), 2u);
	close(fd);
	while (fiber_count())
		turn();
	cr_assert_str_eq(handler_trace, "wait: reset:slow done:slow ");
	cr_assert_eq(peers_count(rpc_peers(vmd.rpc)), 0u);
}

Test(rpc, half_closed_clients_get_their_replies)
{
	int fd = connect_as(ROLE_ADMIN);
	char *all;

	send_text(fd, CALL("1", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	/* The last line need not be ended. */
	send_text(fd, CALL("2", "vm.get", "{\"vm\":\"web\"}"));
	shutdown(fd, SHUT_WR);
	all = read_to_end(fd);
	cr_assert(strstr(all, "\"id\":1,\"result\""), "%s", all);
	cr_assert(strstr(all, "\"id\":2,\"result\""), "%s", all);
	free(all);
}

/* --- jobs and keys --- */

Test(rpc, a_job_is_waited_for_or_not)
{
	int fd = connect_as(ROLE_ADMIN);
	cleanup_json json_t *waited = ask(fd, CALL("1", "vm.start", "{\"vm\":\"web\"}"));
	cleanup_json json_t *begun =
		ask(fd, CALL("2", "vm.start", "{\"vm\":\"web\",\"wait\":false}"));
	const json_t *job = json_object_get(json_object_get(begun, "result"), "job");
	char key[64];

	cr_assert_str_eq(jsonx_str(json_object_get(waited, "result"), "state", ""), "running");
	cr_assert_str_eq(jsonx_str(job, "state", ""), "running");
	cr_assert_str_eq(jsonx_str(job, "method", ""), "vm.start");
	cr_assert_str_eq(handler_trace, "start:web ");
	snprintf(key, sizeof(key), "jobs/%s", jsonx_str(job, "id", ""));
	cr_assert_not_null(json_object_get(stored, key), "told before it was durable");
	while (fiber_count())
		turn();
	cr_assert_str_eq(jsonx_str(json_object_get(stored, key), "state", ""), "done");
	cr_assert_str_eq(handler_trace, "start:web start:web ");
	expect_silence(fd);
}

#define CREATE(id, name, key) \
	CALL(id, "vm.create", "{\"definition\":{\"name\":\"" name "\"},\"client_key\":\"" key "\"}")

Test(rpc, client_key_makes_a_change_once)
{
	int fd = connect_as(ROLE_ADMIN);
	json_t *reply;

	for (int i = 0; i < 3; i++) {
		reply = ask(fd, CREATE("1", "web", "k"));
		cr_assert_eq(jsonx_int(json_object_get(reply, "result"), "made", 0), 1);
		json_decref(reply);
	}
	cr_assert_eq(calls_of_create, 1);
	cr_assert_eq(json_object_size(stored), 2u, "guest and key in one transaction");
	cr_assert_eq(commits, 1u);
	expect_kind(ask(fd, CREATE("1", "other", "k")), "conflict");
	cr_assert_eq(calls_of_create, 1);
	reply = ask(fd, CREATE("1", "other", "k2"));
	cr_assert_eq(jsonx_int(json_object_get(reply, "result"), "made", 0), 2);
	json_decref(reply);
}

Test(rpc, client_key_while_the_first_is_at_work)
{
	int fd = connect_as(ROLE_ADMIN), other = connect_as(ROLE_ADMIN);
	cleanup_json json_t *first = NULL, *second = NULL;

	send_text(fd, CREATE("1", "slow", "k") "\n");
	turn();
	send_text(other, CREATE("2", "slow", "k") "\n");
	first = next_reply(fd);
	second = next_reply(other);
	cr_assert_eq(calls_of_create, 1);
	cr_assert(json_equal(json_object_get(first, "result"), json_object_get(second, "result")));
}

Test(rpc, a_failed_change_may_be_repeated_with_its_key)
{
	int fd = connect_as(ROLE_ADMIN);

	expect_kind(ask(fd, CREATE("1", "bad", "k")), "invalid");
	expect_kind(ask(fd, CREATE("1", "bad", "k")), "invalid");
	cr_assert_eq(calls_of_create, 2);
	store_is_full = true;
	expect_kind(ask(fd, CREATE("1", "web", "k")), "no_space");
	store_is_full = false;
	json_decref(ask(fd, CREATE("1", "web", "k")));
	cr_assert_eq(calls_of_create, 4);
}

/* What the store holds is all that is left; records got this much younger meanwhile. */
static void restart_with_keys(int64_t later_us)
{
	cleanup_json json_t *kept = json_deep_copy(stored);
	const char *key;
	json_t *value;

	rpc_teardown();
	vmd = (struct vmd){ 0 };
	rpc_setup();
	json_object_foreach(kept, key, value) {
		char *text;

		if (strncmp(key, "keys/", 5) != 0)
			continue;
		json_object_set_new(value, "time_us",
		                    json_integer(jsonx_int(value, "time_us", 0) + later_us));
		text = jsonx_dump(value);
		rpc_key_load(&vmd, key + 5, text, strlen(text));
		free(text);
	}
}

Test(rpc, client_keys_survive_a_restart)
{
	int fd = connect_as(ROLE_ADMIN);
	cleanup_json json_t *reply = NULL;

	json_decref(ask(fd, CREATE("1", "web", "k")));
	close(fd);
	restart_with_keys(0);
	fd = connect_as(ROLE_ADMIN);
	expect_kind(ask(fd, CREATE("1", "other", "k")), "conflict");
	reply = ask(fd, CREATE("1", "web", "k"));
	cr_assert_eq(jsonx_int(json_object_get(reply, "result"), "made", 0), 1);
	cr_assert_eq(calls_of_create, 1);
}

Test(rpc, client_keys_survive_a_clock_that_is_set_back)
{
	int fd = connect_as(ROLE_ADMIN);

	json_decref(ask(fd, CREATE("1", "web", "k")));
	close(fd);
	restart_with_keys(3600 * 1000000ll);
	fd = connect_as(ROLE_ADMIN);
	json_decref(ask(fd, CREATE("1", "more", "k2"))); /* forgets what is too old */
	expect_kind(ask(fd, CREATE("1", "other", "k")), "conflict");
}

Test(rpc, client_key_of_a_job)
{
	int fd = connect_as(ROLE_ADMIN);
	static const char call[] =
		CALL("1", "vm.start", "{\"vm\":\"web\",\"wait\":false,\"client_key\":\"k\"}");
	cleanup_json json_t *one = ask(fd, call), *two = ask(fd, call), *three = NULL;
	const json_t *a = json_object_get(json_object_get(one, "result"), "job");
	const json_t *b = json_object_get(json_object_get(two, "result"), "job");

	cr_assert_str_eq(jsonx_str(a, "id", "1"), jsonx_str(b, "id", "2"));
	three = ask(fd, CALL("1", "vm.start", "{\"vm\":\"web\",\"client_key\":\"k\"}"));
	cr_assert_str_eq(jsonx_str(json_object_get(three, "result"), "state", ""), "running");
	cr_assert_str_eq(handler_trace, "start:web ");
}

/* --- readers that are slow or away --- */

Test(rpc, who_does_not_read_is_not_read_from)
{
	int fd = connect_as(ROLE_VIEWER);
	unsigned sent = 0, got = 0;
	static char buf[1 << 17];

	/* Each reply has 100,000 bytes; nothing is read until the daemon takes no more calls. */
	for (int quiet = 0; quiet < 20; quiet++) {
		static const char call[] = CALL("1", "vm.list", "{}") "\n";

		while (fd_send(fd, call, strlen(call), NULL, 0) > 0) {
			sent++;
			quiet = 0;
		}
		turn();
	}
	cr_assert_gt(sent, 100u);
	while (got < sent) {
		ssize_t n = read(fd, buf, sizeof(buf));

		cr_assert(n > 0 || errno == EAGAIN);
		for (ssize_t i = 0; i < n; i++)
			got += buf[i] == '\n';
		turn();
	}
	cr_assert_eq(got, sent);
}

Test(rpc, over_the_output_limit_the_connection_is_dropped)
{
	int fd = connect_as(ROLE_ADMIN);
	struct strbuf batch = STRBUF_INIT;
	char *all;

	vmd.config.max_output_bytes = 1000000;
	strbuf_append_char(&batch, '[');
	for (int i = 0; i < 100; i++)
		strbuf_printf(&batch, "%s" CALL("1", "vm.list", "{}"), i ? "," : "");
	strbuf_append_str(&batch, "]\n");
	send_text(fd, batch.data);
	strbuf_deinit(&batch);
	all = read_to_end(fd);
	cr_assert_eq(peers_count(rpc_peers(vmd.rpc)), 0u);
	free(all);
}

Test(rpc, a_message_has_to_end_in_time)
{
	int fd = connect_as(ROLE_VIEWER);
	char *all;

	vmd.config.message_timeout_ms = 20;
	send_text(fd, "{\"jsonrpc\":");
	turn();
	send_text(fd, "\"2.0\",");
	all = read_to_end(fd);
	cr_assert(strstr(all, "\"timeout\""), "%s", all);
	free(all);
}

Test(rpc, an_idle_connection_stays)
{
	int fd = connect_as(ROLE_VIEWER);

	vmd.config.message_timeout_ms = 5;
	json_decref(ask(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}")));
	ev_sleep(0.02);
	expect_silence(fd);
	json_decref(ask(fd, CALL("1", "vm.get", "{\"vm\":\"web\"}")));
}

Test(rpc, many_calls_in_flight_pause_the_connection)
{
	int fd = connect_as(ROLE_ADMIN);
	unsigned n = PEER_MAX_CALLS + 50;

	for (unsigned i = 0; i < n; i++)
		send_text(fd, CALL("1", "vm.reset", "{\"vm\":\"slow\"}") "\n");
	turn();
	turn();
	cr_assert_leq(fiber_count(), (unsigned)PEER_MAX_CALLS);
	close(fd);
	/* They keep their order, 20 ms each: too long to wait for all of them here. */
	while (fiber_count() > PEER_MAX_CALLS - 2)
		turn();
	_exit(0);
}

Test(rpc, connection_limits)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int a, b;

	vmd.config.max_connections_per_uid = 2;
	vmd.config.max_connections = 3;
	a = connect_as(ROLE_VIEWER);
	b = connect_as(ROLE_VIEWER);
	cr_assert_eq(peers_admit(rpc_peers(vmd.rpc), 1000, &err), -ENOSPC);
	cr_assert_eq(err.kind, ERROR_NO_SPACE);
	cr_assert_eq(peers_admit(rpc_peers(vmd.rpc), 1001, NULL), 0);
	close(a);
	turn();
	turn();
	cr_assert_eq(peers_admit(rpc_peers(vmd.rpc), 1000, NULL), 0);
	close(b);
}

/* --- events --- */

Test(rpc, events)
{
	int fd = connect_as(ROLE_VIEWER);
	json_t *reply = ask(fd, CALL("1", "events.subscribe", "{\"since\":1}"));

	cr_assert_eq(jsonx_int(json_object_get(reply, "result"), "seq", 0), 41);
	cr_assert_eq(jsonx_int(json_object_get(reply, "result"), "subscription", 0), 1);
	json_decref(reply);
	reply = next_reply(fd); /* what was refused before the reply was out */
	cr_assert_str_eq(jsonx_str(reply, "method", ""), "event");
	cr_assert_str_eq(jsonx_str(reply, "params", ""), "resumed");
	json_decref(reply);
	publish("{\"seq\":42}");
	reply = next_reply(fd);
	cr_assert_eq(jsonx_int(json_object_get(reply, "params"), "seq", 0), 42);
	json_decref(reply);
	expect_kind(ask(fd, CALL("1", "events.unsubscribe", "{\"subscription\":9}")), "not_found");
	json_decref(ask(fd, CALL("1", "events.unsubscribe", "{\"subscription\":1}")));
	publish("{\"seq\":43}");
	expect_silence(fd);
	for (unsigned i = 0; i < vmd.config.max_subscriptions; i++)
		json_decref(ask(fd, CALL("1", "events.subscribe", "{}")));
	expect_kind(ask(fd, CALL("1", "events.subscribe", "{}")), "no_space");
}

Test(rpc, a_slow_subscriber_is_stalled_and_resumed)
{
	int fd = connect_as(ROLE_VIEWER);
	cleanup_free char *big = malloc(10001);
	char *all;

	json_decref(ask(fd, CALL("1", "events.subscribe", "{}")));
	memset(big, 'x', 10000);
	big[0] = big[9999] = '"';
	big[10000] = '\0';
	for (int i = 0; i < 200; i++) {
		publish(big);
		turn();
	}
	cr_assert_eq(refused, 1u, "told once that there is no room");
	cr_assert_lt(delivered, 100u);
	all = read_until(fd, "\"resumed\"");
	free(all);
	publish("{\"seq\":1}");
	all = read_until(fd, "\"seq\":1");
	free(all);
}

Test(rpc, methods_and_contract_must_agree)
{
	static const struct method unknown[] = { { "vm.explode", ROLE_ADMIN, METHOD_READ, NULL },
		                                 { NULL, 0, 0, NULL } };
	static const struct method role[] = { { "vm.get", ROLE_ADMIN, METHOD_READ, NULL },
		                              { NULL, 0, 0, NULL } };
	static const struct method kind[] = { { "vm.delete", ROLE_OPERATOR, METHOD_FIBER, NULL },
		                              { NULL, 0, 0, NULL } };
	static const struct method fine[] = { { "vm.get", ROLE_VIEWER, METHOD_READ, NULL },
		                              { NULL, 0, 0, NULL } };
	static const struct method *const cases[] = { unknown, role, kind };
	static const struct method *const one[] = { fine }, *const twice[] = { fine, fine };
	struct vmd other = { .loop = vmd.loop };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vmd_error err = VMD_ERROR_INIT;

		cr_assert_eq(rpc_new(&other, &cases[i], 1, false, NULL, &err), -EINVAL);
		cr_assert_not_null(strstr(err.message, cases[i]->name));
	}
	cr_assert_eq(rpc_new(&other, twice, 2, false, NULL, NULL), -EINVAL);
	cr_assert_eq(rpc_new(&other, one, 1, true, NULL, NULL), -EINVAL, "not complete");
	cr_assert_eq(rpc_new(&other, one, 1, false, NULL, NULL), 0);
	rpc_free(other.rpc);
}
