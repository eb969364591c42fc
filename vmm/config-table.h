/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A reader of JSON objects into structs, by tables of members: strict, and errors have a path. */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum member_type {
	UINT,
	U64,
	FLAG,
	TEXT,
	FD,
	WORD,
	MAC_ADDRESS,
	OBJECT,
	ARRAY
};

struct member {
	const char *name;
	enum member_type type;
	size_t offset;     /* in the struct that the table describes */
	uint64_t min, max; /* UINT, U64: range; TEXT: bytes of the field */
	const char *const *words;
	/* OBJECT: the table of its members, relative to the same struct plus offset.
	 * ARRAY: max elements of the given size, count at count_offset. */
	const struct member *members;
	size_t element_bytes, count_offset;
	bool required;
	void (*defaults)(void *element);
};

/*
 * Reads object v into the struct at base. Unknown members are refused, wrong values too, with the
 * member's path in err->field. name: of the object within its document, or NULL for the top.
 */
int config_read(const json_t *v, const struct member *members, void *base, const char *name,
                struct vmd_error *err);
