/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Snapshots hold memory, devices and disks of one instant. */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/qemu-fixture.h"
#include "tests/lib/engine.h"

TestSuite(snapshot, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

#define LOOK \
	"echo $word; cat /run/state; echo 3 >/proc/sys/vm/drop_caches; head -c 5 /dev/vda; echo"

static void write_state(int console, const char *word)
{
	char line[256];

	snprintf(line, sizeof(line),
	         "word=%s; echo %s >/run/state; echo %s | dd of=/dev/vda conv=fsync 2>/dev/null",
	         word, word, word);
	console_run(console, line);
}

static void expect_look(const char *word)
{
	int console = console_open(&s, "a", false);
	char wanted[64];

	snprintf(wanted, sizeof(wanted), "%s\n%s\n%s", word, word, word);
	cr_assert_str_eq(console_run(console, LOOK), wanted);
	close(console);
}

static void boot_with_disk(const char *format)
{
	json_t *disk;

	if (strcmp(format, "raw") == 0) {
		disk = json_pack("{s:s, s:s}", "path", scene_disk(&s, "disk.img", 4 << 20),
		                 "format", "raw");
	} else {
		call_ok(&s.client, "disk.create", "{s:s, s:s, s:s}", "name", "data", "size", "64M",
		        "format", format);
		disk = json_pack("{s:s}", "disk", "data");
	}
	guest_create(&s, "a", "x86_64", NULL, json_pack("{s:[o]}", "disks", disk));
	guest_boot(&s, "a");
}

static void both_go_back(const char *format)
{
	json_t *list;
	int console;

	boot_with_disk(format);
	console = console_open(&s, "a", false);
	write_state(console, "first");
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	write_state(console, "later");
	close(console);
	expect_look("later");
	list = call(&s.client, "snapshot.list", "{s:s}", "vm", "a");
	cr_assert_eq(json_array_size(member(list, "snapshots")), 1);
	cr_assert_str_eq(member_str(list, "snapshots.0.name"), "one");
	cr_assert_str_eq(member_str(list, "snapshots.0.state"), "running");
	cr_assert_gt(member_int(list, "snapshots.0.bytes"), 1000000);
	json_decref(list);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	guest_expect_state(&s, "a", "running");
	expect_look("first");
	/* A second time, after more changes. */
	console = console_open(&s, "a", false);
	write_state(console, "again");
	close(console);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	expect_look("first");
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	call_ok(&s.client, "snapshot.delete", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	call_refused(&s.client, "not_found", "snapshot.get", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	if (strcmp(format, "raw") != 0) {
		call_ok(&s.client, "vm.delete", "{s:s}", "vm", "a");
		call_ok(&s.client, "disk.delete", "{s:s}", "disk", "data");
	}
}

Test(snapshot, memory_and_raw_disk_go_back)
{
	both_go_back("raw");
}

Test(snapshot, memory_and_qcow2_disk_go_back)
{
	if (engine_can("disk_formats", "definition.disks",
	               "{'disks': [{'path': '/x', 'format': 'qcow2'}]}"))
		both_go_back("qcow2");
}

Test(snapshot, survives_the_daemon)
{
	int console;

	boot_with_disk("raw");
	console = console_open(&s, "a", false);
	write_state(console, "first");
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	write_state(console, "later");
	close(console);
	scene_kill_daemon(&s);
	scene_start(&s);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	expect_look("first");
}

Test(snapshot, of_a_stopped_guest_holds_its_disks)
{
	const char *path = scene_disk(&s, "disk.img", 1 << 20);
	char text[5];
	int fd;

	guest_create_bare(&s, "a",
	                  json_pack("{s:[{s:s, s:s}]}", "disks", "path", path, "format", "raw"));
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "first", 5, 4096), 5);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	close(fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "later", 5, 4096), 5);
	close(fd);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(pread(fd, text, 5, 4096), 5);
	close(fd);
	cr_assert_arr_eq(text, "first", 5);
}

Test(snapshot, a_taken_name_is_refused)
{
	guest_create_bare(&s, "a", NULL);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	call_refused(&s.client, "exists", "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	call_refused(&s.client, "not_found", "snapshot.restore", "{s:s, s:s}", "vm", "a",
	             "snapshot", "two");
	call_refused(&s.client, "invalid", "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot",
	             "../one");
}

/* The biggest file below the directory, or any directory in it; ret has its path. */
static off_t biggest_in(const char *dir, bool directories, char *ret, size_t len)
{
	cleanup_dir DIR *d = opendir(dir);
	struct dirent *entry;
	off_t size = -1;

	cr_assert(d, "no '%s'", dir);
	while ((entry = readdir(d))) {
		struct stat st;

		if (entry->d_name[0] == '.' || fstatat(dirfd(d), entry->d_name, &st, 0) < 0 ||
		    S_ISDIR(st.st_mode) != directories || st.st_size <= size)
			continue;
		size = st.st_size;
		cr_assert_lt((size_t)snprintf(ret, len, "%s/%s", dir, entry->d_name), len);
	}
	cr_assert_geq(size, 0, "nothing in '%s'", dir);
	return size;
}

/*
 * Flips a byte of what the engine has to look at before the guest may run: QEMU reads a stream, of
 * which the middle is as good as any; our own monitor maps RAM without reading it, but not the
 * state before it.
 */
static void damage_snapshot(void)
{
	char dir[512], path[1024];
	cleanup_close int fd = -1;
	off_t size, at;
	char byte;

	biggest_in(scene_path(&s, "state/snapshots"), true, dir, sizeof(dir));
	size = biggest_in(dir, false, path, sizeof(path));
	cr_assert_gt(size, 1000000);
	at = engine_is("kvm") ? 1500 : size / 2;
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(pread(fd, &byte, 1, at), 1);
	byte ^= 0x40;
	cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
}

/* A snapshot whose files are gone is damaged; "not_found" would say that there is none. */
Test(snapshot, lists_are_oldest_first_and_missing_files_are_damage)
{
	static const char *const names[] = { "c", "a", "d", "b" };
	json_t *list;

	guest_create_bare(&s, "a",
	                  json_pack("{s:[{s:s, s:s}]}", "disks", "path",
	                            scene_disk(&s, "disk.img", 4096), "format", "raw"));
	for (size_t i = 0; i < 4; i++)
		call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot",
		        names[i]);
	scene_stop(&s);
	scene_start(&s);
	list = call(&s.client, "snapshot.list", "{s:s}", "vm", "a");
	for (size_t i = 0; i < 4; i++) {
		char path[40];

		snprintf(path, sizeof(path), "snapshots.%zu.name", i);
		cr_assert_str_eq(member_str(list, path), names[i], "entry %zu", i);
	}
	cr_assert_eq(unlink(scene_path(&s, "state/snapshots/%s/disk-0",
	                               member_str(list, "snapshots.0.uuid"))),
	             0);
	json_decref(list);
	call_refused(&s.client, "invalid", "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot",
	             "c");
}

Test(snapshot, damage_is_told_and_the_guest_is_left_alone)
{
	boot_with_disk("raw");
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	damage_snapshot();
	call_refused(&s.client, "invalid", "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot",
	             "one");
	guest_expect_state(&s, "a", "running");
}

Test(snapshot, delete_of_the_guest_during_a_snapshot_is_busy_and_harmless)
{
	json_t *reply;
	struct refusal r;

	boot_with_disk("raw");
	reply = call(&s.client, "snapshot.create", "{s:s, s:s, s:b}", "vm", "a", "snapshot", "one",
	             "wait", 0);
	r = call_refused(&s.client, "busy", "vm.delete", "{s:s}", "vm", "a");
	cr_assert(r.message[0]);
	call_ok(&s.client, "job.wait", "{s:s}", "job", member_str(reply, "job.id"));
	json_decref(reply);
	guest_expect_state(&s, "a", "running");
	call_ok(&s.client, "snapshot.get", "{s:s, s:s}", "vm", "a", "snapshot", "one");
}
