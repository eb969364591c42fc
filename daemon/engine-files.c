/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/engine-files.h"

#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/parse.h"
#include "daemon/image-base.h"

#define TEMPLATE_MAX (128u << 20)

static void name_field(const char *field, struct vmd_error *err)
{
	if (err && !err->field[0])
		snprintf(err->field, sizeof(err->field), "%s", field);
}

/* A file that cannot be opened is mostly a wrong path: the input's fault. */
static int open_failed(const struct engine_file *file, int e, struct vmd_error *err)
{
	switch (e) {
	case ENOENT:
	case ENOTDIR:
	case ELOOP:
	case ENAMETOOLONG:
	case ENXIO:
		return error_set_field(err, file->field, "cannot open '%.200s': %s", file->path,
		                       strerror(e));
	}
	(void)error_set_errno(err, e, "cannot open '%.200s'", file->path);
	name_field(file->field, err);
	return -e;
}

static const char *type_word(mode_t mode)
{
	return S_ISDIR(mode)    ? "a directory"
	       : S_ISFIFO(mode) ? "a FIFO"
	       : S_ISSOCK(mode) ? "a socket"
	       : S_ISCHR(mode)  ? "a character device"
	       : S_ISBLK(mode)  ? "a block device"
	                        : "a file";
}

static bool type_fits(enum engine_file_type type, mode_t mode)
{
	if (type == ENGINE_FILE_DEVICE)
		return S_ISCHR(mode);
	if (type == ENGINE_FILE_DIRECTORY)
		return S_ISDIR(mode);
	return S_ISREG(mode) || (type == ENGINE_FILE_IMAGE && S_ISBLK(mode));
}

static int check_type(const struct engine_file *file, const struct stat *st, struct vmd_error *err)
{
	if (type_fits(file->type, st->st_mode))
		return 0;
	return error_set_field(err, file->field, "'%.200s' is %s", file->path,
	                       type_word(st->st_mode));
}

static bool is_kernel(enum engine_file_type type, const uint8_t *head, ssize_t n)
{
	if (type == ENGINE_FILE_KERNEL_ARM)
		return (n >= 60 && memcmp(head + 56, "ARM\x64", 4) == 0) ||
		       (n >= 2 && memcmp(head, "\x1f\x8b", 2) == 0);
	return (n >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0) ||
	       (n >= 4 && memcmp(head, "\177ELF", 4) == 0);
}

static int check_kernel(int fd, const struct engine_file *file, struct vmd_error *err)
{
	bool arm = file->type == ENGINE_FILE_KERNEL_ARM;
	uint8_t head[1024];
	ssize_t n = pread(fd, head, sizeof(head), 0);

	if (n < 0)
		return open_failed(file, errno, err);
	if (n == 0)
		return error_set_field(err, file->field, "'%.200s' is empty", file->path);
	if (is_kernel(file->type, head, n))
		return 0;
	if (is_kernel(arm ? ENGINE_FILE_KERNEL_X86 : ENGINE_FILE_KERNEL_ARM, head, n))
		return error_set_field(err, file->field, "'%.200s' is no kernel for %s", file->path,
		                       arm ? "aarch64" : "x86_64");
	return error_set_field(err, file->field, "'%.200s' is not a Linux kernel (%s)", file->path,
	                       arm ? "Image" : "bzImage or vmlinux");
}

static uint64_t file_bytes(int fd, const struct stat *st)
{
	uint64_t bytes = 0;

	if (S_ISREG(st->st_mode))
		return (uint64_t)st->st_size;
	return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? 0 : bytes;
}

/*
 * An overlay without its base would be read as zeros where the base has the data, and the base of
 * an image that has none, or another's, would be read as the guest's data. What name the image has
 * for its base is not even looked at.
 */
static int check_base(int fd, const struct engine_file *file, struct vmd_error *err)
{
	bool can_have = strcmp(file->format, "qcow2") == 0;
	int r = image_has_base(fd, file->format);

	if (r == -EINVAL)
		return error_set_field(err, file->field, "'%.200s' is damaged: no whole %s header",
		                       file->path, file->format);
	if (r < 0)
		return open_failed(file, -r, err);
	if (r == file->has_base)
		return 0;
	if (file->has_base)
		return error_set_field(err, file->base_field,
		                       "'%.200s' was not made on another image", file->path);
	(void)error_set_field(
		err, can_have ? file->base_field : file->field,
		"'%.200s' was made on another image, whose name in it is not followed", file->path);
	if (!can_have)
		error_hint(err, "make one image of the two: qemu-img convert");
	else if (file->is_base)
		error_hint(err, "a base has none of its own: make one image of the two (qemu-img "
		                "convert), and rebase the overlay on that");
	else
		error_hint(err,
		           "name that image: \"backing\": {\"path\": FILE, \"format\": FORMAT}");
	return -EINVAL;
}

/*
 * The few header fields that decide whether an image is what was stated, how large it is and that
 * it keeps all its data to itself: QEMU would open files that an image names as holding its data.
 */
static int check_header(int fd, const struct engine_file *file, uint64_t *bytes,
                        struct vmd_error *err)
{
	uint8_t head[80] = { 0 };
	uint64_t value;

	if (pread(fd, head, sizeof(head), 0) < 0)
		return open_failed(file, errno, err);
	if (strcmp(file->format, "qcow2") == 0) {
		if (memcmp(head, "QFI\xfb", 4) != 0)
			return error_set_field(err, file->field, "'%.200s' is no qcow2 image",
			                       file->path);
		memcpy(&value, head + 72, 8);
		if (head[7] >= 3 && (be64toh(value) & 4))
			return error_set_field(err, file->field,
			                       "'%.200s' keeps its data in another file",
			                       file->path);
		memcpy(&value, head + 24, 8);
		*bytes = be64toh(value);
	}
	if (strcmp(file->format, "vmdk") == 0) {
		memcpy(&value, head + 12, 8);
		if (memcmp(head, "KDMV", 4) != 0 || value == 0)
			return error_set_field(err, file->field,
			                       "'%.200s' is no vmdk image in one file", file->path);
	}
	return check_base(fd, file, err);
}

static int check_image(int fd, const struct engine_file *file, const struct stat *st,
                       struct vmd_error *err)
{
	uint64_t bytes = file_bytes(fd, st);
	char have[32], want[32];
	int r;

	if (bytes == 0)
		return error_set_field(err, file->field, "'%.200s' is empty", file->path);
	r = check_header(fd, file, &bytes, err);
	if (r < 0)
		return r;
	if (bytes < file->least_bytes)
		return error_set_field(err, file->field, "'%.200s' has %s, not the %s stated",
		                       file->path, format_size(have, sizeof(have), bytes),
		                       format_size(want, sizeof(want), file->least_bytes));
	return 0;
}

static int lock_image(int fd, const struct engine_file *file, struct vmd_error *err)
{
	int r = fs_lock_ofd(fd, file->writable);

	if (r == 0)
		return 0;
	if (r == -EAGAIN) {
		(void)error_set(err, ERROR_BUSY, "'%.200s' is in use", file->path);
		name_field(file->field, err);
		return -EBUSY;
	}
	(void)error_set_errno(err, -r, "cannot lock '%.200s'", file->path);
	name_field(file->field, err);
	return r;
}

static int check_open_file(int fd, const struct engine_file *file, struct vmd_error *err)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return open_failed(file, errno, err);
	r = check_type(file, &st, err);
	if (r < 0)
		return r;
	switch (file->type) {
	case ENGINE_FILE_KERNEL_X86:
	case ENGINE_FILE_KERNEL_ARM:
		return check_kernel(fd, file, err);
	case ENGINE_FILE_IMAGE:
		r = lock_image(fd, file, err);
		return r < 0 ? r : check_image(fd, file, &st, err);
	case ENGINE_FILE_DATA:
		if (st.st_size == 0)
			return error_set_field(err, file->field, "'%.200s' is empty", file->path);
		break;
	case ENGINE_FILE_DEVICE:
	case ENGINE_FILE_DIRECTORY:
	case ENGINE_FILE_TAP:
		break;
	}
	return 0;
}

static int open_tap(const struct engine_file *file, struct vmd_error *err)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	cleanup_close int fd = -EBADF;

	/* TUNSETIFF would make what is not there. */
	if (if_nametoindex(file->path) == 0)
		return error_set_field(err, file->field, "there is no network device '%.16s'",
		                       file->path);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		(void)error_set_errno(err, errno, "cannot open /dev/net/tun");
		name_field(file->field, err);
		return -errno;
	}
	if (file->multi_queue)
		request.ifr_flags |= IFF_MULTI_QUEUE;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", file->path);
	if (ioctl(fd, TUNSETIFF, &request) == 0)
		return TAKE_FD(fd);
	if (errno == EINVAL)
		return error_set_field(err, file->field, "'%.16s' is no tap device%s", file->path,
		                       file->multi_queue ? " for several queues (multi_queue)"
		                                         : "");
	(void)error_set(err, errno == EBUSY ? ERROR_BUSY : ERROR_DENIED,
	                "cannot attach to tap device '%.16s': %s", file->path, strerror(errno));
	name_field(file->field, err);
	return -errno;
}

/* Only now: what was read of the file until here was in no way aligned. */
static int set_direct(int fd, const struct engine_file *file, struct vmd_error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0)
		return 0;
	return error_set_field(err, file->field,
	                       "'%.200s' cannot be used with cache 'none': its file system has no "
	                       "O_DIRECT (%s)",
	                       file->path, strerror(errno));
}

int engine_file_open(const struct engine_file *file, struct vmd_error *err)
{
	int flags = (file->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	cleanup_close int fd = -EBADF;
	struct stat st;
	int r;

	if (file->type == ENGINE_FILE_TAP)
		return open_tap(file, err);
	/* Looked at before as well: opening some devices has effects. */
	if (stat(file->path, &st) < 0)
		return open_failed(file, errno, err);
	r = check_type(file, &st, err);
	if (r < 0)
		return r;
	fd = open(file->path, flags);
	if (fd < 0)
		return open_failed(file, errno, err);
	r = check_open_file(fd, file, err);
	if (r < 0)
		return r;
	(void)fd_set_nonblock(fd, 0);
	if (file->direct) {
		r = set_direct(fd, file, err);
		if (r < 0)
			return r;
	}
	return TAKE_FD(fd);
}

int engine_file_from_template(const char *path, const char *template, struct vmd_error *err)
{
	cleanup_free char *data = NULL;
	size_t len;
	int r;

	if (access(path, F_OK) == 0)
		return 0;
	r = fs_read_file(AT_FDCWD, template, TEMPLATE_MAX, &data, &len);
	if (r == -ELOOP) { /* distributions link these files */
		cleanup_free char *real = realpath(template, NULL);

		r = real ? fs_read_file(AT_FDCWD, real, TEMPLATE_MAX, &data, &len) : -errno;
	}
	if (r == 0)
		r = fs_write_atomic(AT_FDCWD, path, data, len, 1);
	return r < 0 ? error_set_errno(err, -r, "cannot make '%s' from '%s'", path, template) : 0;
}

int engine_check_port(bool udp, const char *address, unsigned port, const char *field,
                      struct vmd_error *err)
{
	cleanup_close int fd = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int one = 1;

	if (fd < 0)
		return error_set_errno(err, errno, "cannot make a socket");
	if (address[0] && inet_pton(AF_INET, address, &to.sin_addr) != 1)
		return error_set_field(err, field, "'%.16s' is no IPv4 address", address);
	if (!udp)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&to, sizeof(to)) == 0 && (udp || listen(fd, 1) == 0))
		return 0;
	if (errno == EADDRNOTAVAIL)
		return error_set_field(err, field, "this host has no address %s", address);
	(void)error_set(err, errno == EADDRINUSE ? ERROR_BUSY : ERROR_DENIED,
	                "cannot listen on %s port %u of this host: %s", udp ? "UDP" : "TCP", port,
	                strerror(errno));
	name_field(field, err);
	return errno == EADDRINUSE ? -EBUSY : -EACCES;
}
