/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whatever a client sends, the daemon answers with a typed error or ends that connection, goes on
 * serving others, and leaves a running guest alone.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/timeutil.h"
#include "tests/lib/scene.h"

static struct scene s;
static json_int_t bystander_pid;

/* A guest that runs during each test and must not notice anything. */
static void setup(void)
{
	json_t *info;

	scene_setup(&s);
	guest_create_bare(&s, "bystander", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "bystander");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "bystander");
	bystander_pid = member_int(info, "pid");
	json_decref(info);
}

static void teardown(void)
{
	json_t *info;

	if (!s.vmd)
		return;
	info = call(&s.client, "vm.get", "{s:s}", "vm", "bystander");
	cr_assert_str_eq(member_str(info, "state"), "running");
	cr_assert_eq(member_int(info, "pid"), bystander_pid);
	json_decref(info);
	scene_teardown(&s);
}

TestSuite(bad_input, .timeout = 200, .init = setup, .fini = teardown);

/* Sends bytes on a fresh connection; the kind of error that comes, or "closed". */
static const char *kind_for(const void *data, size_t len)
{
	static char kind[32];
	bool closed = false;
	struct client c;
	json_t *reply;

	cr_assert(client_open(&c, s.socket));
	(void)client_send(&c, data, len); /* it may close before all is sent */
	reply = client_read(&c, 40000, &closed);
	cr_assert(reply || closed, "neither an answer nor an end");
	snprintf(kind, sizeof(kind), "%s", reply ? refusal_of(reply).kind : "closed");
	json_decref(reply);
	client_close(&c);
	call_ok(&s.client, "daemon.ping", NULL);
	return kind;
}

static const char *kind_for_text(const char *text)
{
	return kind_for(text, strlen(text));
}

Test(bad_input, malformed_json)
{
	cr_expect_str_eq(kind_for_text("{]\n"), "parse");
	cr_expect_str_eq(kind_for_text("nonsense\n"), "parse");
	cr_expect_str_eq(kind_for_text("{\"a\":01}\n"), "parse");
	cr_expect_str_eq(kind_for_text("{\"a\":\"\xff\xfe\"}\n"), "parse");
	cr_expect_str_eq(kind_for_text("{\"a\":\"\\ud800\"}\n"), "parse");
	cr_expect_str_eq(kind_for_text("{} {}\n"), "parse");
	cr_expect_str_eq(kind_for("{\"a\":\"\0\"}\n", 11), "parse");
	cr_expect_str_eq(kind_for_text("{\"a\":\"\\u0000\"}\n"), "parse");
	cr_expect_str_eq(kind_for_text("{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"x\"}\n"),
	                 "parse");
	cr_expect_str_eq(kind_for_text("{\"id\":99999999999999999999999}\n"), "parse");
}

Test(bad_input, wrong_requests)
{
	cr_expect_str_eq(kind_for_text("5\n"), "invalid_request");
	cr_expect_str_eq(kind_for_text("\"text\"\n"), "invalid_request");
	cr_expect_str_eq(
		kind_for_text("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"daemon.ping\"}\n"),
		"invalid_request");
	cr_expect_str_eq(
		kind_for_text("{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"daemon.ping\"}\n"),
		"invalid_request");
	cr_expect_str_eq(kind_for_text("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}\n"),
	                 "invalid_request");
	/* Parameters go by name only. */
	cr_expect_str_eq(
		kind_for_text(
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.get\",\"params\":[\"a\"]}\n"),
		"invalid");
}

Test(bad_input, duplicate_keys)
{
	cr_expect_str_eq(
		kind_for_text(
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"daemon.ping\"}\n"),
		"parse");
}

Test(bad_input, truncated_json_is_no_call)
{
	struct client c;

	cr_assert(client_open(&c, s.socket));
	cr_assert(client_send(&c, "{\"jsonrpc\":\"2.0\",\"id\":1,\"meth", 29));
	client_close(&c);
	call_ok(&s.client, "daemon.ping", NULL);
}

Test(bad_input, deep_nesting)
{
	static char text[200001];

	memset(text, '[', 100000);
	memset(text + 100000, ']', 100000);
	text[200000] = '\n';
	cr_expect_str_eq(kind_for(text, sizeof(text)), "parse");
	/* Without an end it has to be seen while it comes. */
	memset(text, '[', 200000);
	cr_expect_str_eq(kind_for(text, sizeof(text)), "parse");
	/* One level past the limit, and the limit itself. */
	memset(text, '[', 33);
	memset(text + 33, ']', 33);
	text[66] = '\n';
	cr_expect_str_eq(kind_for(text, 67), "parse");
}

Test(bad_input, oversized_messages)
{
	size_t len = (2 << 20) + 1;
	char *text = malloc(len);
	const char *kind;

	memset(text, ' ', len);
	text[0] = '{';
	kind = kind_for(text, len);
	cr_expect(strcmp(kind, "invalid_request") == 0 || strcmp(kind, "parse") == 0, "%s", kind);
	free(text);
}

/* The answer comes in the framing of the request, then the connection ends. */
Test(bad_input, oversized_length)
{
	const char *head = "Content-Length: 99999999999\r\n\r\n";
	char text[1024];
	struct client c;
	size_t len = 0;
	ssize_t n;

	cr_assert(client_open(&c, s.socket));
	cr_assert(client_send(&c, head, strlen(head)));
	while ((n = read(c.fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	cr_assert(strncmp(text, "Content-Length: ", 16) == 0, "%s", text);
	cr_assert(strstr(text, "\"invalid_request\""), "%s", text);
	client_close(&c);
}

Test(bad_input, wrong_types_and_numbers_name_the_field)
{
	static const struct {
		const char *definition, *field;
	} cases[] = {
		{ "{\"name\":5}", "definition.name" },
		{ "{}", "definition.name" },
		{ "{\"name\":\"a\",\"cpus\":0}", "definition.cpus" },
		{ "{\"name\":\"a\",\"cpus\":-1}", "definition.cpus" },
		{ "{\"name\":\"a\",\"cpus\":1000000}", "definition.cpus" },
		{ "{\"name\":\"a\",\"cpus\":1.5}", "definition.cpus" },
		{ "{\"name\":\"a\",\"cpus\":\"many\"}", "definition.cpus" },
		{ "{\"name\":\"a\",\"memory\":-5}", "definition.memory" },
		{ "{\"name\":\"a\",\"memory\":\"99999999999T\"}", "definition.memory" },
		{ "{\"name\":\"a\",\"memory\":\"lots\"}", "definition.memory" },
		{ "{\"name\":\"a\",\"memory\":9223372036854775807}", "definition.memory" },
		{ "{\"name\":\"a\",\"disks\":{}}", "definition.disks" },
		{ "{\"name\":\"a\",\"disks\":[7]}", "definition.disks[0]" },
		{ "{\"name\":\"a\",\"disks\":[{\"path\":\"x\",\"format\":\"raw\"}]}",
		  "definition.disks[0].path" },
		{ "{\"name\":\"a\",\"disks\":[{\"path\":\"/x\",\"format\":\"ram\"}]}",
		  "definition.disks[0].format" },
		{ "{\"name\":\"a\",\"nics\":[{\"network\":\"user\",\"mac\":\"zz\"}]}",
		  "definition.nics[0].mac" },
		{ "{\"name\":\"a\",\"engine\":\"xen\"}", "definition.engine" },
		{ "{\"name\":\"a\",\"boot\":{\"initrd\":\"/x\"}}", "definition.boot" },
		{ "{\"name\":\"a\",\"nosuch\":1}", "definition.nosuch" },
		{ "{\"name\":\"../x\"}", "definition.name" },
		{ "{\"name\":\"\"}", "definition.name" },
		{ "{\"name\":\"a\\nb\"}", "definition.name" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *definition = json_loads(cases[i].definition, 0, NULL);
		json_t *reply = call_raw(&s.client, "vm.create",
		                         json_pack("{s:o}", "definition", definition), NULL, 0);
		struct refusal r = refusal_of(reply);

		cr_expect_str_eq(r.kind, "invalid", "%s: %s %s", cases[i].definition, r.kind,
		                 r.message);
		cr_expect(strncmp(r.field, cases[i].field, strlen(cases[i].field)) == 0,
		          "%s: field %s", cases[i].definition, r.field);
		json_decref(reply);
	}
}

/* A patch may be anything; what comes of it has to be a definition. */
Test(bad_input, updates_name_the_field)
{
	static const struct {
		const char *set, *field;
	} cases[] = {
		{ "{\"nosuch\":1}", "definition.nosuch" },
		{ "{\"memory\":\"lots\"}", "definition.memory" },
		{ "{\"memory\":-5}", "definition.memory" },
		{ "{\"cpus\":0}", "definition.cpus" },
		{ "{\"cpus\":{\"count\":1,\"colour\":2}}", "definition.cpus.colour" },
		{ "{\"name\":null}", "definition.name" },
		{ "{\"boot\":{\"initrd\":\"/x\"}}", "definition.boot" },
		{ "{\"disks\":[{\"path\":\"/x\"}]}", "definition.disks[0].format" },
		{ "{\"disks\":{\"0\":{\"readonly\":true}}}", "definition.disks" },
		{ "{\"labels\":{\"a\":{\"b\":1}}}", "definition.labels" },
	};

	guest_create_bare(&s, "patched", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *set = json_loads(cases[i].set, 0, NULL);
		json_t *reply =
			call_raw(&s.client, "vm.update",
		                 json_pack("{s:s, s:o}", "vm", "patched", "set", set), NULL, 0);
		struct refusal r = refusal_of(reply);

		cr_expect_str_eq(r.kind, "invalid", "%s: %s %s", cases[i].set, r.kind, r.message);
		cr_expect(strncmp(r.field, cases[i].field, strlen(cases[i].field)) == 0,
		          "%s: field %s", cases[i].set, r.field);
		json_decref(reply);
	}
}

Test(bad_input, names)
{
	char long_name[4097];

	memset(long_name, 'a', 4096);
	long_name[4096] = '\0';
	call_refused(&s.client, "invalid", "vm.create", "{s:{s:s}}", "definition", "name",
	             long_name);
	call_refused(&s.client, "invalid", "vm.get", "{s:s}", "vm", long_name);
	call_refused(&s.client, "not_found", "vm.get", "{s:s}", "vm", "../x");
	call_refused(&s.client, "invalid", "vm.get", "{s:s}", "vm", "");
	call_refused(&s.client, "invalid", "vm.rename", "{s:s, s:s}", "vm", "bystander", "name",
	             "../x");
	call_refused(&s.client, "invalid", "disk.create", "{s:s, s:s}", "name", "../../x", "size",
	             "1M");
}

/* Starts a guest with this kernel; the refusal at create or at start. */
static struct refusal refused_kernel(const char *kernel)
{
	json_t *params = json_pack("{s:{s:s, s:{s:s}}}", "definition", "name", "k", "boot",
	                           "kernel", kernel);
	json_t *reply = call_raw(&s.client, "vm.create", params, NULL, 0);
	struct refusal r;

	if (json_object_get(reply, "result")) {
		json_decref(reply);
		reply = call_raw(&s.client, "vm.start", json_pack("{s:s}", "vm", "k"), NULL, 0);
		r = refusal_of(reply);
		call_ok(&s.client, "vm.delete", "{s:s}", "vm", "k");
	} else {
		r = refusal_of(reply);
	}
	json_decref(reply);
	return r;
}

Test(bad_input, kernels)
{
	struct refusal r = refused_kernel(scene_path(&s, "missing"));
	const char *path;

	cr_expect_str_eq(r.kind, "invalid", "%s", r.message);
	cr_expect(strstr(r.field, "boot.kernel"), "%s", r.field);
	path = scene_disk(&s, "empty", 0);
	r = refused_kernel(path);
	cr_expect_str_eq(r.kind, "invalid", "%s", r.message);
	cr_expect(strstr(r.field, "boot.kernel"), "%s", r.field);
	path = scene_disk(&s, "zeros", 1 << 20);
	r = refused_kernel(path);
	cr_expect_str_eq(r.kind, "invalid", "%s", r.message);
	cr_expect(strstr(r.field, "boot.kernel"), "%s", r.field);
	r = refused_kernel(s.root); /* a directory */
	cr_expect_str_eq(r.kind, "invalid", "%s", r.message);
	scene_wait_processes(&s, 2, 10000); /* the bystander's shim and engine */
}

static void create_with_disk(const char *name, const char *path, const char *size)
{
	json_t *disk = json_pack("{s:s, s:s}", "path", path, "format", "raw");

	if (size)
		json_object_set_new(disk, "size", json_string(size));
	guest_create_bare(&s, name, json_pack("{s:[o]}", "disks", disk));
}

Test(bad_input, disks)
{
	const char *image = scene_disk(&s, "one.img", 1 << 20);
	struct refusal r;

	create_with_disk("missing", scene_path(&s, "nothing.img"), NULL);
	r = call_refused(&s.client, "invalid", "vm.start", "{s:s}", "vm", "missing");
	cr_expect_str_eq(r.field, "definition.disks[0].path");
	create_with_disk("first", image, NULL);
	create_with_disk("second", image, NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "first");
	r = call_refused(&s.client, "busy", "vm.start", "{s:s}", "vm", "second");
	cr_expect_str_eq(r.field, "definition.disks[0].path");
	guest_expect_state(&s, "first", "running");
	create_with_disk("short", scene_disk(&s, "short.img", 4096), "1M");
	r = call_refused(&s.client, "invalid", "vm.start", "{s:s}", "vm", "short");
	cr_expect(strstr(r.field, "definition.disks[0]"), "%s", r.field);
	/* The lock goes with the guest. */
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "first");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "second");
}

Test(bad_input, start_twice)
{
	call_refused(&s.client, "wrong_state", "vm.start", "{s:s}", "vm", "bystander");
}

Test(bad_input, a_slow_writer_is_cut_off_and_delays_nobody)
{
	const char *text = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.ping\"}\n";
	struct client slow;
	bool closed = false;
	size_t i = 0;

	scene_config(&s, "[limits]\nmessage_timeout = 1s\n");
	call_ok(&s.client, "daemon.reload", NULL);
	cr_assert(client_open(&slow, s.socket));
	/* A byte each 100 ms; meanwhile others are served. */
	while (!closed && text[i]) {
		json_t *reply;

		if (!client_send(&slow, text + i++, 1))
			break;
		call_ok(&s.client, "daemon.ping", NULL);
		reply = client_read(&slow, 100, &closed);
		json_decref(reply);
	}
	cr_assert(text[i], "a message that takes five seconds was accepted");
	client_close(&slow);
}

Test(bad_input, a_client_that_never_reads_is_cut_off)
{
	const char *discover = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.discover\"}\n";
	uint64_t end = now_monotonic_us() + 60000000;
	struct client deaf;
	bool cut = false;

	cr_assert(client_open(&deaf, s.socket));
	fd_set_nonblock(deaf.fd, 1);
	while (!cut && now_monotonic_us() < end) {
		struct pollfd p = { .fd = deaf.fd, .events = POLLOUT };
		ssize_t n = send(deaf.fd, discover, strlen(discover), MSG_NOSIGNAL);

		cut = n < 0 && errno != EAGAIN;
		/* When it takes no more, it has to be because it waits for us: also fine. */
		if (n < 0 && errno == EAGAIN && poll(&p, 1, 1000) == 0)
			break;
	}
	call_ok(&s.client, "daemon.ping", NULL);
	client_close(&deaf);
}

Test(bad_input, a_thousand_clients_at_once)
{
	static struct client clients[1000];
	struct rlimit limit = { 4096, 4096 };
	const char *ping = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.ping\"}\n";

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
		cr_assert(client_open(&clients[i], s.socket), "client %zu was refused", i);
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
		cr_assert(client_send(&clients[i], ping, strlen(ping)));
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
		json_t *reply = client_read(&clients[i], 20000, NULL);

		cr_assert(json_object_get(reply, "result"), "client %zu got no answer", i);
		json_decref(reply);
		client_close(&clients[i]);
	}
}

Test(bad_input, a_bad_configuration_is_refused_whole)
{
	json_t *info;

	scene_config(&s, "[limits]\nmax_subscriptions = 3\nmessage_timeout = never\n");
	call_refused(&s.client, "invalid", "daemon.reload", NULL);
	info = call(&s.client, "daemon.info", NULL);
	cr_assert_eq(member_int(info, "limits.subscriptions"), 16);
	json_decref(info);
	scene_config(&s, "[limits]\nmax_subscriptions = 3\n");
	call_ok(&s.client, "daemon.reload", NULL);
	info = call(&s.client, "daemon.info", NULL);
	cr_assert_eq(member_int(info, "limits.subscriptions"), 3);
	json_decref(info);
}
