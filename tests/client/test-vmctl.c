/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "tests/client/fakevmd.h"

/* The compact text begins as want does; blanks in want are for reading, E is ERROR_REPLY's. */
static void expect_begins(const char *text, const char *want)
{
	static const char error[] = "{\"code\":-32001,\"message\":\"it is so\",\"data\":{\"kind\":";
	const char *p = text;

	for (; *want; want++) {
		if (*want == ' ')
			continue;
		if (*want != 'E') {
			cr_assert_eq(*p++, *want, "%s", text);
			continue;
		}
		cr_assert_eq(strncmp(p, error, strlen(error)), 0, "%s", p);
		p = strstr(p, "}}") + 2;
	}
}

/* The path in "your text is kept in PATH" (static storage). */
static const char *kept_file(const char *err)
{
	static char path[256];

	cr_assert_eq(sscanf(strstr(err, "kept in "), "kept in %255s", path), 1);
	return path;
}

TestSuite(vmctl, .timeout = 60);

static const char two_vms[] =
	"{\"vms\": [{\"name\": \"db\", \"uuid\": \"u1\", \"state\": \"running\", \"engine\": \"qemu\", "
	"\"cpus\": 2, \"memory_bytes\": 536870912, \"since_us\": 1700000000000000}, "
	"{\"name\": \"web\", \"uuid\": \"u2\", \"state\": \"stopped\", \"engine\": null, "
	"\"cpus\": 1, \"memory_bytes\": 1073741824, \"since_us\": 1700000000000000}]}";

Test(vmctl, list_table_json_and_quiet)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = two_vms },
		                                  { 0 } };
	json_t *direct, *printed;
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "list", NULL);
	EXPECT_CODE(o, 0);
	EXPECT_IN(o.out, "NAME");
	EXPECT_IN(o.out, "512 MiB");
	outcome_free(&o);
	o = vmctl(&f, NULL, "ls", "-q", NULL);
	cr_assert_str_eq(o.out, "db\nweb\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "ps", "-o", "json", NULL);
	direct = json_loads(two_vms, 0, NULL);
	printed = json_loads(o.out, 0, NULL);
	cr_assert(json_equal(direct, printed));
	json_decref(direct);
	json_decref(printed);
	outcome_free(&o);
	o = vmctl(&f, NULL, "list", "-ojson", "--fields", "name,cpus", NULL);
	cr_assert_str_eq(o.out, "[{\"name\":\"db\",\"cpus\":2},{\"name\":\"web\",\"cpus\":1}]\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "list", "--fields", "nmae", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "did you mean 'name'?");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, create_sends_the_definition)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.create",
		  .reply =
		          "{\"uuid\": \"u\", \"name\": \"web\", \"generation\": 1, \"event\": 1}" },
		{ 0 },
	};
	static const char expected[] =
		"{\"definition\": {\"name\": \"web\", \"cpus\": 2, \"memory\": \"512M\", "
		"\"boot\": {\"kernel\": \"/k\", \"initrd\": \"/i\", \"cmdline\": \"a=b console=ttyS0\"}, "
		"\"labels\": {\"tier\": \"front\"}, "
		"\"disks\": [{\"path\": \"/d,1\", \"format\": \"raw\", \"readonly\": true}, "
		"{\"path\": \"/t\", \"format\": \"qcow2\", "
		"\"backing\": {\"path\": \"/b\", \"format\": \"raw\"}}, "
		"{\"disk\": \"data\", \"iops\": {\"total\": 100}}], "
		"\"nics\": [{\"network\": \"user\", \"forward\": [\"tcp:8080:80\", \"udp:5353:53\"]}], "
		"\"stop_timeout_ms\": 90000, \"tpm\": true, \"protect\": {\"delete\": true}}}";
	json_t *all;
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "create", "web", "--kernel", "/k", "--initrd=/i", "--cmdline",
	          "a=b console=ttyS0", "--cpus", "2", "--memory", "512M", "--label", "tier=front",
	          "--disk", "path=/d,,1,format=raw,readonly", "--disk",
	          "path=/t,format=qcow2,backing=/b,backing.format=raw", "--disk",
	          "disk=data,iops=100", "--nic", "user,forward=tcp:8080:80,forward=udp:5353:53",
	          "--stop-timeout", "90s", "--tpm", "on", "--protect", "delete", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: created\n");
	all = fake_requests(&f);
	expect_json(fake_params(all, "vm.create", 0), expected);
	outcome_free(&o);
	json_decref(all);
	fake_stop(&f);
}

Test(vmctl, create_file_and_relative_paths)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.create", .reply = "{\"name\": \"a\"}" }, { 0 }
	};
	char cwd[512], path[600];
	const json_t *definition, *disk;
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	cr_assert_not_null(getcwd(cwd, sizeof(cwd)));
	snprintf(path, sizeof(path), "%s/vmlinuz", cwd);
	o = vmctl(&f,
	          "{\"name\": \"a\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"vmlinuz\"}, "
	          "\"disks\": [{\"path\": \"/t\", \"format\": \"qcow2\", "
	          "\"backing\": {\"path\": \"base\", \"format\": \"raw\"}}]}",
	          "create", "-f", "-", "--memory", "2G", NULL);
	EXPECT_CODE(o, 0);
	all = fake_requests(&f);
	definition = json_object_get(fake_params(all, "vm.create", 0), "definition");
	cr_assert_str_eq(jsonx_str(definition, "memory", ""), "2G");
	cr_assert_str_eq(jsonx_str(json_object_get(definition, "boot"), "kernel", ""), path);
	disk = json_array_get(json_object_get(definition, "disks"), 0);
	snprintf(path, sizeof(path), "%s/base", cwd);
	cr_assert_str_eq(jsonx_str(json_object_get(disk, "backing"), "path", ""), path);
	json_decref(all);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, create_refuses_bad_words)
{
	struct outcome o = vmctl(NULL, NULL, "create", "a", "--disk", "path=/d,formt=raw", NULL);

	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "did you mean 'format'?");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "create", "a", "--memroy", "1G", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "did you mean '--memory'?");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "create", "a", "--rng", "maybe", NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
}

Test(vmctl, start_waits_for_the_job)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.start",
		  .reply = "{\"job\": {\"id\": \"j1\", \"state\": \"running\"}}" },
		{ .method = "job.wait",
		  .reply =
		          "{\"id\": \"j1\", \"state\": \"done\", \"result\": {\"name\": \"web\"}}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "start", "web", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: started\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "start", "web", "-o", "json", NULL);
	cr_assert_str_eq(o.out, "{\"name\":\"web\"}\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "start", "web", "--no-wait", NULL);
	cr_assert_str_eq(o.out, "web: job j1\n");
	outcome_free(&o);
	all = fake_requests(&f);
	cr_assert(json_is_false(json_object_get(fake_params(all, "vm.start", 0), "wait")));
	json_decref(all);
	fake_stop(&f);
}

Test(vmctl, exit_codes)
{
	static const struct {
		const char *reply;
		int code;
	} rows[] = {
		{ ERROR_REPLY("not_found"), 3 }, { ERROR_REPLY("wrong_state"), 4 },
		{ ERROR_REPLY("denied"), 5 },    { ERROR_REPLY("timeout"), 6 },
		{ ERROR_REPLY("internal"), 1 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct fake_rule rules[] = { { .method = "vm.pause", .reply = rows[i].reply },
			                     { 0 } };
		struct outcome o;
		struct fake f;

		fake_start(&f, rules);
		o = vmctl(&f, NULL, "pause", "web", NULL);
		EXPECT_CODE(o, rows[i].code);
		cr_assert_str_eq(o.err, "vmctl: 'web': it is so\n");
		outcome_free(&o);
		fake_stop(&f);
	}
}

Test(vmctl, several_and_partial)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.list",
		  .reply = "{\"vms\": [{\"name\": \"a\"}, {\"name\": \"b\"}]}" },
		{ .method = "vm.kill", .reply = "{\"name\": \"a\"}" },
		{ .method = "vm.kill", .reply = ERROR_REPLY("wrong_state") },
		{ .method = "vm.kill", .reply = ERROR_REPLY("wrong_state") },
		{ .method = "vm.kill", .reply = ERROR_REPLY("wrong_state") },
		{ 0 },
	};
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "kill", "*", NULL);
	EXPECT_CODE(o, 2);
	cr_assert_str_eq(o.out, "a: killed\n");
	cr_assert_str_eq(o.err, "vmctl: 'b': it is so\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "kill", "--label", "tier=x", "--label", "y=z", "-o", "json", NULL);
	EXPECT_CODE(o, 4);
	EXPECT_IN(o.out, "[{\"vm\":\"a\",\"error\":{\"code\":-32001");
	outcome_free(&o);
	all = fake_requests(&f);
	cr_assert_str_eq(jsonx_str(fake_params(all, "vm.list", 0), "name", ""), "*");
	cr_assert_str_eq(
		jsonx_str(json_object_get(fake_params(all, "vm.list", 1), "labels"), "y", ""), "z");
	json_decref(all);
	o = vmctl(&f, NULL, "kill", NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
	fake_stop(&f);
}

/* With -o json stdout holds one document, whatever failed, and says what is whose. */
Test(vmctl, several_are_one_document)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.get", .reply = "{\"name\": \"a\", \"state\": \"stopped\"}" },
		{ .method = "vm.get", .reply = ERROR_REPLY("not_found") },
		{ .method = "snapshot.delete", .reply = ERROR_REPLY("not_found") },
		{ .method = "snapshot.delete", .reply = "{\"name\": \"web\"}" },
		{ .method = "disk.delete", .reply = "{\"name\": \"d\"}" },
		{ .method = "job.cancel", .reply = ERROR_REPLY("not_found") },
		{ .method = "job.cancel", .reply = ERROR_REPLY("denied") },
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ 0 },
	};
	static const struct {
		const char *words[5], *out;
		int code;
	} rows[] = {
		{ { "info", "a", "b", "--fields", "name" },
		  "[{\"vm\": \"a\", \"result\": {\"name\": \"a\"}}, {\"vm\": \"b\", \"error\": ",
		  2 },
		{ { "status", "b" }, "{\"error\": ", 3 },
		{ { "snapshot", "delete", "web", "x", "y" },
		  "[{\"snapshot\": \"x\", \"error\": E}, {\"snapshot\": \"y\", \"result\": ",
		  2 },
		{ { "disk", "delete", "d" }, "{\"name\": \"d\"}", 0 },
		{ { "disk", "delete", "d", "e" }, "[{\"disk\": \"d\", \"result\": ", 0 },
		{ { "job", "cancel", "x", "y" }, "[{\"job\": \"x\", \"error\": ", 1 },
	};
	struct fake f;

	fake_start(&f, rules);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *const *w = rows[i].words;
		struct outcome o =
			vmctl(&f, NULL, "-o", "json", w[0], w[1], w[2], w[3], w[4], NULL);
		json_t *document = json_loads(o.out, JSON_DECODE_ANY, NULL);

		EXPECT_CODE(o, rows[i].code);
		cr_assert_not_null(document, "not one document: %s", o.out);
		json_decref(document);
		expect_begins(o.out, rows[i].out);
		outcome_free(&o);
	}
	fake_stop(&f);
}

Test(vmctl, fields_that_are_not_there)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.get",
		  .reply = "{\"name\": \"a\", \"exit\": null, \"definition\": {}}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "info", "a", "--fields", "nme", NULL);
	EXPECT_CODE(o, 64);
	cr_assert_str_eq(o.err,
	                 "vmctl: --fields: no such field 'nme'\nhint: did you mean 'name'?\n");
	outcome_free(&o);
	/* A VM that never ran has no exit, but there is such a field. */
	o = vmctl(&f, NULL, "info", "a", "--fields", "exit.code,definition.labels.x", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "{\"exit.code\":null,\"definition.labels.x\":null}\n");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, run_refuses_before_it_creates)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.create", .reply = "{\"name\": \"web\"}" },
		{ 0 },
	};
	static const char *const wrong[][4] = {
		{ "run", "web", "--detach", "--rm" },  { "run", "web", "--escape", "wrong" },
		{ "run", "web", "-o", "json" },        { "start", "web", "-c", "--no-wait" },
		{ "start", "web", "-c", "--dry-run" }, { "console", "web", "-o", "json" },
	};
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		o = vmctl(&f, NULL, wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], NULL);
		EXPECT_CODE(o, 64);
		outcome_free(&o);
	}
	all = fake_requests(&f);
	cr_assert_eq(json_array_size(all), 0);
	json_decref(all);
	o = vmctl(&f, NULL, "run", "web", "--dry-run", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: would be created and started\n");
	outcome_free(&o);
	all = fake_requests(&f);
	cr_assert_eq(json_array_size(all), 1);
	cr_assert(json_is_true(json_object_get(fake_params(all, "vm.create", 0), "dry_run")));
	json_decref(all);
	fake_stop(&f);
}

Test(vmctl, start_and_attach_by_pattern)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.list", .reply = "{\"vms\": [{\"name\": \"web\"}]}" },
		{ .method = "vm.list",
		  .reply = "{\"vms\": [{\"name\": \"a\"}, {\"name\": \"b\"}]}" },
		{ .method = "vm.start", .reply = "{\"name\": \"web\"}" },
		{ .method = "console.open", .reply = "{\"stream\": {\"fd\": 0}}", .stream = "x" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	o = vmctl(&f, ".", "start", "w*", "-c", NULL);
	EXPECT_CODE(o, 0);
	outcome_free(&o);
	o = vmctl(&f, "", "start", "*", "-c", NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
	all = fake_requests(&f);
	cr_assert_str_eq(jsonx_str(fake_params(all, "console.open", 0), "vm", ""), "web");
	json_decref(all);
	fake_stop(&f);
}

Test(vmctl, glob_without_match)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = "{\"vms\": []}" },
		                                  { 0 } };
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "stop", "x*", NULL);
	EXPECT_CODE(o, 3);
	cr_assert_str_eq(o.err, "vmctl: no VM matches 'x*'\n");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, words_of_others)
{
	struct outcome o = vmctl(NULL, NULL, "destroy", "web", NULL);

	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "vmctl kill web");
	EXPECT_IN(o.err, "vmctl delete web");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "strat", "web", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "did you mean 'start'?");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "sta", "web", NULL); /* a prefix, and no terminal */
	EXPECT_CODE(o, 64);
	outcome_free(&o);
	o = vmctl(NULL, NULL, "undefine", "web", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "vmctl delete");
	outcome_free(&o);
	/* With what follows it there. */
	o = vmctl(NULL, NULL, "setvcpus", "web", "4", "--live", NULL);
	EXPECT_CODE(o, 64);
	cr_assert_str_eq(o.err, "vmctl: 'setvcpus' is called: vmctl set NAME cpus=N\n");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "help", "destroy", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "vmctl kill NAME");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "migrate", "--live", "web", "qemu+ssh://x", NULL);
	EXPECT_CODE(o, 64);
	EXPECT_IN(o.err, "cannot move to another host");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "create", "-s", "10G", "disk.img", NULL);
	EXPECT_CODE(o, 7);
	EXPECT_IN(o.err, "vmctl disk create");
	outcome_free(&o);
}

Test(vmctl, list_all)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = two_vms },
		                                  { 0 } };
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "ps", "-a", "-q", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "db\nweb\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "list", "--all", "--state", "running", NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, nobody_there)
{
	struct outcome o = vmctl(NULL, NULL, "-s", "/nonexistent/vmd.sock", "list", NULL);

	EXPECT_CODE(o, 7);
	EXPECT_IN(o.err, "hint: ");
	outcome_free(&o);
}

Test(vmctl, call_types_values_by_the_contract)
{
	static const struct fake_rule rules[] = { { .method = "vm.update", .reply = "{\"x\": 1}" },
		                                  { 0 } };
	static const char want[] =
		"{\"vm\": \"7\", \"if_generation\": 3, \"set\": {\"memory\": \"2G\", "
		"\"cpus\": 4}}";
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "call", "vm.update", "vm=7", "if_generation=3", "set.memory=2G",
	          "set.cpus=4", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "{\"x\":1}\n");
	all = fake_requests(&f);
	expect_json(fake_params(all, "vm.update", 0), want);
	json_decref(all);
	outcome_free(&o);
	o = vmctl(&f, NULL, "call", "vm.udpate", NULL);
	EXPECT_IN(o.err, "did you mean 'vm.update'?");
	outcome_free(&o);
	fake_stop(&f);
}

static const struct fake_rule set_rules[] = {
	{ .method = "vm.get",
	  .reply =
	          "{\"name\": \"web\", \"generation\": 5, \"pid\": 12, \"definition\": {\"name\": "
	          "\"web\", \"memory\": \"1G\", \"labels\": {\"a\": \"1\"}, \"disks\": [{\"path\": "
	          "\"/d\", \"format\": \"raw\"}], \"nics\": [{\"network\": \"user\", \"mac\": "
	          "\"52:54:00:00:00:01\"}]}}" },
	{ .method = "vm.update",
	  .reply = "{\"name\": \"web\", \"generation\": 6, \"pending\": [\"memory\"], "
	           "\"definition\": {\"name\": \"web\", \"memory\": \"2G\", \"labels\": {\"a\": "
	           "\"1\", \"b\": \"2\"}, \"disks\": [{\"path\": \"/d\", \"format\": \"raw\"}], "
	           "\"nics\": [{\"network\": \"user\", \"mac\": \"52:54:00:00:00:01\"}]}}" },
	{ 0 },
};

Test(vmctl, set_sends_a_merge_patch)
{
	static const char want[] =
		"{\"memory\": \"2G\", \"labels\": {\"a\": null, \"b\": \"2\"}, "
		"\"disks\": [{\"path\": \"/d\", \"format\": \"raw\", \"readonly\": "
		"true}]}";
	const json_t *params;
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, set_rules);
	o = vmctl(&f, NULL, "set", "web", "memory=2G", "labels.a=null", "labels.b=2",
	          "disks.0.readonly=true", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: changed\n  memory: 1G -> 2G  (at the next start)\n"
	                        "  labels.b: (default) -> 2  (now)\n");
	all = fake_requests(&f);
	params = fake_params(all, "vm.update", 0);
	expect_json(json_object_get(params, "set"), want);
	cr_assert_eq(jsonx_int(params, "if_generation", 0), 5);
	json_decref(all);
	outcome_free(&o);
	o = vmctl(&f, NULL, "set", "web", "disks.7.readonly=true", NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, apply_plans_and_keeps_identity)
{
	const json_t *params;
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, set_rules);
	o = vmctl(&f,
	          "{\"name\": \"web\", \"memory\": \"2G\", \"labels\": {\"a\": \"1\"}, \"disks\": "
	          "[{\"path\": \"/d\", \"format\": \"raw\"}], \"nics\": [{\"network\": \"user\"}]}",
	          "apply", "-f", "-", "--plan", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: would be changed\n  memory: 1G -> 2G  (at the next start)\n"
	                        "  labels.b: (default) -> 2  (now)\n");
	all = fake_requests(&f);
	params = fake_params(all, "vm.update", 0);
	cr_assert(json_is_true(json_object_get(params, "dry_run")));
	cr_assert_eq(json_object_size(json_object_get(params, "set")), 1);
	json_decref(all);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, edit_sends_what_changed)
{
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, set_rules);
	setenv("EDITOR", "sed -i s/1G/3G/", 1);
	o = vmctl(&f, NULL, "edit", "web", NULL);
	EXPECT_CODE(o, 0);
	all = fake_requests(&f);
	cr_assert_str_eq(
		jsonx_str(json_object_get(fake_params(all, "vm.update", 0), "set"), "memory", ""),
		"3G");
	json_decref(all);
	outcome_free(&o);
	setenv("EDITOR", "false", 1);
	o = vmctl(&f, NULL, "edit", "web", NULL);
	EXPECT_CODE(o, 1);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, set_a_member_of_what_is_written_short)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.get",
		  .reply = "{\"name\": \"web\", \"generation\": 5, \"pid\": null, \"definition\": "
		           "{\"name\": \"web\", \"cpus\": 2, \"balloon\": true}}" },
		{ .method = "vm.update",
		  .reply =
		          "{\"name\": \"web\", \"generation\": 6, \"pending\": [], \"definition\": "
		          "{\"name\": \"web\", \"cpus\": 2, \"balloon\": true}}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "set", "web", "cpus.model=host", "balloon.deflate_on_oom=true", NULL);
	EXPECT_CODE(o, 0);
	all = fake_requests(&f);
	expect_json(json_object_get(fake_params(all, "vm.update", 0), "set"),
	            "{\"cpus\": {\"count\": 2, \"model\": \"host\"}, \"balloon\": "
	            "{\"deflate_on_oom\": true}}");
	json_decref(all);
	outcome_free(&o);
	fake_stop(&f);
}

/* The fields that others changed meanwhile stay as they made them; the same field is told. */
Test(vmctl, edit_meets_a_change_of_others)
{
	static const char begun[] = "{\"generation\": 5, \"pid\": null, \"definition\": {\"name\": "
				    "\"web\", \"memory\": \"1G\", \"cpus\": 1}}";
	static const char others[] =
		"{\"generation\": 6, \"pid\": null, \"definition\": {\"name\": "
		"\"web\", \"memory\": \"1G\", \"cpus\": 4}}";
	static const struct fake_rule rules[] = {
		{ .method = "vm.get", .reply = begun },
		{ .method = "vm.get", .reply = others },
		{ .method = "vm.get", .reply = begun },
		{ .method = "vm.get", .reply = others },
		{ .method = "vm.update", .reply = ERROR_REPLY("conflict") },
		{ .method = "vm.update",
		  .reply =
		          "{\"name\": \"web\", \"generation\": 7, \"pending\": [], \"definition\": "
		          "{\"name\": \"web\", \"memory\": \"3G\", \"cpus\": 4}}" },
		{ .method = "vm.update", .reply = ERROR_REPLY("conflict") },
		{ 0 },
	};
	const json_t *params;
	struct outcome o;
	struct fake f;
	json_t *all;

	fake_start(&f, rules);
	setenv("TMPDIR", f.dir, 1);
	setenv("EDITOR", "sed -i s/1G/3G/", 1);
	o = vmctl(&f, NULL, "edit", "web", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "web: changed\n  memory: 1G -> 3G\n");
	outcome_free(&o);
	all = fake_requests(&f);
	params = fake_params(all, "vm.update", 1);
	cr_assert_eq(jsonx_int(params, "if_generation", 0), 6);
	expect_json(json_object_get(params, "set"), "{\"memory\": \"3G\"}");
	json_decref(all);
	setenv("EDITOR", "sed -i 's/: 1/: 2/'", 1);
	o = vmctl(&f, NULL, "edit", "web", NULL);
	EXPECT_CODE(o, 1);
	EXPECT_IN(o.err, "somebody else has changed 'cpus'");
	EXPECT_IN(o.err, "your text is kept in ");
	cr_assert_eq(unlink(kept_file(o.err)), 0);
	outcome_free(&o);
	/* An editor that fails and changed nothing: there is nothing to keep. */
	setenv("EDITOR", "false", 1);
	o = vmctl(&f, NULL, "edit", "web", NULL);
	EXPECT_CODE(o, 1);
	cr_assert_null(strstr(o.err, "kept in"), "%s", o.err);
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, logs_follow_a_vm_that_does_not_run)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.logs", .reply = "{\"text\": \"the end\\n\"}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "logs", "-f", "web", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "the end\n");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, logs_are_made_harmless)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.logs",
		  .reply =
		          "{\"text\": \"ok\\u001b[31m red\\u001b]0;title\\u0007\\r\\n\\u009bx\\n\"}" },
		{ .method = "vm.logs",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "one\r\ntwo\x1b[2J\n" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "logs", "web", "--tail", "5", "--since", "10m", "-t", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "ok red\n\\xc2\\x9bx\n");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, events_until_a_count)
{
	static const struct fake_rule rules[] = {
		{ .method = "events.subscribe",
		  .reply =
		          "~[{\"seq\": 7, \"time_us\": 1700000000000000, \"type\": \"vm.state\", \"vm\": "
		          "\"web\", \"actor\": \"uid:0\", \"data\": {\"state\": \"running\", \"from\": \"starting\", \"cause\": null}}, {\"seq\": "
		          "8, \"time_us\": 1700000000000000, \"type\": \"vm.ready\", \"vm\": \"web\", \"actor\": "
		          "\"guest\", \"data\": {\"level\": \"login\", \"since_start_us\": 3300000}}]\n"
		          "{\"seq\": 8, \"subscription\": 1}" },
		{ .method = "daemon.ping", .reply = "{}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "events", "web", "--since", "6", "-n", "1", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out,
	                 "7 2023-11-14 22:13:20 vm.state web starting -> running by uid:0\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "events", "--since", "6", "-n", "2", NULL);
	EXPECT_IN(o.out, "vm.ready web login after 3.3s by guest\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "events", "--since", "6", "--no-follow", "-o", "json", NULL);
	EXPECT_CODE(o, 0);
	EXPECT_IN(o.out, "{\"seq\":8,");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, completion_from_the_table_and_live_names)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = two_vms },
		                                  { 0 } };
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "__complete", "--", "sta", NULL);
	EXPECT_IN(o.out, "start\t");
	EXPECT_IN(o.out, "status\t");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "start", "w", NULL);
	cr_assert_str_eq(o.out, "web\tstopped\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "stop", "--fo", NULL);
	EXPECT_IN(o.out, "--force\t");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "-o", "j", NULL);
	cr_assert_str_eq(o.out, "json\t\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "list", "--output=j", NULL); /* zsh, fish */
	cr_assert_str_eq(o.out, "--output=json\t\n");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "set", "web", "boot.k", NULL);
	EXPECT_IN(o.out, "boot.kernel=\t");
	outcome_free(&o);
	o = vmctl(&f, NULL, "__complete", "--", "set", "web", "boo", NULL);
	EXPECT_IN(o.out, "boot.\t");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, completion_of_labels)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.list",
		  .reply = "{\"vms\": [{\"definition\": {\"labels\": {\"tier\": \"a\"}}}, "
		           "{\"definition\": {}}, {\"definition\": {\"labels\": {\"tier\": "
		           "\"a\", \"team\": \"b\"}}}]}" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, NULL, "__complete", "--", "stop", "-l", "t", NULL);
	cr_assert_str_eq(o.out, "tier=a\t\nteam=b\t\n");
	outcome_free(&o);
	/* A label that is made has not been there before. */
	o = vmctl(&f, NULL, "__complete", "--", "create", "-l", "t", NULL);
	cr_assert_str_eq(o.out, "");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl, help_and_version)
{
	struct outcome o = vmctl(NULL, NULL, "help", "vm.update", NULL);

	EXPECT_CODE(o, 0);
	EXPECT_IN(o.out, "if_generation (integer");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "snapshot", "restore", "--help", NULL);
	EXPECT_CODE(o, 0);
	EXPECT_IN(o.out, "NAME SNAPSHOT");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "help", "start", "-o", "json", NULL);
	EXPECT_IN(o.out, "{\"name\":\"console\",\"letter\":\"c\"");
	outcome_free(&o);
	o = vmctl(NULL, NULL, "-s", "/nonexistent", "version", NULL);
	cr_assert_str_eq(o.out, "vmctl " PACKAGE_VERSION "\n");
	outcome_free(&o);
	o = vmctl(NULL, NULL, NULL);
	EXPECT_CODE(o, 64);
	outcome_free(&o);
}

/* Every help fits a terminal, and no line ends with blanks. */
Test(vmctl, help_fits_a_terminal)
{
	static const char *const words[] = { "create", "run",  "start",    "apply", "snapshot",
		                             "list",   "edit", "validate", NULL };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		struct outcome o = vmctl(NULL, NULL, "help", words[i], NULL);

		EXPECT_CODE(o, 0);
		for (char *line = strtok(o.out, "\n"); line; line = strtok(NULL, "\n")) {
			cr_assert_leq(strlen(line), 100, "%s", line);
			cr_assert_neq(line[strlen(line) - 1], ' ', "'%s'", line);
		}
		outcome_free(&o);
	}
}

/* The script as bash runs it: the words so far in, candidates out. */
static void expect_bash(struct fake *f, const char *words, const char *candidates)
{
	char command[1024], out[1024];
	size_t n;
	FILE *p;

	snprintf(
		command, sizeof(command),
		"PATH=.:$PATH VMD_SOCKET=%s bash -c '. %s/completions/vmctl.bash; COMP_WORDS=(%s); "
		"COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vmctl; printf \"%%s \" "
		"\"${COMPREPLY[@]}\"'",
		f->socket, TEST_SOURCE_DIR, words);
	p = popen(command, "re");
	cr_assert_not_null(p);
	n = fread(out, 1, sizeof(out) - 1, p);
	out[n] = '\0';
	cr_assert_eq(pclose(p), 0);
	cr_assert_str_eq(out, candidates, "for \"%s\": %s", words, out);
}

Test(vmctl, completion_in_bash)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = two_vms },
		                                  { 0 } };
	struct fake f;

	fake_start(&f, rules);
	expect_bash(&f, "vmctl sna", "snapshot ");
	expect_bash(&f, "vmctl snapshot r", "restore ");
	expect_bash(&f, "vmctl stop \"\"", "db web ");
	expect_bash(&f, "vmctl stop db w", "web ");
	expect_bash(&f, "vmctl logs --foll", "--follow ");
	/* As bash cuts "--output=j": at the sign. */
	expect_bash(&f, "vmctl list --output =", "table json ");
	expect_bash(&f, "vmctl list --output = j", "json ");
	expect_bash(&f, "vmctl set web mem", "memory= memory_backing. ");
	expect_bash(&f, "vmctl call vm.li", "vm.list ");
	expect_bash(&f, "vmctl job list --state do", "done ");
	fake_stop(&f);
}

Test(vmctl, a_full_disk_is_an_error)
{
	static const struct fake_rule rules[] = { { .method = "vm.list", .reply = two_vms },
		                                  { 0 } };
	char command[256];
	struct fake f;

	fake_start(&f, rules);
	snprintf(command, sizeof(command), "./vmctl -s %s list > /dev/full 2> /dev/null", f.socket);
	cr_assert_eq(WEXITSTATUS(system(command)), 1);
	/* Closed, it is no place to write to either, and above all not the socket. */
	snprintf(command, sizeof(command), "./vmctl -s %s list >&- 2> /dev/null", f.socket);
	cr_assert_eq(WEXITSTATUS(system(command)), 1);
	snprintf(command, sizeof(command),
	         "test \"$(./vmctl -s %s list -q <&- 2>&-)\" = \"$(printf 'db\\nweb')\"", f.socket);
	cr_assert_eq(WEXITSTATUS(system(command)), 0);
	fake_stop(&f);
}

/* What waits for a guest's next word notices that its reader has gone before there is one. */
Test(vmctl, streams_end_with_their_reader)
{
	static const struct fake_rule rules[] = {
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ .method = "vm.logs", .reply = "{\"stream\": {\"fd\": 0}}", .stream = "one\n" },
		{ .method = "console.open",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "one\n" },
		{ 0 },
	};
	static const char *const words[] = { "events", "logs -f web", "console web" };
	char command[256];
	struct fake f;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		fake_start(&f, rules);
		snprintf(command, sizeof(command),
		         "bash -c 'timeout 10 ./vmctl -s %s %s < /dev/null | head -c 0; test "
		         "${PIPESTATUS[0]} != 124'",
		         f.socket, words[i]);
		cr_assert_eq(system(command), 0, "%s", words[i]);
		fake_stop(&f);
	}
}

/* As a user without a daemon: runs command (a shell's) as nobody in a directory of its own, where
 * a copy of vmctl finds this script as vmd. Its exit code; its stderr in err. */
static int run_as_user(const char *vmd_script, const char *command, char *err, size_t len)
{
	char dir[] = "/tmp/vmctl-test-XXXXXX", text[2048];
	size_t n = 0;
	FILE *p;
	int status;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(
		text, sizeof(text),
		"cd %s && cp $OLDPWD/vmctl . && printf '%%s\\n' '#!/bin/sh' '%s' > vmd && chmod 755 . "
		"vmd vmctl && mkdir run && chmod 700 run && chown 65534 . run && env -u VMD_SOCKET "
		"XDG_RUNTIME_DIR=%s/run XDG_STATE_HOME=%s/state setpriv --reuid 65534 --regid 65534 "
		"--clear-groups sh -c '%s' 2>&1 > /dev/null",
		dir, vmd_script, dir, dir, command);
	p = popen(text, "re");
	cr_assert_not_null(p);
	n = fread(err, 1, len - 1, p);
	err[n] = '\0';
	status = pclose(p);
	snprintf(text, sizeof(text), "rm -rf %s", dir);
	cr_assert_eq(system(text), 0);
	return WEXITSTATUS(status);
}

Test(vmctl, session_daemon_that_fails)
{
	char err[1024];

	if (geteuid() != 0)
		cr_skip_test("needs root to become another user");
	cr_assert_eq(run_as_user("touch ${0%/*}/started; echo \"boom: $1\" >&2; exit 1",
	                         "./vmctl list; r=$?; test -e started && exit $r", err,
	                         sizeof(err)),
	             7, "%s", err);
	EXPECT_IN(err, "list: the session daemon ended while it started: boom: --session\n");
	EXPECT_IN(err, "/vmd'; its log is ");
	/* Without a place for a log it still says why. */
	cr_assert_eq(run_as_user("echo \"vmd: err: boom: $1\" >&2; exit 1",
	                         "env -u XDG_STATE_HOME HOME=/nonexistent ./vmctl list", err,
	                         sizeof(err)),
	             7, "%s", err);
	EXPECT_IN(err, "ended while it started: boom: --session\n");
	/* A socket that was named is never started for; version and completion start nothing. */
	cr_assert_eq(run_as_user("touch ${0%/*}/started",
	                         "./vmctl -s run/x list; ./vmctl version; ./vmctl "
	                         "__complete -- start x; test ! -e started",
	                         err, sizeof(err)),
	             0, "%s", err);
	/* A runtime directory that others may write to is not trusted. */
	cr_assert_eq(
		run_as_user("touch ${0%/*}/started",
	                    "mkdir -m 777 run/vmd; chmod 777 run/vmd; ./vmctl list && exit 99; "
	                    "test ! -e started",
	                    err, sizeof(err)),
		0, "%s", err);
	EXPECT_IN(err, "not a directory of ours alone");
	cr_assert_null(strstr(err, "is it running"), "%s", err);
}
