/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/jsonx.h"

#include <string.h>

#include "common/parse.h"

const char *jsonx_str(const json_t *object, const char *key, const char *fallback)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : fallback;
}

int64_t jsonx_int(const json_t *object, const char *key, int64_t fallback)
{
	const json_t *v = json_object_get(object, key);

	return json_is_integer(v) ? json_integer_value(v) : fallback;
}

bool jsonx_bool(const json_t *object, const char *key, bool fallback)
{
	const json_t *v = json_object_get(object, key);

	return json_is_boolean(v) ? json_is_true(v) : fallback;
}

uint64_t jsonx_size(const json_t *object, const char *key, uint64_t fallback)
{
	const json_t *v = json_object_get(object, key);
	uint64_t bytes;

	if (json_is_integer(v) && json_integer_value(v) >= 0)
		return (uint64_t)json_integer_value(v);
	if (json_is_string(v) && parse_size(json_string_value(v), &bytes) == 0)
		return bytes;
	return fallback;
}

/* Nesting is counted before jansson sees the text, since its own limit is 2,048 levels of
 * recursion. */
static bool too_deep(const char *text, size_t len, unsigned max_depth)
{
	bool in_string = false;
	unsigned depth = 0;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > max_depth)
				return true;
		} else if ((c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return false;
}

static json_t *parse(const char *text, size_t len, unsigned max_depth, bool wide,
                     struct vmd_error *err)
{
	json_error_t detail;
	json_t *value;

	if (too_deep(text, len, max_depth)) {
		(void)error_set(err, ERROR_PARSE, "JSON is nested deeper than %u levels",
		                max_depth);
		return NULL;
	}
	value = json_loadb(text, len, JSON_REJECT_DUPLICATES, &detail);
	if (!value && wide && json_error_code(&detail) == json_error_numeric_overflow)
		value = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL,
		                   &detail);
	if (!value)
		(void)error_set(err, ERROR_PARSE, "malformed JSON at byte %d: %s", detail.position,
		                detail.text);
	return value;
}

json_t *jsonx_parse(const char *text, size_t len, unsigned max_depth, struct vmd_error *err)
{
	return parse(text, len, max_depth, false, err);
}

json_t *jsonx_parse_wide(const char *text, size_t len, unsigned max_depth, struct vmd_error *err)
{
	return parse(text, len, max_depth, true, err);
}

char *jsonx_dump(const json_t *value)
{
	return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
}

bool jsonx_set(json_t *object, const char *key, json_t *new_value)
{
	return new_value && json_object_set_new(object, key, new_value) == 0;
}
