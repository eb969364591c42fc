/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Differences of two definitions, as merge patch (RFC 7396) and for people. */
#include <jansson.h>

#include "common/error.h"
#include "common/strbuf.h"

/* The merge patch that makes to out of from; an empty object when they are the same. */
json_t *patch_diff(const json_t *from, const json_t *to);

/* [{"field": dotted path, "from", "to"}] for every leaf that differs (null: not there). */
json_t *patch_changes(const json_t *from, const json_t *to);

/* A value of patch_changes, for people: short, harmless, null as "(default)". */
void patch_show(struct strbuf *s, const json_t *value);

/*
 * Steals value into a dotted path, array indices included ("disks.0.readonly", one past the end
 * appends). JSON null removes. -EINVAL with err when the path leads through something that holds no
 * members or past the end of an array.
 */
int patch_put(json_t *object, const char *path, json_t *value, struct vmd_error *err);
