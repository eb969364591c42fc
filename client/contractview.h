/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The contract as vmctl uses it: help texts, and what kind of value a field takes, so that words of
 * the command line become the right JSON. Parsed on first use only.
 */
#include <jansson.h>
#include <stdbool.h>

/* The whole document; borrowed, lives until the end. */
const json_t *contract_document(void);
/* A method's object, its $refs unresolved; NULL if there is none. */
const json_t *contract_method_find(const char *name);
/* The nearest method name for the caller to free, or NULL. */
char *contract_nearest_method(const char *name);
/* A $ref within the document followed to its end; others come back as they are. */
const json_t *contract_resolve(const json_t *value);

/*
 * text as the value of a parameter: dotted path into the method's parameters. JSON where the
 * contract takes that type there (or knows no such field), else a string. method may be NULL: any
 * JSON. New reference, never NULL.
 */
json_t *contract_value(const char *method, const char *path, const char *text);
/* The schema at a dotted path within components/schemas/<name>, or NULL: there is no such field. */
const json_t *contract_schema_find(const char *name, const char *path);
/* contract_value for a dotted path within the schema components/schemas/<name>. */
json_t *contract_schema_value(const char *name, const char *path, const char *text);
