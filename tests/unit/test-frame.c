/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/frame.h"

TestSuite(frame, .timeout = 20);

#define LINES "{\"a\":1}\n\r\n  {\"b\":2}\r\n[1,2]\n"
#define HEADERS                                                       \
	"Content-Length: 7\r\nContent-Type: application/json\r\n\r\n" \
	"{\"a\":1}content-length:5\n\n[1,2]"

/* Feeds data in pieces of `step` bytes as peer.c does; the bodies found, each ended by a '|'. */
static enum frame_result feed(const char *text, size_t step, size_t max, char *out)
{
	struct framer framer;
	size_t total = strlen(text), start = 0, have = 0;
	enum frame_result r = FRAME_MORE;

	framer_init(&framer, max);
	*out = '\0';
	while (have < total || r == FRAME_MESSAGE) {
		struct frame f;
		size_t more = total - have < step ? total - have : step;
		/* A copy of the exact size, so that a sanitizer sees any byte read past it. */
		char *copy;

		if (r != FRAME_MESSAGE)
			have += more;
		copy = malloc(have - start + 1);
		memcpy(copy, text + start, have - start);
		r = framer_next(&framer, copy, have - start, &f);
		if (r == FRAME_MESSAGE) {
			strncat(out, f.body, f.len);
			strcat(out, "|");
		}
		start += f.consumed;
		free(copy);
		if (r > FRAME_MESSAGE)
			break;
	}
	return r;
}

Test(frame, lines_split_at_every_byte)
{
	char out[256];

	for (size_t step = 1; step <= strlen(LINES); step++) {
		feed(LINES, step, 100, out);
		cr_assert_str_eq(out, "{\"a\":1}|{\"b\":2}\r|[1,2]|", "step %zu: %s", step, out);
	}
}

Test(frame, headers_split_at_every_byte)
{
	char out[256];

	for (size_t step = 1; step <= strlen(HEADERS); step++) {
		feed(HEADERS, step, 100, out);
		cr_assert_str_eq(out, "{\"a\":1}|[1,2]|", "step %zu: %s", step, out);
	}
}

Test(frame, http_split_at_every_byte)
{
	static const char text[] =
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
		"\r\nPOST /rpc HTTP/1.1\r\nConnection: close\r\ncontent-length: 5\r\n\r\n[1,2]";
	char out[256];

	for (size_t step = 1; step <= sizeof(text); step++) {
		feed(text, step, 100, out);
		cr_assert_str_eq(out, "{\"a\":1}|[1,2]|", "step %zu: %s", step, out);
	}
}

Test(frame, chunks_split_at_every_byte)
{
	static const char text[] = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
				   "2\r\n{\"\r\n03;name=value\r\na\":\r\n2 \r\n1}\r\n0\r\n\r\n"
				   "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n"
				   "A\r\n[1,2,3,4,5\r\n1\r\n]\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"
				   "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]"
				   "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
	char out[256];

	for (size_t step = 1; step <= sizeof(text); step++) {
		feed(text, step, 100, out);
		cr_assert_str_eq(out, "{\"a\":1}|[1,2,3,4,5]|[]||", "step %zu: %s", step, out);
	}
}

#define CHUNKED "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

Test(frame, bad_chunks)
{
	static const struct {
		const char *text;
		enum frame_result result;
	} cases[] = {
		{ CHUNKED "x\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "-1\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "\x11\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "0x1\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "123456789\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "ffffffff\r\n", FRAME_TOO_LONG },
		{ CHUNKED "29\r\n", FRAME_TOO_LONG },
		{ CHUNKED "20\r\n01234567890123456789012345678901\r\n9\r\n", FRAME_TOO_LONG },
		{ CHUNKED "2\r\nabc\r\n0\r\n\r\n", FRAME_BAD_HEADER },
		{ CHUNKED "2\r\nab\r\n0\r\n", FRAME_MORE },
	};
	char out[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t step = 1; step < 90; step += 3)
			cr_assert_eq(feed(cases[i].text, step, 40, out), cases[i].result,
			             "case %zu, step %zu", i, step);
}

Test(frame, chunks_and_their_trailer_are_bounded)
{
	size_t head = strlen(CHUNKED), len = head + 40000;
	char *text = malloc(len);
	struct framer framer;
	struct frame f;

	memcpy(text, CHUNKED, head);
	memset(text + head, 'x', 40000);
	memcpy(text + head, "1;", 2);
	framer_init(&framer, 1000);
	cr_assert_eq(framer_next(&framer, text, len, &f), FRAME_BAD_HEADER, "endless extension");
	memcpy(text + head, "0\r\n", 3);
	framer_init(&framer, 1000);
	cr_assert_eq(framer_next(&framer, text, len, &f), FRAME_BAD_HEADER, "endless trailer");
	for (size_t i = 0; i < 990; i++)
		memcpy(text + head + 20 * i, "1;2345678901234\r\nx\r\n", 20);
	framer_init(&framer, 1000);
	cr_assert_eq(framer_next(&framer, text, len, &f), FRAME_TOO_LONG, "more frame than body");
	free(text);
}

Test(frame, too_long)
{
	char line[64], out[256];

	memset(line, 'x', sizeof(line));
	line[63] = '\0';
	for (size_t step = 1; step < 64; step++)
		cr_assert_eq(feed(line, step, 40, out), FRAME_TOO_LONG, "step %zu", step);
	line[40] = '\n';
	line[41] = '\0';
	cr_assert_eq(feed(line, 7, 40, out), FRAME_MORE);
	cr_assert_eq(strlen(out), 41u);
	cr_assert_eq(feed("Content-Length: 41\r\n\r\n", 9, 40, out), FRAME_TOO_LONG);
	cr_assert_eq(feed("Content-Length: 99999999999999999999\r\n\r\n", 9, 40, out),
	             FRAME_BAD_HEADER);
}

Test(frame, bad_headers)
{
	static const struct {
		const char *text;
		enum frame_result result;
	} cases[] = {
		{ "Content-Length: -1\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length: 0x10\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length:\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length: 1 1\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Type: x\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length: 1\r\nnonsense\r\n\r\n", FRAME_BAD_HEADER },
		{ "Content-Length: 1\r\n: empty\r\n\r\n", FRAME_BAD_HEADER },
		{ "POST / HTTP/1.1\r\nHost: x\r\n\r\n", FRAME_NO_LENGTH },
		{ "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
		  FRAME_BAD_HEADER },
		{ "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", FRAME_BAD_HEADER },
		{ "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
		  "\r\n",
		  FRAME_BAD_HEADER },
		{ "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", FRAME_BAD_HEADER },
		{ "POST / HTTP/1.1\r\nContent-Length : 3\r\n\r\n", FRAME_BAD_HEADER },
		{ "POST / SPDY\r\nContent-Length: 3\r\n\r\n", FRAME_BAD_HEADER },
		{ "GET / HTTP/1.1\r\n\r\n", FRAME_BAD_METHOD },
		{ "DELETE /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n", FRAME_BAD_METHOD },
	};
	char out[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t step = 1; step < 60; step += 3)
			cr_assert_eq(feed(cases[i].text, step, 100, out), cases[i].result,
			             "case %zu, step %zu", i, step);
}

Test(frame, endless_header)
{
	struct framer framer;
	char *text = malloc(20000);
	struct frame f;

	memset(text, 'x', 20000);
	memcpy(text, "Content-Length: 3\r\nX: ", 22);
	framer_init(&framer, 1000);
	cr_assert_eq(framer_next(&framer, text, 4000, &f), FRAME_MORE);
	cr_assert_eq(framer_next(&framer, text, 20000, &f), FRAME_BAD_HEADER);
	free(text);
}

Test(frame, http_keeps_alive_or_not)
{
	static const struct {
		const char *head;
		bool keep_alive, wants_100;
	} cases[] = {
		{ "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", true, false },
		{ "POST / HTTP/1.1\r\nContent-Length: 2\r\nConnection: Close\r\n\r\n", false,
		  false },
		{ "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n", false, false },
		{ "POST / HTTP/1.0\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n", true,
		  false },
		{ "POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", true,
		  true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char head[128];
		struct framer framer;
		struct frame f;

		strcpy(head, cases[i].head);
		framer_init(&framer, 100);
		cr_assert_eq(framer_next(&framer, head, strlen(head), &f), FRAME_MORE);
		cr_assert_eq(framer.keep_alive, cases[i].keep_alive, "case %zu", i);
		cr_assert_eq(framer.wants_100, cases[i].wants_100, "case %zu", i);
	}
}
