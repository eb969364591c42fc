/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/jail.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/macros.h"
#include "vmm/seccomp-filters.h"

enum {
	EXIT_SOFTWARE = 70
};

static struct {
	bool root, capabilities, no_new_privs, no_core;
	const char *root_step;
	int root_errno;
} done;

static bool step(const char *name, long result)
{
	if (result < 0) {
		done.root_step = name;
		done.root_errno = errno;
	}
	return result >= 0;
}

/* A file system of its own that is mounted nowhere. */
static int empty_tree(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), tree = -1;

	if (fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "mode", "555", 0) == 0 &&
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		tree = fsmount(fs, FSMOUNT_CLOEXEC,
		               MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
		                       MOUNT_ATTR_NOEXEC);
	if (fs >= 0) {
		int e = errno;

		close(fs);
		errno = e;
	}
	return tree;
}

/*
 * The root is a tree that hangs below no other, so no ".." leads out of it, and without
 * capabilities nobody gets another one. A mount namespace with pivot_root() would be no tighter,
 * and costs each start a grace period of the kernel and a walk over all processes of the host. The
 * descriptor stays open: to close it is to wait for that grace period.
 */
static bool empty_root(void)
{
	int tree = empty_tree();

	/* Without the privilege to mount, it comes with a user namespace. */
	if (tree < 0 && errno == EPERM && step("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS)))
		tree = empty_tree();
	return step("mount", tree) && step("fchdir", fchdir(tree)) && step("chroot", chroot("."));
}

static bool drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	/* EINVAL past the last one, EPERM without CAP_SETPCAP: then there is nothing to lose. */
	for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		continue;
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return syscall(SYS_capset, &header, none) == 0;
}

void jail_enter(void)
{
	static const struct rlimit no_core = { 0, 0 };

	done.root = empty_root();
	done.capabilities = drop_capabilities();
	done.no_new_privs = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	done.no_core = setrlimit(RLIMIT_CORE, &no_core) == 0;
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void set_filter(const struct seccomp_word *words, size_t n)
{
	struct sock_fprog program = { .len = (unsigned short)n,
		                      .filter = (struct sock_filter *)(uintptr_t)words };

	_Static_assert(sizeof(struct seccomp_word) == sizeof(struct sock_filter), "same layout");
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0) {
		fprintf(stderr, "vmd-vmm: no filter of system calls: %s\n", strerror(errno));
		_exit(EXIT_SOFTWARE);
	}
}

#ifdef VMD_SANITIZERS
/* A sanitizer's run time does as it likes; its builds are for tests. */
#define FILTERS false
#else
#define FILTERS true
#endif

#define SET(which)                                                                \
	do {                                                                      \
		if (FILTERS)                                                      \
			set_filter(seccomp_##which, ARRAY_SIZE(seccomp_##which)); \
	} while (0)

void jail_filter_main(void)
{
	SET(main);
}

void jail_filter_vcpu(void)
{
	SET(vcpu);
}

void jail_filter_io(void)
{
	SET(io);
}

json_t *jail_report(void)
{
	json_t *o = json_pack("{s:b, s:b, s:b, s:b, s:b}", "root", done.root, "capabilities",
	                      done.capabilities, "no_new_privs", done.no_new_privs, "no_core",
	                      done.no_core, "seccomp", FILTERS);
	char text[96];

	if (o && !done.root) {
		snprintf(text, sizeof(text), "%s: %s", done.root_step, strerror(done.root_errno));
		json_object_set_new(o, "root_error", json_string(text));
	}
	return o;
}
