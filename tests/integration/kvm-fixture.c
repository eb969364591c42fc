/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/integration/kvm-fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"

struct scene s;

void kvm_need(void)
{
	cleanup_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	cleanup_close int vm = fd < 0 ? -1 : ioctl(fd, KVM_CREATE_VM, 0);

	if (vm < 0)
		cr_skip_test("no /dev/kvm that makes a virtual machine: %s", strerror(errno));
}

void kvm_setup(void)
{
	static const char probe[] =
		"#!/bin/sh\necho '{\"usable\":true,\"reason\":\"told so by the test\",\"checks\":{},"
		"\"loop_mips\":1,\"exit_ns\":1}'\n";
	static char path[128];

	kvm_need();
	scene_init(&s);
	snprintf(path, sizeof(path), "%s", scene_path(&s, "probe"));
	cr_assert_eq(fs_write_atomic(AT_FDCWD, path, probe, strlen(probe), 0), 0);
	cr_assert_eq(chmod(path, 0700), 0);
	s.kvm_probe = path;
	scene_start(&s);
	call_ok(&s.client, "events.subscribe", NULL);
}

void kvm_teardown(void)
{
	if (s.vmd)
		scene_teardown(&s);
}

const char *kvm_console_log(void)
{
	static char text[65536];
	json_t *reply = call(&s.client, "vm.logs", "{s:s}", "vm", "a");
	const char *all = member_str(reply, "text");
	size_t len = strlen(all);

	snprintf(text, sizeof(text), "%s", len < sizeof(text) ? all : all + len - sizeof(text) + 1);
	json_decref(reply);
	return text;
}
