/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Schemas in words. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/apidoc.h"
#include "api/mdoc.h"
#include "common/jsonx.h"

static const struct {
	const char *name, *word;
} words[] = {
	{ "Name", "name" },
	{ "Uuid", "UUID" },
	{ "Reference", "name or UUID" },
	{ "Size", "size" },
	{ "Fd", "fd" },
	{ "Path", "path" },
	{ "VmDefinition", "definition" },
};

bool apidoc_is_word(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(words[i].name, name) == 0)
			return true;
	return false;
}

const json_t *apidoc_follow(const json_t *document, const char *ref)
{
	char path[128], *save = NULL;
	const json_t *at = document;

	if (strncmp(ref, "#/", 2) != 0 || strlen(ref) >= sizeof(path))
		return NULL;
	strcpy(path, ref + 2);
	for (char *p = strtok_r(path, "/", &save); p; p = strtok_r(NULL, "/", &save))
		at = json_object_get(at, p);
	return at;
}

const char *apidoc_ref_name(const json_t *schema)
{
	const char *ref = jsonx_str(schema, "$ref", NULL), *slash = ref ? strrchr(ref, '/') : NULL;

	return slash ? slash + 1 : NULL;
}

static const json_t *resolve(const json_t *document, const json_t *schema)
{
	const char *ref = jsonx_str(schema, "$ref", NULL);

	return ref ? apidoc_follow(document, ref) : schema;
}

static void append_range(const json_t *schema, struct strbuf *out)
{
	const json_t *min = json_object_get(schema, "minimum");
	const json_t *max = json_object_get(schema, "maximum");

	if (max)
		strbuf_printf(out, ", %lld to %lld", (long long)json_integer_value(min),
		              (long long)json_integer_value(max));
	else if (min && json_integer_value(min) != 0)
		strbuf_printf(out, ", at least %lld", (long long)json_integer_value(min));
}

static void append_enum(const json_t *list, struct strbuf *out)
{
	size_t n = json_array_size(list);

	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "%s%s",
		              i == 0       ? ""
		              : i + 1 == n ? " or "
		                           : ", ",
		              json_string_value(json_array_get(list, i)));
}

static void append_array(const json_t *document, const json_t *schema, struct strbuf *out)
{
	const json_t *items = json_object_get(schema, "items");
	const json_t *max = json_object_get(schema, "maxItems");
	const json_t *whole = resolve(document, items);

	strbuf_append_str(out, "array of ");
	if (json_object_get(whole, "properties"))
		strbuf_append_str(out, "objects");
	else
		apidoc_type(document, items, out);
	if (max)
		strbuf_printf(out, ", at most %lld", (long long)json_integer_value(max));
}

static void append_types(const json_t *type, struct strbuf *out)
{
	const json_t *word;
	size_t i;

	if (json_is_string(type))
		strbuf_append_str(out, json_string_value(type));
	json_array_foreach(type, i, word)
		strbuf_printf(out, "%s%s", i ? " or " : "", json_string_value(word));
	if (!type)
		strbuf_append_str(out, "any value");
}

void apidoc_type(const json_t *document, const json_t *schema, struct strbuf *out)
{
	const char *name = apidoc_ref_name(schema);
	const json_t *branch, *branches;
	size_t i;

	for (i = 0; name && i < ARRAY_SIZE(words); i++) {
		if (strcmp(words[i].name, name) != 0)
			continue;
		strbuf_append_str(out, words[i].word);
		return;
	}
	schema = resolve(document, schema);
	branches = json_object_get(schema, "oneOf");
	if (!json_object_get(schema, "type") && branches) {
		json_array_foreach(branches, i, branch) {
			strbuf_append_str(out, i ? " or " : "");
			apidoc_type(document, branch, out);
		}
	} else if (json_object_get(schema, "enum")) {
		append_enum(json_object_get(schema, "enum"), out);
	} else if (strcmp(jsonx_str(schema, "type", ""), "array") == 0) {
		append_array(document, schema, out);
	} else {
		append_types(json_object_get(schema, "type"), out);
		append_range(schema, out);
	}
}

static void append_default(const json_t *document, const json_t *schema, struct strbuf *out)
{
	const json_t *whole = resolve(document, schema);
	const json_t *value = json_object_get(schema, "default");
	const char *text = jsonx_str(schema, "x-default", jsonx_str(whole, "x-default", NULL));
	char *dump;

	if (!value)
		value = json_object_get(whole, "default");
	if (!text && !value)
		return;
	strbuf_append_str(out, "; default: ");
	if (text || json_is_string(value)) {
		text = text ? text : json_string_value(value);
		strbuf_append_str(out, *text ? text : "empty");
		return;
	}
	dump = json_dumps(value, JSON_ENCODE_ANY);
	strbuf_append_str(out, dump ? dump : "");
	free(dump);
}

/* The object schema behind a schema: itself, an entry of an array, or a branch of oneOf. */
static const json_t *object_of(const json_t *document, const json_t *schema)
{
	const char *name = apidoc_ref_name(schema);
	const json_t *branch, *found;
	size_t i;

	if (name && apidoc_is_word(name))
		return NULL;
	schema = resolve(document, schema);
	if (json_object_get(schema, "properties"))
		return schema;
	if (json_object_get(schema, "items"))
		return object_of(document, json_object_get(schema, "items"));
	json_array_foreach(json_object_get(schema, "oneOf"), i, branch) {
		found = object_of(document, branch);
		if (found)
			return found;
	}
	return NULL;
}

static bool is_required(const json_t *schema, const char *name)
{
	const json_t *word;
	size_t i;

	json_array_foreach(json_object_get(schema, "required"), i, word)
		if (strcmp(json_string_value(word), name) == 0)
			return true;
	return false;
}

static void write_values(const json_t *schema, FILE *out)
{
	const json_t *values = json_object_get(schema, "x-values");
	const char *key;
	json_t *text;

	if (!values)
		return;
	mdoc_printf(out, ".Bl -tag -width unresponsive -compact\n");
	json_object_foreach((json_t *)(uintptr_t)values, key, text) {
		mdoc_printf(out, ".It Cm");
		mdoc_arg(out, key);
		mdoc_printf(out, "\n");
		mdoc_text(out, json_string_value(text));
	}
	mdoc_printf(out, ".El\n");
}

void apidoc_item(const json_t *document, const char *name, const json_t *schema, bool required,
                 FILE *out)
{
	cleanup_strbuf struct strbuf facts = STRBUF_INIT;
	const json_t *whole = resolve(document, schema);

	strbuf_append_char(&facts, '(');
	apidoc_type(document, schema, &facts);
	if (required)
		strbuf_append_str(&facts, "; required");
	append_default(document, schema, &facts);
	strbuf_append_char(&facts, ')');
	mdoc_printf(out, ".It Cm");
	mdoc_arg(out, name);
	mdoc_printf(out, " No");
	mdoc_arg(out, facts.data);
	mdoc_printf(out, "\n");
	mdoc_text(out, jsonx_str(schema, "description", jsonx_str(whole, "description", NULL)));
	write_values(whole, out);
	apidoc_members(document, schema, out);
}

static const char *required_word(const json_t *schema, size_t index)
{
	const json_t *word = json_array_get(json_object_get(schema, "required"), index);

	return word ? json_string_value(word) : "";
}

static void write_exclusion(const json_t *rule, FILE *out)
{
	if (json_array_size(json_object_get(rule, "required")) == 2)
		mdoc_printf(out, "\\fB%s\\fP and \\fB%s\\fP exclude each other.\n",
		            required_word(rule, 0), required_word(rule, 1));
}

/* Which members need or exclude which. */
static void write_rules(const json_t *object, FILE *out)
{
	const json_t *no = json_object_get(object, "not"), *rule;
	const char *key;
	json_t *needs;
	size_t i;

	json_array_foreach(json_object_get(object, "oneOf"), i, rule)
		mdoc_printf(out, "%s\\fB%s\\fP%s", i ? " or " : "Either ", required_word(rule, 0),
		            i + 1 == json_array_size(json_object_get(object, "oneOf"))
		                    ? " is required, not both.\n"
		                    : "");
	json_object_foreach(json_object_get(object, "dependencies"), key, needs)
		mdoc_printf(out, "\\fB%s\\fP needs \\fB%s\\fP.\n", key,
		            json_string_value(json_array_get(needs, 0)));
	write_exclusion(no, out);
	json_array_foreach(json_object_get(no, "anyOf"), i, rule)
		write_exclusion(rule, out);
}

void apidoc_members(const json_t *document, const json_t *schema, FILE *out)
{
	const json_t *object = object_of(document, schema);
	const json_t *props = json_object_get(object, "properties");
	const char *key;
	json_t *member;

	if (!json_object_size(props))
		return;
	write_rules(object, out);
	mdoc_printf(out, ".Bl -tag -width Ds\n");
	json_object_foreach((json_t *)(uintptr_t)props, key, member)
		apidoc_item(document, key, member, is_required(object, key), out);
	mdoc_printf(out, ".El\n");
}

/* Does schema `from` lead to schema `name`? */
static bool leads_to(const json_t *document, const json_t *from, const char *name)
{
	const char *ref = apidoc_ref_name(from), *key;
	json_t *member;
	size_t i;

	if (ref && strcmp(ref, name) == 0)
		return true;
	if (ref)
		return leads_to(document, resolve(document, from), name);
	json_array_foreach(from, i, member)
		if (leads_to(document, member, name))
			return true;
	json_object_foreach((json_t *)(uintptr_t)from, key, member)
		if (strcmp(key, "examples") != 0 && leads_to(document, member, name))
			return true;
	return false;
}

bool apidoc_in_vm_page(const json_t *document, const char *name)
{
	return apidoc_is_word(name) ||
	       leads_to(document, apidoc_follow(document, "#/components/schemas/VmDefinition"),
	                name);
}
