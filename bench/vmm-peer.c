/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The monitors beside each other: started with the same guest and the same devices. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/strbuf.h"
#include "common/timeutil.h"

enum {
	/* Numbers in the peer. */
	CONFIG_FD = 3,
	KVM_FD = 4,
	QMP_FD = 5,
	KERNEL_FD = 6,
	INITRD_FD = 7,
	CONSOLE_FD = 8,
	DISK_FD = 9,
	TAP_FD = 10,
	MEMORY_FD = 11,
	N_FDS = 12,
	MAX_ARGS = 64
};

const char *const peer_names[_PEER_MAX] = { [PEER_FLOOR] = "floor",
	                                    [PEER_VMM] = "vmd-vmm",
	                                    [PEER_MICROVM] = "QEMU microvm",
	                                    [PEER_PC] = "QEMU pc",
	                                    [PEER_LKVM] = "lkvm" };

struct launch {
	char *argv[MAX_ARGS];
	int n;
	int fds[N_FDS]; /* by their numbers in the peer; -1: none */
};

static void add(struct launch *l, const char *format, ...) PRINTF_LIKE(2, 3);
static void add(struct launch *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (l->n + 1 >= MAX_ARGS || vasprintf(&l->argv[l->n++], format, args) < 0)
		bench_fail("too many arguments");
	va_end(args);
}

static int need(int fd, const char *what)
{
	if (fd < 0)
		bench_fail("%s: %s", what, strerror(errno));
	return fd;
}

static void clear(struct launch *l)
{
	for (int i = 0; i < l->n; i++)
		free(l->argv[i]);
	for (int i = 0; i < N_FDS; i++)
		if (l->fds[i] >= 0)
			close(l->fds[i]);
}

bool peer_exists(enum peer_kind kind, const char **ret_why)
{
	*ret_why = NULL;
	if (kind == PEER_LKVM && !paths.lkvm)
		*ret_why = "no lkvm on PATH (Debian has no package of it)";
	if ((kind == PEER_MICROVM || kind == PEER_PC) && access(paths.qemu, X_OK) < 0)
		*ret_why = "no QEMU";
	return !*ret_why;
}

static int open_tap(const char *name)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = need(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), "/dev/net/tun");

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	need(ioctl(fd, TUNSETIFF, &r), name);
	return fd;
}

static void vmm_config(struct launch *l, const struct peer_spec *s)
{
	cleanup_strbuf struct strbuf b = STRBUF_INIT;

	strbuf_printf(&b,
	              "{\"version\":1,\"name\":\"bench\","
	              "\"uuid\":\"00000000-0000-4000-8000-000000000001\","
	              "\"kvm_fd\":%d,\"qmp_fd\":%d,\"memory\":{\"bytes\":%llu},"
	              "\"cpus\":{\"count\":1},\"console\":{\"fd\":%d},\"incoming\":%s,"
	              "\"boot\":{\"kernel_fd\":%d",
	              KVM_FD, QMP_FD, (unsigned long long)s->memory_mib << 20, CONSOLE_FD,
	              s->incoming ? "true" : "false", KERNEL_FD);
	if (s->initrd)
		strbuf_printf(&b, ",\"initrd_fd\":%d", INITRD_FD);
	strbuf_printf(&b, ",\"cmdline\":\"%s\"}", s->cmdline ? s->cmdline : "");
	if (s->disk)
		strbuf_printf(&b, ",\"disks\":[{\"id\":\"disk0\",\"fd\":%d,\"readonly\":true}]",
		              DISK_FD);
	if (s->tap)
		strbuf_printf(&b,
		              ",\"nics\":[{\"id\":\"nic0\",\"mac\":\"52:54:00:12:34:56\","
		              "\"tap_fds\":[%d]}]",
		              TAP_FD);
	strbuf_append_str(&b, "}");
	l->fds[CONFIG_FD] = need(memfd_create("config", MFD_CLOEXEC), "memfd");
	if (strbuf_failed(&b) || fd_write_all(l->fds[CONFIG_FD], b.data, b.len) < 0)
		bench_fail("cannot write the configuration");
	l->fds[KVM_FD] = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	l->fds[KERNEL_FD] = need(open(s->kernel, O_RDONLY | O_CLOEXEC), s->kernel);
	if (s->initrd)
		l->fds[INITRD_FD] = need(open(s->initrd, O_RDONLY | O_CLOEXEC), s->initrd);
	if (s->disk)
		l->fds[DISK_FD] = need(open(s->disk, O_RDONLY | O_CLOEXEC), s->disk);
	add(l, "%s", paths.vmm);
	add(l, "--config-fd");
	add(l, "%d", CONFIG_FD);
}

/* The tuned microvm: what its documentation says for a quick start, and PCI where there is a disk
 * or a network, since distribution kernels find no other transport. */
static void qemu_arguments(struct launch *l, const struct peer_spec *s)
{
	bool devices = s->disk || s->tap;

	add(l, "%s", paths.qemu);
	add(l, "-nodefaults");
	add(l, "-no-user-config");
	add(l, "-display");
	add(l, "none");
	add(l, "-M");
	if (s->kind == PEER_PC)
		add(l, "pc,accel=kvm");
	else
		add(l, "microvm,accel=kvm,x-option-roms=%s,%spcie=%s", s->initrd ? "off" : "on",
		    getenv("VMM_BENCH_MICROVM") ?: "", devices ? "on" : "off");
	add(l, "-cpu");
	/* A software KVM promises that register and refuses it. */
	add(l, "host,arch-capabilities=off");
	add(l, "-m");
	add(l, "%u", s->memory_mib);
	add(l, "-kernel");
	add(l, "%s", s->kernel);
	if (s->initrd) {
		add(l, "-initrd");
		add(l, "%s", s->initrd);
	}
	if (s->cmdline) {
		add(l, "-append");
		add(l, "%s", s->cmdline);
	}
	add(l, "-chardev");
	add(l, "socket,id=console,fd=%d", CONSOLE_FD);
	add(l, "-serial");
	add(l, "chardev:console");
	add(l, "-chardev");
	add(l, "socket,id=qmp,fd=%d", QMP_FD);
	add(l, "-mon");
	add(l, "chardev=qmp,mode=control");
	if (devices) {
		add(l, "-object");
		add(l, "iothread,id=io");
	}
	if (s->disk) {
		add(l, "-drive");
		add(l, "if=none,id=disk,format=raw,readonly=on,aio=io_uring,file=%s", s->disk);
		add(l, "-device");
		add(l, "virtio-blk-pci,drive=disk,iothread=io");
	}
	if (s->tap) {
		add(l, "-netdev");
		add(l, "tap,id=net,fd=%d", TAP_FD);
		add(l, "-device");
		add(l, "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=");
	}
	if (s->incoming) {
		add(l, "-incoming");
		add(l, "defer");
	}
}

static void lkvm_arguments(struct launch *l, const struct peer_spec *s)
{
	add(l, "%s", paths.lkvm);
	add(l, "run");
	add(l, "--console");
	add(l, "serial");
	add(l, "-c");
	add(l, "1");
	add(l, "-m");
	add(l, "%u", s->memory_mib);
	add(l, "-k");
	add(l, "%s", s->kernel);
	if (s->initrd) {
		add(l, "-i");
		add(l, "%s", s->initrd);
	}
	if (s->cmdline) {
		add(l, "-p");
		add(l, "%s", s->cmdline);
	}
}

static void make_launch(struct launch *l, const struct peer_spec *s)
{
	if (s->tap)
		l->fds[TAP_FD] = open_tap(s->tap);
	switch (s->kind) {
	case PEER_VMM:
		vmm_config(l, s);
		break;
	case PEER_LKVM:
		lkvm_arguments(l, s);
		break;
	case PEER_FLOOR:
		add(l, "%s", paths.floor);
		add(l, "%s", s->kernel);
		add(l, "%u", s->memory_mib);
		if (s->memory_fd) {
			l->fds[MEMORY_FD] = need(fcntl(s->memory_fd, F_DUPFD_CLOEXEC, 64), "dup");
			add(l, "%d", MEMORY_FD);
		}
		break;
	default:
		qemu_arguments(l, s);
	}
}

/* In the child. Numbers from 64 on are free of the ones they become. */
static _Noreturn void execute(struct launch *l, uint64_t *exec_ns)
{
	int moved[N_FDS];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < N_FDS; i++)
		moved[i] = l->fds[i] >= 0 ? fcntl(l->fds[i], F_DUPFD_CLOEXEC, 64) : -1;
	for (int i = 0; i < N_FDS; i++)
		if (moved[i] >= 0)
			(void)dup2(moved[i], i);
	*exec_ns = now_monotonic_ns();
	execv(l->argv[0], l->argv);
	_exit(127);
}

static int pair_with(struct launch *l, int number)
{
	int fds[2];

	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), "socketpair");
	l->fds[number] = fds[1];
	return fds[0];
}

void peer_start(struct peer *p, const struct peer_spec *spec)
{
	static uint64_t *exec_ns;
	struct launch l = { .n = 0 };

	if (!exec_ns) {
		exec_ns =
			mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (exec_ns == MAP_FAILED)
			bench_fail("no memory");
	}
	for (int i = 0; i < N_FDS; i++)
		l.fds[i] = -1;
	*p = (struct peer){ .spec = *spec, .console = -EBADF, .qmp = -EBADF };
	make_launch(&l, spec);
	p->console = pair_with(&l, CONSOLE_FD);
	if (spec->kind == PEER_LKVM) /* it has no other console */
		l.fds[0] = l.fds[1] = fcntl(l.fds[CONSOLE_FD], F_DUPFD_CLOEXEC, 64);
	if (spec->kind != PEER_FLOOR && spec->kind != PEER_LKVM)
		p->qmp = pair_with(&l, QMP_FD);
	*exec_ns = 0;
	p->pid = fork();
	if (p->pid == 0)
		execute(&l, exec_ns);
	need(p->pid, "fork");
	if (spec->kind == PEER_LKVM)
		l.fds[1] = -1;
	clear(&l);
	while (!__atomic_load_n(exec_ns, __ATOMIC_ACQUIRE))
		(void)poll(NULL, 0, 1);
	p->exec_ns = *exec_ns;
	if (p->qmp >= 0 && !spec->incoming)
		return;
	if (p->qmp >= 0)
		(void)peer_qmp(p, "{\"execute\":\"qmp_capabilities\"}\n", -1);
}

void peer_kill(struct peer *p)
{
	struct rusage u;

	(void)kill(p->pid, SIGKILL);
	if (wait4(p->pid, NULL, 0, &u) == p->pid)
		p->cpu_us = (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
		            (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
	close(p->console);
	if (p->qmp >= 0)
		close(p->qmp);
}

static char next_byte(struct peer *p, int fd, const char *what)
{
	struct pollfd w = { .fd = fd, .events = POLLIN };
	char c;

	if (poll(&w, 1, BENCH_WAIT * 1000) != 1)
		bench_fail("%s: no %s within %d s", peer_names[p->spec.kind], what, BENCH_WAIT);
	if (read(fd, &c, 1) != 1)
		bench_fail("%s: ended, no %s", peer_names[p->spec.kind], what);
	return c;
}

uint64_t peer_wait_byte(struct peer *p, char byte)
{
	const char text[] = { '\'', byte, '\'', 0 };

	while (next_byte(p, p->console, text) != byte)
		;
	return now_monotonic_ns();
}

static const char *read_line(struct peer *p, int fd, const char *what, size_t *ret_len)
{
	static char line[16384];
	size_t n = 0;
	char c;

	while ((c = next_byte(p, fd, what)) != '\n')
		if (n < sizeof(line) - 1)
			line[n++] = c;
	line[n] = 0;
	*ret_len = n;
	return line;
}

const char *peer_wait_line(struct peer *p, const char *words)
{
	for (;;) {
		size_t len;
		const char *line = read_line(p, p->console, words, &len), *at = strstr(line, words);

		if (getenv("VMM_BENCH_ECHO"))
			fprintf(stderr, "%s: %s\n", peer_names[p->spec.kind], line);
		if (at)
			return at + strlen(words);
	}
}

void peer_drain(struct peer *p)
{
	char buf[4096];

	while (recv(p->console, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

void peer_say(struct peer *p, const char *text)
{
	if (fd_write_all(p->console, text, strlen(text)) < 0)
		bench_fail("%s: cannot be told", peer_names[p->spec.kind]);
}

const char *peer_qmp(struct peer *p, const char *command, int fd)
{
	if (fd_send(p->qmp, command, strlen(command), &fd, fd >= 0 ? 1 : 0) < 0)
		bench_fail("%s: no QMP", peer_names[p->spec.kind]);
	for (;;) {
		size_t len;
		const char *line = read_line(p, p->qmp, command, &len);

		if (strstr(line, "\"error\""))
			bench_fail("%s: %s: %s", peer_names[p->spec.kind], command, line);
		if (strncmp(line, "{\"return\"", 9) == 0)
			return line;
	}
}

uint64_t peer_wait_migrated(struct peer *p)
{
	for (;;) {
		const char *line = peer_qmp(p, "{\"execute\":\"query-migrate\"}\n", -1);

		if (strstr(line, "\"completed\""))
			return now_monotonic_ns();
		if (strstr(line, "\"failed\""))
			bench_fail("%s: %s", peer_names[p->spec.kind], line);
		(void)poll(NULL, 0, 5);
	}
}

/* Of vmd-vmm, RAM is two mappings: its first 2 MiB are advised otherwise. */
uint64_t process_pss(pid_t pid, unsigned ram_mib)
{
	uint64_t kib = 0, before = 0, whole = (uint64_t)ram_mib << 20, first = 2 << 20;
	unsigned long long from = 0, to = 0, n;
	uint64_t size_before = 0;
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "re");
	if (!f)
		bench_fail("cannot read '%s'", path);
	while (fgets(line, sizeof(line), f)) {
		unsigned long long last = to, start, end;

		if (sscanf(line, "%llx-%llx ", &start, &end) == 2) {
			size_before = start == last ? to - from : 0;
			from = start;
			to = end;
		} else if (sscanf(line, "Pss: %llu kB", &n) == 1) {
			if (ram_mib && to - from == whole)
				n = 0;
			else if (ram_mib && to - from == whole - first && size_before == first) {
				kib -= before;
				n = 0;
			}
			kib += n;
			before = n;
		}
	}
	(void)fclose(f);
	return kib * 1024;
}
