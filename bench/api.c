/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Round trips per second and latency of the API, with 1, 100 and 1,000 defined guests, beside a
 * floor (the same bytes echoed over a Unix socket by a bare loop) and beside QMP. It prints a
 * table; it is no test. Usage: bench/api VMD VMCTL [SECONDS-PER-ROW]
 */
#include "config.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/macros.h"
#include "common/strbuf.h"
#include "common/timeutil.h"

enum {
	MAX_SAMPLES = 2000000,
	REPLY_MAX = 1 << 21
};

static double seconds_per_row = 2;

/* A line-wise client: sends bytes, reads replies ended by newline. */
struct client {
	int fd;
	char *buf;
	size_t len;
};

static void fail(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct client client_open(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct client c = { .buf = malloc(REPLY_MAX) };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	c.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!c.buf || c.fd < 0 || connect(c.fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		fail(path);
	return c;
}

static void client_close(struct client *c)
{
	close(c->fd);
	free(c->buf);
}

static void client_send(struct client *c, const char *data, size_t len)
{
	if (fd_write_all(c->fd, data, len) < 0)
		fail("send");
}

/* Reads until n lines have come; keeps what is over. The first line stays readable in buf. */
static void client_lines(struct client *c, size_t n)
{
	size_t at = 0;

	for (;;) {
		char *nl;
		ssize_t got;

		while (n && (nl = memchr(c->buf + at, '\n', c->len - at))) {
			at = (size_t)(nl - c->buf) + 1;
			n--;
		}
		if (!n)
			break;
		if (c->len == REPLY_MAX) { /* only counting lines: what was counted may go */
			memmove(c->buf, c->buf + at, c->len - at);
			c->len -= at;
			at = 0;
		}
		got = read(c->fd, c->buf + c->len, REPLY_MAX - c->len);
		if (got <= 0)
			fail("reply");
		c->len += (size_t)got;
	}
	memmove(c->buf, c->buf + at, c->len - at);
	c->len -= at;
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print_row(const char *name, uint32_t *ns, size_t n, double elapsed)
{
	qsort(ns, n, sizeof(*ns), compare_u32);
	printf("%-44s %10.0f %9.3f %9.3f %9.3f %8zu\n", name, (double)n / elapsed, ns[n / 2] / 1e6,
	       ns[n * 99 / 100] / 1e6, ns[n * 999 / 1000] / 1e6, n);
	fflush(stdout);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* One request at a time. */
static void run_single(const char *name, struct client *c, const char *request)
{
	uint32_t *ns = malloc(sizeof(*ns) * MAX_SAMPLES);
	size_t len = strlen(request), n = 0;
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds_per_row * 1e9), t = begin;

	while (ns && n < MAX_SAMPLES && t < end) {
		uint64_t done;

		client_send(c, request, len);
		client_lines(c, 1);
		done = now_ns();
		ns[n++] = (uint32_t)(done - t);
		t = done;
	}
	if (n)
		print_row(name, ns, n, (double)(t - begin) / 1e9);
	free(ns);
}

/* depth requests in one write, then their replies: throughput. Latency is that of a whole window.
 */
static void run_pipelined(const char *name, struct client *c, const char *request, size_t depth)
{
	cleanup_strbuf struct strbuf window = STRBUF_INIT;
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds_per_row * 1e9);
	size_t n = 0;

	for (size_t i = 0; i < depth; i++)
		strbuf_append_str(&window, request);
	while (now_ns() < end) {
		client_send(c, window.data, window.len);
		client_lines(c, depth);
		n += depth;
	}
	printf("%-44s %10.0f %9s %9s %9s %8zu\n", name,
	       (double)n / ((double)(now_ns() - begin) / 1e9), "-", "-", "-", n);
	fflush(stdout);
}

/* create + delete pairs, durable, from many connections at once. */
static void run_creates(const char *name, const char *socket, size_t clients)
{
	struct client c[64];
	uint64_t begin, end;
	size_t n = 0, round = 0;

	for (size_t i = 0; i < clients; i++)
		c[i] = client_open(socket);
	begin = now_ns();
	end = begin + (uint64_t)(seconds_per_row * 1e9);
	while (now_ns() < end) {
		for (size_t i = 0; i < clients; i++) {
			cleanup_strbuf struct strbuf s = STRBUF_INIT;

			for (int k = 0; k < 16; k++)
				strbuf_printf(
					&s,
					"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.create\","
					"\"params\":{\"definition\":{\"name\":\"c%zu-%zu-%d\","
					"\"memory\":\"128M\",\"boot\":{\"kernel\":\"/k\"}}}}\n",
					i, round, k);
			client_send(&c[i], s.data, s.len);
		}
		for (size_t i = 0; i < clients; i++)
			client_lines(&c[i], 16);
		n += clients * 16;
		for (size_t i = 0; i < clients; i++) {
			cleanup_strbuf struct strbuf s = STRBUF_INIT;

			for (int k = 0; k < 16; k++)
				strbuf_printf(
					&s,
					"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.delete\","
					"\"params\":{\"vm\":\"c%zu-%zu-%d\"}}\n",
					i, round, k);
			client_send(&c[i], s.data, s.len);
		}
		for (size_t i = 0; i < clients; i++)
			client_lines(&c[i], 16);
		round++;
	}
	printf("%-44s %10.0f %9s %9s %9s %8zu\n", name,
	       (double)n / ((double)(now_ns() - begin) / 1e9), "-", "-", "-", n);
	for (size_t i = 0; i < clients; i++)
		client_close(&c[i]);
}

/* What this disk allows: fdatasync of 512 bytes over a preallocated file. */
static void run_fsync_floor(const char *dir)
{
	char path[256], block[512] = "";
	uint32_t *ns = malloc(sizeof(*ns) * MAX_SAMPLES);
	uint64_t begin, end, t;
	size_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/fsync-floor", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || !ns || posix_fallocate(fd, 0, 1 << 20) != 0)
		fail(path);
	begin = t = now_ns();
	end = begin + (uint64_t)(seconds_per_row * 1e9);
	while (n < MAX_SAMPLES && t < end) {
		uint64_t done;

		if (pwrite(fd, block, sizeof(block), (off_t)(n % 2048 * 512)) < 0 ||
		    fdatasync(fd) < 0)
			fail("fdatasync");
		done = now_ns();
		ns[n++] = (uint32_t)(done - t);
		t = done;
	}
	print_row("floor: write 512 B + fdatasync", ns, n, (double)(t - begin) / 1e9);
	close(fd);
	(void)unlink(path);
	free(ns);
}

static pid_t start_echo(const char *path, const char *reply)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char buf[4096];
	pid_t pid;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    listen(listener, 1) < 0)
		fail(path);
	pid = fork();
	if (pid == 0) {
		int fd = accept(listener, NULL, NULL);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (read(fd, buf, sizeof(buf)) > 0)
			if (fd_write_all(fd, reply, strlen(reply)) < 0)
				break;
		_exit(0);
	}
	close(listener);
	return pid;
}

/* The floor: as many bytes as a vm.get has, there and back. */
static void run_floor(const char *dir, const char *request, size_t reply_len)
{
	char path[256];
	char *reply = malloc(reply_len + 2);
	struct client c;
	pid_t pid;

	if (!reply)
		fail("memory");
	memset(reply, 'x', reply_len);
	memcpy(reply + reply_len, "\n", 2);
	snprintf(path, sizeof(path), "%s/echo.sock", dir);
	pid = start_echo(path, reply);
	c = client_open(path);
	run_single("floor: the bytes of vm.get, bare echo", &c, request);
	client_close(&c);
	(void)waitpid(pid, NULL, 0);
	free(reply);
}

static void run_qmp(const char *dir)
{
	char path[256], arg[300];
	struct client c;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/qmp.sock", dir);
	snprintf(arg, sizeof(arg), "unix:%s,server=on,wait=off", path);
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "none", "-nodefaults",
		       "-display", "none", "-qmp", arg, (char *)NULL);
		_exit(127);
	}
	while (access(path, F_OK) < 0) {
		if (waitpid(pid, NULL, WNOHANG) == pid) {
			printf("%-44s skipped: qemu-system-x86_64 is not installed\n",
			       "QMP query-status");
			return;
		}
		(void)poll(NULL, 0, 2);
	}
	c = client_open(path);
	client_lines(&c, 1);
	client_send(&c, "{\"execute\":\"qmp_capabilities\"}\n", 31);
	client_lines(&c, 1);
	run_single("QMP query-status (QEMU, no guest)", &c, "{\"execute\":\"query-status\"}\n");
	client_close(&c);
	(void)kill(pid, SIGTERM);
	(void)waitpid(pid, NULL, 0);
}

/* Just what is called, so that libvirt is no build dependency. */
struct libvirt {
	void *(*open)(const char *uri);
	void *(*define)(void *conn, const char *xml);
	int (*get_info)(void *domain, void *info);
	int (*list_all)(void *conn, void ***ret, unsigned flags);
	int (*undefine)(void *domain);
	int (*free_domain)(void *domain);
	int (*close)(void *conn);
};

static bool libvirt_load(struct libvirt *v)
{
	void *so = dlopen("libvirt.so.0", RTLD_NOW);
	const struct {
		void *slot;
		const char *name;
	} symbols[] = {
		{ &v->open, "virConnectOpen" },        { &v->define, "virDomainDefineXML" },
		{ &v->get_info, "virDomainGetInfo" },  { &v->list_all, "virConnectListAllDomains" },
		{ &v->undefine, "virDomainUndefine" }, { &v->free_domain, "virDomainFree" },
		{ &v->close, "virConnectClose" },
	};

	for (size_t i = 0; so && i < ARRAY_SIZE(symbols); i++) {
		void *symbol = dlsym(so, symbols[i].name);

		if (!symbol)
			return false;
		memcpy(symbols[i].slot, &symbol, sizeof(symbol));
	}
	return so != NULL;
}

static void libvirt_rows(const struct libvirt *v, void *conn, void *domain, size_t guests)
{
	uint32_t *ns = malloc(sizeof(*ns) * MAX_SAMPLES);
	uint64_t begin, t, info[16], done;
	char name[80];

	for (int what = 0; ns && what < 2; what++) {
		size_t n = 0;

		begin = t = now_ns();
		while (n < MAX_SAMPLES && t < begin + (uint64_t)(seconds_per_row * 1e9)) {
			void **all = NULL;
			int count = what ? v->list_all(conn, &all, 0) : v->get_info(domain, info);

			for (int i = 0; what && i < count; i++)
				(void)v->free_domain(all[i]);
			free(all);
			done = now_ns();
			ns[n++] = (uint32_t)(done - t);
			t = done;
		}
		snprintf(name, sizeof(name), "libvirt %s, %zu domains",
		         what ? "ListAllDomains" : "DomainGetInfo", guests);
		print_row(name, ns, n, (double)(t - begin) / 1e9);
	}
	free(ns);
}

/* The peer: libvirtd's QEMU driver in session mode, with as many domains. */
static void run_libvirt(void)
{
	enum {
		DOMAINS = 1000
	};
	static void *domains[DOMAINS];
	struct libvirt v;
	void *conn = libvirt_load(&v) ? v.open("qemu:///session") : NULL;
	uint64_t begin;
	size_t n = 0;

	if (!conn) {
		printf("%-44s skipped: libvirt is not installed or has no QEMU driver\n",
		       "libvirt");
		return;
	}
	begin = now_ns();
	for (; n < DOMAINS; n++) {
		char xml[512];

		snprintf(
			xml, sizeof(xml),
			"<domain type='qemu'><name>vmd-bench-%zu</name><memory unit='MiB'>512</memory>"
			"<vcpu>2</vcpu><os><type arch='x86_64'>hvm</type></os></domain>",
			n);
		domains[n] = v.define(conn, xml);
		if (!domains[n])
			break;
	}
	if (n) {
		printf("%-44s %10.0f\n", "libvirt define (no fsync)",
		       (double)n / ((double)(now_ns() - begin) / 1e9));
		libvirt_rows(&v, conn, domains[0], n);
	}
	for (size_t i = 0; i < n; i++) {
		(void)v.undefine(domains[i]);
		(void)v.free_domain(domains[i]);
	}
	(void)v.close(conn);
}

static pid_t start_vmd(const char *program, const char *dir, const char *socket)
{
	char state[256], runtime[256];
	pid_t pid;

	snprintf(state, sizeof(state), "%s/state", dir);
	snprintf(runtime, sizeof(runtime), "%s/run", dir);
	pid = fork();
	if (pid == 0) {
		int log = open("/dev/null", O_WRONLY);

		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		(void)dup2(log, STDERR_FILENO);
		execl(program, program, "--session", "--state-dir", state, "--runtime-dir", runtime,
		      "--socket", socket, "--config", "/nonexistent", (char *)NULL);
		_exit(127);
	}
	while (access(socket, F_OK) < 0) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			fail(program);
		(void)poll(NULL, 0, 2);
	}
	return pid;
}

static void define_guests(const char *socket, size_t from, size_t to)
{
	struct client c = client_open(socket);

	for (size_t i = from; i < to; i++) {
		char request[512];
		int n = snprintf(
			request, sizeof(request),
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.create\",\"params\":"
			"{\"definition\":{\"name\":\"vm%zu\",\"cpus\":2,\"memory\":\"512M\","
			"\"boot\":{\"kernel\":\"/boot/vmlinuz\",\"cmdline\":\"console=ttyS0\"},"
			"\"disks\":[{\"path\":\"/srv/vm%zu.img\",\"format\":\"raw\"}],"
			"\"nics\":[{\"network\":\"user\"}]}}}\n",
			i, i);

		client_send(&c, request, (size_t)n);
		client_lines(&c, 1);
	}
	client_close(&c);
}

static long status_kib(pid_t pid, const char *key)
{
	cleanup_free char *data = NULL;
	char path[48];
	const char *p;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (fs_read_file(AT_FDCWD, path, 16384, &data, NULL) < 0)
		return -1;
	p = strstr(data, key);
	return p ? strtol(p + strlen(key), NULL, 10) : -1;
}

/* A whole process, from exec to exit. */
static void run_process(const char *name, const char *const *argv)
{
	uint32_t *ns = malloc(sizeof(*ns) * MAX_SAMPLES);
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds_per_row * 1e9), t = begin;
	size_t n = 0;

	while (ns && n < MAX_SAMPLES && t < end) {
		uint64_t done;
		int status;
		pid_t pid = vfork();

		if (pid == 0) {
			int null = open("/dev/null", O_WRONLY);

			(void)dup2(null, STDOUT_FILENO);
			execv(argv[0], (char *const *)(uintptr_t)argv);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
			fail(name);
		done = now_ns();
		ns[n++] = (uint32_t)(done - t);
		t = done;
	}
	if (n)
		print_row(name, ns, n, (double)(t - begin) / 1e9);
	free(ns);
}

static void run_vmctl(const char *vmctl, const char *socket, size_t guests)
{
	const char *const version[] = { vmctl, "version", NULL };
	const char *const list[] = { vmctl, "-s", socket, "list", NULL };
	char name[80];

	run_process("vmctl version, whole process", version);
	snprintf(name, sizeof(name), "vmctl list, %zu guests, whole process", guests);
	run_process(name, list);
}

static void run_all(const char *socket, size_t guests)
{
	static const char get[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.get\","
				  "\"params\":{\"vm\":\"vm0\"}}\n";
	static const char list[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}\n";
	static const char ping[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.ping\"}\n";
	struct client c = client_open(socket);
	char name[80];

	snprintf(name, sizeof(name), "daemon.ping, %zu guests", guests);
	run_single(name, &c, ping);
	snprintf(name, sizeof(name), "vm.get, %zu guests", guests);
	run_single(name, &c, get);
	snprintf(name, sizeof(name), "vm.get, %zu guests, 64 in flight", guests);
	run_pipelined(name, &c, get, 64);
	snprintf(name, sizeof(name), "vm.list, %zu guests", guests);
	run_single(name, &c, list);
	client_close(&c);
	snprintf(name, sizeof(name), "vm.create durable, %zu guests, 1 x 16", guests);
	run_creates(name, socket, 1);
	snprintf(name, sizeof(name), "vm.create durable, %zu guests, 32 x 16", guests);
	run_creates(name, socket, 32);
}

static void print_head(void)
{
	struct utsname u;

	uname(&u);
	printf("%s %s, %ld CPUs\n", u.sysname, u.release, sysconf(_SC_NPROCESSORS_ONLN));
	printf("%-44s %10s %9s %9s %9s %8s\n", "", "per second", "p50 ms", "p99 ms", "p99.9 ms",
	       "n");
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 1, 100, 1000 };
	char dir[] = "/var/tmp/vmd-bench-XXXXXX", socket[128];
	size_t have = 0;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "usage: %s VMD VMCTL [SECONDS-PER-ROW]\n", argv[0]);
		return 64;
	}
	if (argc > 3)
		seconds_per_row = atof(argv[3]);
	(void)signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(dir))
		fail(dir);
	snprintf(socket, sizeof(socket), "%s/vmd.sock", dir);
	print_head();
	run_floor(
		dir,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.get\",\"params\":{\"vm\":\"vm0\"}}\n",
		900);
	run_fsync_floor(dir);
	run_qmp(dir);
	run_libvirt();
	pid = start_vmd(argv[1], dir, socket);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		define_guests(socket, have, sizes[i]);
		have = sizes[i];
		run_all(socket, have);
	}
	run_vmctl(argv[2], socket, have);
	printf("vmd with %zu guests: %ld KiB resident (%ld anonymous), %ld voluntary switches\n",
	       have, status_kib(pid, "VmRSS:"), status_kib(pid, "RssAnon:"),
	       status_kib(pid, "voluntary_ctxt_switches:"));
	(void)kill(pid, SIGTERM);
	(void)waitpid(pid, NULL, 0);
	(void)fs_remove_tree(AT_FDCWD, dir);
	return 0;
}
