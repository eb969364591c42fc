/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers of many runs, and the table in which they are shown. */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/vmm-bench.h"

void sample(struct samples *s, double v)
{
	if (s->n < SAMPLES_MAX)
		s->v[s->n++] = v;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(struct samples *s)
{
	if (!s->n)
		return 0;
	qsort(s->v, s->n, sizeof(s->v[0]), compare);
	return s->n % 2 ? s->v[s->n / 2] : (s->v[s->n / 2 - 1] + s->v[s->n / 2]) / 2;
}

double smallest(struct samples *s)
{
	return s->n ? (median(s), s->v[0]) : 0;
}

void bench_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("bench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

void table_head(const char *title)
{
	printf("\n### %s\n\n| | measured | beside | ratio | target | |\n|---|---|---|---|---|---|\n",
	       title);
	fflush(stdout);
}

/* Three figures that mean something, whatever the unit. */
static const char *figure(char *buf, size_t len, double v)
{
	snprintf(buf, len, v >= 100 ? "%.0f" : v >= 10 ? "%.1f" : "%.2f", v);
	return buf;
}

void row(const char *what, double value, const char *unit, const char *beside, double other,
         double limit, bool at_least)
{
	double ratio = other > 0 ? value / other : 0;
	char a[32], b[32];
	bool met = at_least ? ratio >= limit : ratio <= limit;

	printf("| %s | %s %s | %s %s %s | %.2f |", what, figure(a, sizeof(a), value), unit, beside,
	       figure(b, sizeof(b), other), unit, ratio);
	if (limit > 0)
		printf(" %s %.2f | %s |\n", at_least ? "≥" : "≤", limit, met ? "met" : "missed");
	else
		printf(" | |\n");
	fflush(stdout);
}

void row_value(const char *what, double value, const char *unit, double limit, bool at_least)
{
	char a[32], b[32];
	bool met = at_least ? value >= limit : value <= limit;

	printf("| %s | %s %s | | |", what, figure(a, sizeof(a), value), unit);
	if (limit > 0)
		printf(" %s %s %s | %s |\n", at_least ? "≥" : "≤", figure(b, sizeof(b), limit),
		       unit, met ? "met" : "missed");
	else
		printf(" | |\n");
	fflush(stdout);
}

void row_skip(const char *what, const char *why)
{
	printf("| %s | skipped: %s | | | | |\n", what, why);
	fflush(stdout);
}
