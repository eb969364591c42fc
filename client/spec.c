/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/spec.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/args.h"
#include "client/die.h"
#include "common/jsonx.h"
#include "common/parse.h"

void json_put(json_t *object, const char *path, json_t *value)
{
	const char *dot;

	while ((dot = strchr(path, '.'))) {
		cleanup_free char *word = strndup(path, (size_t)(dot - path));
		json_t *next;

		if (!word)
			die_no_memory();
		next = json_object_get(object, word);
		if (!json_is_object(next)) {
			next = xpack("{}");
			xset(object, word, next);
		}
		object = next;
		path = dot + 1;
	}
	xset(object, path, value);
}

char *path_absolute(const char *path, const char *base)
{
	cleanup_free char *cwd = NULL;

	if (path[0] == '/')
		return xstrdup(path);
	if (!base) {
		cwd = getcwd(NULL, 0);
		base = cwd ? cwd : "/";
	}
	while (strncmp(path, "./", 2) == 0)
		path += 2;
	return xasprintf("%s/%s", strcmp(base, "/") == 0 ? "" : base, path);
}

static json_t *bool_value(const char *text)
{
	static const struct {
		const char *word;
		int value;
	} words[] = { { "on", 1 },  { "yes", 1 }, { "true", 1 },
		      { "off", 0 }, { "no", 0 },  { "false", 0 } };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(words[i].word, text) == 0)
			return json_boolean(words[i].value);
	return NULL;
}

static json_t *number_value(enum spec_type type, const char *text)
{
	uint64_t v;
	int r = type == SPEC_TIME ? parse_duration_ms(text, &v) : parse_u64(text, &v);

	return r == 0 && v <= INT64_MAX ? json_integer((json_int_t)v) : NULL;
}

json_t *spec_value(enum spec_type type, const char *option, const char *text, struct vmd_error *err)
{
	static const char *const expected[] = {
		[SPEC_TEXT] = "text",
		[SPEC_PATH] = "a path",
		[SPEC_BOOL] = "on or off",
		[SPEC_INT] = "a number",
		[SPEC_TIME] = "a time (90s, 500ms, 2m)",
		[SPEC_LIST] = "text",
	};
	cleanup_free char *path = NULL;
	json_t *value = NULL;

	switch (type) {
	case SPEC_TEXT:
	case SPEC_LIST:
		return xstring(text);
	case SPEC_PATH:
		path = *text ? path_absolute(text, NULL) : NULL;
		value = path ? xstring(path) : NULL;
		break;
	case SPEC_BOOL:
		value = bool_value(text);
		break;
	case SPEC_INT:
	case SPEC_TIME:
		value = number_value(type, text);
		break;
	}
	if (!value)
		(void)error_set(err, ERROR_INVALID, "%s: '%s' is not %s", option, text,
		                expected[type]);
	return value;
}

/* The next comma-separated part of *text, "," for ",,"; NULL at the end. */
static char *next_part(const char **text)
{
	const char *p = *text;
	char *part, *w;

	if (!p)
		return NULL;
	part = w = xcalloc(1, strlen(p) + 1);
	while (*p) {
		if (*p == ',') {
			if (p[1] != ',')
				break;
			p++;
		}
		*w++ = *p++;
	}
	*text = *p ? p + 1 : NULL;
	return part;
}

static const struct spec_field *find_field(const struct spec *spec, const char *key)
{
	for (const struct spec_field *f = spec->fields; f->key; f++)
		if (strcmp(f->key, key) == 0)
			return f;
	return NULL;
}

static int unknown_key(const struct spec *spec, const char *option, const char *key,
                       struct vmd_error *err)
{
	const char *words[40];
	const char *near;
	size_t n = 0;

	(void)error_set(err, ERROR_INVALID, "%s: unknown key '%s'", option, key);
	for (const struct spec_field *f = spec->fields; f->key && n < ARRAY_SIZE(words); f++)
		words[n++] = f->key;
	near = nearest_word(key, words, n);
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	return -EINVAL;
}

static int put_field(json_t *object, const struct spec_field *f, const char *option,
                     const char *text, struct vmd_error *err)
{
	const char *path = f->path ? f->path : f->key;
	cleanup_free char *name = xasprintf("%s: %s", option, f->key);
	json_t *value = spec_value(f->type, name, text, err), *list;

	if (!value)
		return -EINVAL;
	if (f->type != SPEC_LIST) {
		json_put(object, path, value);
		return 0;
	}
	list = json_object_get(object, path);
	if (!list) {
		list = xpack("[]");
		json_put(object, path, list);
	}
	if (json_array_append_new(list, value) < 0)
		die_no_memory();
	return 0;
}

static int parse_part(const struct spec *spec, const char *option, char *part, bool first,
                      json_t *object, struct vmd_error *err)
{
	char *equals = strchr(part, '=');
	const struct spec_field *f;

	if (equals) {
		*equals = '\0';
		f = find_field(spec, part);
		return f ? put_field(object, f, option, equals + 1, err)
		         : unknown_key(spec, option, part, err);
	}
	f = find_field(spec, part);
	if (f && f->type == SPEC_BOOL)
		return put_field(object, f, option, "on", err);
	if (first && spec->first)
		return put_field(object, find_field(spec, spec->first), option, part, err);
	if (f)
		return error_set(err, ERROR_INVALID, "%s: '%s' needs a value", option, part);
	return unknown_key(spec, option, part, err);
}

int spec_parse(const struct spec *spec, const char *option, const char *text, json_t **ret,
               struct vmd_error *err)
{
	cleanup_json json_t *object = xpack("{}");
	bool first = true;

	while (text) {
		cleanup_free char *part = next_part(&text);
		int r;

		if (!*part)
			return error_set(err, ERROR_INVALID, "%s: an empty part between commas",
			                 option);
		r = parse_part(spec, option, part, first, object, err);
		if (r < 0)
			return r;
		first = false;
	}
	*ret = TAKE_PTR(object);
	return 0;
}
