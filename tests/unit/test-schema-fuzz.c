/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The compiled checker against a plain reading of the same schemas: examples of the contract are
 * bent at random places and both must agree on each result. The random numbers are the same in
 * every run.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <regex.h>
#include <string.h>

#include "api/contract.h"
#include "common/jsonx.h"
#include "common/parse.h"

TestSuite(schema_fuzz, .timeout = 60);

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static unsigned pick(unsigned n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 33) % n;
}

static json_t *document;

static const json_t *resolve(const json_t *schema)
{
	static const char prefix[] = "#/components/schemas/";
	const char *ref = jsonx_str(schema, "$ref", NULL);

	if (!ref)
		return schema;
	return json_object_get(json_object_get(json_object_get(document, "components"), "schemas"),
	                       ref + strlen(prefix));
}

static bool plain_type(const json_t *type, const json_t *v)
{
	const char *word = json_string_value(type);
	const json_t *one;
	size_t i;

	if (!type)
		return true;
	json_array_foreach(type, i, one)
		if (plain_type(one, v))
			return true;
	if (!word)
		return false;
	return (strcmp(word, "object") == 0 && json_is_object(v)) ||
	       (strcmp(word, "array") == 0 && json_is_array(v)) ||
	       (strcmp(word, "string") == 0 && json_is_string(v)) ||
	       (strcmp(word, "integer") == 0 && json_is_integer(v)) ||
	       (strcmp(word, "number") == 0 && json_is_number(v)) ||
	       (strcmp(word, "boolean") == 0 && json_is_boolean(v)) ||
	       (strcmp(word, "null") == 0 && json_is_null(v));
}

static bool plain_format(const char *format, const char *text)
{
	uint64_t bytes;
	uint8_t mac[6];

	if (strcmp(format, "vmd-size") == 0)
		return parse_size(text, &bytes) == 0 && bytes <= INT64_MAX;
	if (strcmp(format, "vmd-mac") == 0)
		return parse_mac(text, mac) == 0;
	return true; /* for the others the pattern says it all */
}

static bool plain_string(const json_t *schema, const char *text)
{
	const char *pattern = jsonx_str(schema, "pattern", NULL);
	size_t n = strlen(text);
	regex_t regex;
	int r;

	if ((int64_t)n < jsonx_int(schema, "minLength", 0) ||
	    (int64_t)n > jsonx_int(schema, "maxLength", INT64_MAX) ||
	    !plain_format(jsonx_str(schema, "format", ""), text))
		return false;
	if (!pattern)
		return true;
	cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
	r = regexec(&regex, text, 0, NULL, 0);
	regfree(&regex);
	return r == 0;
}

static bool plain(const json_t *schema, const json_t *v);

static bool plain_has_all(const json_t *names, const json_t *v)
{
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		if (!json_object_get(v, json_string_value(name)))
			return false;
	return true;
}

static bool plain_object(const json_t *schema, const json_t *v)
{
	const json_t *props = json_object_get(schema, "properties");
	const json_t *more = json_object_get(schema, "additionalProperties");
	const json_t *names = json_object_get(schema, "propertyNames");
	const char *key;
	json_t *member;

	if (!plain_has_all(json_object_get(schema, "required"), v) ||
	    (int64_t)json_object_size(v) > jsonx_int(schema, "maxProperties", INT64_MAX))
		return false;
	json_object_foreach((json_t *)(uintptr_t)v, key, member) {
		const json_t *known = json_object_get(props, key);

		if (names && !plain_string(names, key))
			return false;
		if (known ? !plain(known, member)
		          : json_is_false(more) || (json_is_object(more) && !plain(more, member)))
			return false;
	}
	json_object_foreach(json_object_get(schema, "dependencies"), key, member)
		if (json_object_get(v, key) && !plain_has_all(member, v))
			return false;
	return true;
}

static unsigned plain_count(const json_t *list, const json_t *v)
{
	unsigned n = 0;
	const json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
		n += plain(one, v);
	return n;
}

static bool plain_logic(const json_t *schema, const json_t *v)
{
	const json_t *one = json_object_get(schema, "oneOf"),
		     *any = json_object_get(schema, "anyOf");
	const json_t *all = json_object_get(schema, "allOf"), *no = json_object_get(schema, "not");
	const json_t *test = json_object_get(schema, "if"), *next;

	if ((one && plain_count(one, v) != 1) || (any && plain_count(any, v) == 0) ||
	    (all && plain_count(all, v) != json_array_size(all)) || (no && plain(no, v)))
		return false;
	next = test ? json_object_get(schema, plain(test, v) ? "then" : "else") : NULL;
	return !next || plain(next, v);
}

static bool plain(const json_t *schema, const json_t *v)
{
	const json_t *word, *enums, *item;
	bool found = false;
	size_t i;

	schema = resolve(schema);
	enums = json_object_get(schema, "enum");
	if (!plain_type(json_object_get(schema, "type"), v))
		return false;
	json_array_foreach(enums, i, word)
		found = found || json_equal(word, v);
	if ((enums && !found) ||
	    (json_object_get(schema, "const") && !json_equal(json_object_get(schema, "const"), v)))
		return false;
	if (json_is_string(v) && !plain_string(schema, json_string_value(v)))
		return false;
	if (json_is_integer(v) &&
	    (json_integer_value(v) < jsonx_int(schema, "minimum", INT64_MIN) ||
	     json_integer_value(v) > jsonx_int(schema, "maximum", INT64_MAX)))
		return false;
	if (json_is_object(v) && !plain_object(schema, v))
		return false;
	if (json_is_array(v) &&
	    ((int64_t)json_array_size(v) < jsonx_int(schema, "minItems", 0) ||
	     (int64_t)json_array_size(v) > jsonx_int(schema, "maxItems", INT64_MAX)))
		return false;
	json_array_foreach(v, i, item)
		if (json_object_get(schema, "items") &&
		    !plain(json_object_get(schema, "items"), item))
			return false;
	return plain_logic(schema, v);
}

/* Strings that stand anywhere in the contract, for likely values and member names. */
static const char *pool[8192];
static unsigned n_pool;

static void fill_pool(const json_t *v)
{
	const char *key;
	json_t *member;
	size_t i;

	if (json_is_string(v) && json_string_length(v) < 64 && n_pool < ARRAY_SIZE(pool))
		pool[n_pool++] = json_string_value(v);
	json_array_foreach(v, i, member)
		fill_pool(member);
	json_object_foreach((json_t *)(uintptr_t)v, key, member) {
		if (n_pool < ARRAY_SIZE(pool))
			pool[n_pool++] = key;
		fill_pool(member);
	}
}

static json_t *random_string(void)
{
	static const char *const odd[] = { "",
		                           "..",
		                           "../x",
		                           "a\nb",
		                           "0",
		                           "-1",
		                           "1.5",
		                           "2G",
		                           "1.5G",
		                           "1.50GiB",
		                           "99999999999999999999",
		                           "8388608T",
		                           "52:54:00:12:34:56",
		                           "FF:FF:FF:FF:FF:FF",
		                           "/",
		                           "/dev/null",
		                           "tcp:1:2",
		                           "udp:1.2.3.4:5:6",
		                           "\xc3\xa4\xf0\x9f\x98\x80",
		                           "host",
		                           "x86-64-v9",
		                           "\x7f",
		                           "A" };
	char text[80];
	size_t n;

	if (pick(3))
		return json_string(pick(2) ? odd[pick(ARRAY_SIZE(odd))] : pool[pick(n_pool)]);
	n = pick(sizeof(text));
	for (size_t i = 0; i < n; i++)
		text[i] = (char)(1 + pick(126));
	return json_stringn(text, n);
}

static json_t *random_value(unsigned depth)
{
	static const json_int_t numbers[] = {
		0, 1, -1, 2, 3, 31, 32, 255, 256, 257, 65536, INT64_MAX, INT64_MIN, 4294967295
	};
	unsigned kind = pick(depth ? 8 : 6);
	json_t *v;

	switch (kind) {
	case 0:
		return json_null();
	case 1:
		return json_boolean(pick(2));
	case 2:
		return json_real(pick(100) / 7.0);
	case 3:
		return json_integer(numbers[pick(ARRAY_SIZE(numbers))]);
	case 4:
	case 5:
		return random_string();
	case 6:
		v = json_array();
		for (unsigned n = pick(4); n; n--)
			json_array_append_new(v, random_value(depth - 1));
		return v;
	default:
		v = json_object();
		for (unsigned n = pick(4); n; n--)
			json_object_set_new(v, pool[pick(n_pool)], random_value(depth - 1));
		return v;
	}
}

/* Changes one place somewhere below v. */
static void bend(json_t *v)
{
	const char *key = "";
	json_t *member = NULL;
	unsigned n, i = 0;

	if (json_is_array(v)) {
		n = (unsigned)json_array_size(v);
		if (!n || !pick(4))
			json_array_append_new(v, random_value(2));
		else if (!pick(4))
			json_array_remove(v, pick(n));
		else if (!pick(3))
			json_array_set_new(v, pick(n), random_value(2));
		else
			bend(json_array_get(v, pick(n)));
		return;
	}
	n = (unsigned)json_object_size(v);
	if (!json_is_object(v))
		return;
	if (!n || !pick(4)) {
		json_object_set_new(v, pool[pick(n_pool)], random_value(3));
		return;
	}
	n = pick(n);
	json_object_foreach(v, key, member)
		if (i++ == n)
			break;
	if (!pick(5))
		json_object_del(v, key);
	else if ((json_is_object(member) || json_is_array(member)) && pick(4))
		bend(member);
	else
		json_object_set_new(v, key, random_value(2));
}

struct tally {
	unsigned taken, refused;
};

static void compare(const char *name, const struct schema *s, const json_t *text, const json_t *v,
                    struct tally *tally)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *message = NULL, *field = NULL, *hint = NULL;
	cleanup_free char *dump = NULL;
	int r = schema_check_at(s, "definition", v, &err);

	if ((r == 0) != plain(text, v)) {
		dump = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		cr_assert_fail("%s: compiled says %d (%s), the plain reading differs: %s", name, r,
		               err.message, dump);
	}
	cr_assert_eq(schema_check_at(s, "definition", v, NULL), r);
	tally->taken += r == 0;
	tally->refused += r != 0;
	if (r == 0)
		return;
	message = json_string(err.message);
	field = json_string(err.field);
	hint = json_string(err.hint);
	cr_assert(r == -EINVAL && err.kind == ERROR_INVALID && err.message[0]);
	cr_assert(strncmp(err.field, "definition", 10) == 0, "%s", err.field);
	cr_assert(message && field && hint, "%s: what the error says is no UTF-8", name);
}

Test(schema_fuzz, agrees_with_a_plain_reading)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_contract struct contract *contract = NULL;
	struct tally tally = { 0 };
	const char *name;
	json_t *schema;

	document = jsonx_parse(contract_text, contract_len, 64, &err);
	cr_assert(document);
	cr_assert_eq(contract_open(&contract, &err), 0);
	fill_pool(document);
	json_object_foreach(json_object_get(json_object_get(document, "components"), "schemas"),
	                    name, schema) {
		const json_t *examples = json_object_get(schema, "examples");
		unsigned n = strcmp(name, "VmDefinition") == 0 ? 20000 : 500;

		for (unsigned i = 0; i < n; i++) {
			size_t count = json_array_size(examples);
			json_t *v = count && pick(8) ? json_deep_copy(json_array_get(
							       examples, pick((unsigned)count)))
			                             : random_value(3);

			for (unsigned k = pick(4); k; k--)
				bend(v);
			compare(name, contract_schema(contract, name), schema, v, &tally);
			json_decref(v);
		}
	}
	json_decref(document);
	cr_assert(tally.taken > 1000 && tally.refused > 10000, "%u taken, %u refused", tally.taken,
	          tally.refused);
}
