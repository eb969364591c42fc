/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmd-vmm: the monitor of one guest. What it is to be comes in a descriptor; see
 * vmm/guest-config.h. */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <link.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/parse.h"
#include "vmm/control.h"
#include "vmm/guest-config.h"
#include "vmm/jail.h"
#include "vmm/machine.h"

enum {
	EXIT_USAGE = 64,
	EXIT_CONFIG = 78,
	EXIT_START = 70
};

/* One guest per process. */
static struct vmm_config config;
static struct machine machine;
static struct control control;

static int usage(FILE *f, int status)
{
	fputs("Usage: vmd-vmm --config-fd FD\n"
	      "Runs one guest on KVM. FD holds the configuration that vmd writes; guests are\n"
	      "started with vmctl(1).\n\n"
	      "  --config-fd FD  the configuration, a JSON document\n"
	      "  --version       print the version\n"
	      "  --help          print this\n",
	      f);
	return status;
}

static int complain(const struct vmd_error *err, int status)
{
	fprintf(stderr, "vmd-vmm: %s\n", err->message);
	if (err->hint[0])
		fprintf(stderr, "vmd-vmm: %s\n", err->hint);
	return status;
}

static void ignore_signals(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t ending;

	/* A peer that closes, or a file at its limit, is an error of that write. */
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)sigaction(SIGXFSZ, &ignore, NULL);
	/* Let in by control_run() only; threads inherit the mask. */
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &ending, NULL);
}

/* From here on nothing is opened, and the guest's files are read under the filter. */
static int lock_down(struct vmd_error *err)
{
	int r;

	cleanup_close_p(&config.kvm_fd);
	jail_enter();
	ioloop_set_thread_init(jail_filter_io);
	machine.vcpus.thread_init = jail_filter_vcpu;
	r = machine_start_threads(&machine, err);
	jail_filter_main();
	return r;
}

static int forget_segments(struct dl_phdr_info *info, size_t size UNUSED, void *arg UNUSED)
{
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t page = 4096, at = (info->dlpi_addr + p->p_vaddr) & ~(page - 1),
			  end = (info->dlpi_addr + p->p_vaddr + p->p_memsz) & ~(page - 1);

		/* Never what can have been written to. */
		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W) && end > at)
			(void)madvise((void *)at, end - at, MADV_DONTNEED);
	}
	return 0;
}

/* The code that only a start needs leaves this process; what is still needed comes back from the
 * page cache, which all monitors share. seccomp main: madvise. */
static void forget_startup(void)
{
	(void)dl_iterate_phdr(forget_segments, NULL);
}

static int run(struct vmd_error *err)
{
	int r = machine_realize(&machine, &config, err);

	if (r == 0) {
		control_init(&control, &machine, config.qmp_fd);
		r = lock_down(err);
	}
	if (r == 0 && !config.incoming)
		r = machine_boot(&machine, err);
	if (r == 0 && !config.incoming && !config.paused)
		r = machine_cont(&machine, err);
	return r;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "config-fd", required_argument, NULL, 'c' },
		                                 { "version", no_argument, NULL, 'v' },
		                                 { "help", no_argument, NULL, 'h' },
		                                 { 0 } };
	struct vmd_error err = VMD_ERROR_INIT;
	uint64_t fd = 0;
	int option, status;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'v')
			return printf("vmd-vmm %s\n", PACKAGE_VERSION) < 0;
		if (option == 'h')
			return usage(stdout, 0);
		if (option != 'c' || parse_u64(optarg, &fd) < 0 || fd < 3 || fd > 65535)
			return usage(stderr, EXIT_USAGE);
	}
	if (!fd || optind != argc)
		return usage(stderr, EXIT_USAGE);
	(void)mallopt(M_ARENA_MAX, 1); /* a heap per thread would cost memory */
	ignore_signals();
	if (vmm_config_read((int)fd, &config, &err) < 0)
		return complain(&err, EXIT_CONFIG);
	close((int)fd);
	if (vmm_config_close_others(&config, -EBADF) < 0)
		return complain(&err, EXIT_START);
	if (run(&err) < 0)
		return complain(&err, EXIT_START);
	forget_startup();
	status = control_run(&control);
	(void)fflush(NULL);
	/* The kernel frees memory and descriptors at least as well, and faster; disks are flushed
	 * by the guest, or not at all. */
	_exit(status);
}
