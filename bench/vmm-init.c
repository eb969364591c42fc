/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /init of the Linux guests of bench/vmm: static, alone in its initrd. It speaks through the serial
 * port's registers, so that no driver's buffering is measured. "bench=" on the kernel's command
 * line says what it does:
 *   boot         LINUX_MARK as its very first act, then the time by the log's and the processor's
 * clock ticks=MIB    writes to so many MiB, LINUX_MARK, then '.' about every millisecond disk reads
 * of /dev/vda net          sends to the host and receives from it
 */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/timeutil.h"

enum {
	SERIAL = 0x3F8,
	LINE_STATUS = 0x3FD,
	EMPTY = 0x20,
	RUN_MS = 2000,
	DEPTH_MAX = 32,
	BLOCK_MAX = 128 << 10
};

static void say(const char *format, ...) PRINTF_LIKE(1, 2);
static void say(const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (const char *c = text; *c; c++) {
		while (!(inb(LINE_STATUS) & EMPTY))
			;
		outb((unsigned char)*c, SERIAL);
	}
}

static _Noreturn void rest(void)
{
	for (;;)
		pause();
}

static _Noreturn void fail(const char *what)
{
	say("\nbench: init: %s: %s\n", what, strerror(errno));
	rest();
}

static void load_modules(void)
{
	FILE *order = fopen("/modules.order", "re");
	char name[128], path[160];

	while (order && fscanf(order, "%127s", name) == 1) {
		int fd;

		snprintf(path, sizeof(path), "/modules/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			say("bench: init: no module %s\n", name);
		close(fd);
	}
	if (order)
		(void)fclose(order);
}

static void ticks(unsigned mib)
{
	size_t bytes = (size_t)mib << 20;
	char *memory = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                    -1, 0);

	if (memory == MAP_FAILED)
		fail("memory");
	for (size_t at = 0; at < bytes; at += 4096)
		memset(memory + at, (int)(at >> 12) | 1, 4096);
	outb(LINUX_MARK, SERIAL);
	for (;;) {
		(void)usleep(1000);
		outb('.', SERIAL);
	}
}

struct reads {
	int fd;
	unsigned depth, bytes;
	bool sequential;
	uint64_t size, next;
	uint8_t *buffers;
	aio_context_t context;
	struct iocb blocks[DEPTH_MAX];
};

static void submit(struct reads *r, unsigned slot)
{
	uint64_t blocks = r->size / r->bytes;
	struct iocb *b = &r->blocks[slot];

	r->next =
		r->sequential ? r->next + 1 : r->next * 6364136223846793005u + 1442695040888963407u;
	*b = (struct iocb){ .aio_data = slot,
		            .aio_lio_opcode = IOCB_CMD_PREAD,
		            .aio_fildes = (uint32_t)r->fd,
		            .aio_buf = (uintptr_t)(r->buffers + (size_t)slot * BLOCK_MAX),
		            .aio_nbytes = r->bytes,
		            .aio_offset = (int64_t)((r->sequential ? r->next : r->next >> 33) %
		                                    blocks * r->bytes) };
	if (syscall(SYS_io_submit, r->context, 1, &b) != 1)
		fail("io_submit");
}

/* Operations per second. */
static unsigned long run_reads(int fd, uint64_t size, unsigned depth, unsigned bytes,
                               bool sequential)
{
	struct reads r = {
		.fd = fd, .depth = depth, .bytes = bytes, .sequential = sequential, .size = size
	};
	uint64_t begin, n = 0, now;
	struct io_event done[DEPTH_MAX];

	r.buffers = mmap(NULL, (size_t)depth * BLOCK_MAX, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r.buffers == MAP_FAILED || syscall(SYS_io_setup, DEPTH_MAX, &r.context) < 0)
		fail("io_setup");
	begin = now = now_monotonic_us();
	for (unsigned i = 0; i < depth; i++)
		submit(&r, i);
	while (now - begin < RUN_MS * 1000u) {
		long got = syscall(SYS_io_getevents, r.context, 1, depth, done, NULL);

		if (got < 0)
			fail("io_getevents");
		for (long i = 0; i < got; i++) {
			if (done[i].res != (int64_t)bytes)
				fail("read");
			submit(&r, (unsigned)done[i].data);
		}
		n += (uint64_t)got;
		now = now_monotonic_us();
	}
	(void)syscall(SYS_io_destroy, r.context);
	(void)munmap(r.buffers, (size_t)depth * BLOCK_MAX);
	return (unsigned long)(n * 1000000u / (now - begin));
}

static void disk(void)
{
	int fd = -1;
	off_t size;
	unsigned long one, many, run;

	for (int i = 0; fd < 0 && i < 1000; i++) {
		fd = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (fd < 0)
			(void)usleep(10000);
	}
	size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (size <= 0)
		fail("/dev/vda");
	/* Once over all of it, so that every peer finds the host's cache warm. */
	(void)run_reads(fd, (uint64_t)size, 4, BLOCK_MAX, true);
	one = run_reads(fd, (uint64_t)size, 1, 4096, false);
	many = run_reads(fd, (uint64_t)size, 32, 4096, false);
	run = run_reads(fd, (uint64_t)size, 4, BLOCK_MAX, true);
	say("\nbench: disk %lu %lu %lu\n", one, many, run);
}

static void configure(const char *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct ifreq r = { .ifr_name = "eth0" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (int i = 0; i < 1000 && ioctl(fd, SIOCGIFFLAGS, &r) < 0; i++)
		(void)usleep(10000);
	inet_pton(AF_INET, address, &in.sin_addr);
	memcpy(&r.ifr_addr, &in, sizeof(in));
	if (ioctl(fd, SIOCSIFADDR, &r) < 0)
		fail("eth0");
	inet_pton(AF_INET, "255.255.255.0", &in.sin_addr);
	memcpy(&r.ifr_addr, &in, sizeof(in));
	if (ioctl(fd, SIOCSIFNETMASK, &r) < 0)
		fail("netmask");
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &r) < 0)
		fail("eth0 up");
	close(fd);
}

static int reach(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(BENCH_PORT) };
	int fd;

	inet_pton(AF_INET, "10.99.0.1", &in.sin_addr);
	for (int i = 0; i < 100; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0)
			return fd;
		close(fd);
		(void)usleep(50000);
	}
	fail("connect");
}

/* The host measures; it closes what it has enough of. */
static void net(void)
{
	static char buf[BLOCK_MAX];
	uint64_t end;
	int fd;

	configure("10.99.0.2");
	fd = reach();
	end = now_monotonic_us() + RUN_MS * 1000u;
	while (now_monotonic_us() < end && write(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
	fd = reach();
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
	say("\nbench: net done\n");
}

/* Nanoseconds of the time stamp counter, which began when the monitor made the processor. */
static unsigned long long tsc_ns(uint64_t at)
{
	uint64_t from = __builtin_ia32_rdtsc(), begin = now_monotonic_ns(), end, to;

	do
		end = now_monotonic_ns();
	while (end - begin < 1000000000u);
	to = __builtin_ia32_rdtsc();
	return (unsigned long long)((double)at * (double)(end - begin) / (double)(to - from));
}

/* What the kernel's log says the time is: its clock begins when it finds KVM's, early in its own
 * start. Nanoseconds. */
static unsigned long long log_ns(void)
{
	unsigned long long us = 0;
	char record[512] = "";
	int fd;

	(void)mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	fd = open("/dev/kmsg", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	(void)lseek(fd, 0, SEEK_END);
	if (fd < 0 || write(fd, "<7>bench\n", 9) != 9 ||
	    read(fd, record, sizeof(record) - 1) <= 0 || sscanf(record, "%*u,%*u,%llu", &us) != 1)
		fail("/dev/kmsg");
	close(fd);
	return us * 1000;
}

/* The kernel's log, for whoever looks for where its time goes. */
static void show_log(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char record[1024];
	ssize_t n;

	while ((n = read(fd, record, sizeof(record) - 1)) > 0) {
		record[n] = 0;
		record[strcspn(record, "\n")] = 0;
		say("%s\n", record);
	}
	close(fd);
}

static _Noreturn void boot(bool with_log)
{
	unsigned long long tsc, log;
	uint64_t at;

	outb(LINUX_MARK, SERIAL);
	at = __builtin_ia32_rdtsc();
	log = log_ns();
	tsc = tsc_ns(at);
	if (with_log)
		show_log();
	say("\nbench: boot %llu %llu\n", log, tsc);
	rest();
}

int main(void)
{
	static char line[4096];
	const char *word;
	ssize_t n;
	int fd;

	if (iopl(3) < 0)
		return 1;
	(void)mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	word = n > 0 ? strstr(line, "bench=") : NULL;
	word = word ? word + 6 : "boot";
	if (strncmp(word, "boot", 4) == 0)
		boot(strncmp(word, "bootlog", 7) == 0);
	if (strncmp(word, "ticks=", 6) == 0)
		ticks((unsigned)strtoul(word + 6, NULL, 10));
	(void)mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	load_modules();
	if (strncmp(word, "disk", 4) == 0)
		disk();
	if (strncmp(word, "net", 3) == 0)
		net();
	rest();
}
