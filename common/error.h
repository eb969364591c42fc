/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The one error convention: functions return 0 (or a count) on success and a negative errno on
 * failure. Where a person must read the reason, the last parameter is a struct vmd_error, owned by
 * the caller (usually on its stack), set once at the origin and then only prefixed. `err` may be
 * NULL. errno is for forwarding, kinds are for deciding; kinds are API words and never change.
 */
#include <errno.h>
#include <stdarg.h>

#include "common/macros.h"

enum error_kind {
	ERROR_NONE,
	ERROR_NOT_FOUND,     /* not_found: the named object does not exist */
	ERROR_EXISTS,        /* exists: the name is taken */
	ERROR_WRONG_STATE,   /* wrong_state: the object's state does not allow this */
	ERROR_INVALID,       /* invalid: the input is wrong; data.field says which */
	ERROR_BUSY,          /* busy: other work holds the object; data.job says which */
	ERROR_DENIED,        /* denied: the caller's role or a protect flag forbids it */
	ERROR_UNSUPPORTED,   /* unsupported: this host or engine cannot do it */
	ERROR_NO_SPACE,      /* no_space: disk, quota or a limit is used up */
	ERROR_TIMEOUT,       /* timeout: a deadline passed */
	ERROR_CONFLICT,      /* conflict: if_generation or client_key does not match */
	ERROR_ENGINE_FAILED, /* engine_failed: QEMU, the monitor or a helper failed */
	ERROR_INTERNAL,      /* internal: a defect in vmd or the host */
	ERROR_CANCELLED,     /* cancelled: the job or call was cancelled */
	/* Protocol errors with standard JSON-RPC numbers. */
	ERROR_PARSE,            /* parse */
	ERROR_INVALID_REQUEST,  /* invalid_request */
	ERROR_METHOD_NOT_FOUND, /* method_not_found */
	_ERROR_KIND_MAX,
};

struct vmd_error {
	enum error_kind kind;
	char message[384]; /* what failed, on which object, why */
	char field[96];    /* path of the wrong input, such as "definition.disks[1].path", or "" */
	char hint[192];    /* what to do next, or "" */
	char job[40];      /* id of the job that holds the object (busy), or "" */
};

#define VMD_ERROR_INIT             \
	{                          \
		.kind = ERROR_NONE \
	}

/* The stable API word of a kind ("not_found"); never NULL. */
const char *error_kind_name(enum error_kind kind);

/* The JSON-RPC error code of a kind, for example -32602 for ERROR_INVALID; -32000 - n for ours. */
int error_kind_code(enum error_kind kind);

/* The errno that stands for a kind (ENOENT, EEXIST, ...), positive. */
int error_kind_errno(enum error_kind kind);

/* The kind that fits an errno best (ENOSPC and EDQUOT: no_space; EACCES: denied ...). */
enum error_kind error_kind_from_errno(int errno_value);

/*
 * Sets kind and message if err holds nothing yet, and returns the negative errno of the kind, so
 * that `return error_set(err, ERROR_BUSY, "...")` is one statement. Messages begin in lower case,
 * name the object in quotes, have no full stop at the end.
 */
int error_set(struct vmd_error *err, enum error_kind kind, const char *format, ...)
	PRINTF_LIKE(3, 4);

/* As error_set with the kind taken from errno_value; ": <strerror>" is appended to the message. */
int error_set_errno(struct vmd_error *err, int errno_value, const char *format, ...)
	PRINTF_LIKE(3, 4);

/* As error_set with ERROR_INVALID and the path of the wrong field. */
int error_set_field(struct vmd_error *err, const char *field, const char *format, ...)
	PRINTF_LIKE(3, 4);

/* Adds what to do next; replaces an earlier hint. */
void error_hint(struct vmd_error *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* Puts "text: " before the message, to say on which object it failed. */
void error_prefix(struct vmd_error *err, const char *format, ...) PRINTF_LIKE(2, 3);
