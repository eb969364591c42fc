/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitor beside its peers. bench/vmm.sh runs it, here and in the test host, and makes the page
 * of docs/performance.md.
 *
 * vmm [--quick] native               bare guests, on any /dev/kvm
 * vmm [--quick] host FOLDER          Linux guests; FOLDER has vmlinux, vmlinuz, boot.cpio, io.cpio
 */
#include "config.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/fsutil.h"

struct bench_paths paths;

static const char *path_of(const char *folder, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		bench_fail("no memory");
	return path;
}

static const char *on_path(const char *name)
{
	char *list = strdup(getenv("PATH") ? getenv("PATH") : ""), *save = NULL;

	for (char *p = list ? strtok_r(list, ":", &save) : NULL; p;
	     p = strtok_r(NULL, ":", &save)) {
		const char *path = path_of(p, name);

		if (access(path, X_OK) == 0)
			return path;
	}
	return NULL;
}

static void remove_dir(void)
{
	if (fs_remove_tree(AT_FDCWD, paths.dir) < 0)
		fprintf(stderr, "bench: '%s' stays\n", paths.dir);
}

/* The build directory, unless BIN says where they are installed. */
static void find_programs(void)
{
	char self[PATH_MAX] = "";
	const char *top = getenv("VMM_BENCH_BIN");

	if (!top && readlink("/proc/self/exe", self, sizeof(self) - 1) > 0)
		top = dirname(dirname(self));
	paths.vmd = path_of(top, "vmd");
	paths.shim = path_of(top, "vmd-shim");
	paths.vmm = path_of(top, "vmd-vmm");
	paths.floor = path_of(top, "bench/vmm-floor");
	paths.qemu = on_path("qemu-system-x86_64");
	paths.lkvm = on_path("lkvm");
	if (!paths.qemu)
		paths.qemu = "/nowhere";
	snprintf(paths.dir, sizeof(paths.dir), "%s/vmm-bench-XXXXXX",
	         getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(paths.dir))
		bench_fail("cannot make '%s'", paths.dir);
	atexit(remove_dir);
}

/* VMM_BENCH_ONLY=WORDS: only these, for whoever works on one of them. */
static bool wanted(const char *word)
{
	const char *only = getenv("VMM_BENCH_ONLY");

	return !only || !only[0] || strstr(only, word);
}

static void native(bool quick)
{
	table_head("Bare guests");
	if (wanted("start"))
		bench_start(quick ? 20 : 60);
	if (wanted("exits"))
		bench_exits();
	if (wanted("restore")) {
		bench_restore(128, 64, quick ? 5 : 30);
		bench_restore(2048, 256, quick ? 5 : 30);
	}
	if (wanted("api"))
		bench_api(quick ? 60 : 1000);
}

static void host(const char *folder, bool quick)
{
	const char *vmlinux = path_of(folder, "vmlinux"), *bzimage = path_of(folder, "vmlinuz");
	const char *small = path_of(folder, "boot.cpio"), *io = path_of(folder, "io.cpio");
	unsigned rounds = quick ? 1 : 4;

	table_head("Linux guests in the test host");
	if (wanted("start"))
		bench_start(rounds * 4);
	if (wanted("abl"))
		bench_linux_boot("vmlinux", vmlinux, small, rounds);
	if (wanted("boot")) {
		bench_linux_boot("vmlinux", vmlinux, small, rounds);
		bench_linux_boot("bzImage", bzimage, small, rounds);
	}
	if (wanted("exits"))
		bench_exits();
	if (wanted("idle"))
		bench_linux_idle(vmlinux, small);
	if (wanted("disk"))
		bench_disk(vmlinux, io, path_of(folder, "disk"), rounds);
	if (wanted("net"))
		bench_net(vmlinux, io, rounds);
	if (wanted("saved")) {
		bench_linux_saved(vmlinux, small, 0, rounds);
		bench_linux_saved(vmlinux, small, 128, rounds);
	}
}

int main(int argc, char **argv)
{
	bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
	char **words = argv + 1 + quick;
	int n = argc - 1 - quick;

	setlinebuf(stdout);
	find_programs();
	if (n == 1 && strcmp(words[0], "native") == 0)
		native(quick);
	else if (n == 2 && strcmp(words[0], "host") == 0)
		host(words[1], quick);
	else
		bench_fail("usage: vmm [--quick] native | host FOLDER");
	return 0;
}
