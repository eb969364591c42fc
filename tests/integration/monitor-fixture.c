/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/integration/monitor-fixture.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "tests/integration/kvm-fixture.h"
#include "tests/lib/scene.h"

/* The descriptors' numbers in the monitor. */
enum {
	FD_CONFIG = 3,
	FD_KVM,
	FD_QMP,
	FD_KERNEL,
	FD_CONSOLE,
	FD_END
};

#define REPLY_MS 20000

static int config_memfd(const char *cmdline, const char *more)
{
	cleanup_json json_t *c = json_pack(
		"{s:i, s:s, s:s, s:i, s:i, s:{s:i}, s:{s:i, s:s}, s:{s:i, s:s}, s:b, s:{}, "
		"s:[{s:s, s:s}]}",
		"version", 1, "name", "a", "uuid", "u", "kvm_fd", FD_KVM, "qmp_fd", FD_QMP,
		"memory", "bytes", 16 << 20, "boot", "kernel_fd", FD_KERNEL, "cmdline", cmdline,
		"console", "fd", FD_CONSOLE, "device", "serial", "rng", 1, "balloon", "nics", "id",
		"nic0", "mac", "52:54:00:00:00:01");
	cleanup_json json_t *further = more ? json_loads(more, 0, NULL) : json_object();
	cleanup_free char *text = NULL;
	int fd = memfd_create("config", MFD_CLOEXEC);

	cr_assert(c && further && json_object_update(c, further) == 0);
	text = json_dumps(c, JSON_COMPACT);
	cr_assert(fd >= 0 && text && fd_write_all(fd, text, strlen(text)) == 0);
	return fd;
}

void monitor_start(struct monitor *m, const char *elf, const char *cmdline, const char *more)
{
	static const char program[] = TEST_BUILD_DIR "/vmd-vmm";
	const char *const argv[] = { program, "--config-fd", "3", NULL };
	struct spawn_fd fds[FD_END - FD_CONFIG + 1] = { { STDERR_FILENO, STDERR_FILENO } };
	struct spawn_spec spec = { .path = program,
		                   .argv = (char *const *)argv,
		                   .fds = fds,
		                   .n_fds = FD_END - FD_CONFIG + 1,
		                   .death_signal = SIGKILL,
		                   .null_stdio = true };
	struct vmd_error err = VMD_ERROR_INIT;
	int qmp[2], console[2], sources[FD_END];
	char path[512];
	json_t *greeting;

	kvm_need();
	*m = (struct monitor){ 0 };
	snprintf(path, sizeof(path), "%s/tests/guest/%s", TEST_BUILD_DIR, elf);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, console), 0);
	sources[FD_CONFIG] = config_memfd(cmdline, more);
	sources[FD_KVM] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	sources[FD_QMP] = qmp[1];
	sources[FD_KERNEL] = open(path, O_RDONLY | O_CLOEXEC);
	sources[FD_CONSOLE] = console[1];
	for (int i = FD_CONFIG; i < FD_END; i++) {
		cr_assert_geq(sources[i], 0, "%d %s", i, path);
		fds[i - FD_CONFIG + 1] = (struct spawn_fd){ sources[i], i };
	}
	cr_assert_eq(proc_spawn(&spec, &m->pid, &m->pidfd, &err), 0, "%s", err.message);
	for (int i = FD_CONFIG; i < FD_END; i++)
		close(sources[i]);
	client_of_fd(&m->qmp, qmp[0]);
	m->console = console[0];
	greeting = monitor_reply(m);
	cr_assert(json_object_get(greeting, "QMP"));
	json_decref(greeting);
}

void monitor_begin(struct monitor *m, const char *elf, const char *cmdline, const char *more)
{
	json_t *reply;

	monitor_start(m, elf, cmdline, more);
	reply = monitor_ask(m, "{\"execute\":\"qmp_capabilities\"}");
	cr_assert(json_object_get(reply, "return"));
	json_decref(reply);
}

void monitor_end(struct monitor *m)
{
	struct proc_status status;
	struct pollfd p = { .fd = m->pidfd, .events = POLLIN };

	(void)proc_signal(m->pidfd, SIGKILL);
	cr_assert_eq(poll(&p, 1, REPLY_MS), 1);
	cr_assert_eq(proc_reap(m->pidfd, &status), 1);
	cr_expect(!status.exited && status.code == SIGKILL, "it ended before: %d", status.code);
	client_close(&m->qmp);
	close(m->console);
	close(m->pidfd);
}

void monitor_send(struct monitor *m, const char *text)
{
	cr_assert(client_send(&m->qmp, text, strlen(text)));
}

json_t *monitor_reply(struct monitor *m)
{
	bool closed = false;

	for (;;) {
		json_t *message = client_read(&m->qmp, REPLY_MS, &closed);
		const char *event = jsonx_str(message, "event", NULL);

		cr_assert(message || closed, "the monitor does not answer");
		if (!event)
			return message;
		m->n_resets += strcmp(event, "RESET") == 0;
		json_decref(message);
	}
}

json_t *monitor_ask(struct monitor *m, const char *command)
{
	monitor_send(m, command);
	return monitor_reply(m);
}

void monitor_expect_error(struct monitor *m, const char *command, const char *words)
{
	json_t *reply = monitor_ask(m, command);
	const char *desc = jsonx_str(json_object_get(reply, "error"), "desc", "no error");

	cr_assert(strstr(desc, words), "%.200s: '%s' does not say '%s'", command, desc, words);
	json_decref(reply);
}

void monitor_expect_sane(struct monitor *m)
{
	static unsigned n;
	char id[32], command[80];
	json_t *reply;

	snprintf(id, sizeof(id), "sane-%u", ++n);
	snprintf(command, sizeof(command), "{\"execute\":\"query-status\",\"id\":\"%s\"}\n", id);
	reply = monitor_ask(m, command);
	cr_assert(json_object_get(reply, "return"));
	cr_assert_str_eq(jsonx_str(reply, "id", ""), id);
	json_decref(reply);
}

void monitor_expect_console(struct monitor *m, const char *text, int timeout_ms)
{
	console_expect(m->console, text, timeout_ms);
}

static unsigned count_entries(const struct monitor *m, const char *what)
{
	char path[48];
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)m->pid, what);
	dir = opendir(path);
	cr_assert(dir, "%s", path);
	for (const struct dirent *e; (e = readdir(dir));)
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

struct monitor_use monitor_use(const struct monitor *m)
{
	struct monitor_use use = { count_entries(m, "fd"), count_entries(m, "task"), 0 };
	cleanup_free char *text = NULL;
	char path[48];
	const char *anon;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)m->pid);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 65536, &text, NULL), 0);
	anon = strstr(text, "RssAnon:");
	cr_assert(anon);
	use.anon_kib = strtol(anon + strlen("RssAnon:"), NULL, 10);
	return use;
}

void monitor_expect_no_more(const struct monitor *m, const struct monitor_use *before, long kib)
{
	struct monitor_use now = monitor_use(m);

	cr_expect_leq(now.fds, before->fds, "%u descriptors, before %u", now.fds, before->fds);
	cr_expect_leq(now.threads, before->threads, "%u threads, before %u", now.threads,
	              before->threads);
#ifndef VMD_SANITIZERS /* what they keep of freed memory is not the monitor's */
	cr_expect_leq(now.anon_kib, before->anon_kib + kib, "%ld KiB, before %ld", now.anon_kib,
	              before->anon_kib);
#else
	(void)kib;
#endif
}
