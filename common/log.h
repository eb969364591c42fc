/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Structured logging: to the journal when under systemd (JOURNAL_STREAM names our stderr), else to
 * stderr as "<time> <level> <message> FIELD=value ...". Never blocks on the journal. Thread safe.
 * Messages start with a capital, have no full stop, quote values with ''.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <syslog.h>

#include "common/macros.h"

struct log_field {
	const char *name;  /* upper case, such as "GUEST"; NULL ends a list */
	const char *value; /* NULL: field left out */
};

/* Chooses the target and the identifier; call once at start, before threads. */
void log_init(const char *identifier);
/* Highest level that is written (LOG_DEBUG .. LOG_ERR). */
void log_set_level(int level);
int log_level(void);
/* Parses "err|warning|notice|info|debug"; -EINVAL otherwise. */
int log_level_from_string(const char *text);

/* fields may be NULL; else an array ended by a NULL name. */
void log_fields(int level, const struct log_field *fields, const char *format, ...)
	PRINTF_LIKE(3, 4);

#define log_error(...)   log_fields(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_fields(LOG_WARNING, NULL, __VA_ARGS__)
#define log_notice(...)  log_fields(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_info(...)    log_fields(LOG_INFO, NULL, __VA_ARGS__)
#define log_debug(...)   log_fields(LOG_DEBUG, NULL, __VA_ARGS__)
