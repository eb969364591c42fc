/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/die.h"

#include <stdarg.h>
#include <stdio.h>

void die_no_memory(void)
{
	fputs("vmctl: out of memory\n", stderr);
	exit(1);
}

char *xasprintf(const char *format, ...)
{
	va_list ap;
	char *text;
	int n;

	va_start(ap, format);
	n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		die_no_memory();
	return text;
}

json_t *xpack(const char *format, ...)
{
	json_error_t detail;
	json_t *value;
	va_list ap;

	va_start(ap, format);
	value = json_vpack_ex(&detail, 0, format, ap);
	va_end(ap);
	if (value)
		return value;
	if (json_error_code(&detail) == json_error_out_of_memory)
		die_no_memory();
	fprintf(stderr, "vmctl: an argument is not UTF-8 text\n");
	exit(64);
}

void xset(json_t *object, const char *key, json_t *value)
{
	if (!value || json_object_set_new(object, key, value) < 0)
		die_no_memory();
}

json_t *xstring(const char *text)
{
	return xpack("s", text);
}
