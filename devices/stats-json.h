/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The one shape of a device's statistics. */
#include <jansson.h>

#include "devices/iostats.h"

/*
 * An object with a member per name: {"operations", "bytes", "errors", "total_ns", "latency_us":
 * [...]}, where element i counts what took less than 2^i µs. A new reference; NULL: no memory.
 * Any thread.
 */
json_t *iostats_members(const struct iostats *stats, const char *const *names, unsigned n);
