/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Small helpers over jansson for values that a schema has already checked: a missing member gives
 * the default. Strings are borrowed from the JSON value.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/macros.h"

#define cleanup_json __attribute__((cleanup(json_decrefp)))

const char *jsonx_str(const json_t *object, const char *key, const char *fallback);
int64_t jsonx_int(const json_t *object, const char *key, int64_t fallback);
bool jsonx_bool(const json_t *object, const char *key, bool fallback);
/* An integer of bytes or a size string such as "2G" (see parse_size). */
uint64_t jsonx_size(const json_t *object, const char *key, uint64_t fallback);

/*
 * Parses one JSON text of len bytes with limits that stand before the library: depth (arrays and
 * objects nested) at most max_depth, duplicate keys and bytes after the value refused. New
 * reference, or NULL with err (ERROR_PARSE).
 */
json_t *jsonx_parse(const char *text, size_t len, unsigned max_depth, struct vmd_error *err);
/* The same, but an integer past 63 bits is no error: then all numbers of the text are reals. */
json_t *jsonx_parse_wide(const char *text, size_t len, unsigned max_depth, struct vmd_error *err);

/* Compact text (JSON_COMPACT, key order kept) for the caller to free; NULL when out of memory. */
char *jsonx_dump(const json_t *value);

/* Steals new_value into object[key]; false (value released) when new_value is NULL or on no memory.
 */
bool jsonx_set(json_t *object, const char *key, json_t *new_value);
