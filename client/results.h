/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What came of the same thing done to several objects: errors go to stderr as they come, with
 * -o json one document to stdout at the end, and one exit code tells of all.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct ctx;

struct results {
	struct ctx *ctx;
	const char *key; /* what the objects are: "vm", "snapshot", "disk", "job" */
	bool many;       /* JSON is an array even of one: several may have been meant */
	json_t *all;
	size_t n, failed;
	int code; /* of those that failed */
};

#define cleanup_results __attribute__((cleanup(results_deinit)))

void results_init(struct results *rs, struct ctx *ctx, const char *key, bool many);
void results_deinit(struct results *rs);

/* It went well. result (borrowed) is the API's; NULL counts as null. */
void results_done(struct results *rs, const char *name, const json_t *result);
/*
 * It failed with r: error (borrowed) is the API's object, or NULL when it is the client's own
 * finding. Prints nothing.
 */
void results_failed(struct results *rs, const char *name, int r, const struct vmd_error *err,
                    const json_t *error);
/*
 * The same for the last ctx_call() or ctx_call_job(), and prints "vmctl: what: why" (what may be
 * NULL). Clears ctx->err for the next one.
 */
void results_call_failed(struct results *rs, const char *name, int r, const char *what);

/*
 * Prints the JSON: of one object its result or {"error"}, of several an array that says which is
 * whose. Returns the exit code: done, partial, the code all failures share, or 1.
 */
int results_end(struct results *rs);
