/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Object files: $STATE/<kind>/<id>/<kind minus s>.json, and beside it the generation before as
 * <same>.prev. The first line tells what the rest must be, the rest is the value:
 *
 *   {"vmd":1,"generation":42,"xxh3":"<16 hex digits>"}
 *   {"name":"web",...}
 *
 * generation is the number of the transaction that wrote the value; the checksum is XXH3-64 over
 * the value, seeded with version and generation, so that it stands for the first line too. Every
 * later format keeps this line and this sum: that is how a newer file is told from a rotten one.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OBJECT_VERSION   1
#define OBJECT_MAX_BYTES (16u << 20)
#define OBJECT_PATH_MAX  320

/* Is this one of the kinds of objects the store keeps? */
bool object_kind_ok(const char *kind);
/* The n-th kind, NULL past the last. */
const char *object_kind(size_t n);
/* Can this be an object's id: [A-Za-z0-9_-][A-Za-z0-9._-]{0,127}? */
bool object_id_ok(const char *id);
/* "<kind>/<id>/<file><suffix>"; kind and id are good. */
void object_path(char buf[OBJECT_PATH_MAX], const char *kind, const char *id, const char *suffix);

struct object {
	char *data;       /* whole file, freed by object_deinit */
	const char *text; /* the value in it, NUL-terminated */
	size_t len;
	uint64_t generation;
};
void object_deinit(struct object *o);
/*
 * Reads and checks an object file. 0; -ENOENT; -EBADMSG: torn or rotten; -EPROTONOSUPPORT: written
 * by a newer vmd; other negative errno. Blocks.
 */
int object_read(int dir_fd, const char *path, struct object *ret);
/* Writes an object file (a temporary: path must not exist); fsyncs it when sync is set. */
int object_write(int dir_fd, const char *path, const char *text, size_t len, uint64_t generation,
                 bool sync);
