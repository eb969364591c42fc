/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bare guests through the API of a vmd of our own: starts in a row, many at once, their memory. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/timeutil.h"

enum {
	GUEST_MIB = 64,
	WINDOW = 50 /* starts that "the first" and "the 500th" are the median of */
};

struct vmd {
	pid_t pid;
	int fd;
};

static void write_probe(char *path, size_t len)
{
	static const char script[] =
		"#!/bin/sh\necho '{\"usable\":true,\"reason\":\"told so by the bench\","
		"\"checks\":{},\"loop_mips\":1,\"exit_ns\":1}'\n";

	snprintf(path, len, "%s/probe", paths.dir);
	if (fs_write_atomic(AT_FDCWD, path, script, strlen(script), 0) < 0 || chmod(path, 0700) < 0)
		bench_fail("cannot write '%s'", path);
}

static void start_vmd(struct vmd *v)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char state[96], run[96], sock[100], config[96], probe[96];

	snprintf(state, sizeof(state), "%s/state", paths.dir);
	snprintf(run, sizeof(run), "%s/run", paths.dir);
	snprintf(sock, sizeof(sock), "%s/run/vmd.sock", paths.dir);
	snprintf(config, sizeof(config), "%s/vmd.conf", paths.dir);
	write_probe(probe, sizeof(probe));
	if (fs_write_atomic(AT_FDCWD, config, "", 0, 0) < 0)
		bench_fail("cannot write '%s'", config);
	v->pid = fork();
	if (v->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		setenv("VMD_SHIM", paths.shim, 1);
		setenv("VMD_VMM", paths.vmm, 1);
		setenv("VMD_KVM_PROBE", probe, 1);
		if (!getenv("VMM_BENCH_ECHO"))
			(void)dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
		execl(paths.vmd, paths.vmd, "--session", "--state-dir", state, "--runtime-dir", run,
		      "--socket", sock, "--config", config, (char *)NULL);
		_exit(127);
	}
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", sock);
	for (int i = 0; i < BENCH_WAIT * 100; i++) {
		v->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(v->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			return;
		close(v->fd);
		(void)poll(NULL, 0, 10);
	}
	bench_fail("vmd does not come up");
}

/* One call, its reply (static storage). */
static const char *call(struct vmd *v, const char *request, size_t len)
{
	static char reply[1 << 20];
	size_t n = 0;

	if (fd_write_all(v->fd, request, len) < 0)
		bench_fail("vmd is gone");
	for (;;) {
		ssize_t got = read(v->fd, reply + n, sizeof(reply) - 1 - n);

		if (got <= 0)
			bench_fail("vmd is gone");
		n += (size_t)got;
		reply[n] = 0;
		if (reply[n - 1] == '\n')
			break;
	}
	if (strstr(reply, "\"error\""))
		bench_fail("%s: %s", request, reply);
	return reply;
}

static const char *callf(struct vmd *v, const char *format, ...) PRINTF_LIKE(2, 3);
static const char *callf(struct vmd *v, const char *format, ...)
{
	char request[1024];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(request, sizeof(request), format, args);
	va_end(args);
	return call(v, request, (size_t)n);
}

#define CALL(method) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":"

static void create(struct vmd *v, const char *kernel, unsigned i)
{
	(void)callf(v,
	            CALL("vm.create") "{\"definition\":{\"name\":\"g%u\",\"engine\":\"kvm\","
	                              "\"memory\":\"%uM\",\"boot\":{\"kernel\":\"%s\"}}}}\n",
	            i, GUEST_MIB, kernel);
}

static double start(struct vmd *v, unsigned i)
{
	uint64_t from = now_monotonic_ns();

	(void)callf(v, CALL("vm.start") "{\"vm\":\"g%u\"}}\n", i);
	return (double)(now_monotonic_ns() - from) / 1e6;
}

static pid_t parent_of(pid_t pid)
{
	char path[64], line[256];
	int parent = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f) && strrchr(line, ')'))
		(void)sscanf(strrchr(line, ')') + 1, " %*c %d", &parent);
	if (f)
		(void)fclose(f);
	return parent;
}

/* The monitor of guest i; its parent is its shim. */
static pid_t monitor_of(struct vmd *v, unsigned i)
{
	const char *reply = callf(v, CALL("vm.get") "{\"vm\":\"g%u\"}}\n", i), *at;

	at = strstr(reply, "\"pid\":");
	return at ? (pid_t)strtol(at + 6, NULL, 10) : 0;
}

static void kill_all(struct vmd *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		(void)callf(v, CALL("vm.kill") "{\"vm\":\"g%u\"}}\n", i);
	(void)kill(v->pid, SIGTERM);
	(void)waitpid(v->pid, NULL, 0);
	close(v->fd);
}

/* What the host does per second of the same: set up KVM, enter the guest, end. */
static double floor_rate(unsigned rounds)
{
	const char *kernel = guest_first();
	uint64_t from = now_monotonic_ns();

	for (unsigned i = 0; i < rounds; i++) {
		struct peer p;

		peer_start(&p, &(struct peer_spec){ .kind = PEER_FLOOR,
		                                    .kernel = kernel,
		                                    .memory_mib = GUEST_MIB });
		(void)peer_wait_byte(&p, MARK);
		peer_kill(&p);
	}
	return rounds * 1e9 / (double)(now_monotonic_ns() - from);
}

static void report_memory(struct vmd *v, unsigned guests)
{
	uint64_t vmms = 0, shims = 0, whole = process_pss(v->pid, 0);
	char what[64];

	for (unsigned i = 0; i < guests; i++) {
		pid_t pid = monitor_of(v, i);

		vmms += process_pss(pid, GUEST_MIB);
		shims += process_pss(parent_of(pid), 0);
		whole += process_pss(pid, 0) + process_pss(parent_of(pid), 0);
	}
	row_value("each vmd-vmm, beyond RAM", (double)vmms / guests / 1024, "KiB", 0, false);
	row_value("each vmd-shim", (double)shims / guests / 1024, "KiB", 0, false);
	row_value("vmd-vmm and vmd-shim of an idle bare guest, beyond RAM",
	          (double)(vmms + shims) / guests / 1024, "KiB", 1024, false);
	snprintf(what, sizeof(what), "%u idle bare guests, vmd and all processes, RAM too", guests);
	row_value(what, (double)whole / (1 << 20), "MiB", guests >= 1000 ? 4096 : 0, false);
}

void bench_api(unsigned guests)
{
	static struct samples first, later;
	const char *kernel = guest_first();
	double floor = floor_rate(40);
	struct vmd v;
	uint64_t from, took;

	start_vmd(&v);
	for (unsigned i = 0; i < guests; i++)
		create(&v, kernel, i);
	from = now_monotonic_ns();
	for (unsigned i = 0; i < MIN_OF(guests, 500u + WINDOW / 2); i++) {
		double t = start(&v, i);

		if (i < WINDOW)
			sample(&first, t);
		if (i + WINDOW >= MIN_OF(guests, 500u + WINDOW / 2))
			sample(&later, t);
	}
	took = now_monotonic_ns() - from;
	floor = (floor + floor_rate(40)) / 2;
	row("starts through the API, one after another",
	    MIN_OF(guests, 500u + WINDOW / 2) * 1e9 / (double)took, "/s", "floor", floor, 0.6,
	    true);
	row("the 500th start, with all before alive", median(&later), "ms", "the first",
	    median(&first), 1.2, false);
	for (unsigned i = MIN_OF(guests, 500u + WINDOW / 2); i < guests; i++)
		(void)start(&v, i);
	report_memory(&v, guests);
	kill_all(&v, guests);
}
