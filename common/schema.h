/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * JSON schemas (a subset of draft 7), compiled once and checked often. Known keywords: type,
 * properties, required, additionalProperties, propertyNames, maxProperties, dependencies (lists),
 * items, minItems, maxItems, enum and const (strings), minLength, maxLength (bytes), pattern
 * (POSIX ERE), format (vmd-name, vmd-uuid, vmd-size, vmd-mac; stands before pattern), minimum,
 * maximum (integers), oneOf, anyOf, allOf, not, if/then/else, $ref. description, default, title,
 * examples and x-* say something to people; x-expect ("a name") and x-error are used in messages.
 * Any other keyword is refused when compiling, so nothing stands in a schema without being
 * enforced.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/macros.h"

struct schema;     /* one compiled schema, owned by its set */
struct schema_set; /* owns everything compiled into it */

/*
 * A set over a document: $ref "#/components/schemas/X" leads to the member X of components
 * (borrowed until schema_set_seal), all of which are compiled at once. -ENOMEM, -EINVAL with err.
 */
int schema_set_new(const json_t *components, struct schema_set **ret,
                   struct vmd_error *err) MUST_CHECK;
/* Compiles one more schema into the set; value is borrowed for the call. */
int schema_compile(struct schema_set *set, const json_t *value, const struct schema **ret,
                   struct vmd_error *err) MUST_CHECK;
/*
 * Compiles an object schema from OpenRPC parameters: an array of {name, required, schema}, each of
 * them whole (no $ref in place of the parameter). Other members are refused.
 */
int schema_compile_params(struct schema_set *set, const json_t *params, const struct schema **ret,
                          struct vmd_error *err) MUST_CHECK;
/* Ends compiling: the JSON may be released after. Must be called before the first check. */
int schema_set_seal(struct schema_set *set, struct vmd_error *err) MUST_CHECK;
struct schema_set *schema_set_free(struct schema_set *set);
/* A component by name, or NULL. */
const struct schema *schema_find(const struct schema_set *set, const char *name);
/* A copy of text in the set's memory, or NULL; lives as long as the set. */
const char *schema_set_strdup(struct schema_set *set, const char *text);
/* Bytes the set holds, for tests. */
size_t schema_set_size(const struct schema_set *set);

/*
 * Checks a value. 0, or -EINVAL with err (ERROR_INVALID): message, the path of the first wrong
 * field ("disks[1].path") and for unknown members the nearest valid name as hint. Allocates
 * nothing, does not recurse deeper than the schema. err may be NULL.
 */
int schema_check(const struct schema *s, const json_t *value, struct vmd_error *err) MUST_CHECK;
/* The same with paths that begin with `at` ("definition"). */
int schema_check_at(const struct schema *s, const char *at, const json_t *value,
                    struct vmd_error *err) MUST_CHECK;

DEFINE_CLEANUP(struct schema_set *, schema_set_free);
#define cleanup_schema_set cleanup_with(schema_set_free)
