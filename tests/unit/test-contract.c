/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <string.h>

#include "api/contract.h"
#include "common/jsonx.h"

TestSuite(contract, .timeout = 20);

static json_t *document;
static struct contract *contract;

static void set_up(void)
{
	struct vmd_error err = VMD_ERROR_INIT;

	document = jsonx_parse(contract_text, contract_len, 64, &err);
	cr_assert(document, "%s", err.message);
	cr_assert_eq(contract_open(&contract, &err), 0, "%s", err.message);
}

static void tear_down(void)
{
	contract = contract_close(contract);
	json_decref(document);
}

/* What a "#/a/b" reference leads to. */
static const json_t *follow(const char *ref)
{
	char path[128], *save = NULL;
	const json_t *at = document;

	cr_assert(strncmp(ref, "#/", 2) == 0 && strlen(ref) < sizeof(path), "%s", ref);
	strcpy(path, ref + 2);
	for (char *p = strtok_r(path, "/", &save); p; p = strtok_r(NULL, "/", &save))
		at = json_object_get(at, p);
	return at;
}

static unsigned walk_refs(const json_t *v)
{
	unsigned n = 0;
	const char *key;
	json_t *member;
	size_t i;

	json_array_foreach(v, i, member)
		n += walk_refs(member);
	json_object_foreach((json_t *)(uintptr_t)v, key, member) {
		if (strcmp(key, "$ref") == 0) {
			cr_assert(follow(json_string_value(member)), "%s leads nowhere",
			          json_string_value(member));
			n++;
		} else {
			n += walk_refs(member);
		}
	}
	return n;
}

Test(contract, every_ref_resolves, .init = set_up, .fini = tear_down)
{
	cr_assert_gt(walk_refs(document), 100);
}

Test(contract, every_method_is_whole, .init = set_up, .fini = tear_down)
{
	const json_t *methods = json_object_get(document, "methods"), *m;
	size_t i;

	cr_assert_eq(json_array_size(methods), 39);
	json_array_foreach(methods, i, m) {
		const char *name = jsonx_str(m, "name", "?");
		const struct contract_method *c = contract_method(contract, name);

		cr_assert(c, "%s is not found", name);
		cr_assert_str_eq(c->name, name);
		cr_assert(c->params && c->result, "%s", name);
		cr_assert(jsonx_str(m, "summary", NULL), "%s has no summary", name);
		cr_assert(json_is_object(json_object_get(m, "result")), "%s has no result", name);
		cr_assert_gt(json_array_size(json_object_get(m, "errors")), 0, "%s", name);
		cr_assert_eq(!!(c->flags & CONTRACT_JOB), jsonx_bool(m, "x-job", false));
		cr_assert_eq(!!(c->flags & CONTRACT_CHANGE), jsonx_bool(m, "x-change", false));
		cr_assert(!(c->flags & CONTRACT_JOB) || c->flags & CONTRACT_CHANGE, "%s", name);
		cr_assert(!(c->flags & CONTRACT_CHANGE) || c->role > CONTRACT_VIEWER, "%s", name);
	}
	for (i = 1; contract_method_at(contract, i); i++)
		cr_assert_lt(strcmp(contract_method_at(contract, i - 1)->name,
		                    contract_method_at(contract, i)->name),
		             0);
	cr_assert_eq(i, 39);
	cr_assert_null(contract_method(contract, "vm.frobnicate"));
	cr_assert_str_eq(contract_nearest(contract, "vm.strat"), "vm.start");
	cr_assert_null(contract_nearest(contract, "something.else"));
}

/* Everything takes timeout_ms, changes take dry_run and client_key, jobs take wait. */
Test(contract, common_parameters, .init = set_up, .fini = tear_down)
{
	const struct contract_method *m;

	for (size_t i = 0; (m = contract_method_at(contract, i)); i++) {
		static const struct {
			const char *name;
			unsigned flag;
			const char *value;
		} common[] = { { "timeout_ms", 0, "1" },
			       { "dry_run", CONTRACT_CHANGE, "true" },
			       { "client_key", CONTRACT_CHANGE, "\"k\"" },
			       { "wait", CONTRACT_JOB, "false" } };

		for (size_t k = 0; k < ARRAY_SIZE(common); k++) {
			cleanup_json json_t *p = json_object();
			struct vmd_error err = VMD_ERROR_INIT;
			bool unknown, wanted = (m->flags & common[k].flag) == common[k].flag;

			json_object_set_new(p, common[k].name,
			                    json_loads(common[k].value, JSON_DECODE_ANY, NULL));
			unknown = schema_check(m->params, p, &err) < 0 &&
			          strstr(err.message, "is not known here");
			cr_assert_eq(!unknown, wanted, "%s %s: %s", m->name, common[k].name,
			             err.message);
		}
	}
}

static void check_example(const char *name, const struct schema *s, const json_t *v)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(schema_check(s, v, &err), 0, "%s: %s", name, err.message);
}

Test(contract, examples_are_valid, .init = set_up, .fini = tear_down)
{
	const json_t *schemas = json_object_get(json_object_get(document, "components"), "schemas");
	const json_t *m, *example, *entry;
	unsigned seen = 0;
	const char *key;
	json_t *s;
	size_t i, k, j;

	json_object_foreach((json_t *)(uintptr_t)schemas, key, s) {
		json_array_foreach(json_object_get(s, "examples"), i, example) {
			check_example(key, contract_schema(contract, key), example);
			seen++;
		}
		if (json_object_get(s, "default"))
			check_example(key, contract_schema(contract, key),
			              json_object_get(s, "default"));
	}
	json_array_foreach(json_object_get(document, "methods"), i, m) {
		const struct contract_method *c =
			contract_method(contract, jsonx_str(m, "name", ""));

		json_array_foreach(json_object_get(m, "examples"), k, example) {
			cleanup_json json_t *params = json_object();
			const json_t *result = json_object_get(example, "result");

			json_array_foreach(json_object_get(example, "params"), j, entry)
				json_object_set(params, jsonx_str(entry, "name", ""),
				                json_object_get(entry, "value"));
			check_example(c->name, c->params, params);
			check_example(c->name,
			              jsonx_bool(params, "wait", true)
			                      ? c->result
			                      : contract_schema(contract, "JobStarted"),
			              json_object_get(result, "value"));
			seen++;
		}
	}
	cr_assert_gt(seen, 20);
}

/* The error table in the contract is the one in error.c, and names every kind. */
Test(contract, error_table, .init = set_up, .fini = tear_down)
{
	const json_t *errors = json_object_get(json_object_get(document, "components"), "errors");

	cr_assert_eq(json_object_size(errors), _ERROR_KIND_MAX - 1);
	for (int k = ERROR_NOT_FOUND; k < _ERROR_KIND_MAX; k++) {
		const char *word = error_kind_name(k);
		const json_t *e = json_object_get(errors, word);

		cr_assert(e, "%s is missing", word);
		cr_assert_eq(jsonx_int(e, "code", 0), error_kind_code(k), "%s", word);
		cr_assert_str_eq(jsonx_str(json_object_get(e, "data"), "kind", ""), word);
		cr_assert_eq(schema_check(contract_schema(contract, "ErrorData"),
		                          json_object_get(e, "data"), NULL),
		             0, "%s", word);
	}
}

Test(contract, compact_text_says_the_same, .init = set_up, .fini = tear_down)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	cleanup_json json_t *again = NULL;

	contract_compact(&text);
	cr_assert(!strbuf_failed(&text));
	cr_assert_null(strchr(text.data, '\n'));
	again = json_loadb(text.data, text.len, 0, NULL);
	cr_assert(json_equal(again, document));
}

Test(contract, small_in_memory)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct contract *c;
	struct mallinfo2 before = mallinfo2(), after;

	cr_assert_eq(contract_open(&c, &err), 0, "%s", err.message);
	after = mallinfo2();
	cr_log_info("contract: %zu bytes",
	            after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
#ifndef VMD_SANITIZERS
	cr_assert_lt(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd, 768 * 1024);
#endif
	contract_close(c);
}

static void refused(const char *text, const char *field, const char *in_message, const char *hint)
{
	cleanup_json json_t *v = json_loads(text, 0, NULL);
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert(v, "%s", text);
	cr_assert_eq(
		schema_check_at(contract_schema(contract, "VmDefinition"), "definition", v, &err),
		-EINVAL, "%s was taken", text);
	cr_assert_eq(err.kind, ERROR_INVALID);
	cr_assert_str_eq(err.field, field);
	cr_assert(strstr(err.message, in_message), "'%s' has no '%s'", err.message, in_message);
	cr_assert_str_eq(err.hint, hint);
}

Test(contract, wrong_definitions, .init = set_up, .fini = tear_down)
{
	refused("{}", "definition.name", "is missing", "");
	refused("{\"name\":\"a\",\"memroy\":1}", "definition.memroy", "is not known here",
	        "did you mean 'memory'?");
	refused("{\"name\":\"a\",\"memory\":\"1G\",\"memroy\":1}", "definition.memroy",
	        "is not known here", "did you mean 'memory'?");
	refused("{\"name\":\"../x\"}", "definition.name", "must be a name", "");
	refused("{\"name\":\"\"}", "definition.name", "must not be empty", "");
	refused("{\"name\":\"a\\nb\"}", "definition.name", "must be a name", "");
	refused("{\"name\":7}", "definition.name", "must be of type string, not integer", "");
	refused("{\"name\":\"a\",\"cpus\":0}", "definition.cpus", "must be 1 to 256, not 0", "");
	refused("{\"name\":\"a\",\"cpus\":\"2\"}", "definition.cpus",
	        "must be of type integer or object, not string", "");
	refused("{\"name\":\"a\",\"cpus\":{\"cout\":1}}", "definition.cpus.cout",
	        "is not known here", "did you mean 'count'?");
	refused("{\"name\":\"a\",\"memory\":-1}", "definition.memory", "must be at least 0", "");
	refused("{\"name\":\"a\",\"memory\":\"2 potatoes\"}", "definition.memory",
	        "must be a size such as", "");
	refused("{\"name\":\"a\",\"memory\":1.5}", "definition.memory",
	        "must be of type integer or string, not number", "");
	refused("{\"name\":\"a\",\"engine\":\"qemo\"}", "definition.engine",
	        "must be 'auto', 'kvm' or 'qemu', not 'qemo'", "did you mean 'qemu'?");
	refused("{\"name\":\"a\",\"labels\":{\"a b\":\"c\"}}", "definition.labels.a b",
	        "must be a label key", "");
	refused("{\"name\":\"a\",\"labels\":{\"a\":1}}", "definition.labels.a",
	        "must be of type string", "");
}

Test(contract, wrong_parts, .init = set_up, .fini = tear_down)
{
	refused("{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"firmware\":\"bios\"}}",
	        "definition.boot.firmware", "and 'kernel' exclude each other", "");
	refused("{\"name\":\"a\",\"boot\":{\"initrd\":\"/k\"}}", "definition.boot.kernel",
	        "is missing ('initrd' needs it)", "");
	refused("{\"name\":\"a\",\"boot\":{\"kernel\":\"k\"}}", "definition.boot.kernel",
	        "must be an absolute path", "");
	refused("{\"name\":\"a\",\"disks\":[{\"disk\":\"b\"},{\"path\":\"/a\"}]}",
	        "definition.disks[1].format", "is missing ('path' needs it)", "");
	refused("{\"name\":\"a\",\"disks\":[{\"readonly\":true}]}", "definition.disks[0]",
	        "needs 'path' or 'disk'", "");
	refused("{\"name\":\"a\",\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"disk\":\"b\"}]}",
	        "definition.disks[0]", "takes only one of 'path' or 'disk'", "");
	refused("{\"name\":\"a\",\"disks\":[{\"disk\":\"b\",\"iops\":{\"total\":1,\"read\":1}}]}",
	        "definition.disks[0].iops.read", "and 'total' exclude each other", "");
	refused("{\"name\":\"a\",\"disks\":[{\"path\":{\"fd\":-1},\"format\":\"raw\"}]}",
	        "definition.disks[0].path.fd", "must be 0 to 31", "");
	refused("{\"name\":\"a\",\"disks\":[{\"disk\":\"b\",\"backing\":{\"path\":\"/b\","
	        "\"format\":\"raw\"}}]}",
	        "definition.disks[0].path", "is missing ('backing' needs it)", "");
	refused("{\"name\":\"a\",\"disks\":[{\"path\":\"/a\",\"format\":\"qcow2\","
	        "\"backing\":{\"path\":\"/b\"}}]}",
	        "definition.disks[0].backing.format", "is missing", "");
	refused("{\"name\":\"a\",\"nics\":[{\"network\":\"tap\"}]}", "definition.nics[0].ifname",
	        "is missing", "");
	refused("{\"name\":\"a\",\"nics\":[{\"network\":\"user\",\"ifname\":\"x\"}]}",
	        "definition.nics[0]", "'ifname' goes with network 'tap' only", "");
	refused("{\"name\":\"a\",\"nics\":[{\"network\":\"none\",\"forward\":[\"tcp:1:1\"]}]}",
	        "definition.nics[0].network", "must be 'user', not 'none'", "");
	refused("{\"name\":\"a\",\"nics\":[{\"network\":\"user\",\"forward\":[\"tcp:1\"]}]}",
	        "definition.nics[0].forward[0]", "must be a forward such as", "");
	refused("{\"name\":\"a\",\"nics\":[{\"network\":\"user\",\"mac\":\"01:00:00:00:00:01\"}]}",
	        "definition.nics[0].mac", "must be a MAC address", "");
	refused("{\"name\":\"a\",\"vsock\":{\"cid\":2}}", "definition.vsock.cid",
	        "must be 3 to 4294967294, not 2", "");
}
