/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The parts of the program that makes vmd-api(7) and vmd-vm(5) from the contract. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "common/strbuf.h"

/* What "#/a/b" leads to in the document, or NULL. */
const json_t *apidoc_follow(const json_t *document, const char *ref);
/* The name of the schema that a {"$ref"} leads to, or NULL. */
const char *apidoc_ref_name(const json_t *schema);

/* "integer, 1 to 256", "path", "object or boolean": a type in words. */
void apidoc_type(const json_t *document, const json_t *schema, struct strbuf *out);
/* The members of an object schema (also one inside oneOf) as a list, with the members of members
 * indented below. Writes nothing when there are none. */
void apidoc_members(const json_t *document, const json_t *schema, FILE *out);
/* One ".It name (type, required, default x)" with its description and members. */
void apidoc_item(const json_t *document, const char *name, const json_t *schema, bool required,
                 FILE *out);
/* Schemas whose members are told in vmd-vm(5). */
bool apidoc_in_vm_page(const json_t *document, const char *name);
/* Schemas that are one word in other descriptions ("path", "size"). */
bool apidoc_is_word(const char *name);

/* The pages. engines: mdoc text on what the engines can do. */
void apidoc_page_api(const json_t *document, const char *engines, FILE *out);
void apidoc_page_vm(const json_t *document, const char *engines, FILE *out);
