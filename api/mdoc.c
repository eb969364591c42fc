/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "api/mdoc.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

void mdoc_printf(FILE *out, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(out, format, ap);
	va_end(ap);
}

static void put_char(FILE *out, char c)
{
	if (c == '\\')
		fputs("\\e", out);
	else
		fputc(c, out);
}

/* A full stop, a space and a capital or a marked word: the next sentence gets its own line. */
static bool ends_sentence(const char *p)
{
	return p[0] == '.' && p[1] == ' ' && (isupper((unsigned char)p[2]) || p[2] == '`');
}

void mdoc_text(FILE *out, const char *text)
{
	bool bold = false, line_start = true;

	if (!text || !*text)
		return;
	for (const char *p = text; *p; p++) {
		if (line_start && (*p == '.' || *p == '\''))
			fputs("\\&", out);
		line_start = false;
		if (*p == '`') {
			fputs(bold ? "\\fP" : "\\fB", out);
			bold = !bold;
			continue;
		}
		put_char(out, *p);
		if (ends_sentence(p)) {
			fputc('\n', out);
			line_start = true;
			p++;
		}
	}
	fputc('\n', out);
}

void mdoc_arg(FILE *out, const char *text)
{
	fputs(" \"", out);
	for (; *text; text++) {
		if (*text == '"')
			fputs("\\(dq", out);
		else
			put_char(out, *text);
	}
	fputc('"', out);
}

void mdoc_literal(FILE *out, const char *text)
{
	bool line_start = true;

	fputs(".Bd -literal -offset indent\n", out);
	for (; *text; text++) {
		if (line_start && (*text == '.' || *text == '\''))
			fputs("\\&", out);
		if (*text == '-')
			fputs("\\-", out);
		else
			put_char(out, *text);
		line_start = *text == '\n';
	}
	fputs(line_start ? ".Ed\n" : "\n.Ed\n", out);
}

void mdoc_head(FILE *out, const char *date, const char *name, int section, const char *what)
{
	fprintf(out, ".\\\" SPDX-License-Identifier: GPL-2.0-or-later\n"
	             ".\\\" Made from api/vmd.openrpc.json by api/apidoc.c.\n");
	fprintf(out, ".Dd %s\n.Dt ", date);
	for (const char *p = name; *p; p++)
		fputc(toupper((unsigned char)*p), out);
	fprintf(out, " %d\n.Os\n.Sh NAME\n.Nm %s\n.Nd %s\n", section, name, what);
}
