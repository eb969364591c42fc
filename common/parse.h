/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Parsers that accept exactly one spelling of a value and reject everything else. 0 or
 * -EINVAL/-ERANGE. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

int parse_u64(const char *text, uint64_t *ret) MUST_CHECK;
/* "512", "512M", "2G", "1.5G", "64KiB": powers of 1024; B, K, M, G, T, with optional "iB" or "B".
 */
int parse_size(const char *text, uint64_t *ret_bytes) MUST_CHECK;
/* "90s", "500ms", "2m", "1h", "1d"; a bare number is seconds. */
int parse_duration_ms(const char *text, uint64_t *ret_ms) MUST_CHECK;
/* "52:54:00:12:34:56"; multicast addresses are refused. */
int parse_mac(const char *text, uint8_t ret_mac[6]) MUST_CHECK;
/* Canonical lower-case UUID text. */
bool is_uuid(const char *text);
/* Names of guests, snapshots, disks: [a-z0-9][a-z0-9._-]{0,62}. */
bool is_object_name(const char *text);
/* "1.5 GiB", "512 MiB", for people. buf is the caller's. Returns buf. */
const char *format_size(char *buf, size_t len, uint64_t bytes);
/* Edit distance of two words (insert, delete, replace, swap), at most limit + 1; for "did you
 * mean". */
unsigned word_distance(const char *a, const char *b, unsigned limit);
