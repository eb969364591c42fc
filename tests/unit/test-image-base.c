/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "daemon/image-base.h"

TestSuite(image_base, .timeout = 20);

static int file_of(const void *data, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(pwrite(fd, data, len, 0), (ssize_t)len);
	return fd;
}

static int answer(const char *format, const void *data, size_t len)
{
	cleanup_close int fd = file_of(data, len);

	return image_has_base(fd, format);
}

static int qcow2(uint64_t offset, uint32_t size)
{
	uint8_t head[104] = "QFI\xfb";

	head[7] = 3;
	offset = htobe64(offset);
	size = htobe32(size);
	memcpy(head + 8, &offset, sizeof(offset));
	memcpy(head + 16, &size, sizeof(size));
	return answer("qcow2", head, sizeof(head));
}

Test(image_base, qcow2_names_a_backing_file)
{
	cr_expect_eq(qcow2(0, 0), 0);
	cr_expect_eq(qcow2(0x200, 9), 1);
	cr_expect_eq(qcow2(0, 9), 0);
	cr_expect_eq(qcow2(0x200, 0), 0);
	cr_expect_eq(answer("qcow2", "QFI\xfb", 4), -EINVAL);
	cr_expect_eq(answer("qcow2", "no image, but long enough", 25), -EINVAL);
}

static int vmdk(uint64_t sector, uint64_t sectors, const char *text)
{
	uint8_t image[2048] = "KDMV";

	sector = htole64(sector);
	sectors = htole64(sectors);
	memcpy(image + 28, &sector, sizeof(sector));
	memcpy(image + 36, &sectors, sizeof(sectors));
	memcpy(image + 512, text, strlen(text));
	return answer("vmdk", image, sizeof(image));
}

Test(image_base, vmdk_has_a_parent_in_its_descriptor)
{
	cr_expect_eq(vmdk(1, 3, "CID=1\nparentCID=ffffffff\n"), 0);
	cr_expect_eq(vmdk(1, 3, "CID=1\nparentCID=FFFFFFFF\n"), 0);
	cr_expect_eq(vmdk(1, 3, "CID=1\nparentCID=12345678\n"), 1);
	cr_expect_eq(vmdk(1, 3, "CID=1\n"), 0);
	cr_expect_eq(vmdk(1, 4, "parentCID=ffffffff\n"), -EINVAL, "longer than the file");
	cr_expect_eq(vmdk(1, 0, ""), -EINVAL);
	cr_expect_eq(vmdk(1, UINT64_MAX, ""), -EINVAL);
	cr_expect_eq(vmdk(UINT64_MAX, 1, ""), -EINVAL);
	cr_expect_eq(vmdk(UINT64_MAX / 512, 1, ""), -EINVAL);
	cr_expect_eq(answer("vmdk", "KDMV", 4), -EINVAL);
}

static int vpc(const char *cookie, uint32_t type)
{
	uint8_t foot[512] = { 0 };

	type = htobe32(type);
	memcpy(foot, cookie, strlen(cookie));
	memcpy(foot + 60, &type, sizeof(type));
	return answer("vpc", foot, sizeof(foot));
}

Test(image_base, vpc_is_a_differencing_disk)
{
	cr_expect_eq(vpc("conectix", 3), 0);
	cr_expect_eq(vpc("conectix", 4), 1);
	cr_expect_eq(vpc("data of a fixed disk", 4), 0);
	cr_expect_eq(answer("vpc", "", 0), -EINVAL);
}

/* What is in a raw disk says nothing. */
Test(image_base, other_formats_have_none)
{
	static const char *const formats[] = { "raw", "vdi", "vhdx", "parallels" };

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		cr_expect_eq(answer(formats[i], "QFI\xfb", 4), 0);
}
