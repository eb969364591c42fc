/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/patch.h"

#include <string.h>

#include "client/die.h"
#include "client/output.h"
#include "common/jsonx.h"
#include "common/parse.h"

/* The objects are only read; jansson's iteration wants them writable. */
static json_t *writable(const json_t *value)
{
	return (json_t *)(uintptr_t)value;
}

json_t *patch_diff(const json_t *from, const json_t *to)
{
	json_t *patch = xpack("{}"), *value;
	const char *key;

	json_object_foreach(writable(to), key, value) {
		const json_t *old = json_object_get(from, key);

		if (old && json_equal(old, value))
			continue;
		if (json_is_object(old) && json_is_object(value))
			xset(patch, key, patch_diff(old, value));
		else
			xset(patch, key, json_incref(value));
	}
	json_object_foreach(writable(from), key, value)
		if (!json_object_get(to, key))
			xset(patch, key, json_null());
	return patch;
}

static void add_change(json_t *list, const char *path, const json_t *from, const json_t *to)
{
	json_t *change = xpack("{s:s, s:o, s:o}", "field", path, "from",
	                       from ? json_incref(writable(from)) : json_null(), "to",
	                       to ? json_incref(writable(to)) : json_null());

	if (json_array_append_new(list, change) < 0)
		die_no_memory();
}

static void compare(json_t *list, const char *path, const json_t *from, const json_t *to);

static void compare_member(json_t *list, const char *path, const char *key, const json_t *from,
                           const json_t *to)
{
	cleanup_free char *sub = *path ? xasprintf("%s.%s", path, key) : xstrdup(key);

	compare(list, sub, from, to);
}

static void compare_objects(json_t *list, const char *path, const json_t *from, const json_t *to)
{
	const char *key;
	json_t *value;

	json_object_foreach(writable(from), key, value)
		compare_member(list, path, key, value, json_object_get(to, key));
	json_object_foreach(writable(to), key, value)
		if (!json_object_get(from, key))
			compare_member(list, path, key, NULL, value);
}

static void compare_arrays(json_t *list, const char *path, const json_t *from, const json_t *to)
{
	size_t n = MAX_OF(json_array_size(from), json_array_size(to));

	for (size_t i = 0; i < n; i++) {
		char index[24];

		snprintf(index, sizeof(index), "%zu", i);
		compare_member(list, path, index, json_array_get(from, i), json_array_get(to, i));
	}
}

static void compare(json_t *list, const char *path, const json_t *from, const json_t *to)
{
	if (from && to && json_equal(from, to))
		return;
	if (json_is_object(from) && json_is_object(to))
		compare_objects(list, path, from, to);
	else if (json_is_array(from) && json_is_array(to))
		compare_arrays(list, path, from, to);
	else
		add_change(list, path, from, to);
}

json_t *patch_changes(const json_t *from, const json_t *to)
{
	json_t *list = xpack("[]");

	compare(list, "", from, to);
	return list;
}

void patch_show(struct strbuf *s, const json_t *value)
{
	cleanup_free char *text = NULL;

	if (!value || json_is_null(value)) {
		strbuf_append_str(s, "(default)");
		return;
	}
	if (json_is_string(value)) {
		clean_word(s, json_string_value(value));
		return;
	}
	text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	clean_word(s, text ? text : "?");
}

static int wrong_path(const char *path, const char *why, struct vmd_error *err)
{
	return error_set(err, ERROR_INVALID, "'%s' %s", path, why);
}

/* The member of container under word, made (as an object) when it is missing. */
static json_t *descend(json_t *container, const char *word)
{
	uint64_t index;
	json_t *next;

	if (json_is_array(container)) {
		if (parse_u64(word, &index) < 0 || index > json_array_size(container))
			return NULL;
		if (index == json_array_size(container) &&
		    json_array_append_new(container, xpack("{}")) < 0)
			die_no_memory();
		return json_array_get(container, index);
	}
	if (!json_is_object(container))
		return NULL;
	next = json_object_get(container, word);
	if (!next) {
		next = xpack("{}");
		xset(container, word, next);
	}
	return next;
}

static int put_here(json_t *container, const char *path, const char *word, json_t *value,
                    struct vmd_error *err)
{
	uint64_t index;
	int r = 0;

	if (json_is_object(container)) {
		r = json_is_null(value) ? 0 : json_object_set(container, word, value);
		if (json_is_null(value))
			(void)json_object_del(container, word);
	} else if (!json_is_array(container) || parse_u64(word, &index) < 0 ||
	           index > json_array_size(container)) {
		json_decref(value);
		return wrong_path(path, "leads nowhere", err);
	} else if (json_is_null(value)) {
		(void)json_array_remove(container, index);
	} else if (index == json_array_size(container)) {
		r = json_array_append(container, value);
	} else {
		r = json_array_set(container, index, value);
	}
	json_decref(value);
	if (r < 0)
		die_no_memory();
	return 0;
}

/* A list that is not there yet and whose first element is named begins as a list. */
static void begin_list(json_t *container, const char *word, const char *rest)
{
	if (json_is_object(container) && !json_object_get(container, word) && rest[0] == '0' &&
	    (rest[1] == '.' || !rest[1]))
		xset(container, word, xpack("[]"));
}

int patch_put(json_t *object, const char *path, json_t *value, struct vmd_error *err)
{
	const char *p = path, *dot;

	while ((dot = strchr(p, '.'))) {
		cleanup_free char *word = strndup(p, (size_t)(dot - p));

		if (!word)
			die_no_memory();
		begin_list(object, word, dot + 1);
		object = descend(object, word);
		if (!object) {
			json_decref(value);
			return wrong_path(path, "leads nowhere", err);
		}
		p = dot + 1;
	}
	return put_here(object, path, p, value, err);
}
