/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/image-base.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/cleanup.h"

enum {
	SECTOR_BYTES = 512,
	VMDK_DESCRIPTOR_MOST = 64 << 10,
	VPC_DIFFERENCING = 4,
};

/* Reads len bytes there, or says why not: fewer are no image. */
static int read_at(int fd, uint64_t at, void *buf, size_t len)
{
	ssize_t n = at > INT64_MAX ? 0 : pread(fd, buf, len, (off_t)at);

	return n < 0 ? -errno : (size_t)n < len ? -EINVAL : 0;
}

/* Magic, be32 version, be64 backing_file_offset, be32 backing_file_size; in all versions. */
static int qcow2_has_base(int fd)
{
	uint8_t head[20];
	int r = read_at(fd, 0, head, sizeof(head));
	uint64_t offset;
	uint32_t size;

	if (r < 0 || memcmp(head, "QFI\xfb", 4) != 0)
		return r < 0 ? r : -EINVAL;
	memcpy(&offset, head + 8, sizeof(offset));
	memcpy(&size, head + 16, sizeof(size));
	/* Without an offset there is none, whatever the size; a name of no bytes is none either. */
	return be64toh(offset) != 0 && be32toh(size) != 0;
}

/* The text between the header and the data: "parentCID=ffffffff" when there is no parent. */
static int vmdk_has_base(int fd)
{
	static const char key[] = "parentCID=", none[] = "ffffffff";
	cleanup_free char *text = NULL;
	uint64_t descriptor[2]; /* le64 sector, le64 sectors */
	const char *parent;
	uint8_t head[44];
	int r = read_at(fd, 0, head, sizeof(head));

	if (r < 0 || memcmp(head, "KDMV", 4) != 0)
		return r < 0 ? r : -EINVAL;
	memcpy(descriptor, head + 28, sizeof(descriptor));
	descriptor[0] = le64toh(descriptor[0]);
	descriptor[1] = le64toh(descriptor[1]);
	if (descriptor[0] > INT64_MAX / SECTOR_BYTES || descriptor[1] == 0 ||
	    descriptor[1] > VMDK_DESCRIPTOR_MOST / SECTOR_BYTES)
		return -EINVAL;
	text = calloc(1, descriptor[1] * SECTOR_BYTES + 1);
	if (!text)
		return -ENOMEM;
	r = read_at(fd, descriptor[0] * SECTOR_BYTES, text, descriptor[1] * SECTOR_BYTES);
	if (r < 0)
		return r;
	parent = strstr(text, key);
	return parent && strncasecmp(parent + sizeof(key) - 1, none, sizeof(none) - 1) != 0;
}

/* A copy of the footer is at the beginning of all that are not fixed. */
static int vpc_has_base(int fd)
{
	uint8_t foot[64];
	uint32_t type;
	int r = read_at(fd, 0, foot, sizeof(foot));

	if (r < 0)
		return r;
	if (memcmp(foot, "conectix", 8) != 0)
		return 0;
	memcpy(&type, foot + 60, sizeof(type));
	return be32toh(type) == VPC_DIFFERENCING;
}

static const struct {
	const char *format;
	int (*has_base)(int fd);
} formats[] = {
	{ "qcow2", qcow2_has_base },
	{ "vmdk", vmdk_has_base },
	{ "vpc", vpc_has_base },
};

int image_has_base(int fd, const char *format)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (strcmp(formats[i].format, format) == 0)
			return formats[i].has_base(fd);
	return 0;
}
