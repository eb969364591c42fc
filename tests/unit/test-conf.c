/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/fsutil.h"
#include "daemon/conf.h"

static struct config config;
static struct vmd_error error;
static char dir[] = "/tmp/vmd-test-conf-XXXXXX";

static void put(const char *name, const char *text)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static void setup(void)
{
	char path[300];

	umask(022);
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/vmd.conf.d", dir);
	cr_assert_eq(mkdir(path, 0755), 0);
	config_defaults(&config);
	snprintf(config.config_file, sizeof(config.config_file), "%s/vmd.conf", dir);
}

static void teardown(void)
{
	fs_remove_tree(AT_FDCWD, dir);
}

TestSuite(conf, .timeout = 10, .init = setup, .fini = teardown);

/* Reads text as vmd.conf and expects a refusal that says what; nothing may have changed. */
static void expect_refused(const char *text, const char *what)
{
	struct config before = config;

	put("vmd.conf", text);
	error = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_lt(config_read(&config, &error), 0, "accepted: %s", text);
	cr_expect(strstr(error.message, what), "'%s' does not say '%s'", error.message, what);
	cr_assert_eq(memcmp(&before, &config, sizeof(config)), 0, "changed by: %s", text);
}

Test(conf, missing_file_gives_defaults)
{
	cr_assert_eq(config_read(&config, &error), 0);
	cr_assert_eq(config.log_level, LOG_INFO);
	cr_assert_eq(config.stop_timeout_ms, 90000);
	cr_assert_eq(config.max_message_bytes, 1048576);
	cr_assert_str_eq(config.admin_group, "vmd-admin");
}

Test(conf, every_type_is_read)
{
	put("vmd.conf", "# comment\n[daemon]\nlog_level = debug\nadmin_group = wheel\n"
	                "viewer_group =\n[limits]\nmax_batch = 7\nmessage_timeout = 500ms\n"
	                "[guest]\nconsole_ring = 1M ; comment\n[events]\nring=64K\n");
	cr_assert_eq(config_read(&config, &error), 0, "%s", error.message);
	cr_assert_eq(config.log_level, LOG_DEBUG);
	cr_assert_str_eq(config.admin_group, "wheel");
	cr_assert_str_eq(config.viewer_group, "");
	cr_assert_eq(config.max_batch, 7);
	cr_assert_eq(config.message_timeout_ms, 500);
	cr_assert_eq(config.console_ring_bytes, 1048576);
	cr_assert_eq(config.event_ring_bytes, 65536);
}

Test(conf, drop_ins_come_later_in_byte_order)
{
	put("vmd.conf", "[limits]\nmax_batch = 1\nmax_subscriptions = 9\n");
	put("vmd.conf.d/9.conf", "[limits]\nmax_batch = 3\n");
	put("vmd.conf.d/10.conf", "[limits]\nmax_batch = 2\n");
	put("vmd.conf.d/a.conf.off", "[limits]\nmax_batch = 4\n");
	put("vmd.conf.d/.b.conf", "[limits]\nmax_batch = 5\n");
	cr_assert_eq(config_read(&config, &error), 0, "%s", error.message);
	cr_assert_eq(config.max_batch, 3);
	cr_assert_eq(config.max_subscriptions, 9);
}

Test(conf, keys_taken_out_go_back_to_defaults)
{
	put("vmd.conf", "[limits]\nmax_batch = 7\n");
	cr_assert_eq(config_read(&config, &error), 0);
	put("vmd.conf", "");
	cr_assert_eq(config_read(&config, &error), 0);
	cr_assert_eq(config.max_batch, 1000);
}

Test(conf, command_line_part_is_kept)
{
	config.session = true;
	snprintf(config.state_dir, sizeof(config.state_dir), "/state");
	put("vmd.conf", "[limits]\nmax_batch = 7\n");
	cr_assert_eq(config_read(&config, &error), 0);
	cr_assert(config.session);
	cr_assert_str_eq(config.state_dir, "/state");
}

Test(conf, bad_input_is_refused_whole)
{
	expect_refused("[limits]\nmax_batch = 7\nmax_batches = 8\n", "line 3");
	cr_expect_str_eq(error.hint, "did you mean max_batch in [limits]?");
	expect_refused("[guest]\nmax_batch = 7\n", "no such key");
	cr_expect_str_eq(error.hint, "did you mean max_batch in [limits]?");
	expect_refused("[limits]\nmax_batch = 0\n", "'0' is not a whole number");
	cr_expect_str_eq(error.hint, "it must be between 1 and 10000");
	expect_refused("[limits]\nmax_batch = -1\n", "'-1'");
	expect_refused("[limits]\nmax_batch = 99999999999999999999\n", "is not a whole number");
	expect_refused("[limits]\nmax_batch =\n", "is not a whole number");
	expect_refused("[limits]\nmax_message = 1\n", "is not a size");
	expect_refused("[guest]\nstop_timeout = soon\n", "is not a time");
	expect_refused("[guest]\nconsole_ring = 1K\n", "is not a size");
	expect_refused("[daemon]\nlog_level = loud\n", "is not one of");
	expect_refused("[daemon]\nadmin_group = a b\n", "is not the name of a group");
	expect_refused("[limits]\nmax_batch = 7\nmax_batch = 8\n", "given twice");
	expect_refused("[limits]\nmax_batch = 7\n  8\n", "given twice");
	expect_refused("max_batch = 7\n", "no such key");
	expect_refused("[limits]\nmax_batch\n", "line 2: /");
	expect_refused("[limits\nmax_batch = 7\n", "line 1");
}

Test(conf, long_lines_and_big_files_are_refused)
{
	static char text[70000];

	memset(text, ';', sizeof(text));
	text[400] = '\0';
	expect_refused(text, ":1: line is longer");
	memset(text, '\n', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	expect_refused(text, "larger than 64 KiB");
}

Test(conf, a_bad_drop_in_refuses_the_good_main_file)
{
	put("vmd.conf.d/x.conf", "[limits]\nmax_batch = many\n");
	expect_refused("[limits]\nmax_batch = 7\n", "vmd.conf.d/x.conf");
}

Test(conf, files_others_can_write_are_refused)
{
	char path[300];

	put("vmd.conf", "[limits]\nmax_batch = 7\n");
	snprintf(path, sizeof(path), "%s/vmd.conf", dir);
	cr_assert_eq(chmod(path, 0664), 0);
	expect_refused("[limits]\nmax_batch = 7\n", "writable by others");
	cr_assert_eq(error.kind, ERROR_DENIED);
	if (geteuid() == 0) {
		cr_assert_eq(chmod(path, 0644), 0);
		cr_assert_eq(chown(path, 12345, 0), 0);
		expect_refused("[limits]\nmax_batch = 7\n", "owned by uid 12345");
	}
}

Test(conf, a_fifo_is_refused_without_waiting)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/vmd.conf", dir);
	cr_assert_eq(mkfifo(path, 0644), 0);
	cr_assert_lt(config_read(&config, &error), 0);
	cr_assert(strstr(error.message, "not a regular file"));
}
