/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What waits to be written to a connection: small pieces are gathered in chunks, long texts are
 * kept where they are (owned or shared between many replies), and all goes out by one vectored
 * write. Descriptors go with the first byte of the message they belong to.
 */
#include <stdbool.h>
#include <stddef.h>

#include "common/list.h"
#include "common/macros.h"

/* Text shared by many replies; freed with its last reference. One thread only. */
struct shared_text {
	unsigned refs;
	size_t len;
	char *data;
};

/* Takes the malloc'd data; NULL (data freed) when out of memory. One reference for the caller. */
struct shared_text *shared_text_new(char *data, size_t len) MUST_CHECK;
struct shared_text *shared_text_ref(struct shared_text *t);
void shared_text_unref(struct shared_text *t); /* NULL is accepted */

struct outq {
	struct list chunks;
	size_t bytes; /* that wait */
	bool failed;  /* out of memory: the stream has a hole and must end */
};

void outq_init(struct outq *q);
void outq_deinit(struct outq *q);
/* Copies. */
void outq_append(struct outq *q, const void *data, size_t len);
/* Takes the malloc'd data; short ones are copied and freed. */
void outq_append_take(struct outq *q, char *data, size_t len);
/* Takes a reference of its own. */
void outq_append_shared(struct outq *q, struct shared_text *t);
/* The next byte appended carries these descriptors, which the queue owns from now on (n <= 4). */
void outq_attach_fds(struct outq *q, const int *fds, size_t n);
/*
 * Writes as much as the socket takes. 1: empty now, 0: the socket is full, or negative errno.
 */
int outq_write(struct outq *q, int sock) MUST_CHECK;
