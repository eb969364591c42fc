/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The contract against the daemon: every method, every error kind, every rule of the API. */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "tests/lib/scene.h"

static struct scene s;

static void setup(void)
{
	scene_setup(&s);
}

static void teardown(void)
{
	scene_teardown(&s);
}

TestSuite(api, .timeout = 300, .init = setup, .fini = teardown);

/* Method names called by every_method_works, against what rpc.discover lists. */
static json_t *called;

static void ok(const char *method, json_t *params)
{
	json_t *reply = call_raw(&s.client, method, params, NULL, 0);
	cleanup_free char *text = json_dumps(reply, JSON_COMPACT);

	cr_assert(json_object_get(reply, "result"), "%s: %s", method, text);
	json_object_set_new(called, method, json_true());
	json_decref(reply);
}

static json_t *vm(void)
{
	return json_pack("{s:s}", "vm", "a");
}

static json_t *vm_with(const char *key, json_t *value)
{
	return json_pack("{s:s, s:o}", "vm", "a", key, value);
}

static json_t *definition(const char *name)
{
	return json_pack("{s:{s:s, s:s, s:{s:s}, s:s}}", "definition", "name", name, "memory",
	                 "64M", "boot", "firmware", "bios", "display", "vnc");
}

static void call_reading_methods(void)
{
	ok("rpc.discover", NULL);
	ok("daemon.info", NULL);
	ok("daemon.ping", NULL);
	ok("daemon.reload", NULL);
	ok("host.info", NULL);
	ok("vm.list", NULL);
	ok("vm.get", vm());
	ok("job.list", NULL);
	ok("disk.list", NULL);
}

static void call_running_methods(void)
{
	ok("vm.start", vm());
	ok("vm.wait", vm_with("for", json_string("running")));
	ok("vm.stats", vm());
	ok("vm.logs", vm());
	ok("vm.screenshot", vm());
	ok("vm.send_key", vm_with("keys", json_pack("[s]", "ret")));
	ok("vm.qmp", vm_with("command", json_string("query-status")));
	ok("console.open", vm());
	ok("vm.pause", vm());
	ok("vm.resume", vm());
	ok("vm.reset", vm());
	ok("snapshot.create", vm_with("snapshot", json_string("one")));
	ok("snapshot.list", vm());
	ok("snapshot.get", vm_with("snapshot", json_string("one")));
	ok("snapshot.restore", vm_with("snapshot", json_string("one")));
	ok("snapshot.delete", vm_with("snapshot", json_string("one")));
	ok("vm.suspend", vm());
	ok("vm.start", vm());
	ok("vm.stop", vm_with("timeout_ms", json_integer(100)));
	ok("vm.start", vm());
	ok("vm.kill", vm());
}

static void call_job_and_event_methods(void)
{
	json_t *reply = call(&s.client, "vm.start", "{s:s, s:b}", "vm", "a", "wait", 0);
	const char *job = member_str(reply, "job.id");

	ok("job.get", json_pack("{s:s}", "job", job));
	ok("job.wait", json_pack("{s:s}", "job", job));
	json_decref(reply);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	/* Nothing in this guest hears the power button, so the stop can be called off. */
	reply = call(&s.client, "vm.resume", "{s:s}", "vm", "a");
	json_decref(reply);
	reply = call(&s.client, "vm.stop", "{s:s, s:b, s:i}", "vm", "a", "wait", 0, "timeout_ms",
	             60000);
	ok("job.cancel", json_pack("{s:s}", "job", member_str(reply, "job.id")));
	json_decref(reply);
	reply = call(&s.client, "events.subscribe", NULL);
	json_object_set_new(called, "events.subscribe", json_true());
	ok("events.unsubscribe",
	   json_pack("{s:I}", "subscription", member_int(reply, "subscription")));
	json_decref(reply);
}

Test(api, every_method_works_and_no_others_exist)
{
	json_t *discovered, *method;
	const char *name;
	size_t i;

	called = json_object();
	ok("vm.create", definition("a"));
	call_reading_methods();
	call_running_methods();
	call_job_and_event_methods();
	ok("disk.create", json_pack("{s:s, s:s}", "name", "d", "size", "1M"));
	ok("disk.delete", json_pack("{s:s}", "disk", "d"));
	ok("vm.update", vm_with("set", json_pack("{s:s}", "memory", "96M")));
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	ok("vm.rename", vm_with("name", json_string("b")));
	ok("vm.delete", json_pack("{s:s}", "vm", "b"));
	discovered = call(&s.client, "rpc.discover", NULL);
	json_array_foreach(member(discovered, "methods"), i, method) {
		name = member_str(method, "name");
		cr_expect(json_object_get(called, name), "%s is in the contract and not called",
		          name);
		json_object_del(called, name);
	}
	json_object_foreach(called, name, method)
		cr_expect(false, "%s works and is not in the contract", name);
	json_decref(discovered);
	json_decref(called);
}

Test(api, discover_is_the_file_itself)
{
	json_t *discovered = call(&s.client, "rpc.discover", NULL);
	json_t *file = json_load_file(TEST_SOURCE_DIR "/api/vmd.openrpc.json", 0, NULL);

	cr_assert(json_equal(discovered, file));
	json_decref(discovered);
	json_decref(file);
}

Test(api, unknown_methods_get_the_nearest_name)
{
	struct refusal r = call_refused(&s.client, "method_not_found", "vm.gett", NULL);

	cr_assert_eq(r.code, -32601);
	cr_assert(strstr(r.hint, "vm.get"), "'%s'", r.hint);
	call_refused(&s.client, "method_not_found", "rpc.describe", NULL);
	call_refused(&s.client, "method_not_found", "", NULL);
}

Test(api, unknown_parameters_get_the_nearest_name)
{
	struct refusal r = call_refused(&s.client, "invalid", "vm.get", "{s:s, s:[s]}", "vm", "a",
	                                "feilds", "name");

	cr_assert_str_eq(r.field, "feilds");
	cr_assert(strstr(r.hint, "fields"), "'%s'", r.hint);
	r = call_refused(&s.client, "invalid", "vm.create", "{s:{s:s, s:s}}", "definition", "name",
	                 "a", "memroy", "1G");
	cr_assert_str_eq(r.field, "definition.memroy");
	cr_assert(strstr(r.hint, "memory"), "'%s'", r.hint);
}

/* Which kinds of the contract's table were seen, with the right number. */
static json_t *kinds;

static void seen(struct refusal r)
{
	json_object_set_new(kinds, r.kind, json_integer(r.code));
}

static void see(const char *kind, const char *method, json_t *params)
{
	json_t *reply = call_raw(&s.client, method, params, NULL, 0);
	struct refusal r = refusal_of(reply);

	cr_assert_str_eq(r.kind, kind, "%s gave %s: %s", method, r.kind, r.message);
	seen(r);
	json_decref(reply);
}

static void see_text(const char *kind, const char *text)
{
	json_t *reply;
	struct refusal r;

	cr_assert(client_send(&s.client, text, strlen(text)));
	reply = client_read(&s.client, 10000, NULL);
	r = refusal_of(reply);
	cr_assert_str_eq(r.kind, kind);
	seen(r);
	json_decref(reply);
}

static void see_no_space(void)
{
	for (int i = 0; i < 16; i++)
		call_ok(&s.client, "events.subscribe", "{s:{s:[s]}}", "filter", "types", "none");
	see("no_space", "events.subscribe", NULL);
}

static void see_cancelled(void)
{
	const char *cancel =
		"{\"jsonrpc\":\"2.0\",\"id\":777,\"method\":\"vm.wait\",\"params\":{\"vm\":\"a\"}}\n"
		"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":777}}\n";

	see_text("cancelled", cancel);
}

static void see_denied(void)
{
	struct client viewer;

	cr_assert(client_open(&viewer, s.ro_socket));
	seen(call_refused(&viewer, "denied", "vm.start", "{s:s}", "vm", "a"));
	client_close(&viewer);
}

static void see_busy(void)
{
	json_t *reply = call(&s.client, "vm.stop", "{s:s, s:b, s:i}", "vm", "a", "wait", 0,
	                     "timeout_ms", 60000);

	see("busy", "vm.delete", vm());
	call_ok(&s.client, "job.cancel", "{s:s}", "job", member_str(reply, "job.id"));
	json_decref(reply);
}

Test(api, every_error_kind_can_be_met)
{
	json_t *discovered, *entry;
	const char *kind;

	kinds = json_object();
	json_decref(call_raw(&s.client, "vm.create", definition("a"), NULL, 0));
	see("exists", "vm.create", definition("a"));
	see("not_found", "vm.get", json_pack("{s:s}", "vm", "nobody"));
	see("wrong_state", "vm.pause", vm());
	see("invalid", "vm.get", NULL);
	see("conflict", "vm.start", vm_with("if_generation", json_integer(77)));
	see("timeout", "vm.wait",
	    json_pack("{s:s, s:s, s:i}", "vm", "a", "for", "running", "timeout_ms", 50));
	see("unsupported", "vm.create",
	    json_pack("{s:{s:s, s:s, s:s}}", "definition", "name", "b", "engine", "kvm", "arch",
	              "aarch64"));
	see_text("parse", "{\"jsonrpc\":\n");
	see_text("invalid_request", "{\"jsonrpc\":\"2.0\",\"id\":1}\n");
	see("method_not_found", "vm.nope", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	see("engine_failed", "vm.qmp", vm_with("command", json_string("no-such-command")));
	see_busy();
	see_cancelled();
	see_denied();
	see_no_space();
	discovered = call(&s.client, "rpc.discover", NULL);
	json_object_foreach(member(discovered, "components.errors"), kind, entry) {
		const json_t *code = json_object_get(kinds, kind);

		/* "internal" stands for defects; none is known to the tests. */
		if (strcmp(kind, "internal") == 0)
			continue;
		cr_expect(code, "kind %s was not met", kind);
		cr_expect(json_equal(code, json_object_get(entry, "code")),
		          "kind %s has another number than the contract", kind);
	}
	json_decref(discovered);
	json_decref(kinds);
}

Test(api, dry_run_checks_and_changes_nothing)
{
	json_t *list, *plan = call(&s.client, "vm.create", "{s:{s:s, s:s}, s:b}", "definition",
	                           "name", "a", "memory", "1G", "dry_run", 1);

	cr_assert(json_is_true(member(plan, "valid")));
	cr_assert_str_eq(member_str(plan, "definition.name"), "a");
	json_decref(plan);
	list = call(&s.client, "vm.list", NULL);
	cr_assert_eq(json_array_size(member(list, "vms")), 0);
	json_decref(list);
	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "vm.start", "{s:s, s:b}", "vm", "a", "dry_run", 1);
	guest_expect_state(&s, "a", "defined");
	call_ok(&s.client, "vm.delete", "{s:s, s:b}", "vm", "a", "dry_run", 1);
	guest_expect_state(&s, "a", "defined");
	call_refused(&s.client, "exists", "vm.create", "{s:{s:s}, s:b}", "definition", "name", "a",
	             "dry_run", 1);
}

Test(api, if_generation_compares_and_sets)
{
	json_t *change;

	guest_create_bare(&s, "a", NULL);
	change = call(&s.client, "vm.update", "{s:s, s:{s:s}, s:i}", "vm", "a", "set", "memory",
	              "96M", "if_generation", 1);
	cr_assert_eq(member_int(change, "generation"), 2);
	json_decref(change);
	call_refused(&s.client, "conflict", "vm.update", "{s:s, s:{s:s}, s:i}", "vm", "a", "set",
	             "memory", "128M", "if_generation", 1);
}

Test(api, client_key_makes_repeats_safe_over_restarts)
{
	json_t *first = call(&s.client, "vm.create", "{s:{s:s}, s:s}", "definition", "name", "a",
	                     "client_key", "k1");
	json_t *again = call(&s.client, "vm.create", "{s:{s:s}, s:s}", "definition", "name", "a",
	                     "client_key", "k1");

	cr_assert(json_equal(first, again));
	json_decref(again);
	call_refused(&s.client, "conflict", "vm.create", "{s:{s:s}, s:s}", "definition", "name",
	             "b", "client_key", "k1");
	scene_kill_daemon(&s);
	scene_start(&s);
	again = call(&s.client, "vm.create", "{s:{s:s}, s:s}", "definition", "name", "a",
	             "client_key", "k1");
	cr_assert(json_equal(first, again));
	json_decref(again);
	json_decref(first);
}

Test(api, changes_are_durable_before_the_reply)
{
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "vm%d", i);
		guest_create_bare(&s, name, NULL);
		scene_kill_daemon(&s);
		scene_start(&s);
		guest_expect_state(&s, name, "defined");
	}
}

Test(api, update_rename_and_read_back)
{
	json_t *info, *list;

	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "vm.update", "{s:s, s:{s:s, s:{s:s}}}", "vm", "a", "set", "memory",
	        "128M", "labels", "tier", "front");
	info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_assert_str_eq(member_str(info, "definition.memory"), "128M");
	cr_assert_str_eq(member_str(info, "definition.labels.tier"), "front");
	call_ok(&s.client, "vm.rename", "{s:s, s:s}", "vm", member_str(info, "uuid"), "name", "b");
	json_decref(info);
	call_refused(&s.client, "not_found", "vm.get", "{s:s}", "vm", "a");
	guest_create_bare(&s, "a", NULL);
	call_refused(&s.client, "exists", "vm.rename", "{s:s, s:s}", "vm", "a", "name", "b");
	list = call(&s.client, "vm.list", "{s:{s:s}}", "labels", "tier", "front");
	cr_assert_eq(json_array_size(member(list, "vms")), 1);
	cr_assert_str_eq(member_str(list, "vms.0.name"), "b");
	json_decref(list);
	list = call(&s.client, "vm.list", "{s:i}", "limit", 1);
	cr_assert_eq(json_array_size(member(list, "vms")), 1);
	info = call(&s.client, "vm.list", "{s:i, s:s}", "limit", 5, "cursor",
	            member_str(list, "next"));
	cr_assert_eq(json_array_size(member(info, "vms")), 1);
	cr_assert(!member(info, "next"));
	json_decref(info);
	json_decref(list);
}

/* The rest of a list must not look like its end. */
Test(api, a_cursor_whose_entry_is_gone_is_refused)
{
	json_t *page;
	char next[64];

	for (int i = 0; i < 3; i++) {
		char name[16];

		snprintf(name, sizeof(name), "d%d", i);
		guest_create_bare(&s, name, NULL);
		call_ok(&s.client, "disk.create", "{s:s, s:s}", "name", name, "size", "1M");
	}
	page = call(&s.client, "vm.list", "{s:i}", "limit", 1);
	snprintf(next, sizeof(next), "%s", member_str(page, "next"));
	json_decref(page);
	page = call(&s.client, "vm.list", "{s:s}", "cursor", next);
	cr_assert_eq(json_array_size(member(page, "vms")), 2);
	json_decref(page);
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", next);
	cr_assert_str_eq(
		call_refused(&s.client, "invalid", "vm.list", "{s:s}", "cursor", next).field,
		"cursor");
	page = call(&s.client, "disk.list", "{s:i}", "limit", 1);
	snprintf(next, sizeof(next), "%s", member_str(page, "next"));
	json_decref(page);
	call_ok(&s.client, "disk.delete", "{s:s}", "disk", next);
	call_refused(&s.client, "invalid", "disk.list", "{s:s}", "cursor", next);
	call_refused(&s.client, "invalid", "job.list", "{s:s}", "cursor", next);
	call_refused(&s.client, "invalid", "snapshot.list", "{s:s, s:s}", "vm", "d1", "cursor",
	             next);
}

Test(api, batches_notifications_and_ids)
{
	const char *batch = "[{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"daemon.ping\"},"
			    "{\"jsonrpc\":\"2.0\",\"method\":\"daemon.ping\"},"
			    "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"vm.nope\"},7]\n";
	json_t *reply, *one;
	bool ok_x = false, bad_5 = false, bad_7 = false;
	size_t i;

	cr_assert(client_send(&s.client, batch, strlen(batch)));
	reply = client_read(&s.client, 10000, NULL);
	cr_assert(json_is_array(reply));
	cr_assert_eq(json_array_size(reply), 3, "notifications get no reply");
	json_array_foreach(reply, i, one) {
		const json_t *id = json_object_get(one, "id");

		ok_x |= json_is_string(id) && json_object_get(one, "result");
		bad_5 |= json_is_integer(id) && refusal_of(one).code == -32601;
		bad_7 |= json_is_null(id) && refusal_of(one).code == -32600;
	}
	cr_assert(ok_x && bad_5 && bad_7);
	json_decref(reply);
	cr_assert(client_send(&s.client, "[]\n", 3));
	reply = client_read(&s.client, 10000, NULL);
	cr_assert_eq(refusal_of(reply).code, -32600);
	json_decref(reply);
}

/* Sends text on a fresh connection and returns what comes back until it has the wanted words. */
static void expect_answer(const char *text, const char *wanted)
{
	char data[4096] = "";
	struct client c;
	size_t len = 0;

	cr_assert(client_open(&c, s.socket));
	cr_assert(client_send(&c, text, strlen(text)));
	while (!strstr(data, wanted)) {
		ssize_t n = read(c.fd, data + len, sizeof(data) - len - 1);

		cr_assert_gt(n, 0, "'%s' did not come, but: %s", wanted, data);
		len += (size_t)n;
		data[len] = '\0';
	}
	client_close(&c);
}

Test(api, other_framings)
{
	const char *ping = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.ping\"}";
	char text[512];

	snprintf(text, sizeof(text), "Content-Length: %zu\r\n\r\n%s", strlen(ping), ping);
	expect_answer(text, "Content-Length: ");
	expect_answer(text, "\"time_us\"");
	snprintf(text, sizeof(text),
	         "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	         "Content-Length: %zu\r\n\r\n%s",
	         strlen(ping), ping);
	expect_answer(text, "HTTP/1.1 200");
	expect_answer(text, "\"time_us\"");
}

Test(api, events_replay_over_restarts)
{
	json_t *event, *r = call(&s.client, "events.subscribe", NULL);
	json_int_t seq = member_int(r, "seq"), first;

	json_decref(r);
	guest_create_bare(&s, "a", NULL);
	event = event_wait(&s.client, "vm.created", "a", NULL, NULL, 5000);
	first = member_int(event, "seq");
	cr_assert_gt(first, seq);
	cr_assert(strncmp(member_str(event, "actor"), "uid:", 4) == 0);
	json_decref(event);
	scene_kill_daemon(&s);
	scene_start(&s);
	call_ok(&s.client, "events.subscribe", "{s:I, s:{s:[s], s:s}}", "since", seq, "filter",
	        "types", "vm.*", "vm", "a");
	event = event_wait(&s.client, "vm.created", "a", NULL, NULL, 5000);
	cr_assert_eq(member_int(event, "seq"), first);
	json_decref(event);
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", "a");
	event = event_wait(&s.client, "vm.deleted", "a", NULL, NULL, 5000);
	cr_assert_gt(member_int(event, "seq"), first);
	json_decref(event);
}

Test(api, change_replies_carry_their_event)
{
	json_t *change, *event;

	call_ok(&s.client, "events.subscribe", NULL);
	change = call(&s.client, "vm.create", "{s:{s:s}}", "definition", "name", "a");
	event = event_wait(&s.client, "vm.created", "a", NULL, NULL, 5000);
	cr_assert_eq(member_int(event, "seq"), member_int(change, "event"));
	json_decref(event);
	json_decref(change);
}

Test(api, what_fell_out_of_the_ring_is_told_as_a_gap)
{
	json_t *event;

	scene_stop(&s);
	scene_config(&s, "[events]\nring = 64K\n");
	scene_start(&s);
	for (int i = 0; i < 600; i++) {
		guest_create_bare(&s, "a", NULL);
		call_ok(&s.client, "vm.delete", "{s:s}", "vm", "a");
	}
	call_ok(&s.client, "events.subscribe", "{s:i}", "since", 1);
	event = event_wait(&s.client, "gap", NULL, NULL, NULL, 10000);
	cr_assert_eq(member_int(event, "data.from"), 2);
	cr_assert_gt(member_int(event, "data.to"), 2);
	json_decref(event);
}

Test(api, descriptors_stand_for_paths)
{
	cleanup_close int disk = open(scene_disk(&s, "d.img", 1 << 20), O_RDWR | O_CLOEXEC);
	cleanup_close int picture = -1;
	json_t *params = json_pack("{s:{s:s, s:s, s:[{s:{s:i}, s:s}], s:s}}", "definition", "name",
	                           "a", "memory", "64M", "disks", "path", "fd", 0, "format", "raw",
	                           "display", "vnc");
	json_t *reply = call_raw(&s.client, "vm.create", params, &disk, 1);
	char magic[4];

	cr_assert(json_object_get(reply, "result"), "%s", refusal_of(reply).message);
	json_decref(reply);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	reply = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_assert_eq(json_array_size(member(reply, "disks")), 1);
	json_decref(reply);
	reply = call(&s.client, "vm.screenshot", "{s:s}", "vm", "a");
	cr_assert_eq(s.client.n_fds, 1);
	picture = s.client.fds[0];
	s.client.n_fds = 0;
	cr_assert_eq(pread(picture, magic, 4, 0), 4);
	cr_assert_arr_eq(magic, "\x89PNG", 4);
	json_decref(reply);
	/* A descriptor that did not come along. */
	cr_assert_str_eq(call_refused(&s.client, "invalid", "vm.create",
	                              "{s:{s:s, s:[{s:{s:i}, s:s}]}}", "definition", "name", "b",
	                              "disks", "path", "fd", 3, "format", "raw")
	                         .field,
	                 "definition.disks[0].path.fd");
}

Test(api, a_descriptor_stands_for_the_path_of_a_base)
{
	const char *path = scene_disk(&s, "base.img", 1 << 20);
	cleanup_close int base = open(path, O_RDONLY | O_CLOEXEC);
	json_t *reply =
		call_raw(&s.client, "vm.create",
	                 json_pack("{s:{s:s, s:[{s:s, s:s, s:{s:{s:i}, s:s}}]}}", "definition",
	                           "name", "a", "disks", "path", "/top", "format", "qcow2",
	                           "backing", "path", "fd", 0, "format", "raw"),
	                 &base, 1);

	cr_assert(json_object_get(reply, "result"), "%s", refusal_of(reply).message);
	json_decref(reply);
	reply = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_expect_str_eq(member_str(reply, "definition.disks.0.backing.path"), path);
	json_decref(reply);
}

Test(api, viewers_only_look)
{
	struct client viewer;
	json_t *info;

	guest_create_bare(&s, "a", NULL);
	cr_assert(client_open(&viewer, s.ro_socket));
	info = call(&viewer, "daemon.info", NULL);
	cr_assert_str_eq(member_str(info, "role"), "viewer");
	json_decref(info);
	call_ok(&viewer, "vm.get", "{s:s}", "vm", "a");
	call_refused(&viewer, "denied", "vm.delete", "{s:s}", "vm", "a");
	call_refused(&viewer, "denied", "vm.create", "{s:{s:s}}", "definition", "name", "b");
	call_refused(&viewer, "denied", "daemon.reload", NULL);
	client_close(&viewer);
}

Test(api, limits_are_told)
{
	json_t *info = call(&s.client, "daemon.info", NULL);

	cr_assert_eq(member_int(info, "limits.message_bytes"), 1048576);
	cr_assert_eq(member_int(info, "limits.depth"), 32);
	cr_assert_str_eq(member_str(info, "role"), "admin");
	cr_assert_str_eq(member_str(info, "state_dir"), s.state_dir);
	cr_assert_eq(member_int(info, "pid"), s.vmd);
	json_decref(info);
}

Test(api, protected_guests_stay)
{
	guest_create_bare(&s, "a", json_pack("{s:{s:b, s:b}}", "protect", "delete", 1, "stop", 1));
	call_refused(&s.client, "denied", "vm.delete", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	call_refused(&s.client, "denied", "vm.stop", "{s:s}", "vm", "a");
	call_refused(&s.client, "denied", "vm.kill", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
}

Test(api, reads_do_not_wait_behind_slow_work)
{
	struct client other;
	const char *stop = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.stop\",\"params\":"
			   "{\"vm\":\"a\",\"timeout_ms\":60000}}\n";
	const char *kill = "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"vm.kill\",\"params\":"
			   "{\"vm\":\"a\"}}\n";
	bool answered[3] = { false };

	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	call_ok(&s.client, "events.subscribe", "{}");
	cr_assert(client_open(&other, s.socket));
	cr_assert(client_send(&other, stop, strlen(stop)));
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopping", 10000));
	guest_expect_state(&s, "a", "stopping");
	/* The same connection too. The kill ends what the stop waits for, so both replies come, in
	 * either order. */
	cr_assert(client_send(&other, kill, strlen(kill)));
	for (int i = 0; i < 2; i++) {
		json_t *reply = client_read(&other, 10000, NULL);
		json_int_t id = json_integer_value(json_object_get(reply, "id"));

		cr_assert(id == 1 || id == 2);
		cr_assert_not(answered[id]);
		answered[id] = true;
		if (id == 2)
			cr_assert(json_object_get(reply, "result"), "the kill failed");
		json_decref(reply);
	}
	client_close(&other);
}
