/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/contractview.h"

#include <string.h>

#include "api/contract.h"
#include "client/args.h"
#include "client/die.h"
#include "common/jsonx.h"
#include "common/parse.h"

enum {
	MAX_METHODS = 256,
	MAX_REFS = 16
};

const json_t *contract_document(void)
{
	static json_t *document;

	if (!document)
		document = json_loadb(contract_text, contract_len, 0, NULL);
	if (!document)
		die_no_memory(); /* the text is tested; only memory can fail */
	return document;
}

const json_t *contract_resolve(const json_t *value)
{
	for (int i = 0; i < MAX_REFS; i++) {
		const char *ref = jsonx_str(value, "$ref", NULL);
		const json_t *at = contract_document();

		if (!ref || strncmp(ref, "#/", 2) != 0)
			return value;
		for (const char *p = ref + 2; *p && at;) {
			size_t len = strcspn(p, "/");
			cleanup_free char *word = strndup(p, len);

			at = word ? json_object_get(at, word) : NULL;
			p += len + (p[len] == '/');
		}
		if (!at)
			return value;
		value = at;
	}
	return value;
}

const json_t *contract_method_find(const char *name)
{
	json_t *method;
	size_t i;

	json_array_foreach(json_object_get(contract_document(), "methods"), i, method)
		if (strcmp(jsonx_str(method, "name", ""), name) == 0)
			return method;
	return NULL;
}

char *contract_nearest_method(const char *name)
{
	const char *words[MAX_METHODS];
	const char *near;
	json_t *method;
	size_t i, n = 0;

	json_array_foreach(json_object_get(contract_document(), "methods"), i, method)
		if (n < MAX_METHODS)
			words[n++] = jsonx_str(method, "name", "");
	near = nearest_word(name, words, n);
	return near ? xstrdup(near) : NULL;
}

/* Calls fn on the schema and on every branch of oneOf, anyOf and allOf until it says true. */
static const json_t *any_branch(const json_t *schema,
                                const json_t *(*fn)(const json_t *schema, const char *arg),
                                const char *arg)
{
	static const char *const unions[] = { "oneOf", "anyOf", "allOf" };
	const json_t *found;

	schema = contract_resolve(schema);
	found = fn(schema, arg);
	for (size_t u = 0; !found && u < ARRAY_SIZE(unions); u++) {
		json_t *branch;
		size_t i;

		json_array_foreach(json_object_get(schema, unions[u]), i, branch)
			if (!found)
				found = any_branch(branch, fn, arg);
	}
	return found;
}

static const json_t *member_here(const json_t *schema, const char *word)
{
	const json_t *found = json_object_get(json_object_get(schema, "properties"), word);
	const json_t *additional = json_object_get(schema, "additionalProperties");
	uint64_t index;

	if (!found && parse_u64(word, &index) == 0)
		found = json_object_get(schema, "items");
	if (!found && json_is_object(additional))
		found = additional;
	return found;
}

static const json_t *takes_here(const json_t *schema, const char *type)
{
	const json_t *t = json_object_get(schema, "type");
	json_t *one;
	size_t i;

	if (json_is_string(t) && strcmp(json_string_value(t), type) == 0)
		return schema;
	json_array_foreach(t, i, one)
		if (strcmp(json_string_value(one), type) == 0)
			return schema;
	return NULL;
}

static const json_t *find_path(const json_t *schema, const char *path)
{
	while (schema && *path) {
		size_t len = strcspn(path, ".");
		cleanup_free char *word = strndup(path, len);

		schema = word ? any_branch(schema, member_here, word) : NULL;
		path += len + (path[len] == '.');
	}
	return schema;
}

static bool takes(const json_t *schema, const json_t *value)
{
	static const char *const types[] = {
		[JSON_OBJECT] = "object",   [JSON_ARRAY] = "array", [JSON_STRING] = "string",
		[JSON_INTEGER] = "integer", [JSON_REAL] = "number", [JSON_TRUE] = "boolean",
		[JSON_FALSE] = "boolean",   [JSON_NULL] = "null",
	};

	return any_branch(schema, takes_here, types[json_typeof(value)]) != NULL;
}

/* null always stays: in a merge patch it removes the member. */
static json_t *typed_value(const json_t *schema, const char *text)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	json_t *string;

	if (!value)
		return xstring(text);
	if (!schema || json_is_null(value) || takes(schema, value))
		return value;
	string = xstring(text);
	if (takes(schema, string)) {
		json_decref(value);
		return string;
	}
	json_decref(string);
	return value;
}

const json_t *contract_schema_find(const char *name, const char *path)
{
	const json_t *schemas =
		json_object_get(json_object_get(contract_document(), "components"), "schemas");

	return find_path(json_object_get(schemas, name), path);
}

json_t *contract_schema_value(const char *name, const char *path, const char *text)
{
	return typed_value(contract_schema_find(name, path), text);
}

json_t *contract_value(const char *method, const char *path, const char *text)
{
	const json_t *m = method ? contract_method_find(method) : NULL;
	size_t len = strcspn(path, "."), i;
	json_t *param;

	json_array_foreach(json_object_get(m, "params"), i, param) {
		const json_t *p = contract_resolve(param);
		const char *name = jsonx_str(p, "name", "");

		if (strlen(name) == len && strncmp(name, path, len) == 0)
			return typed_value(find_path(json_object_get(p, "schema"),
			                             path + len + (path[len] == '.')),
			                   text);
	}
	return typed_value(NULL, text);
}
