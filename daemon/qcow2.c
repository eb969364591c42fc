/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Magic, be32 version, be64 backing_file_offset, be32 backing_file_size; the same in all versions.
 */
enum {
	AT_OFFSET = 8,
	AT_SIZE = 16,
	HEAD_BYTES = 20,
};

int qcow2_has_base(int fd)
{
	uint8_t head[HEAD_BYTES];
	ssize_t n = pread(fd, head, sizeof(head), 0);
	uint64_t offset;
	uint32_t size;

	if (n < 0)
		return -errno;
	if (n < HEAD_BYTES || memcmp(head, "QFI\xfb", 4) != 0)
		return -EINVAL;
	memcpy(&offset, head + AT_OFFSET, sizeof(offset));
	memcpy(&size, head + AT_SIZE, sizeof(size));
	/* Without an offset there is none, whatever the size; a name of no bytes is none either. */
	return be64toh(offset) != 0 && be32toh(size) != 0;
}
