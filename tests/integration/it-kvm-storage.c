/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine kvm with disks that are not raw: qemu-storage-daemon serves them. */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/macros.h"
#include "tests/integration/kvm-fixture.h"

#define GUEST TEST_BUILD_DIR "/tests/guest/bare.elf"
#define COMM  "qemu-storage-da" /* as the kernel cuts it */

static void storage_setup(void)
{
	if (system("command -v qemu-storage-daemon qemu-img > /dev/null") != 0)
		cr_skip_test("no qemu-storage-daemon or no qemu-img");
	kvm_setup();
}

TestSuite(kvm_storage, .timeout = 300, .init = storage_setup, .fini = kvm_teardown);

/* An image in the scene; options of qemu-img create, then the size. Static storage of the scene. */
static const char *image(const char *name, const char *format, const char *options)
{
	const char *path = scene_path(&s, "%s", name);
	char command[512];

	snprintf(command, sizeof(command), "qemu-img create -q -f %s %s %s", format, path, options);
	cr_assert_eq(system(command), 0, "%s", command);
	return path;
}

static void create(const char *name, const char *cmdline, json_t *disks, json_t *more)
{
	json_t *d = json_pack("{s:s, s:s, s:s, s:{s:s, s:s}, s:o}", "name", name, "engine", "kvm",
	                      "memory", "64M", "boot", "kernel", GUEST, "cmdline", cmdline, "disks",
	                      disks);

	if (more) {
		cr_assert_eq(json_object_update(d, more), 0);
		json_decref(more);
	}
	call_ok(&s.client, "vm.create", "{s:o}", "definition", d);
}

static json_t *one_disk(const char *path, const char *format)
{
	return json_pack("[{s:s, s:s}]", "path", path, "format", format);
}

static void set_cmdline(const char *cmdline)
{
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s, s:s}}}", "vm", "a", "set", "boot",
	        "kernel", GUEST, "cmdline", cmdline);
}

static void start(void)
{
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
}

static void expect_end(bool well)
{
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopped", 60000));
	cr_assert(strstr(kvm_console_log(), "guest: done"), "%s", kvm_console_log());
	cr_assert_eq(!strstr(kvm_console_log(), "FAIL"), well, "%s", kvm_console_log());
}

static void run_to_end(void)
{
	start();
	expect_end(true);
}

/* Starts the guest, which does all up to "echo" of its tests; its console. */
static int start_to_echo(void)
{
	int fd;

	start();
	fd = console_open(&s, "a", true);
	console_expect(fd, "echo: ready", 20000);
	return fd;
}

static void go_on(int fd)
{
	console_type(fd, "end\n");
	close(fd);
}

/* A copy of it: the image itself may be in use. */
static void check_image(const char *path)
{
	char command[512];

	snprintf(command, sizeof(command), "cp %s %s.copy && qemu-img check -q %s.copy", path, path,
	         path);
	cr_expect_eq(system(command), 0, "%s", command);
}

/* Everything a driver may ask for, with what the definition says of the disk. */
Test(kvm_storage, a_qcow2_disk_is_as_good_as_a_raw_one)
{
	const char *path = image("disk", "qcow2", "16M");
	json_t *i;

	create("a", "test=smp,blk cpus=2 disk=0 serial=SER-7",
	       json_pack("[{s:s, s:s, s:s, s:s, s:i, s:{s:s}}]", "path", path, "format", "qcow2",
	                 "serial", "SER-7", "discard", "unmap", "queues", 2, "bandwidth", "total",
	                 "64M"),
	       json_pack("{s:i}", "cpus", 2));
	run_to_end();
	cr_expect(strstr(kvm_console_log(), "2 queues"), "%s", kvm_console_log());
	i = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_expect_str_eq(member_str(i, "engine.name"), "kvm");
	json_decref(i);
	check_image(path);
	scene_wait_processes(&s, 0, 10000);
}

Test(kvm_storage, all_formats_keep_what_was_written)
{
	static const char *const formats[] = { "qcow2", "vmdk", "vdi", "vhdx", "vpc" };
	json_t *disks = json_array();
	char cmdline[128];

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		json_array_append_new(disks,
		                      json_pack("{s:s, s:s, s:s}", "path",
		                                image(formats[i], formats[i], "8M"), "format",
		                                formats[i], "cache", i % 2 ? "none" : "writeback"));
	create("a", "test=hello", disks, NULL);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(formats); i++) {
		snprintf(cmdline, sizeof(cmdline), "test=blk-%s disk=%zu at=64 count=96 seed=%zu",
		         i % 2 ? "verify" : "write", i / 2, i / 2);
		set_cmdline(cmdline);
		run_to_end();
	}
}

Test(kvm_storage, a_read_only_disk_is_not_written)
{
	const char *path = image("disk", "qcow2", "4M");
	struct stat before, after;

	cr_assert_eq(stat(path, &before), 0);
	create("a", "test=blk-readonly disk=0",
	       json_pack("[{s:s, s:s, s:b}]", "path", path, "format", "qcow2", "readonly", 1),
	       NULL);
	run_to_end();
	cr_assert_eq(stat(path, &after), 0);
	cr_expect_eq(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

static void set_disks(json_t *disks)
{
	call_ok(&s.client, "vm.update", "{s:s, s:{s:o}}", "vm", "a", "set", "disks", disks);
}

static json_t *overlay_on(const char *path, const char *base, const char *format)
{
	return json_pack("[{s:s, s:s, s:{s:s, s:s}}]", "path", path, "format", "qcow2", "backing",
	                 "path", base, "format", format);
}

static void expect_start_refused(const char *field, const char *text)
{
	struct refusal r = call_refused(&s.client, "invalid", "vm.start", "{s:s}", "vm", "a");

	cr_expect_str_eq(r.field, field, "%s", r.message);
	cr_expect(strstr(r.message, text), "%s", r.message);
	/* Which would otherwise be taken for the next one's end. */
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "stopped", 20000));
}

/* The flags that a process has the file open with; -1: it has not. */
static int flags_of_open(pid_t pid, const char *path)
{
	char link[64], target[512];
	int flags = -1;

	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;
		FILE *f;

		snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fd);
		n = readlink(link, target, sizeof(target) - 1);
		if (n <= 0 || (size_t)n != strlen(path) || memcmp(target, path, (size_t)n) != 0)
			continue;
		snprintf(link, sizeof(link), "/proc/%d/fdinfo/%d", pid, fd);
		f = fopen(link, "r");
		cr_assert(f);
		cr_assert_eq(fscanf(f, "pos: %*d flags: %o", (unsigned *)&flags), 1);
		(void)fclose(f);
	}
	return flags;
}

/* The monitor's own disks; those of the storage daemon have it in their node. */
Test(kvm_storage, cache_none_goes_past_the_page_cache)
{
	static const char *const caches[] = { "none", "writeback" };

	create("a", "test=blk-write,echo,blk-verify at=0 count=64 seed=5", json_array(), NULL);
	for (size_t i = 0; i < ARRAY_SIZE(caches); i++) {
		const char *path = image(caches[i], "raw", "8M");
		json_t *info;
		int fd, flags;

		set_disks(json_pack("[{s:s, s:s, s:s}]", "path", path, "format", "raw", "cache",
		                    caches[i]));
		fd = start_to_echo();
		info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
		flags = flags_of_open((pid_t)member_int(info, "pid"), path);
		json_decref(info);
		cr_assert_neq(flags, -1);
		cr_expect_eq(!(flags & O_DIRECT), i == 1, "cache %s: 0%o", caches[i], flags);
		go_on(fd);
		expect_end(true);
	}
}

/* What the header names is another guest's disk, for all we know. */
Test(kvm_storage, names_inside_an_image_are_not_followed)
{
	char options[256];
	const char *base = image("base", "qcow2", "4M"), *top;

	create("a", "test=blk-write at=0 count=32 seed=3", one_disk(base, "qcow2"), NULL);
	run_to_end();
	snprintf(options, sizeof(options), "-F qcow2 -b %s", base);
	top = image("top", "qcow2", options);
	set_disks(one_disk(top, "qcow2"));
	expect_start_refused("definition.disks[0].backing", "not followed");
	/* It is the definition's that is read, whatever the image says. */
	set_disks(overlay_on(top, image("other", "qcow2", "4M"), "qcow2"));
	set_cmdline("test=blk-verify at=0 count=32 seed=3");
	start();
	expect_end(false);
	snprintf(options, sizeof(options), "-o data_file=%s", scene_path(&s, "data"));
	top = image("split", "qcow2", strcat(options, " 4M"));
	set_disks(one_disk(top, "qcow2"));
	expect_start_refused("definition.disks[0].path", "in another file");
}

/* Read alone, they would have zeros where the other has the data. */
Test(kvm_storage, formats_without_a_backing_field_stand_alone)
{
	const char *base = image("base", "vmdk", "4M"), *top;
	char options[256];
	int fd;

	snprintf(options, sizeof(options), "-F vmdk -b %s", base);
	top = image("top", "vmdk", options);
	create("a", "test=blk-write at=0 count=32 seed=3", one_disk(base, "vmdk"), NULL);
	run_to_end();
	set_disks(one_disk(top, "vmdk"));
	expect_start_refused("definition.disks[0].path", "made on another image");
	/* qemu-img makes no differencing VHD: the footer's disk type of a dynamic one. */
	top = image("disk", "vpc", "4M");
	fd = open(top, O_WRONLY | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "\0\0\0\4", 4, 60), 4);
	close(fd);
	set_disks(one_disk(top, "vpc"));
	expect_start_refused("definition.disks[0].path", "made on another image");
	cr_assert_eq(truncate(base, 512), 0);
	set_disks(one_disk(base, "vmdk"));
	expect_start_refused("definition.disks[0].path", "is damaged: no whole vmdk header");
}

/* A program that takes an image and the copy of it. */
static bool with_copy(const char *program, const char *path)
{
	char command[600];

	snprintf(command, sizeof(command), "%s %s %s.copy", program, path, path);
	return system(command) == 0;
}

static void run_on_a_base(const char *format, const char *cache)
{
	char base[256], top[256], options[300];
	json_t *disks;

	snprintf(base, sizeof(base), "%s", image("base", format, "4M"));
	set_disks(one_disk(base, format));
	set_cmdline("test=blk-write at=64 count=96 seed=3");
	run_to_end();
	cr_assert(with_copy("cp", base));
	snprintf(options, sizeof(options), "-F %s -b %s", format, base);
	snprintf(top, sizeof(top), "%s", image("top", "qcow2", options));
	disks = overlay_on(top, base, format);
	json_object_set_new(json_array_get(disks, 0), "cache", json_string(cache));
	set_disks(disks);
	/* What the base has, then half of it written over, and both halves. */
	set_cmdline("test=blk-verify at=64 count=96 seed=3");
	run_to_end();
	set_cmdline("test=blk-write at=112 count=48 seed=4");
	run_to_end();
	set_cmdline("test=blk-verify at=112 count=48 seed=4");
	run_to_end();
	set_cmdline("test=blk-verify at=64 count=48 seed=3");
	run_to_end();
	cr_expect(with_copy("cmp", base), "the %s base was written", format);
}

Test(kvm_storage, an_overlay_is_read_through_to_its_base)
{
	create("a", "test=hello", json_array(), NULL);
	run_on_a_base("raw", "writeback");
	run_on_a_base("qcow2", "none");
}

/* Two guests on one base, and nobody who writes it meanwhile. */
Test(kvm_storage, a_base_is_shared_and_not_written)
{
	char base[256], options[300], path[256];
	struct refusal r;
	int fd;

	snprintf(base, sizeof(base), "%s", scene_disk(&s, "base", 4 << 20));
	snprintf(options, sizeof(options), "-F raw -b %s", base);
	snprintf(path, sizeof(path), "%s", image("a.img", "qcow2", options));
	create("a", "test=blk-write,echo at=0 count=64 seed=5", overlay_on(path, base, "raw"),
	       NULL);
	fd = start_to_echo();
	create("b", "test=hello", overlay_on(image("b.img", "qcow2", options), base, "raw"), NULL);
	create("c", "test=hello", one_disk(base, "raw"), NULL);
	r = call_refused(&s.client, "busy", "vm.start", "{s:s}", "vm", "c");
	cr_expect(strstr(r.message, "by guest 'a'"), "%s", r.message);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "b");
	json_decref(event_wait(&s.client, "vm.state", "b", "state", "stopped", 60000));
	go_on(fd);
	expect_end(true);
}

/* Both go back: the disk that was written over since, and memory, which the storage daemon must
 * see as the guest does. */
Test(kvm_storage, disk_and_memory_go_back_to_a_snapshot)
{
	const char *path = image("disk", "qcow2", "8M");
	int fd;

	create("a", "test=blk-write,echo,blk-verify at=0 count=512 seed=5", one_disk(path, "qcow2"),
	       NULL);
	fd = start_to_echo();
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	go_on(fd);
	expect_end(true);
	(void)image("disk", "qcow2", "8M");
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "running");
	go_on(console_open(&s, "a", false));
	expect_end(true);
	check_image(path);
}

Test(kvm_storage, suspend_pause_and_reset)
{
	const char *path = image("disk", "qcow2", "8M");
	int fd;

	create("a", "test=blk-write,echo,blk-verify at=0 count=512 seed=5", one_disk(path, "qcow2"),
	       NULL);
	fd = start_to_echo();
	call_ok(&s.client, "vm.reset", "{s:s}", "vm", "a");
	console_expect(fd, "echo: ready", 20000);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	check_image(path);
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	close(fd);
	call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
	scene_wait_processes(&s, 0, 10000);
	check_image(path);
	start();
	go_on(console_open(&s, "a", false));
	expect_end(true);
}

Test(kvm_storage, a_restarted_daemon_finds_its_guest_and_disk)
{
	const char *path = image("disk", "qcow2", "8M");
	int fd;

	create("a", "test=blk-write,echo,blk-verify at=0 count=64 seed=5", one_disk(path, "qcow2"),
	       NULL);
	create("b", "test=hello", one_disk(path, "qcow2"), NULL);
	fd = start_to_echo();
	scene_kill_daemon(&s);
	scene_start(&s);
	call_ok(&s.client, "events.subscribe", NULL);
	guest_expect_state(&s, "a", "running");
	call_refused(&s.client, "busy", "vm.start", "{s:s}", "vm", "b");
	go_on(fd);
	expect_end(true);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "b");
}

Test(kvm_storage, counters_are_those_of_any_disk)
{
	json_t *stats;
	int fd;

	create("a", "test=blk-write,echo at=0 count=64 seed=5",
	       one_disk(image("disk", "qcow2", "8M"), "qcow2"), NULL);
	fd = start_to_echo();
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_eq(member_int(stats, "disks.0.index"), 0);
	cr_expect_eq(member_int(stats, "disks.0.write_bytes"), 64 * 512);
	cr_expect_eq(member_int(stats, "disks.0.write_ops"), 2);
	cr_expect_eq(member_int(stats, "disks.0.flush_ops"), 1);
	cr_expect_eq(member_int(stats, "disks.0.errors"), 0);
	cr_expect_gt(json_array_size(member(stats, "disks.0.latency_us.write")), 0);
	json_decref(stats);
	go_on(fd);
	expect_end(true);
}

/* The guest gets errors and lives on; whoever watches is told why. */
Test(kvm_storage, a_killed_storage_daemon_is_told_and_is_errors)
{
	json_t *event, *stats;
	pid_t pid;
	int fd;

	create("a", "test=blk-write,echo,blk-verify,echo at=0 count=64 seed=5",
	       one_disk(image("disk", "qcow2", "8M"), "qcow2"), NULL);
	fd = start_to_echo();
	pid = scene_find_process(&s, COMM);
	cr_assert_gt(pid, 0);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	event = event_wait(&s.client, "vm.helper_exit", "a", "process", "storage", 20000);
	cr_expect(strstr(member_str(event, "data.text"), "signal 9"));
	json_decref(event);
	console_type(fd, "end\n");
	console_expect(fd, "blk-verify FAIL", 20000);
	event = event_wait(&s.client, "vm.io_error", "a", "device", "disk0", 20000);
	cr_expect_str_eq(member_str(event, "data.operation"), "read");
	cr_expect_str_eq(member_str(event, "data.reason"), "Transport endpoint is not connected");
	json_decref(event);
	console_expect(fd, "echo: ready", 20000);
	guest_expect_state(&s, "a", "running");
	stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	cr_expect_gt(member_int(stats, "disks.0.errors"), 0);
	json_decref(stats);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	go_on(fd);
	expect_end(false);
}

/* The reply to vm.pause when it is an error, else NULL. */
static json_t *refused_pause(void)
{
	json_t *reply = call_raw(&s.client, "vm.pause", json_pack("{s:s}", "vm", "a"), NULL, 0);

	if (json_object_get(reply, "error"))
		return reply;
	json_decref(reply);
	return NULL;
}

/* A daemon that stands still holds up its disk, and nobody else; when it goes on, so does the disk.
 */
Test(kvm_storage, a_hung_storage_daemon_holds_up_its_disk_only)
{
	struct refusal r;
	json_t *reply;
	pid_t pid;
	int fd;

	create("a", "test=echo,blk-write,echo at=0 count=64 seed=5",
	       one_disk(image("disk", "qcow2", "8M"), "qcow2"), NULL);
	fd = start_to_echo();
	pid = scene_find_process(&s, COMM);
	cr_assert_gt(pid, 0);
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	/* Nothing is under way. */
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	console_type(fd, "end\n");
	console_expect(fd, "guest: echo ok", 20000);
	/* Its driver is at work a moment later. */
	while (!(reply = refused_pause()))
		call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	r = refusal_of(reply);
	cr_expect_str_eq(r.kind, "engine_failed");
	cr_expect(strstr(r.message, "'disk0' does not answer"), "%s", r.message);
	json_decref(reply);
	guest_expect_state(&s, "a", "running");
	cr_assert_eq(kill(pid, SIGCONT), 0);
	console_expect(fd, "guest: blk-write ok", 20000);
	call_ok(&s.client, "vm.pause", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.resume", "{s:s}", "vm", "a");
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	scene_wait_processes(&s, 0, 20000);
	close(fd);
}

/* Why it did not start is what the storage daemon says. */
Test(kvm_storage, a_broken_image_is_named)
{
	const char *path = image("disk", "qcow2", "8M");
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	json_t *reply;
	struct refusal r;

	cr_assert_eq(pwrite(fd, "\377\377\377\377", 4, 20), 4); /* cluster_bits */
	close(fd);
	create("a", "test=hello", one_disk(path, "qcow2"), NULL);
	reply = call_raw(&s.client, "vm.start", json_pack("{s:s}", "vm", "a"), NULL, 0);
	r = refusal_of(reply);
	cr_expect_str_eq(r.kind, "engine_failed");
	cr_expect(strstr(r.message, "'storage'") && strstr(r.message, "luster"), "%s", r.message);
	json_decref(reply);
	scene_wait_processes(&s, 0, 10000);
}

static void expect_status(pid_t pid, const char *line)
{
	cleanup_free char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 16384, &text, NULL), 0);
	cr_expect(strstr(text, line), "'%s' is not in:\n%s", line, text);
}

/* The storage daemon has its disk and what it made itself, and nothing of vmd's or the guest's. */
static void expect_own_files_only(pid_t pid, const char *image_path)
{
	char dir[64], path[360], target[512];
	struct dirent *e;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", pid);
	d = opendir(dir);
	cr_assert_not_null(d);
	while ((e = readdir(d))) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		if (target[0] == '/' && strcmp(target, image_path) != 0 &&
		    strcmp(target, "/dev/null") != 0)
			cr_expect(strncmp(target, "/memfd:", 7) == 0, "it has %s", target);
	}
	closedir(d);
}

Test(kvm_storage, it_is_jailed)
{
	char path[256];
	pid_t pid;
	int fd;

	snprintf(path, sizeof(path), "%s", image("disk", "qcow2", "8M"));
	create("a", "test=blk-write,echo at=0 count=64 seed=5", one_disk(path, "qcow2"), NULL);
	fd = start_to_echo();
	pid = scene_find_process(&s, COMM);
	cr_assert_gt(pid, 0);
	expect_status(pid, "NoNewPrivs:\t1");
	/* CAP_DAC_OVERRIDE at most. */
	expect_status(pid,
	              geteuid() == 0 ? "CapEff:\t0000000000000002" : "CapEff:\t0000000000000000");
	expect_own_files_only(pid, path);
	go_on(fd);
	expect_end(true);
}
