/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What a fuzz target is: one function, called by libFuzzer, or by replay.c in ordinary builds. */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An invariant that does not hold; stays on in every build. */
#define FUZZ_CHECK(c)                                                           \
	do {                                                                    \
		if (!(c)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #c); \
			abort();                                                \
		}                                                               \
	} while (0)

/* As the monitor and the daemon have it; a target that it ends leaves no finding. */
__attribute__((constructor)) static void fuzz_ignore_sigpipe(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
}

/* Takes numbers from the input; zeroes when it is used up. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
		v |= (uint64_t)*in->at++ << 8 * i;
	return v;
}
