/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/*
 * What a helper may do that reads what a guest writes, such as the tables of a disk image: use the
 * files it was given, read programs and libraries, and no more. Without a root directory of its own
 * it is Landlock that sees to it; where the kernel has none, the rest still holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "shim/shim.h"

/* Those that came after the headers of Linux 6.1. */
#define FS_TRUNCATE  (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define NET_ALL      3ull
#define SCOPE_ALL    3ull

#define FS_READ    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_PROGRAM (FS_READ | LANDLOCK_ACCESS_FS_EXECUTE)

/* Above all numbers that a process is given (launch.c), below those of proc_spawn() itself. */
#define RULESET_FD_MIN 501

struct ruleset_attr {
	uint64_t fs, net, scoped;
};

/* By the ABI of this kernel's Landlock, as each of them has it. */
static uint64_t handled_fs(long abi)
{
	uint64_t all = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;

	if (abi >= 2)
		all |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		all |= FS_TRUNCATE;
	if (abi >= 5)
		all |= FS_IOCTL_DEV;
	return all;
}

static void allow(const struct jail *j, int fd, uint64_t access)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = access & j->handled,
		                                   .parent_fd = fd };

	(void)syscall(SYS_landlock_add_rule, j->ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static void allow_path(const struct jail *j, const char *path, uint64_t access)
{
	cleanup_close int fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (!S_ISDIR(st.st_mode))
		access &= ~(uint64_t)LANDLOCK_ACCESS_FS_READ_DIR;
	allow(j, fd, access);
}

/* A file it was given may be opened again, in the ways it is open already. */
static void allow_file(const struct jail *j, int fd)
{
	int flags = fcntl(fd, F_GETFL), mode = flags & O_ACCMODE;
	struct stat st;
	uint64_t access = 0;

	if (flags < 0 || fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return;
	if (mode != O_WRONLY)
		access |= LANDLOCK_ACCESS_FS_READ_FILE;
	if (mode != O_RDONLY)
		access |= LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE;
	if (S_ISBLK(st.st_mode))
		access |= FS_IOCTL_DEV;
	allow(j, fd, access);
}

int jail_prepare(struct jail *j, const char *program, const struct spawn_fd *fds, size_t n_fds)
{
	static const char *const system[] = { "/usr",
		                              "/lib",
		                              "/lib32",
		                              "/lib64",
		                              "/bin",
		                              "/nix/store",
		                              "/gnu/store",
		                              "/etc/ld.so.cache",
		                              "/etc/ld.so.preload" };
	cleanup_free char *real = realpath(program, NULL);
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset_attr attr = { 0 };
	cleanup_close int fd = -EBADF;

	*j = (struct jail){ .ruleset_fd = -EBADF };
	if (abi < 1)
		return -errno;
	j->handled = attr.fs = handled_fs(abi);
	attr.net = abi >= 4 ? NET_ALL : 0;
	attr.scoped = abi >= 6 ? SCOPE_ALL : 0;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr,
	                  abi >= 6   ? sizeof(attr)
	                  : abi >= 4 ? offsetof(struct ruleset_attr, scoped)
	                             : offsetof(struct ruleset_attr, net),
	                  0);
	if (fd < 0)
		return -errno;
	j->ruleset_fd = fcntl(fd, F_DUPFD_CLOEXEC, RULESET_FD_MIN);
	if (j->ruleset_fd < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++)
		allow_path(j, system[i], FS_PROGRAM);
	if (real)
		allow_path(j, dirname(real), FS_PROGRAM);
	allow_path(j, "/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
	for (size_t i = 0; i < n_fds; i++)
		allow_file(j, fds[i].source);
	return 0;
}

void jail_deinit(struct jail *j)
{
	cleanup_close_p(&j->ruleset_fd);
}

/*
 * Descriptors are opened again by way of /proc, and then the file's owner and mode count. Root has
 * its files from vmd, whosever they are; so of root's capabilities it keeps that one, and Landlock
 * says where it counts.
 */
static int keep_one_capability(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	uint32_t bit = 1u << CAP_DAC_OVERRIDE;

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* EINVAL past the last one, EPERM without CAP_SETPCAP. */
	for (unsigned long cap = 0; cap < 64; cap++)
		if (cap != CAP_DAC_OVERRIDE && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			break;
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	bit &= data[0].permitted;
	data[0].effective = data[0].permitted = data[0].inheritable = bit;
	data[1].effective = data[1].permitted = data[1].inheritable = 0;
	if (syscall(SYS_capset, &header, data) < 0)
		return -errno;
	if (bit)
		(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0);
	return 0;
}

int jail_enter(const void *arg)
{
	static const struct rlimit no_core = { 0, 0 };
	const struct jail *j = arg;
	int r = keep_one_capability();

	if (r < 0)
		return r;
	/* The guest's memory does not go into files. */
	if (setrlimit(RLIMIT_CORE, &no_core) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (j->ruleset_fd >= 0 && syscall(SYS_landlock_restrict_self, j->ruleset_fd, 0) < 0)
		return -errno;
	return 0;
}
