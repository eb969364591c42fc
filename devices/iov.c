/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "common/macros.h"
#include "devices/virtqueue.h"

/* Calls copy(piece of the vector, offset in the buffer, bytes) for len bytes from offset on. */
static size_t each_piece(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                         void (*copy)(uint8_t *piece, void *arg, size_t at, size_t bytes),
                         void *arg)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t bytes;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		bytes = MIN_OF(iov[i].iov_len - offset, len - done);
		copy((uint8_t *)iov[i].iov_base + offset, arg, done, bytes);
		done += bytes;
		offset = 0;
	}
	return done;
}

static void copy_out(uint8_t *piece, void *arg, size_t at, size_t bytes)
{
	memcpy((uint8_t *)arg + at, piece, bytes);
}

static void copy_in(uint8_t *piece, void *arg, size_t at, size_t bytes)
{
	memcpy(piece, *(const uint8_t **)arg + at, bytes);
}

size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len)
{
	return each_piece(iov, n, offset, len, copy_out, buf);
}

size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	return each_piece(iov, n, offset, len, copy_in, &from);
}

unsigned iov_skip(struct iovec **iov, unsigned n, size_t len)
{
	while (n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		n--;
	}
	if (n && len) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
	return n;
}
