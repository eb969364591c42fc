/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Linux guests on each monitor: to /init, at rest, saved and restored, disks and network. */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/cleanup.h"
#include "common/timeutil.h"

enum {
	BOOT_MIB = 128,
	SAVED_MIB = 256,
	IO_MIB = 256,
	NET_MS = 2000
};

/* The same for all: what a monitor's users give, and quiet. */
#define CMDLINE "console=ttyS0 quiet panic=-1 reboot=t "
#define TAP     "vmmbench0"

static const enum peer_kind linux_peers[] = { PEER_VMM, PEER_MICROVM, PEER_LKVM };

static double ms(uint64_t from, uint64_t to)
{
	return (double)(to - from) / 1e6;
}

/* What the monitor counted, for those who look for what can go. */
static void show_exits(struct peer *p)
{
	if (p->spec.kind != PEER_VMM || !getenv("VMM_BENCH_ECHO"))
		return;
	(void)peer_qmp(p, "{\"execute\":\"qmp_capabilities\"}\n", -1);
	fprintf(stderr, "%s\n", peer_qmp(p, "{\"execute\":\"x-vmd-stats\"}\n", -1));
}

void bench_linux_boot(const char *what, const char *kernel, const char *initrd, unsigned rounds)
{
	static struct samples wall[_PEER_MAX], log[_PEER_MAX], tsc[_PEER_MAX];
	bool unpacks = strcmp(what, "bzImage") == 0;
	char text[96], *at;
	const char *why;

	for (enum peer_kind k = 0; k < _PEER_MAX; k++)
		wall[k].n = log[k].n = tsc[k].n = 0;
	for (unsigned i = 0; i < rounds; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(linux_peers); k++) {
			struct peer_spec spec = { .kind = linux_peers[k],
				                  .kernel = kernel,
				                  .initrd = initrd,
				                  .cmdline = getenv("VMM_BENCH_ECHO")
				                                     ? CMDLINE "bench=bootlog"
				                                     : CMDLINE "bench=boot",
				                  .memory_mib = BOOT_MIB };
			struct peer p;

			if (!peer_exists(spec.kind, &why))
				continue;
			peer_start(&p, &spec);
			sample(&wall[spec.kind], ms(p.exec_ns, peer_wait_byte(&p, LINUX_MARK)));
			at = (char *)(uintptr_t)peer_wait_line(&p, "bench: boot ");
			sample(&log[spec.kind], strtod(at, &at) / 1e6);
			sample(&tsc[spec.kind], strtod(at, NULL) / 1e6);
			show_exits(&p);
			peer_kill(&p);
		}
	}
	for (size_t k = 1; k < ARRAY_SIZE(linux_peers); k++) {
		snprintf(text, sizeof(text), "exec to /init, %s", what);
		if (peer_exists(linux_peers[k], &why))
			row(text, median(&wall[PEER_VMM]), "ms", peer_names[linux_peers[k]],
			    median(&wall[linux_peers[k]]), 0.75, false);
		else
			row_skip(text, why);
	}
	/* The log's clock begins after a kernel has unpacked itself, which is its own time too. */
	row(text, median(&wall[PEER_VMM]), "ms", "the kernel's log at /init",
	    median(&log[PEER_VMM]), unpacks ? 0 : 1.15, false);
	row(text, median(&wall[PEER_VMM]), "ms", "the guest's TSC at /init", median(&tsc[PEER_VMM]),
	    unpacks ? 1.15 : 0, false);
}

void bench_linux_idle(const char *kernel, const char *initrd)
{
	const char *why;
	double bytes[_PEER_MAX] = { 0 };

	for (size_t k = 0; k < ARRAY_SIZE(linux_peers); k++) {
		struct peer_spec spec = { .kind = linux_peers[k],
			                  .kernel = kernel,
			                  .initrd = initrd,
			                  .cmdline = CMDLINE "bench=boot",
			                  .memory_mib = BOOT_MIB };
		struct peer p;

		if (!peer_exists(spec.kind, &why))
			continue;
		peer_start(&p, &spec);
		(void)peer_wait_line(&p, "bench: boot ");
		(void)poll(NULL, 0, 1000);
		bytes[spec.kind] = (double)process_pss(p.pid, BOOT_MIB) / 1024;
		peer_kill(&p);
	}
	row("memory beyond RAM, idle Linux guest, without shim", bytes[PEER_VMM], "KiB",
	    "QEMU microvm", bytes[PEER_MICROVM], 0, false);
}

/* How long the guest stood still: from "stop" to all written. */
static double save(struct peer *p, int fd)
{
	uint64_t from;

	(void)peer_qmp(p, "{\"execute\":\"qmp_capabilities\"}\n", -1);
	(void)peer_qmp(p,
	               "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
	               "{\"max-bandwidth\":100000000000}}\n",
	               -1);
	(void)peer_qmp(p, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}\n", fd);
	from = now_monotonic_ns();
	(void)peer_qmp(p, "{\"execute\":\"stop\"}\n", -1);
	(void)peer_qmp(p, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:s\"}}\n", -1);
	return ms(from, peer_wait_migrated(p));
}

static double restore(const struct peer_spec *spec, int fd)
{
	struct peer p;
	double t;

	if (lseek(fd, 0, SEEK_SET) < 0)
		bench_fail("the saved guest cannot be read");
	peer_start(&p, spec);
	(void)peer_qmp(&p, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}\n", fd);
	(void)peer_qmp(&p, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:s\"}}\n",
	               -1);
	if (spec->kind != PEER_VMM) {
		(void)peer_wait_migrated(&p);
		(void)peer_qmp(&p, "{\"execute\":\"cont\"}\n", -1);
	}
	t = ms(p.exec_ns, peer_wait_byte(&p, '.'));
	peer_kill(&p);
	return t;
}

void bench_linux_saved(const char *kernel, const char *initrd, unsigned written_mib,
                       unsigned rounds)
{
	static struct samples saved[_PEER_MAX], back[_PEER_MAX];
	char cmdline[160], what[96];
	const char *why;

	snprintf(cmdline, sizeof(cmdline), CMDLINE "bench=ticks=%u", written_mib);
	for (enum peer_kind k = 0; k < _PEER_MAX; k++)
		saved[k].n = back[k].n = 0;
	for (unsigned i = 0; i < rounds; i++) {
		for (enum peer_kind k = PEER_VMM; k <= PEER_MICROVM; k++) {
			struct peer_spec spec = { .kind = k,
				                  .kernel = kernel,
				                  .initrd = initrd,
				                  .cmdline = cmdline,
				                  .memory_mib = SAVED_MIB };
			cleanup_close int fd =
				open(paths.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
			struct peer p;

			if (!peer_exists(k, &why))
				continue;
			peer_start(&p, &spec);
			(void)peer_wait_byte(&p, LINUX_MARK);
			(void)poll(NULL, 0, 500);
			sample(&saved[k], save(&p, fd));
			peer_kill(&p);
			spec.incoming = true;
			sample(&back[k], restore(&spec, fd));
		}
	}
	snprintf(what, sizeof(what), "save, %u MiB guest, %u MiB written: stopped for", SAVED_MIB,
	         written_mib);
	row(what, median(&saved[PEER_VMM]), "ms", "QEMU microvm", median(&saved[PEER_MICROVM]), 0.3,
	    false);
	snprintf(what, sizeof(what), "restore of it to its next sign of life");
	row(what, median(&back[PEER_VMM]), "ms", "QEMU microvm", median(&back[PEER_MICROVM]), 0.2,
	    false);
}

void bench_disk(const char *kernel, const char *initrd, const char *disk, unsigned rounds)
{
	static const char *const names[] = { "virtio-blk, 4 KiB random read, depth 1",
		                             "virtio-blk, 4 KiB random read, depth 32",
		                             "virtio-blk, 128 KiB sequential read, depth 4" };
	static struct samples per_s[_PEER_MAX][3];
	const char *why;

	for (unsigned round = 0; round < rounds; round++) {
		for (enum peer_kind k = PEER_VMM; k <= PEER_MICROVM; k++) {
			struct peer_spec spec = { .kind = k,
				                  .kernel = kernel,
				                  .initrd = initrd,
				                  .cmdline = CMDLINE "bench=disk",
				                  .memory_mib = IO_MIB,
				                  .disk = disk };
			struct peer p;
			char *at;

			if (!peer_exists(k, &why))
				continue;
			peer_start(&p, &spec);
			at = (char *)(uintptr_t)peer_wait_line(&p, "bench: disk ");
			for (size_t i = 0; i < 3; i++)
				sample(&per_s[k][i], strtod(at, &at));
			peer_kill(&p);
		}
	}
	for (size_t i = 0; i < 3; i++)
		row(names[i], median(&per_s[PEER_VMM][i]), "/s", "QEMU microvm, io_uring, iothread",
		    median(&per_s[PEER_MICROVM][i]), 1.2, true);
}

/* A tap with an address; it lives as long as the descriptor. */
static int make_tap(void)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = TAP };
	struct sockaddr_in in = { .sin_family = AF_INET };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	cleanup_close int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool on = true;

	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0)
		bench_fail("no tap: %s", strerror(errno));
	inet_pton(AF_INET, "10.99.0.1", &in.sin_addr);
	memcpy(&r.ifr_addr, &in, sizeof(in));
	on = ioctl(s, SIOCSIFADDR, &r) == 0;
	inet_pton(AF_INET, "255.255.255.0", &in.sin_addr);
	memcpy(&r.ifr_addr, &in, sizeof(in));
	on = on && ioctl(s, SIOCSIFNETMASK, &r) == 0;
	r.ifr_flags = IFF_UP;
	if (!on || ioctl(s, SIOCSIFFLAGS, &r) < 0)
		bench_fail("the tap has no address: %s", strerror(errno));
	return fd;
}

static int listen_tcp(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(BENCH_PORT) };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	(void)setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(s, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(s, 4) < 0)
		bench_fail("cannot listen: %s", strerror(errno));
	return s;
}

static int take_call(int s)
{
	struct pollfd p = { .fd = s, .events = POLLIN };

	if (poll(&p, 1, BENCH_WAIT * 1000) != 1)
		bench_fail("the guest does not call");
	return accept4(s, NULL, NULL, SOCK_CLOEXEC);
}

/* MiB per second that come from the guest until it ends, or go to it for a while. */
static double transfer(int listener, bool to_guest)
{
	static char buf[128 << 10];
	int fd = take_call(listener);
	uint64_t begin = now_monotonic_us(), end = begin + NET_MS * 1000u, n = 0;
	ssize_t got;

	do {
		got = to_guest ? write(fd, buf, sizeof(buf)) : read(fd, buf, sizeof(buf));
		n += got > 0 ? (uint64_t)got : 0;
	} while (got > 0 && (!to_guest || now_monotonic_us() < end));
	end = now_monotonic_us();
	close(fd);
	return (double)n / (double)(end - begin) * 1e6 / (1 << 20);
}

void bench_net(const char *kernel, const char *initrd, unsigned rounds)
{
	static struct samples out[_PEER_MAX], in[_PEER_MAX];
	int tap = make_tap(), listener = listen_tcp();
	const char *why;

	close(tap); /* it is persistent now, and free for a monitor */
	for (unsigned round = 0; round < rounds; round++) {
		for (enum peer_kind k = PEER_VMM; k <= PEER_MICROVM; k++) {
			struct peer_spec spec = { .kind = k,
				                  .kernel = kernel,
				                  .initrd = initrd,
				                  .cmdline = CMDLINE "bench=net",
				                  .memory_mib = IO_MIB,
				                  .tap = TAP };
			struct peer p;

			if (!peer_exists(k, &why))
				continue;
			peer_start(&p, &spec);
			sample(&out[k], transfer(listener, false));
			sample(&in[k], transfer(listener, true));
			peer_kill(&p);
		}
	}
	row("virtio-net, TCP from the guest", median(&out[PEER_VMM]), "MiB/s",
	    "QEMU microvm, tap, no vhost", median(&out[PEER_MICROVM]), 1.2, true);
	row("virtio-net, TCP to the guest", median(&in[PEER_VMM]), "MiB/s",
	    "QEMU microvm, tap, no vhost", median(&in[PEER_MICROVM]), 1.2, true);
	close(listener);
}
