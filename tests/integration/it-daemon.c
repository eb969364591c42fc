/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmd as a service: its directories and sockets, what it tells the service manager, its rest. */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "tests/lib/scene.h"

static struct scene s;

static void setup(void)
{
	scene_setup(&s);
}

static void teardown(void)
{
	scene_teardown(&s);
}

TestSuite(daemon, .timeout = 300, .init = setup, .fini = teardown);

/* Starts vmd where it cannot work and expects its end with these words. */
static void expect_refused(struct scene *where, const char *words)
{
	const char *output;

	cr_assert_eq(scene_start_refused(where, &output), 1);
	cr_assert(strstr(output, words), "'%s' is not in: %s", words, output);
}

static int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_lt(strlen(path), sizeof(addr.sun_path));
	memcpy(addr.sun_path, path, strlen(path));
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	return fd;
}

/* With nothing to wait for before it listens, the failure comes before the loop runs. */
Test(daemon, a_socket_path_that_is_taken_ends_the_start)
{
	cleanup_close int fd = -EBADF;

	scene_stop(&s);
	cr_assert_eq(fs_write_atomic(AT_FDCWD, s.socket, "x", 1, 0), 0);
	expect_refused(&s, "is no socket");
	cr_assert_eq(unlink(s.socket), 0);
	cr_assert_eq(mkdir(s.socket, 0700), 0);
	expect_refused(&s, "is no socket");
	cr_assert_eq(rmdir(s.socket), 0);
	fd = listen_at(s.socket);
	expect_refused(&s, "another daemon answers");
	/* One that nobody answers on is left from a crash, and replaced. */
	cleanup_close_p(&fd);
	scene_start(&s);
}

Test(daemon, directories_that_are_not_safe_are_refused)
{
	struct scene other = s;
	const char *file = scene_disk(&s, "file", 1);

	snprintf(other.socket, sizeof(other.socket), "%s/other.sock", s.root);
	snprintf(other.state_dir, sizeof(other.state_dir), "%s", file);
	expect_refused(&other, "not a directory");
	snprintf(other.state_dir, sizeof(other.state_dir), "%s/below", file);
	expect_refused(&other, "cannot make");
	snprintf(other.state_dir, sizeof(other.state_dir), "%s/link", s.root);
	cr_assert_eq(symlink(s.state_dir, other.state_dir), 0);
	expect_refused(&other, "not a directory");
	snprintf(other.state_dir, sizeof(other.state_dir), "%s/open", s.root);
	cr_assert_eq(mkdir(other.state_dir, 0700), 0);
	cr_assert_eq(chmod(other.state_dir, 0777), 0);
	expect_refused(&other, "writable by others");
	call_ok(&s.client, "daemon.ping", NULL);
}

Test(daemon, a_second_one_does_not_even_make_a_directory)
{
	struct scene other = s;

	snprintf(other.runtime_dir, sizeof(other.runtime_dir), "%s/other-run", s.root);
	snprintf(other.socket, sizeof(other.socket), "%s/other-run/vmd.sock", s.root);
	expect_refused(&other, "another vmd uses the state directory");
	cr_assert_lt(access(other.runtime_dir, F_OK), 0, "it made its runtime directory");
}

static void hangup(void)
{
	cr_assert_eq(proc_signal(s.pidfd, SIGHUP), 0);
}

Test(daemon, the_service_manager_hears_of_every_step)
{
	const char *message;
	uint64_t before = now_monotonic_us();

	hangup();
	message = scene_notified(&s, "RELOADING=1", 10000);
	cr_assert(strstr(message, "MONOTONIC_USEC="), "'%s'", message);
	cr_assert_geq(strtoull(strstr(message, "MONOTONIC_USEC=") + 15, NULL, 10), before);
	message = scene_notified(&s, "READY=1", 10000);
	cr_assert(strstr(message, "STATUS=Configuration reloaded"), "'%s'", message);
	scene_config(&s, "[limits]\nmax_batsh = 2\n");
	hangup();
	message = scene_notified(&s, "READY=1", 10000);
	cr_assert(strstr(message, "STATUS=Configuration refused"), "'%s'", message);
	client_close(&s.client);
	cr_assert_eq(proc_signal(s.pidfd, SIGTERM), 0);
	message = scene_notified(&s, "STOPPING=1", 10000);
	cr_assert(strstr(message, "STATUS="), "'%s'", message);
	scene_config(&s, "");
	scene_stop(&s);
}

/* All threads of vmd: how often they went to sleep of their own will. */
static unsigned long wakeups(void)
{
	unsigned long total = 0;
	struct dirent *entry;
	cleanup_dir DIR *d = NULL;
	char tasks[32];

	snprintf(tasks, sizeof(tasks), "/proc/%d/task", s.vmd);
	d = opendir(tasks);
	cr_assert(d);
	while ((entry = readdir(d))) {
		cleanup_free char *text = NULL;
		char path[300];
		const char *line;

		snprintf(path, sizeof(path), "%.12s/status", entry->d_name);
		if (entry->d_name[0] == '.' || fs_read_file(dirfd(d), path, 65536, &text, NULL) < 0)
			continue;
		line = strstr(text, "\nvoluntary_ctxt_switches:");
		cr_assert(line);
		total += strtoul(line + strlen("\nvoluntary_ctxt_switches:"), NULL, 10);
	}
	return total;
}

/* What was changed is written back for a moment; after that nothing may happen at all. */
Test(daemon, a_thousand_idle_guests_cause_no_wakeups)
{
	unsigned long before;
	int quiet = 0;

	for (int i = 0; i < 1000; i++) {
		char name[16];

		snprintf(name, sizeof(name), "vm%d", i);
		call_ok(&s.client, "vm.create", "{s:{s:s}}", "definition", "name", name);
	}
	before = wakeups();
	for (int second = 0; second < 60 && quiet < 10; second++) {
		(void)poll(NULL, 0, 1000);
		quiet = wakeups() == before ? quiet + 1 : 0;
		before = wakeups();
	}
	cr_assert_eq(quiet, 10, "vmd was never asleep for ten seconds within a minute");
}

/* It does not wait for what takes long, and its end is an orderly one all the same. */
Test(daemon, a_stop_during_a_job_leaves_guest_and_job_to_the_next_daemon)
{
	json_t *reply, *job;
	uint64_t before;

	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	reply = call(&s.client, "vm.stop", "{s:s, s:b, s:i}", "vm", "a", "wait", 0, "timeout_ms",
	             600000);
	before = now_monotonic_us();
	scene_stop(&s);
	cr_assert_lt(now_monotonic_us() - before, 60000000);
	scene_start(&s);
	guest_expect_state(&s, "a", "running");
	job = call(&s.client, "job.wait", "{s:s}", "job", member_str(reply, "job.id"));
	cr_assert_str_eq(member_str(job, "state"), "failed");
	cr_assert(strstr(member_str(job, "error.message"), "restarted"));
	json_decref(job);
	json_decref(reply);
}
