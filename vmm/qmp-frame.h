/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * QMP's framing: JSON objects one after another, with any white space between. Finds where one ends
 * without understanding it; a byte 0xFF drops what was begun (a new peer that does not know what
 * the last one had sent). Pure.
 */
#include <stdbool.h>
#include <stddef.h>

#define QMP_MESSAGE_MAX (64u << 10)
#define QMP_DEPTH_MAX   16u

struct qmp_frame {
	char *buf; /* owned; there while a message is begun */
	size_t len;
	unsigned depth;
	bool in_string, escaped;
	bool skipping; /* after an error, to the end of the line */
};

/*
 * Takes up to n bytes; *ret_used of them are used up. 1: buf holds one message of len bytes (until
 * qmp_frame_reset()), 0: more is needed, -E2BIG: too long or too deep, -EINVAL: not an object,
 * -ENOMEM. After an error it goes on behind the next end of line, so that rubbish is one error.
 */
int qmp_frame_feed(struct qmp_frame *f, const char *bytes, size_t n, size_t *ret_used);
void qmp_frame_reset(struct qmp_frame *f);
