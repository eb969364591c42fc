/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Messages on an API connection, in three framings: one per line; after `Content-Length:` headers;
 * as HTTP/1.1 requests, their bodies with a length or chunked. The first bytes of a connection
 * choose. Pure: bytes in, places of messages out; nothing is allocated, nothing is read or written.
 */
#include <stdbool.h>
#include <stddef.h>

enum frame_mode {
	FRAME_UNDECIDED,
	FRAME_LINES,
	FRAME_HEADERS,
	FRAME_HTTP,
};

/* Reader of one connection. */
struct framer {
	enum frame_mode mode;
	size_t max;      /* longest message body in bytes */
	size_t scanned;  /* bytes of the unread data already searched; chunked: of whole chunks */
	size_t head_len; /* length of a complete header block, 0: not complete yet */
	size_t body_len; /* from Content-Length; chunked: of the chunks so far */
	bool chunked;    /* HTTP: the body comes in chunks */
	bool keep_alive; /* HTTP: what the request at hand asked for */
	bool wants_100;  /* HTTP: the client waits for "100 Continue" before the body */
};

enum frame_result {
	FRAME_MORE,       /* no whole message yet */
	FRAME_MESSAGE,    /* one message */
	FRAME_TOO_LONG,   /* longer than max; the connection cannot go on */
	FRAME_BAD_HEADER, /* header block malformed; the connection cannot go on */
	FRAME_NO_LENGTH,  /* HTTP with neither a Content-Length nor chunks */
	FRAME_BAD_METHOD, /* HTTP, but not POST */
};

struct frame {
	const char *body; /* into the data given */
	size_t len;
	size_t consumed; /* bytes of data done with, the separator included */
};

void framer_init(struct framer *f, size_t max);
/*
 * Looks for the next message in data, the len bytes not consumed so far. With FRAME_MESSAGE fills
 * *ret; the caller then drops ret->consumed bytes and calls again. Empty lines are consumed
 * silently: they show as FRAME_MORE with ret->consumed > 0. Called again with more data after
 * FRAME_MORE it goes on where it stopped. A chunked body is put together in data itself.
 */
enum frame_result framer_next(struct framer *f, char *data, size_t len, struct frame *ret);
