/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * For tests of durable state: private directories, and the system calls that change a disk wrapped
 * (linker option --wrap), so that a test can count them, look at the disk before each one, and let
 * them fail. All wrapped calls are serialised.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Linker flags of a program that uses the fixture are in Makemodule.am (STORE_WRAP). */

/* A new empty directory, removed by fixture_fini(); the string is static per call number (max 4).
 */
const char *fixture_dir(void);
void fixture_fini(void);
/* Copies a state directory without its lock file, replacing `to`. */
void fixture_copy(const char *from, const char *to);
/* Path below a directory; static buffers in turn. */
const char *fixture_path(const char *dir, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

struct fixture_faults {
	/* Called before each wrapped call, under the lock; returns 0 or the errno to fail with. */
	int (*before)(const char *call, void *userdata);
	void *userdata;
	bool half; /* a failing write has written half of its bytes */
};
/* NULL: none. */
void fixture_set_faults(const struct fixture_faults *f);
/* Calls of this name so far. */
unsigned fixture_count(const char *call);

/* A store_load_fn: object "kind/id" -> text goes into the JSON object userdata (or NULL). */
void fixture_on_load(void *userdata, const char *kind, const char *id, const char *text,
                     size_t len);
/* Opens the state, returns all objects, closes it. NULL when it does not open. */
json_t *fixture_load(const char *dir);
