/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/error.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	int code;
	int errno_value;
} kinds[] = {
	[ERROR_NONE] = { "none", 0, 0 },
	[ERROR_NOT_FOUND] = { "not_found", -32001, ENOENT },
	[ERROR_EXISTS] = { "exists", -32002, EEXIST },
	[ERROR_WRONG_STATE] = { "wrong_state", -32003, ESTALE },
	[ERROR_INVALID] = { "invalid", -32602, EINVAL },
	[ERROR_BUSY] = { "busy", -32004, EBUSY },
	[ERROR_DENIED] = { "denied", -32005, EACCES },
	[ERROR_UNSUPPORTED] = { "unsupported", -32006, EOPNOTSUPP },
	[ERROR_NO_SPACE] = { "no_space", -32007, ENOSPC },
	[ERROR_TIMEOUT] = { "timeout", -32008, ETIMEDOUT },
	[ERROR_CONFLICT] = { "conflict", -32009, EILSEQ },
	[ERROR_ENGINE_FAILED] = { "engine_failed", -32010, EREMOTEIO },
	[ERROR_INTERNAL] = { "internal", -32603, EIO },
	[ERROR_CANCELLED] = { "cancelled", -32011, ECANCELED },
	[ERROR_PARSE] = { "parse", -32700, EBADMSG },
	[ERROR_INVALID_REQUEST] = { "invalid_request", -32600, EPROTO },
	[ERROR_METHOD_NOT_FOUND] = { "method_not_found", -32601, ENOSYS },
};
static_assert(ARRAY_SIZE(kinds) == _ERROR_KIND_MAX, "one row per kind");

const char *error_kind_name(enum error_kind kind)
{
	return kinds[kind].name;
}

int error_kind_code(enum error_kind kind)
{
	return kinds[kind].code;
}

int error_kind_errno(enum error_kind kind)
{
	return kinds[kind].errno_value;
}

enum error_kind error_kind_from_errno(int errno_value)
{
	switch (errno_value) {
	case ENOENT:
	case ENXIO:
		return ERROR_NOT_FOUND;
	case EPERM:
		return ERROR_DENIED;
	case EDQUOT:
	case EFBIG:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
		return ERROR_NO_SPACE;
	case EAGAIN:
		return ERROR_BUSY;
	case EROFS:
		return ERROR_DENIED;
	case ETIME:
		return ERROR_TIMEOUT;
	}
	for (int k = ERROR_NOT_FOUND; k < _ERROR_KIND_MAX; k++)
		if (kinds[k].errno_value == errno_value)
			return k;
	return ERROR_INTERNAL;
}

static int set(struct vmd_error *err, enum error_kind kind, const char *format, va_list ap)
{
	if (err && err->kind == ERROR_NONE) {
		err->kind = kind;
		vsnprintf(err->message, sizeof(err->message), format, ap);
	}
	return -kinds[kind].errno_value;
}

int error_set(struct vmd_error *err, enum error_kind kind, const char *format, ...)
{
	va_list ap;
	int r;

	va_start(ap, format);
	r = set(err, kind, format, ap);
	va_end(ap);
	return r;
}

int error_set_errno(struct vmd_error *err, int errno_value, const char *format, ...)
{
	enum error_kind kind = error_kind_from_errno(errno_value);
	va_list ap;

	if (err && err->kind == ERROR_NONE) {
		size_t n;

		va_start(ap, format);
		(void)set(err, kind, format, ap);
		va_end(ap);
		n = strlen(err->message);
		snprintf(err->message + n, sizeof(err->message) - n, ": %s", strerror(errno_value));
	}
	return -errno_value;
}

int error_set_field(struct vmd_error *err, const char *field, const char *format, ...)
{
	va_list ap;
	int r;

	if (err && err->kind == ERROR_NONE)
		snprintf(err->field, sizeof(err->field), "%s", field);
	va_start(ap, format);
	r = set(err, ERROR_INVALID, format, ap);
	va_end(ap);
	return r;
}

void error_hint(struct vmd_error *err, const char *format, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, format);
	vsnprintf(err->hint, sizeof(err->hint), format, ap);
	va_end(ap);
}

void error_prefix(struct vmd_error *err, const char *format, ...)
{
	char old[sizeof(err->message)];
	va_list ap;
	size_t n;

	if (!err)
		return;
	memcpy(old, err->message, sizeof(old));
	va_start(ap, format);
	vsnprintf(err->message, sizeof(err->message), format, ap);
	va_end(ap);
	n = strlen(err->message);
	snprintf(err->message + n, sizeof(err->message) - n, ": %s", old);
}
