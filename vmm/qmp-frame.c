/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/qmp-frame.h"

#include <errno.h>
#include <stdlib.h>

void qmp_frame_reset(struct qmp_frame *f)
{
	free(f->buf);
	*f = (struct qmp_frame){ 0 };
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Keeps count of strings and brackets. True at the end of the outermost one. */
static bool follow(struct qmp_frame *f, char c)
{
	if (f->in_string) {
		if (f->escaped)
			f->escaped = false;
		else if (c == '\\')
			f->escaped = true;
		else if (c == '"')
			f->in_string = false;
		return false;
	}
	if (c == '"')
		f->in_string = true;
	else if (c == '{' || c == '[')
		f->depth++;
	else if ((c == '}' || c == ']') && f->depth)
		return --f->depth == 0;
	return false;
}

static int take(struct qmp_frame *f, char c)
{
	if (!f->buf) {
		if (is_space(c))
			return 0;
		if (c != '{')
			return -EINVAL;
		f->buf = malloc(QMP_MESSAGE_MAX);
		if (!f->buf)
			return -ENOMEM;
	}
	if (f->len == QMP_MESSAGE_MAX)
		return -E2BIG;
	f->buf[f->len++] = c;
	if (follow(f, c))
		return 1;
	return f->depth > QMP_DEPTH_MAX ? -E2BIG : 0;
}

int qmp_frame_feed(struct qmp_frame *f, const char *bytes, size_t n, size_t *ret_used)
{
	for (size_t i = 0; i < n; i++) {
		int r = 0;

		if ((unsigned char)bytes[i] == 0xFF)
			qmp_frame_reset(f);
		else if (f->skipping)
			f->skipping = bytes[i] != '\n';
		else
			r = take(f, bytes[i]);
		if (r != 0) {
			if (r < 0)
				qmp_frame_reset(f);
			f->skipping = r < 0 && bytes[i] != '\n';
			*ret_used = i + 1;
			return r;
		}
	}
	*ret_used = n;
	return 0;
}
