/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leaks and overflows on purpose. ./check runs each of these in the sanitizer build and fails when
 * one of them passes: then the sanitizers would find nothing in the real tests either.
 */
#include "config.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <stdlib.h>

TestSuite(canary, .timeout = 30);

/* Not seen through by the compiler. */
static void *volatile sink;

Test(canary, leak)
{
	sink = malloc(100);
	sink = NULL;
}

Test(canary, overflow)
{
	volatile int big = INT_MAX;

	big = big + 1;
}

Test(canary, out_of_bounds)
{
	volatile size_t past_the_end = 10;
	char *p = malloc(10);

	p[past_the_end] = 1;
	free(p);
}
