/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From JSON to the compiled form. Components get their place first and are filled after, so $ref is
 * a pointer. The arena's chunks are larger than malloc's mmap threshold: they stand apart from the
 * JSON tree, whose memory so goes back whole. Regular expressions are compiled when the set is
 * sealed, for the same reason.
 */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/schema-priv.h"

#define ARENA_CHUNK (192 * 1024)
#define REF_PREFIX  "#/components/schemas/"

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size;
	_Alignas(16) char data[];
};

struct schema_set {
	struct arena_chunk *chunks;
	struct schema_pattern *patterns;
	const char **names; /* of the components */
	struct schema *components;
	size_t n_components;
};

struct compiler {
	struct schema_set *set;
	struct vmd_error *err;
};

static void *arena_alloc(struct schema_set *set, size_t size)
{
	struct arena_chunk *c = set->chunks;
	void *p;

	size = (size + 7) & ~(size_t)7;
	if (!c || c->size - c->used < size) {
		size_t room = MAX_OF(size, (size_t)ARENA_CHUNK);

		c = calloc(1, sizeof(*c) + room);
		if (!c)
			return NULL;
		c->size = room;
		c->next = set->chunks;
		set->chunks = c;
	}
	p = c->data + c->used;
	c->used += size;
	return p;
}

const char *schema_set_strdup(struct schema_set *set, const char *text)
{
	size_t n = strlen(text) + 1;
	char *copy = arena_alloc(set, n);

	return copy ? memcpy(copy, text, n) : NULL;
}

static int no_memory(struct compiler *c)
{
	(void)error_set(c->err, ERROR_NO_SPACE, "out of memory");
	return -ENOMEM;
}

static int wrong(struct compiler *c, const char *keyword, const char *why)
{
	return error_set(c->err, ERROR_INVALID, "schema keyword '%s': %s", keyword, why);
}

static int compile(struct compiler *c, const json_t *value, const struct schema **ret);

/* Parsers of keyword values: each fills one field of a part. */

static int words_of(struct compiler *c, const json_t *list, const char *keyword, void *field)
{
	struct schema_words *ret = field;
	size_t n = json_array_size(list);

	if (!n)
		return wrong(c, keyword, "must be a list of strings that is not empty");
	ret->items = arena_alloc(c->set, n * sizeof(*ret->items));
	if (!ret->items)
		return no_memory(c);
	for (size_t i = 0; i < n; i++) {
		const char *word = json_string_value(json_array_get(list, i));

		if (!word)
			return wrong(c, keyword, "only strings can be checked");
		ret->items[i] = schema_set_strdup(c->set, word);
		if (!ret->items[i])
			return no_memory(c);
	}
	ret->n = n;
	return 0;
}

static int word_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	json_t *list = json_pack("[O]", (json_t *)(uintptr_t)value);
	int r = list ? words_of(c, list, keyword, field) : no_memory(c);

	json_decref(list);
	return r;
}

static int list_of(struct compiler *c, const json_t *list, const char *keyword, void *field)
{
	struct schema_list *ret = field;
	size_t n = json_array_size(list);

	if (!n)
		return wrong(c, keyword, "must be a list of schemas that is not empty");
	ret->items = arena_alloc(c->set, n * sizeof(*ret->items));
	if (!ret->items)
		return no_memory(c);
	for (; ret->n < n; ret->n++) {
		int r = compile(c, json_array_get(list, ret->n), &ret->items[ret->n]);

		if (r < 0)
			return r;
	}
	return 0;
}

static int schema_of(struct compiler *c, const json_t *value, const char *keyword UNUSED,
                     void *field)
{
	return compile(c, value, field);
}

static int count_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return wrong(c, keyword, "must be a number of at least 0");
	*(size_t *)field = (size_t)json_integer_value(value);
	return 0;
}

static int integer_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	if (!json_is_integer(value))
		return wrong(c, keyword, "must be an integer");
	*(json_int_t *)field = json_integer_value(value);
	return 0;
}

static int text_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	if (!json_is_string(value))
		return wrong(c, keyword, "must be a string");
	*(const char **)field = schema_set_strdup(c->set, json_string_value(value));
	return *(const char **)field ? 0 : no_memory(c);
}

static int format_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	const struct schema_format *format = NULL;

	if (json_is_string(value))
		format = schema_format_find(json_string_value(value));
	*(const struct schema_format **)field = format;
	return format ? 0 : wrong(c, keyword, "no such format");
}

static int type_bits(struct compiler *c, const char *word, const char *keyword, uint8_t *bits)
{
	if (word && strcmp(word, "number") == 0) {
		*bits |= SCHEMA_INTEGER | SCHEMA_REAL;
		return 0;
	}
	for (unsigned i = 0; word && schema_type_word(1u << i); i++) {
		if (strcmp(schema_type_word(1u << i), word) == 0) {
			*bits |= (uint8_t)(1u << i);
			return 0;
		}
	}
	return wrong(c, keyword, "no such type");
}

static int types_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	const json_t *word;
	uint8_t bits = 0;
	size_t i;
	int r = 0;

	if (!json_is_array(value))
		r = type_bits(c, json_string_value(value), keyword, &bits);
	json_array_foreach(value, i, word) {
		r = type_bits(c, json_string_value(word), keyword, &bits);
		if (r < 0)
			break;
	}
	*(uint8_t *)field = bits;
	return r;
}

/* Equal patterns share one regex. */
static int pattern_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	const char *text = json_string_value(value);
	struct schema_pattern *p;

	if (!text)
		return wrong(c, keyword, "must be a string");
	for (p = c->set->patterns; p; p = p->next)
		if (strcmp(p->text, text) == 0)
			break;
	if (!p) {
		p = arena_alloc(c->set, sizeof(*p));
		if (!p || text_of(c, value, keyword, &p->text) < 0)
			return no_memory(c);
		p->next = c->set->patterns;
		c->set->patterns = p;
	}
	*(const struct schema_pattern **)field = p;
	return 0;
}

static int props_of(struct compiler *c, const json_t *value, const char *keyword, void *field)
{
	struct schema_object *o = field;
	struct schema_prop *props;
	const char *key;
	json_t *member;

	if (!json_is_object(value))
		return wrong(c, keyword, "must be an object");
	props = arena_alloc(c->set, json_object_size(value) * sizeof(*props));
	if (!props)
		return no_memory(c);
	o->props = props;
	json_object_foreach((json_t *)(uintptr_t)value, key, member) {
		struct schema_prop *p = &props[o->n_props++];
		int r = compile(c, member, &p->schema);

		if (r < 0)
			return r;
		p->name = schema_set_strdup(c->set, key);
		if (!p->name)
			return no_memory(c);
	}
	return 0;
}

static int dependencies_of(struct compiler *c, const json_t *value, const char *keyword,
                           void *field)
{
	struct schema_object *o = field;
	struct schema_dependency *list;
	const char *key;
	json_t *needs;

	list = arena_alloc(c->set, json_object_size(value) * sizeof(*list));
	if (!list)
		return no_memory(c);
	o->dependencies = list;
	json_object_foreach((json_t *)(uintptr_t)value, key, needs) {
		struct schema_dependency *d = &list[o->n_dependencies++];
		int r = words_of(c, needs, keyword, &d->needs);

		if (r < 0)
			return r;
		d->name = schema_set_strdup(c->set, key);
		if (!d->name)
			return no_memory(c);
	}
	return 0;
}

static int additional_of(struct compiler *c, const json_t *value, const char *keyword UNUSED,
                         void *field)
{
	struct schema_object *o = field;

	o->closed = json_is_false(value);
	return json_is_boolean(value) ? 0 : compile(c, value, &o->additional);
}

/* The optional parts of a node, made when a keyword first needs them. */
enum part {
	PART_NODE,
	PART_RANGE,
	PART_STRING,
	PART_ARRAY,
	PART_OBJECT,
	PART_LOGIC
};

static void *part_of(struct compiler *c, struct schema *s, enum part part)
{
	static const struct schema_range range = { INT64_MIN, INT64_MAX };
	static const struct schema_string string = { .max_length = SIZE_MAX };
	static const struct schema_array array = { .max_items = SIZE_MAX };
	static const struct schema_object object = { .max_members = SIZE_MAX };
	static const struct schema_logic logic;
	static const struct {
		size_t offset, size;
		const void *initial;
	} parts[] = {
		[PART_RANGE] = { offsetof(struct schema, range), sizeof(range), &range },
		[PART_STRING] = { offsetof(struct schema, string), sizeof(string), &string },
		[PART_ARRAY] = { offsetof(struct schema, array), sizeof(array), &array },
		[PART_OBJECT] = { offsetof(struct schema, object), sizeof(object), &object },
		[PART_LOGIC] = { offsetof(struct schema, logic), sizeof(logic), &logic },
	};
	void **place;

	if (part == PART_NODE)
		return s;
	place = (void **)(void *)((char *)s + parts[part].offset);
	if (!*place) {
		*place = arena_alloc(c->set, parts[part].size);
		if (*place)
			memcpy(*place, parts[part].initial, parts[part].size);
	}
	return *place;
}

#define IN(type, field) offsetof(struct schema##type, field)
static const struct keyword {
	const char *name;
	int (*parse)(struct compiler *c, const json_t *value, const char *keyword, void *field);
	enum part part;
	size_t offset;
} keywords[] = {
	{ "type", types_of, PART_NODE, IN(, types) },
	{ "properties", props_of, PART_OBJECT, 0 },
	{ "required", words_of, PART_OBJECT, IN(_object, required) },
	{ "additionalProperties", additional_of, PART_OBJECT, 0 },
	{ "propertyNames", schema_of, PART_OBJECT, IN(_object, member_names) },
	{ "maxProperties", count_of, PART_OBJECT, IN(_object, max_members) },
	{ "dependencies", dependencies_of, PART_OBJECT, 0 },
	{ "items", schema_of, PART_ARRAY, IN(_array, items) },
	{ "minItems", count_of, PART_ARRAY, IN(_array, min_items) },
	{ "maxItems", count_of, PART_ARRAY, IN(_array, max_items) },
	{ "minLength", count_of, PART_STRING, IN(_string, min_length) },
	{ "maxLength", count_of, PART_STRING, IN(_string, max_length) },
	{ "enum", words_of, PART_STRING, IN(_string, words) },
	{ "const", word_of, PART_STRING, IN(_string, words) },
	{ "pattern", pattern_of, PART_STRING, IN(_string, pattern) },
	{ "format", format_of, PART_STRING, IN(_string, format) },
	{ "minimum", integer_of, PART_RANGE, IN(_range, min) },
	{ "maximum", integer_of, PART_RANGE, IN(_range, max) },
	{ "oneOf", list_of, PART_LOGIC, IN(_logic, one_of) },
	{ "anyOf", list_of, PART_LOGIC, IN(_logic, any_of) },
	{ "allOf", list_of, PART_LOGIC, IN(_logic, all_of) },
	{ "not", schema_of, PART_LOGIC, IN(_logic, not_this) },
	{ "if", schema_of, PART_LOGIC, IN(_logic, if_this) },
	{ "then", schema_of, PART_LOGIC, IN(_logic, then_this) },
	{ "else", schema_of, PART_LOGIC, IN(_logic, else_this) },
	{ "x-expect", text_of, PART_NODE, IN(, expect) },
	{ "x-error", text_of, PART_NODE, IN(, error) },
};

static bool is_annotation(const char *key)
{
	static const char *const words[] = { "description", "default", "title", "examples" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(key, words[i]) == 0)
			return true;
	return strncmp(key, "x-", 2) == 0;
}

static int fill_keyword(struct compiler *c, struct schema *s, const char *key, const json_t *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(keywords); i++) {
		const struct keyword *k = &keywords[i];
		char *part;

		if (strcmp(k->name, key) != 0)
			continue;
		part = part_of(c, s, k->part);
		return part ? k->parse(c, value, key, part + k->offset) : no_memory(c);
	}
	return is_annotation(key) ? 0 : wrong(c, key, "is not known here");
}

static int fill(struct compiler *c, const json_t *value, struct schema *s)
{
	const char *key;
	json_t *member;

	s->types = SCHEMA_ANY;
	if (!json_is_object(value))
		return error_set(c->err, ERROR_INVALID, "a schema must be an object");
	json_object_foreach((json_t *)(uintptr_t)value, key, member) {
		int r = fill_keyword(c, s, key, member);

		if (r < 0) {
			error_prefix(c->err, "%s", key);
			return r;
		}
	}
	if (s->string && s->string->words.n)
		s->types &= SCHEMA_STRING;
	return 0;
}

/* Draft 7 ignores what stands beside $ref, so only notes may. */
static int follow(struct compiler *c, const json_t *value, const struct schema **ret)
{
	const char *target = json_string_value(json_object_get(value, "$ref")), *key;
	json_t *member;

	json_object_foreach((json_t *)(uintptr_t)value, key, member)
		if (strcmp(key, "$ref") != 0 && !is_annotation(key))
			return wrong(c, key, "has no effect beside $ref");
	if (!target || strncmp(target, REF_PREFIX, strlen(REF_PREFIX)) != 0)
		return wrong(c, "$ref", "must lead to " REF_PREFIX);
	*ret = schema_find(c->set, target + strlen(REF_PREFIX));
	return *ret ? 0 : wrong(c, target, "leads nowhere");
}

static int compile(struct compiler *c, const json_t *value, const struct schema **ret)
{
	struct schema *s;

	if (json_object_get(value, "$ref"))
		return follow(c, value, ret);
	s = arena_alloc(c->set, sizeof(*s));
	if (!s)
		return no_memory(c);
	*ret = s;
	return fill(c, value, s);
}

static int add_components(struct compiler *c, const json_t *components)
{
	struct schema_set *set = c->set;
	const char *key;
	json_t *value;
	size_t n = json_object_size(components), i = 0;

	set->names = arena_alloc(set, n * sizeof(*set->names));
	set->components = arena_alloc(set, n * sizeof(*set->components));
	if (n && (!set->names || !set->components))
		return no_memory(c);
	json_object_foreach((json_t *)(uintptr_t)components, key, value) {
		set->names[set->n_components] = schema_set_strdup(set, key);
		if (!set->names[set->n_components])
			return no_memory(c);
		set->n_components++;
	}
	json_object_foreach((json_t *)(uintptr_t)components, key, value) {
		int r = fill(c, value, &set->components[i++]);

		if (r < 0) {
			error_prefix(c->err, "%s", key);
			return r;
		}
	}
	return 0;
}

int schema_set_new(const json_t *components, struct schema_set **ret, struct vmd_error *err)
{
	cleanup_schema_set struct schema_set *set = calloc(1, sizeof(*set));
	struct compiler c = { .set = set, .err = err };
	int r;

	if (!set)
		return no_memory(&c);
	r = add_components(&c, components);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(set);
	return 0;
}

int schema_compile(struct schema_set *set, const json_t *value, const struct schema **ret,
                   struct vmd_error *err)
{
	struct compiler c = { .set = set, .err = err };

	return compile(&c, value, ret);
}

int schema_compile_params(struct schema_set *set, const json_t *params, const struct schema **ret,
                          struct vmd_error *err)
{
	cleanup_json json_t *object = json_pack("{s:s, s:b, s:{}}", "type", "object",
	                                        "additionalProperties", 0, "properties");
	json_t *props = json_object_get(object, "properties"), *required = NULL, *param;
	struct compiler c = { .set = set, .err = err };
	size_t i;

	json_array_foreach(params, i, param) {
		const char *name = json_string_value(json_object_get(param, "name"));
		json_t *schema = json_object_get(param, "schema");

		if (!name || !json_is_object(schema))
			return error_set(err, ERROR_INVALID, "parameter %zu has no name or schema",
			                 i);
		if (json_object_set(props, name, schema) < 0)
			return no_memory(&c);
		if (!json_is_true(json_object_get(param, "required")))
			continue;
		if (!required)
			(void)json_object_set_new(object, "required", json_array());
		required = json_object_get(object, "required");
		if (json_array_append_new(required, json_string(name)) < 0)
			return no_memory(&c);
	}
	return object ? compile(&c, object, ret) : no_memory(&c);
}

int schema_set_seal(struct schema_set *set, struct vmd_error *err)
{
	for (struct schema_pattern *p = set->patterns; p; p = p->next) {
		int r = regcomp(&p->regex, p->text, REG_EXTENDED | REG_NOSUB);

		if (r != 0)
			return error_set(err, ERROR_INVALID,
			                 "pattern '%s' is no regular expression", p->text);
		p->compiled = true;
	}
	return 0;
}

struct schema_set *schema_set_free(struct schema_set *set)
{
	struct arena_chunk *c, *next;

	if (!set)
		return NULL;
	for (struct schema_pattern *p = set->patterns; p; p = p->next)
		if (p->compiled)
			regfree(&p->regex);
	for (c = set->chunks; c; c = next) {
		next = c->next;
		free(c);
	}
	free(set);
	return NULL;
}

const struct schema *schema_find(const struct schema_set *set, const char *name)
{
	for (size_t i = 0; i < set->n_components; i++)
		if (strcmp(set->names[i], name) == 0)
			return &set->components[i];
	return NULL;
}

size_t schema_set_size(const struct schema_set *set)
{
	size_t total = sizeof(*set);

	for (const struct arena_chunk *c = set->chunks; c; c = c->next)
		total += c->used;
	return total;
}
