/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * "path=/a,format=raw,readonly": one argument that fills an object, by a table of its keys. A comma
 * inside a value is written twice.
 */
#include <jansson.h>

#include "common/error.h"

enum spec_type {
	SPEC_TEXT,
	SPEC_PATH, /* made absolute */
	SPEC_BOOL, /* on, off, yes, no, true, false; the bare key means on */
	SPEC_INT,
	SPEC_TIME, /* 90s: milliseconds */
	SPEC_LIST, /* appended to an array of strings, once per mention */
};

struct spec_field {
	const char *key;
	const char *path; /* dotted place in the object; NULL: the key is the place */
	enum spec_type type;
};

struct spec {
	const struct spec_field *fields; /* ended by a NULL key */
	const char *first;               /* key of a bare first word, or NULL */
};

/*
 * New object in *ret. option is named in errors ("--disk"). -EINVAL with err: unknown key (hint:
 * the nearest), value of the wrong kind, key twice.
 */
int spec_parse(const struct spec *spec, const char *option, const char *text, json_t **ret,
               struct vmd_error *err) MUST_CHECK;

/* One value of a type as JSON (SPEC_LIST: as SPEC_TEXT). NULL with err when malformed. */
json_t *spec_value(enum spec_type type, const char *option, const char *text,
                   struct vmd_error *err);

/* Steals value into object at a dotted path, making objects on the way. */
void json_put(json_t *object, const char *path, json_t *value);

/* An absolute path for the caller to free: relative ones begin at base (NULL: where we stand). */
char *path_absolute(const char *path, const char *base);
