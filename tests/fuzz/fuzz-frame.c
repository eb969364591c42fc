/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "common/macros.h"
#include "daemon/frame.h"
#include "tests/fuzz/fuzz.h"

/*
 * The framing of API connections: lines, headers, HTTP with chunks. The bytes are given all at once
 * and in pieces: the messages must be the same, lie in what was given, and be no longer than
 * allowed.
 *
 * Input: size of the pieces, longest message, then the bytes.
 */

#define MAX_MESSAGES 4096

struct seen {
	size_t n;
	uint64_t sums[MAX_MESSAGES]; /* of each message */
	enum frame_result end;
};

static void note(struct seen *s, const char *data, size_t len, const struct frame *m)
{
	uint64_t sum = m->len;

	FUZZ_CHECK(m->body >= data && m->len <= len && m->body + m->len <= data + len);
	FUZZ_CHECK(m->consumed <= len && m->consumed >= m->len);
	for (size_t i = 0; i < m->len; i++)
		sum = sum * 31 + (uint8_t)m->body[i];
	if (s->n < MAX_MESSAGES)
		s->sums[s->n++] = sum;
}

/* All messages in data, len bytes; how many bytes are used up. */
static size_t take(struct framer *f, char *data, size_t len, struct seen *s)
{
	size_t at = 0;

	do {
		struct frame m;

		s->end = framer_next(f, data + at, len - at, &m);
		FUZZ_CHECK(m.consumed <= len - at);
		if (s->end == FRAME_MESSAGE) {
			FUZZ_CHECK(m.len <= f->max);
			note(s, data + at, len - at, &m);
		}
		at += m.consumed;
	} while (s->end == FRAME_MESSAGE);
	return at;
}

static void run(const uint8_t *bytes, size_t n, size_t piece, size_t max, struct seen *s)
{
	size_t have = 0;
	char *kept = NULL;
	struct framer f;

	framer_init(&f, max);
	s->n = 0;
	s->end = FRAME_MORE;
	while (n && s->end == FRAME_MORE) {
		size_t add = MIN_OF(piece, n), used;
		/* Exactly as large as what is there, so that one byte beyond is found. */
		char *data = malloc(have + add);

		FUZZ_CHECK(data);
		if (have)
			memcpy(data, kept, have);
		memcpy(data + have, bytes, add);
		bytes += add;
		n -= add;
		used = take(&f, data, have + add, s);
		have += add - used;
		free(kept);
		kept = malloc(have ? have : 1);
		FUZZ_CHECK(kept);
		memcpy(kept, data + used, have);
		free(data);
	}
	free(kept);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct seen whole, pieces;
	struct fuzz_input in = { data, size };
	size_t piece = 1 + fuzz_take(&in, 1), max = 1 + fuzz_take(&in, 2) % 4096;

	run(in.at, in.left, in.left ? in.left : 1, max, &whole);
	run(in.at, in.left, piece, max, &pieces);
	FUZZ_CHECK(whole.n == pieces.n && whole.end == pieces.end);
	FUZZ_CHECK(memcmp(whole.sums, pieces.sums, whole.n * sizeof(whole.sums[0])) == 0);
	return 0;
}
