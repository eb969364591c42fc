/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/frame.h"

#include <string.h>
#include <strings.h>

#include "common/macros.h"

#define HEAD_MAX       8192 /* longest header block */
#define CHUNK_LINE_MAX 256  /* a chunk's size with its extensions */

void framer_init(struct framer *f, size_t max)
{
	*f = (struct framer){ .max = max };
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool matches(const char *data, size_t len, const char *prefix)
{
	return strncasecmp(data, prefix, MIN_OF(len, strlen(prefix))) == 0;
}

/* The first bytes choose; false while they could still become either. */
static bool decide(struct framer *f, const char *data, size_t len)
{
	static const struct {
		const char *prefix;
		enum frame_mode mode;
	} openings[] = {
		{ "Content-Length:", FRAME_HEADERS },
		{ "Content-Type:", FRAME_HEADERS },
		{ "POST ", FRAME_HTTP },
		{ "GET ", FRAME_HTTP },
		{ "HEAD ", FRAME_HTTP },
		{ "PUT ", FRAME_HTTP },
		{ "PATCH ", FRAME_HTTP },
		{ "DELETE ", FRAME_HTTP },
		{ "OPTIONS ", FRAME_HTTP },
	};

	for (size_t i = 0; i < ARRAY_SIZE(openings); i++) {
		if (!matches(data, len, openings[i].prefix))
			continue;
		if (len < strlen(openings[i].prefix))
			return false;
		f->mode = openings[i].mode;
		return true;
	}
	f->mode = FRAME_LINES;
	return true;
}

static enum frame_result next_line(struct framer *f, const char *data, size_t len,
                                   struct frame *ret)
{
	const char *end = memchr(data + f->scanned, '\n', len - f->scanned);
	size_t body_len;

	f->scanned = len;
	body_len = end ? (size_t)(end - data) : len;
	if (body_len > f->max)
		return FRAME_TOO_LONG;
	if (!end)
		return FRAME_MORE;
	f->scanned = 0;
	ret->body = data;
	ret->len = body_len;
	ret->consumed = body_len + 1;
	return FRAME_MESSAGE;
}

/* Length of the header block with its empty line, 0 when it is not complete. */
static size_t head_end(const char *data, size_t len, size_t from)
{
	for (size_t i = from > 3 ? from - 3 : 0; i < len; i++) {
		if (data[i] != '\n')
			continue;
		if (i + 1 < len && data[i + 1] == '\n')
			return i + 2;
		if (i + 2 < len && data[i + 1] == '\r' && data[i + 2] == '\n')
			return i + 3;
	}
	return 0;
}

/* Decimal digits with blanks around them; false for anything else. */
static bool parse_length(const char *text, size_t len, size_t *ret)
{
	size_t n = 0, digits = 0;

	while (len && is_blank(*text))
		text++, len--;
	while (len && is_blank(text[len - 1]))
		len--;
	for (; digits < len; digits++) {
		if (text[digits] < '0' || text[digits] > '9' || digits > 15)
			return false;
		n = n * 10 + (size_t)(text[digits] - '0');
	}
	*ret = n;
	return digits > 0;
}

static bool is_word(const char *text, size_t len, const char *word)
{
	while (len && is_blank(*text))
		text++, len--;
	while (len && is_blank(text[len - 1]))
		len--;
	return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

static bool has_word(const char *text, size_t len, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i + n <= len; i++)
		if (strncasecmp(text + i, word, n) == 0)
			return true;
	return false;
}

struct head {
	bool have_length;
};

static bool parse_field(struct framer *f, const char *line, size_t len, struct head *head)
{
	const char *colon = memchr(line, ':', len);
	size_t name_len, value_len;

	if (!colon || colon == line || is_blank(colon[-1]))
		return false;
	name_len = (size_t)(colon - line);
	value_len = len - name_len - 1;
	if (name_len == 14 && strncasecmp(line, "Content-Length", 14) == 0) {
		size_t n;

		/* Two lengths that differ are how requests get smuggled. */
		if (!parse_length(colon + 1, value_len, &n) ||
		    (head->have_length && n != f->body_len))
			return false;
		f->body_len = n;
		head->have_length = true;
	} else if (name_len == 17 && strncasecmp(line, "Transfer-Encoding", 17) == 0) {
		if (f->chunked || !is_word(colon + 1, value_len, "chunked"))
			return false;
		f->chunked = true;
	} else if (name_len == 10 && strncasecmp(line, "Connection", 10) == 0) {
		if (has_word(colon + 1, value_len, "close"))
			f->keep_alive = false;
		else if (has_word(colon + 1, value_len, "keep-alive"))
			f->keep_alive = true;
	} else if (name_len == 6 && strncasecmp(line, "Expect", 6) == 0) {
		f->wants_100 = has_word(colon + 1, value_len, "100-continue");
	}
	return true;
}

static enum frame_result parse_head(struct framer *f, const char *data, size_t len)
{
	struct head head = { 0 };
	const char *end = data + len, *line = data;
	enum frame_result r = FRAME_MESSAGE;

	f->body_len = 0;
	f->keep_alive = true;
	f->wants_100 = f->chunked = false;
	for (size_t n = 0; line < end; n++) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));
		size_t line_len = (size_t)(nl - line);

		if (line_len && line[line_len - 1] == '\r')
			line_len--;
		if (n == 0 && f->mode == FRAME_HTTP) {
			if (!has_word(line, line_len, " HTTP/1."))
				return FRAME_BAD_HEADER;
			if (line[line_len - 1] == '0')
				f->keep_alive = false; /* HTTP/1.0 */
			if (!matches(line, line_len, "POST "))
				r = FRAME_BAD_METHOD;
		} else if (line_len && !parse_field(f, line, line_len, &head)) {
			return FRAME_BAD_HEADER;
		}
		line = nl + 1;
	}
	if (r != FRAME_MESSAGE)
		return r;
	/* A length beside chunks is the other way to smuggle requests. */
	if (f->chunked)
		return head.have_length || f->mode != FRAME_HTTP ? FRAME_BAD_HEADER : FRAME_MESSAGE;
	if (!head.have_length)
		return f->mode == FRAME_HTTP ? FRAME_NO_LENGTH : FRAME_BAD_HEADER;
	return f->body_len > f->max ? FRAME_TOO_LONG : FRAME_MESSAGE;
}

/*
 * Line of a chunk at data: FRAME_MESSAGE with its size and the length of the line. No data of the
 * line but hexadecimal digits counts; extensions behind ';' are passed over.
 */
static enum frame_result chunk_line(const char *data, size_t len, size_t *ret_size,
                                    size_t *ret_line)
{
	const char *nl = memchr(data, '\n', MIN_OF(len, (size_t)CHUNK_LINE_MAX));
	size_t size = 0, digits = 0;

	if (!nl)
		return len < CHUNK_LINE_MAX ? FRAME_MORE : FRAME_BAD_HEADER;
	for (; digits < 8; digits++) {
		char c = data[digits];

		if (c >= '0' && c <= '9')
			size = size * 16 + (size_t)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			size = size * 16 + (size_t)((c | 0x20) - 'a' + 10);
		else
			break;
	}
	if (!digits || !(is_blank(data[digits]) || data[digits] == ';'))
		return FRAME_BAD_HEADER;
	*ret_size = size;
	*ret_line = (size_t)(nl - data) + 1;
	return FRAME_MESSAGE;
}

/* Length of the trailer, its empty line included; 0 when it is not complete. */
static size_t trailer_end(const char *data, size_t len)
{
	if (len && data[0] == '\n')
		return 1;
	if (len > 1 && data[0] == '\r' && data[1] == '\n')
		return 2;
	return head_end(data, len, 0);
}

/* Moves the chunks, which are known to be well-formed, together: the body begins at data. */
static void join_chunks(char *data)
{
	size_t at = 0, out = 0, size, line;

	while (chunk_line(data + at, CHUNK_LINE_MAX, &size, &line) == FRAME_MESSAGE && size) {
		memmove(data + out, data + at + line, size);
		out += size;
		at += line + size + 2;
	}
}

/* f->scanned is where the next chunk begins. */
static enum frame_result next_chunks(struct framer *f, char *data, size_t len, struct frame *ret)
{
	size_t size, line, end;

	for (;;) {
		const char *at = data + f->scanned;
		size_t left = len - f->scanned;
		enum frame_result r = chunk_line(at, left, &size, &line);

		if (r != FRAME_MESSAGE)
			return r;
		if (!size)
			break;
		/* Chunks of a few bytes may at most double what has to be kept. */
		if (size > f->max - f->body_len ||
		    f->scanned - f->head_len > 2 * f->max + CHUNK_LINE_MAX)
			return FRAME_TOO_LONG;
		if (left < line + size + 2)
			return FRAME_MORE;
		if (memcmp(at + line + size, "\r\n", 2) != 0)
			return FRAME_BAD_HEADER;
		f->body_len += size;
		f->scanned += line + size + 2;
	}
	end = trailer_end(data + f->scanned + line, len - f->scanned - line);
	if (!end)
		return len - f->scanned - line > HEAD_MAX ? FRAME_BAD_HEADER : FRAME_MORE;
	join_chunks(data + f->head_len);
	ret->body = data + f->head_len;
	ret->len = f->body_len;
	ret->consumed = f->scanned + line + end;
	return FRAME_MESSAGE;
}

static enum frame_result next_headed(struct framer *f, char *data, size_t len, struct frame *ret)
{
	enum frame_result r;

	if (!f->head_len) {
		size_t end = head_end(data, len, f->scanned);

		f->scanned = len;
		if (end > HEAD_MAX || (!end && len > HEAD_MAX))
			return FRAME_BAD_HEADER;
		if (!end)
			return FRAME_MORE;
		r = parse_head(f, data, end);
		if (r != FRAME_MESSAGE)
			return r;
		f->head_len = f->scanned = end;
	}
	if (f->chunked) {
		r = next_chunks(f, data, len, ret);
		if (r != FRAME_MESSAGE)
			return r;
	} else if (len - f->head_len < f->body_len) {
		return FRAME_MORE;
	} else {
		ret->body = data + f->head_len;
		ret->len = f->body_len;
		ret->consumed = f->head_len + f->body_len;
	}
	f->head_len = f->scanned = 0;
	f->wants_100 = false;
	return FRAME_MESSAGE;
}

enum frame_result framer_next(struct framer *f, char *data, size_t len, struct frame *ret)
{
	size_t skip = 0;
	enum frame_result r = FRAME_MORE;

	*ret = (struct frame){ 0 };
	if (!f->scanned && !f->head_len)
		while (skip < len && is_blank(data[skip]))
			skip++;
	data += skip;
	len -= skip;
	if (len && (f->mode != FRAME_UNDECIDED || decide(f, data, len)))
		r = f->mode == FRAME_LINES ? next_line(f, data, len, ret)
		                           : next_headed(f, data, len, ret);
	ret->consumed += skip;
	return r;
}
