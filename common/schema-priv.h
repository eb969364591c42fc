/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The compiled form that schema-compile.c makes and schema.c walks. Everything lies in the set's
 * arena; parts that a schema does not use are NULL. */
#include <regex.h>
#include <stdint.h>

#include "common/schema.h"

enum schema_type {
	SCHEMA_NULL = 1 << 0,
	SCHEMA_BOOLEAN = 1 << 1,
	SCHEMA_INTEGER = 1 << 2,
	SCHEMA_REAL = 1 << 3,
	SCHEMA_STRING = 1 << 4,
	SCHEMA_ARRAY = 1 << 5,
	SCHEMA_OBJECT = 1 << 6,
	SCHEMA_ANY = (1 << 7) - 1,
};

struct schema_pattern {
	struct schema_pattern *next;
	const char *text;
	regex_t regex;
	bool compiled;
};

struct schema_format {
	const char *name;
	bool (*matches)(const char *text);
	const char *expect; /* "a size such as ..." */
};

struct schema_list {
	const struct schema **items;
	size_t n;
};

struct schema_words {
	const char **items;
	size_t n;
};

struct schema_string {
	size_t min_length, max_length;
	struct schema_words words; /* enum or const; n 0: any */
	const struct schema_pattern *pattern;
	const struct schema_format *format;
};

struct schema_prop {
	const char *name;
	const struct schema *schema;
};

struct schema_dependency {
	const char *name;
	struct schema_words needs;
};

struct schema_object {
	const struct schema_prop *props;
	size_t n_props;
	struct schema_words required;
	const struct schema_dependency *dependencies;
	size_t n_dependencies;
	const struct schema *additional;   /* of members that are not in props, or NULL */
	const struct schema *member_names; /* propertyNames, or NULL */
	bool closed;                       /* additionalProperties: false */
	size_t max_members;
};

struct schema_array {
	const struct schema *items; /* or NULL */
	size_t min_items, max_items;
};

struct schema_range {
	json_int_t min, max;
};

struct schema_logic {
	struct schema_list one_of, any_of, all_of;
	const struct schema *not_this, *if_this, *then_this, *else_this;
};

struct schema {
	uint8_t types;      /* enum schema_type; SCHEMA_ANY when not said */
	const char *expect; /* x-expect */
	const char *error;  /* x-error */
	const struct schema_range *range;
	const struct schema_string *string;
	const struct schema_array *array;
	const struct schema_object *object;
	const struct schema_logic *logic;
};

/* The type bit of a value. */
enum schema_type schema_type_of(const json_t *value);
/* A type's JSON word ("integer"), or NULL past the last. */
const char *schema_type_word(unsigned bit);
/* By name, or NULL. */
const struct schema_format *schema_format_find(const char *name);
