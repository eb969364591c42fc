/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/schema.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/parse.h"
#include "common/schema-priv.h"
#include "common/strbuf.h"

/* Where we are, linked through the C stack; rendered only for an error. */
struct place {
	const struct place *up;
	const char *key; /* member name, or NULL for an array index */
	size_t index;
};

static const char *const type_words[] = { "null",   "boolean", "integer", "number",
	                                  "string", "array",   "object" };

enum schema_type schema_type_of(const json_t *value)
{
	static const enum schema_type types[] = {
		[JSON_OBJECT] = SCHEMA_OBJECT, [JSON_ARRAY] = SCHEMA_ARRAY,
		[JSON_STRING] = SCHEMA_STRING, [JSON_INTEGER] = SCHEMA_INTEGER,
		[JSON_REAL] = SCHEMA_REAL,     [JSON_TRUE] = SCHEMA_BOOLEAN,
		[JSON_FALSE] = SCHEMA_BOOLEAN, [JSON_NULL] = SCHEMA_NULL,
	};

	return types[json_typeof(value)];
}

const char *schema_type_word(unsigned bit)
{
	unsigned i = (unsigned)__builtin_ctz(bit);

	return i < ARRAY_SIZE(type_words) ? type_words[i] : NULL;
}

static bool is_size(const char *text)
{
	uint64_t bytes;

	return parse_size(text, &bytes) == 0 && bytes <= INT64_MAX;
}

static bool is_mac(const char *text)
{
	uint8_t mac[6];

	return parse_mac(text, mac) == 0;
}

const struct schema_format *schema_format_find(const char *name)
{
	static const struct schema_format formats[] = {
		{ "vmd-name", is_object_name,
		  "a name (a-z, 0-9, '.', '_', '-', a letter or digit first, at most 63)" },
		{ "vmd-uuid", is_uuid, "a UUID in lower case" },
		{ "vmd-size", is_size, "a size such as \"512M\" or \"2G\"" },
		{ "vmd-mac", is_mac, "a MAC address of one station such as \"52:54:00:12:34:56\"" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	return NULL;
}

/* Cuts a string that snprintf may have cut in the middle of a UTF-8 sequence. */
static void trim_utf8(char *text)
{
	size_t n = strlen(text), i = n;
	unsigned char lead;
	size_t need;

	while (i > 0 && ((unsigned char)text[i - 1] & 0xc0) == 0x80)
		i--;
	if (i == 0)
		return;
	lead = (unsigned char)text[i - 1];
	need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
	if (n - (i - 1) < need)
		text[i - 1] = '\0';
}

/* At most `size` bytes of a peer's string, whole characters; returns buf. */
static const char *clip(char *buf, size_t size, const char *text)
{
	snprintf(buf, size, "%s", text);
	trim_utf8(buf);
	return buf;
}

static void render(const struct place *p, char *buf, size_t size)
{
	size_t n;

	if (!p)
		return;
	render(p->up, buf, size);
	n = strlen(buf);
	if (p->key)
		snprintf(buf + n, size - n, "%s%s", n ? "." : "", p->key);
	else
		snprintf(buf + n, size - n, "[%zu]", p->index);
	trim_utf8(buf);
}

/* Sets the error: "<path> <text>" and the path as field. */
static int fail(const struct place *at, struct vmd_error *err, const char *format, ...)
	PRINTF_LIKE(3, 4);
static int fail(const struct place *at, struct vmd_error *err, const char *format, ...)
{
	char field[sizeof(err->field)] = "", text[sizeof(err->message)];
	va_list ap;

	if (!err)
		return -EINVAL;
	render(at, field, sizeof(field));
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	(void)error_set_field(err, field, "%s %s", field[0] ? field : "the value", text);
	trim_utf8(err->message);
	return -EINVAL;
}

static int check(const struct schema *s, const json_t *value, const struct place *at,
                 struct vmd_error *err);

static bool passes(const struct schema *s, const json_t *value)
{
	return check(s, value, NULL, NULL) == 0;
}

/* "a, b or c" */
static void join(char *buf, size_t size, const char *const *words, size_t n, const char *quote)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < n && len < size; i++) {
		const char *glue = i == 0 ? "" : i + 1 == n ? " or " : ", ";

		len += (size_t)snprintf(buf + len, size - len, "%s%s%s%s", glue, quote, words[i],
		                        quote);
	}
}

static int fail_type(uint8_t types, const json_t *value, const struct place *at,
                     struct vmd_error *err)
{
	const char *words[ARRAY_SIZE(type_words)] = { NULL };
	char text[128];
	size_t n = 0;

	if (!err)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(type_words); i++)
		if (types & 1u << i && type_words[i] != words[n ? n - 1 : 0])
			words[n++] = type_words[i];
	join(text, sizeof(text), words, n, "");
	return fail(at, err, "must be of type %s, not %s", text,
	            schema_type_word(schema_type_of(value)));
}

static const char *nearest_word(const char *const *words, size_t n, const char *to)
{
	unsigned best = 3, d;
	const char *found = NULL;

	for (size_t i = 0; i < n; i++) {
		d = word_distance(to, words[i], 2);
		if (d < best) {
			best = d;
			found = words[i];
		}
	}
	return found;
}

static int check_words(const struct schema_words *words, const char *text, const struct place *at,
                       struct vmd_error *err)
{
	char list[256], shown[64];
	const char *near;

	for (size_t i = 0; i < words->n; i++)
		if (strcmp(words->items[i], text) == 0)
			return 0;
	if (!err)
		return -EINVAL;
	join(list, sizeof(list), words->items, words->n, "'");
	near = nearest_word(words->items, words->n, text);
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	return fail(at, err, "must be %s, not '%s'", list, clip(shown, sizeof(shown), text));
}

static int check_length(const struct schema_string *p, size_t n, const struct place *at,
                        struct vmd_error *err)
{
	if (n < p->min_length && n == 0)
		return fail(at, err, "must not be empty");
	if (n < p->min_length)
		return fail(at, err, "must have at least %zu bytes, not %zu", p->min_length, n);
	if (n > p->max_length)
		return fail(at, err, "must have at most %zu bytes, not %zu", p->max_length, n);
	return 0;
}

static int check_string(const struct schema *s, const char *text, size_t len,
                        const struct place *at, struct vmd_error *err)
{
	const struct schema_string *p = s->string;
	const char *expect = s->expect;
	char shown[64];
	int r = check_length(p, len, at, err);

	if (r < 0)
		return r;
	if (p->words.n)
		return check_words(&p->words, text, at, err);
	if (p->format) {
		if (p->format->matches(text))
			return 0;
		expect = p->format->expect;
	} else if (!p->pattern || regexec(&p->pattern->regex, text, 0, NULL, 0) == 0) {
		return 0;
	}
	if (expect)
		return fail(at, err, "must be %s, not '%s'", expect,
		            clip(shown, sizeof(shown), text));
	return fail(at, err, "must match %s, but is '%s'", p->pattern->text,
	            clip(shown, sizeof(shown), text));
}

static int check_range(const struct schema_range *range, json_int_t v, const struct place *at,
                       struct vmd_error *err)
{
	if (v >= range->min && v <= range->max)
		return 0;
	if (range->max == INT64_MAX)
		return fail(at, err, "must be at least %lld, not %lld", (long long)range->min,
		            (long long)v);
	return fail(at, err, "must be %lld to %lld, not %lld", (long long)range->min,
	            (long long)range->max, (long long)v);
}

static int check_array(const struct schema_array *a, const json_t *value, const struct place *at,
                       struct vmd_error *err)
{
	size_t n = json_array_size(value);

	if (n < a->min_items)
		return fail(at, err, "must have at least %zu entries, not %zu", a->min_items, n);
	if (n > a->max_items)
		return fail(at, err, "must have at most %zu entries, not %zu", a->max_items, n);
	for (size_t i = 0; a->items && i < n; i++) {
		struct place here = { .up = at, .index = i };
		int r = check(a->items, json_array_get(value, i), &here, err);

		if (r < 0)
			return r;
	}
	return 0;
}

static const struct schema *member_schema(const struct schema_object *o, const char *key)
{
	for (size_t i = 0; i < o->n_props; i++)
		if (strcmp(o->props[i].name, key) == 0)
			return o->props[i].schema;
	return NULL;
}

static int fail_unknown(const struct schema_object *o, const char *key, const json_t *value,
                        const struct place *at, struct vmd_error *err)
{
	struct place here = { .up = at, .key = key };
	const char *best = NULL;
	bool best_is_there = false;
	unsigned distance = 3;

	if (!err)
		return -EINVAL;
	for (size_t i = 0; i < o->n_props; i++) {
		unsigned d = word_distance(key, o->props[i].name, 2);
		bool there = json_object_get(value, o->props[i].name);

		/* Of two that are as near, the one that is not there yet is meant. */
		if (d < distance || (d == distance && best && best_is_there && !there)) {
			distance = d;
			best = o->props[i].name;
			best_is_there = there;
		}
	}
	if (best)
		error_hint(err, "did you mean '%s'?", best);
	return fail(&here, err, "is not known here");
}

static int check_member(const struct schema_object *o, const char *key, const json_t *member,
                        const json_t *value, const struct place *at, struct vmd_error *err)
{
	const struct schema *schema = member_schema(o, key);
	struct place here = { .up = at, .key = key };
	int r = 0;

	if (!schema && o->closed)
		return fail_unknown(o, key, value, at, err);
	if (!schema)
		schema = o->additional;
	if (o->member_names && o->member_names->string)
		r = check_string(o->member_names, key, strlen(key), &here, err);
	return r == 0 && schema ? check(schema, member, &here, err) : r;
}

static int need_all(const struct schema_words *words, const char *because, const json_t *value,
                    const struct place *at, struct vmd_error *err)
{
	for (size_t i = 0; i < words->n; i++) {
		struct place here = { .up = at, .key = words->items[i] };

		if (json_object_get(value, words->items[i]))
			continue;
		if (because)
			return fail(&here, err, "is missing ('%s' needs it)", because);
		return fail(&here, err, "is missing");
	}
	return 0;
}

static int check_object(const struct schema_object *o, const json_t *value, const struct place *at,
                        struct vmd_error *err)
{
	size_t n = json_object_size(value);
	const char *key;
	json_t *member;
	int r;

	if (n > o->max_members)
		return fail(at, err, "must have at most %zu members, not %zu", o->max_members, n);
	json_object_foreach((json_t *)(uintptr_t)value, key, member) {
		r = check_member(o, key, member, value, at, err);
		if (r < 0)
			return r;
	}
	r = need_all(&o->required, NULL, value, at, err);
	for (size_t i = 0; r == 0 && i < o->n_dependencies; i++)
		if (json_object_get(value, o->dependencies[i].name))
			r = need_all(&o->dependencies[i].needs, o->dependencies[i].name, value, at,
			             err);
	return r;
}

/* The types that can pass a schema, to choose a branch by. */
static uint8_t open_types(const struct schema *s)
{
	uint8_t one = 0, any = 0;

	if (!s->logic)
		return s->types;
	for (size_t i = 0; i < s->logic->one_of.n; i++)
		one |= open_types(s->logic->one_of.items[i]);
	for (size_t i = 0; i < s->logic->any_of.n; i++)
		any |= open_types(s->logic->any_of.items[i]);
	return s->types & (s->logic->one_of.n ? one : SCHEMA_ANY) &
	       (s->logic->any_of.n ? any : SCHEMA_ANY);
}

/* Names of required members over all branches, when branches ask for nothing else. */
static size_t branch_words(const struct schema_list *list, const char **words, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < list->n; i++) {
		const struct schema *b = list->items[i];

		if (!b->object || b->object->n_props || !b->object->required.n || b->string)
			return 0;
		if (n < max)
			words[n++] = b->object->required.items[0];
	}
	return n;
}

static int check_branches(const struct schema_list *list, bool only_one, const json_t *value,
                          const struct place *at, struct vmd_error *err)
{
	const struct schema *candidate = NULL;
	enum schema_type type = schema_type_of(value);
	size_t n = 0, matches = 0;
	const char *words[8] = { NULL };
	uint8_t types = 0;
	char text[128];

	for (size_t i = 0; i < list->n; i++) {
		uint8_t open = open_types(list->items[i]);

		types |= open;
		if (!(open & type))
			continue;
		candidate = candidate ? candidate : list->items[i];
		n++;
	}
	if (n == 0)
		return fail_type(types, value, at, err);
	if (n == 1)
		return check(candidate, value, at, err);
	for (size_t i = 0; i < list->n; i++)
		matches += passes(list->items[i], value);
	if (matches == 1 || (matches && !only_one))
		return 0;
	n = branch_words(list, words, ARRAY_SIZE(words));
	join(text, sizeof(text), words, n, "'");
	if (n)
		return fail(at, err, matches ? "takes only one of %s" : "needs %s", text);
	return matches ? fail(at, err, "can be read in more than one way")
	               : check(candidate, value, at, err);
}

/* What a "not" refused: the members that exclude each other, where it is about members. */
static int fail_not(const struct schema *s, const json_t *value, const struct place *at,
                    struct vmd_error *err)
{
	const struct schema *n = s->logic->not_this;
	const struct schema_words *members;

	if (s->error)
		return fail(at, err, "is wrong: %s", s->error);
	if (n->logic)
		for (size_t i = 0; i < n->logic->any_of.n; i++)
			if (passes(n->logic->any_of.items[i], value)) {
				n = n->logic->any_of.items[i];
				break;
			}
	members = n->object ? &n->object->required : NULL;
	if (members && members->n == 2) {
		struct place here = { .up = at, .key = members->items[1] };

		return fail(&here, err, "and '%s' exclude each other", members->items[0]);
	}
	return fail(at, err, "is not allowed in this form");
}

static int check_logic(const struct schema *s, const json_t *value, const struct place *at,
                       struct vmd_error *err)
{
	const struct schema_logic *l = s->logic;
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->all_of.n; i++)
		r = check(l->all_of.items[i], value, at, err);
	if (r == 0 && l->one_of.n)
		r = check_branches(&l->one_of, true, value, at, err);
	if (r == 0 && l->any_of.n)
		r = check_branches(&l->any_of, false, value, at, err);
	if (r == 0 && l->not_this && passes(l->not_this, value))
		r = fail_not(s, value, at, err);
	if (r == 0 && l->if_this) {
		const struct schema *next = passes(l->if_this, value) ? l->then_this : l->else_this;

		r = next ? check(next, value, at, err) : 0;
	}
	return r;
}

static int check(const struct schema *s, const json_t *value, const struct place *at,
                 struct vmd_error *err)
{
	enum schema_type type = schema_type_of(value);
	int r = 0;

	if (!(s->types & type))
		return fail_type(s->types, value, at, err);
	if (type == SCHEMA_STRING && s->string)
		r = check_string(s, json_string_value(value), json_string_length(value), at, err);
	else if (type == SCHEMA_INTEGER && s->range)
		r = check_range(s->range, json_integer_value(value), at, err);
	else if (type == SCHEMA_ARRAY && s->array)
		r = check_array(s->array, value, at, err);
	else if (type == SCHEMA_OBJECT && s->object)
		r = check_object(s->object, value, at, err);
	return r == 0 && s->logic ? check_logic(s, value, at, err) : r;
}

int schema_check_at(const struct schema *s, const char *at, const json_t *value,
                    struct vmd_error *err)
{
	struct place top = { .key = at };

	return check(s, value, at ? &top : NULL, err);
}

int schema_check(const struct schema *s, const json_t *value, struct vmd_error *err)
{
	return schema_check_at(s, NULL, value, err);
}
