/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/schema.h"

TestSuite(schema, .timeout = 30);

struct fixture {
	struct schema_set *set;
	const struct schema *schema;
};

static struct fixture make(const char *components, const char *text)
{
	cleanup_json json_t *c = json_loads(components, 0, NULL), *v = json_loads(text, 0, NULL);
	struct vmd_error err = VMD_ERROR_INIT;
	struct fixture f = { NULL, NULL };

	cr_assert(c && v, "%s %s", components, text);
	cr_assert_eq(schema_set_new(c, &f.set, &err), 0, "%s", err.message);
	cr_assert_eq(schema_compile(f.set, v, &f.schema, &err), 0, "%s", err.message);
	cr_assert_eq(schema_set_seal(f.set, &err), 0, "%s", err.message);
	return f;
}

/* Both lists are JSON arrays of values. */
static void expect(const char *components, const char *schema, const char *good, const char *bad)
{
	struct fixture f = make(components, schema);
	cleanup_json json_t *yes = json_loads(good, 0, NULL), *no = json_loads(bad, 0, NULL);
	json_t *v;
	size_t i;

	cr_assert(yes && no, "%s %s", good, bad);
	json_array_foreach(yes, i, v) {
		struct vmd_error err = VMD_ERROR_INIT;

		cr_assert_eq(schema_check(f.schema, v, &err), 0, "%s [%zu]: %s", good, i,
		             err.message);
		cr_assert_eq(err.kind, ERROR_NONE);
	}
	json_array_foreach(no, i, v) {
		struct vmd_error err = VMD_ERROR_INIT;

		cr_assert_eq(schema_check(f.schema, v, &err), -EINVAL, "%s [%zu]", bad, i);
		cr_assert_eq(err.kind, ERROR_INVALID);
		cr_assert_neq(err.message[0], '\0');
		cr_assert_eq(schema_check(f.schema, v, NULL), -EINVAL);
	}
	schema_set_free(f.set);
}

Test(schema, types)
{
	expect("{}", "{\"type\":\"integer\"}", "[0,-1,9007199254740993]",
	       "[1.0,\"1\",null,true,[],{}]");
	expect("{}", "{\"type\":\"number\"}", "[1,1.5]", "[\"1\"]");
	expect("{}", "{\"type\":[\"string\",\"null\"]}", "[\"\",null]", "[0,false]");
	expect("{}", "{\"type\":\"boolean\"}", "[true,false]", "[0,null]");
	expect("{}", "{}", "[0,\"\",null,[],{}]", "[]");
}

Test(schema, strings)
{
	expect("{}", "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "[\"ab\",\"abc\"]",
	       "[\"a\",\"abcd\",\"\"]");
	expect("{}", "{\"enum\":[\"a\",\"b\"]}", "[\"a\",\"b\"]", "[\"c\",1,null,[\"a\"]]");
	expect("{}", "{\"const\":\"a\"}", "[\"a\"]", "[\"b\",1]");
	expect("{}", "{\"type\":\"string\",\"pattern\":\"^a+$\"}", "[\"a\",\"aa\"]",
	       "[\"\",\"ab\",\"a\\n\",\"b\\na\"]");
	expect("{}", "{\"type\":\"string\",\"format\":\"vmd-size\"}", "[\"1\",\"2G\",\"1.5GiB\"]",
	       "[\"\",\"G\",\"-1\",\"1.5\",\"99999999999G\",\"1 G\"]");
	expect("{}", "{\"type\":\"string\",\"format\":\"vmd-name\"}", "[\"a\",\"0.x-y_z\"]",
	       "[\"\",\"A\",\"-a\",\"a/b\",\"..\",\"a b\"]");
	expect("{}", "{\"type\":\"string\",\"format\":\"vmd-uuid\"}",
	       "[\"0b9c6a5e-6a0d-4d5a-8f0e-3f1f0c6f2a11\"]",
	       "[\"0B9C6A5E-6a0d-4d5a-8f0e-3f1f0c6f2a11\",\"0b9c\"]");
	expect("{}", "{\"type\":\"string\",\"format\":\"vmd-mac\"}", "[\"52:54:00:12:34:5f\"]",
	       "[\"53:54:00:12:34:56\",\"52-54-00-12-34-56\",\"52:54\"]");
}

Test(schema, numbers_and_arrays)
{
	expect("{}", "{\"type\":\"integer\",\"minimum\":-1,\"maximum\":5}", "[-1,5]",
	       "[-2,6,9223372036854775807,-9223372036854775807]");
	expect("{}",
	       "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":2}",
	       "[[1],[1,2]]", "[[],[1,2,3],[\"1\"],{}]");
}

Test(schema, objects)
{
	expect("{}",
	       "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{}},"
	       "\"required\":[\"a\"],\"additionalProperties\":false,"
	       "\"dependencies\":{\"b\":[\"a\"]}}",
	       "[{\"a\":1},{\"a\":1,\"b\":null}]",
	       "[{},{\"b\":1},{\"a\":\"1\"},{\"a\":1,\"c\":1}]");
	expect("{}",
	       "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"},"
	       "\"propertyNames\":{\"pattern\":\"^[a-z]+$\"},\"maxProperties\":2}",
	       "[{},{\"a\":\"\",\"b\":\"\"}]",
	       "[{\"a\":1},{\"A\":\"\"},{\"\":\"\"},{\"a\":\"\",\"b\":\"\",\"c\":\"\"}]");
}

Test(schema, logic)
{
	expect("{}", "{\"oneOf\":[{\"type\":\"integer\",\"minimum\":3},{\"type\":\"string\"}]}",
	       "[3,\"\"]", "[2,null,1.5]");
	expect("{}",
	       "{\"oneOf\":[{\"type\":\"integer\",\"minimum\":3},{\"type\":\"integer\",\"maximum\":5}]}",
	       "[1,7]", "[4]");
	expect("{}",
	       "{\"anyOf\":[{\"type\":\"integer\",\"minimum\":3},{\"type\":\"integer\",\"maximum\":5}]}",
	       "[1,4,7]", "[\"\"]");
	expect("{}", "{\"allOf\":[{\"minimum\":3},{\"maximum\":5}]}", "[3,5,\"x\"]", "[2,6]");
	expect("{}", "{\"not\":{\"required\":[\"a\",\"b\"]}}", "[{\"a\":1},{\"b\":1}]",
	       "[{\"a\":1,\"b\":1}]");
	expect("{}",
	       "{\"if\":{\"properties\":{\"k\":{\"const\":\"x\"}}},\"then\":{\"required\":[\"v\"]},"
	       "\"else\":{\"not\":{\"required\":[\"v\"]}}}",
	       "[{\"k\":\"x\",\"v\":1},{\"k\":\"y\"}]", "[{\"k\":\"x\"},{\"k\":\"y\",\"v\":1}]");
}

/* A reference to a component that comes later, and through a oneOf. */
Test(schema, references)
{
	expect("{\"A\":{\"oneOf\":[{\"type\":\"null\"},{\"$ref\":\"#/components/schemas/B\"}]},"
	       "\"B\":{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}}",
	       "{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/A\",\"description\":\"\"}}",
	       "[[null,1,\"a\"]]", "[[\"ab\"],[1.5],[[]]]");
}

static void does_not_compile(const char *text, const char *in_message)
{
	cleanup_json json_t *c = json_object(), *v = json_loads(text, 0, NULL);
	cleanup_schema_set struct schema_set *set = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	const struct schema *s;
	int r;

	cr_assert(v, "%s", text);
	cr_assert_eq(schema_set_new(c, &set, &err), 0);
	r = schema_compile(set, v, &s, &err);
	if (r == 0)
		r = schema_set_seal(set, &err);
	cr_assert_eq(r, -EINVAL, "%s was taken", text);
	cr_assert(strstr(err.message, in_message), "'%s' has no '%s'", err.message, in_message);
}

/* Nothing may stand in a schema that is not enforced. */
Test(schema, wrong_schemas)
{
	does_not_compile("{\"typ\":\"string\"}", "'typ': is not known here");
	does_not_compile("{\"type\":\"text\"}", "no such type");
	does_not_compile("{\"uniqueItems\":true}", "'uniqueItems': is not known here");
	does_not_compile("{\"enum\":[1]}", "only strings");
	does_not_compile("{\"enum\":[]}", "not empty");
	does_not_compile("{\"format\":\"email\"}", "no such format");
	does_not_compile("{\"pattern\":\"(\"}", "no regular expression");
	does_not_compile("{\"$ref\":\"#/components/schemas/X\"}", "leads nowhere");
	does_not_compile("{\"$ref\":\"#/components/schemas/X\",\"minLength\":1}",
	                 "no effect beside $ref");
	does_not_compile("{\"properties\":{\"a\":{\"minLength\":-1}}}", "'minLength'");
	does_not_compile("{\"properties\":{\"a\":7}}", "must be an object");
	does_not_compile("{\"minimum\":1.5}", "must be an integer");
}

static void says(const char *schema, const char *value, const char *field, const char *message,
                 const char *hint)
{
	struct fixture f = make("{}", schema);
	cleanup_json json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(schema_check(f.schema, v, &err), -EINVAL);
	cr_assert_str_eq(err.field, field);
	cr_assert_str_eq(err.message, message);
	cr_assert_str_eq(err.hint, hint);
	schema_set_free(f.set);
}

Test(schema, messages)
{
	static const char disks[] =
		"{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"disks\":"
		"{\"type\":\"array\",\"items\":{\"type\":\"object\",\"additionalProperties\":false,"
		"\"properties\":{\"path\":{\"type\":\"string\",\"minLength\":1},"
		"\"cache\":{\"enum\":[\"none\",\"writeback\"]}}}}}}";

	says(disks, "{\"disks\":[{},{\"path\":7}]}", "disks[1].path",
	     "disks[1].path must be of type string, not integer", "");
	says(disks, "{\"disks\":[{\"paht\":\"x\"}]}", "disks[0].paht",
	     "disks[0].paht is not known here", "did you mean 'path'?");
	says(disks, "{\"disks\":[{\"path\":\"x\",\"paht\":\"x\"}]}", "disks[0].paht",
	     "disks[0].paht is not known here", "did you mean 'path'?");
	says("{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"aab\":{},"
	     "\"aac\":{},\"zaad\":{}}}",
	     "{\"aab\":1,\"aad\":1}", "aad", "aad is not known here", "did you mean 'aac'?");
	says(disks, "{\"disks\":[{\"cache\":\"non\"}]}", "disks[0].cache",
	     "disks[0].cache must be 'none' or 'writeback', not 'non'", "did you mean 'none'?");
	says(disks, "[]", "", "the value must be of type object, not array", "");
}

/* Names from outside are cut at whole characters and never run over. */
Test(schema, long_names)
{
	struct fixture f = make("{}", "{\"type\":\"object\",\"additionalProperties\":false}");

	for (size_t n = 1; n < 300; n++) {
		cleanup_json json_t *v = json_object(), *copy = NULL;
		struct vmd_error err = VMD_ERROR_INIT;
		char key[1024] = "x";

		for (size_t i = 0; i < n; i++)
			strcat(key, "\xc3\xa4");
		json_object_set_new(v, key, json_null());
		cr_assert_eq(schema_check_at(f.schema, "definition", v, &err), -EINVAL);
		copy = json_string(err.field);
		cr_assert(copy, "the field is no UTF-8 at %zu", n);
		json_decref(copy);
		copy = json_string(err.message);
		cr_assert(copy, "the message is no UTF-8 at %zu", n);
	}
	schema_set_free(f.set);
}
