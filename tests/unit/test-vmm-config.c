/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macros.h"
#include "vmm/guest-config.h"

TestSuite(vmm_config, .timeout = 20);

static struct vmm_config config;
static struct vmd_error err;

/* Descriptors 50 to 59 are open, as those that vmd would hand over. */
static void open_fds(void)
{
	for (int fd = 50; fd < 60; fd++)
		cr_assert_eq(dup2(STDIN_FILENO, fd), fd);
}

static int parse(const char *members)
{
	char text[4096];

	err = (struct vmd_error)VMD_ERROR_INIT;
	snprintf(text, sizeof(text),
	         "{\"version\":1,\"name\":\"g\",\"uuid\":\"u\",\"kvm_fd\":50,"
	         "\"memory\":{\"bytes\":134217728},\"boot\":{\"kernel_fd\":51}%s}",
	         members);
	return vmm_config_parse(text, strlen(text), &config, &err);
}

Test(vmm_config, defaults_are_as_told, .init = open_fds)
{
	cr_assert_eq(parse(""), 0, "%s", err.message);
	cr_assert_eq(config.memory_bytes, 128u << 20);
	cr_assert_eq(config.cpus.count, 1);
	cr_assert_eq(config.cpus.cores, 1);
	cr_assert_eq(config.cpus.model, VMM_CPU_HOST);
	cr_assert_eq(config.hugepages, VMM_PAGES_TRANSPARENT);
	cr_assert_eq(config.on_reboot, VMM_REBOOT_RESET);
	cr_assert_eq(config.on_panic, VMM_PANIC_PAUSE);
	cr_assert_eq(config.qmp_fd, -EBADF);
	cr_assert_eq(config.console_fd, -EBADF);
	cr_assert_not(config.rng || config.balloon || config.pvpanic || config.incoming);
	cr_assert_eq(fcntl(50, F_GETFD), FD_CLOEXEC);
}

Test(vmm_config, everything_is_read, .init = open_fds)
{
	cr_assert_eq(
		parse(",\"qmp_fd\":52,\"cpus\":{\"count\":4,\"sockets\":1,\"cores\":2,\"threads\":2,"
	              "\"model\":\"x86-64-v3\",\"nested\":true},"
	              "\"console\":{\"fd\":53,\"device\":\"virtio\"},"
	              "\"ports\":[{\"name\":\"p\",\"fd\":54}],"
	              "\"disks\":[{\"id\":\"disk0\",\"fd\":55,\"cache\":\"none\",\"queues\":2,"
	              "\"limits\":{\"ops_per_s\":7}},{\"id\":\"disk1\",\"vhost_user_fd\":56}],"
	              "\"nics\":[{\"id\":\"nic0\",\"mac\":\"52:54:00:00:00:01\",\"tap_fds\":[57,58]"
	              "}],\"rng\":true,\"balloon\":{\"deflate_on_oom\":true},"
	              "\"actions\":{\"reboot\":\"shutdown\",\"panic\":\"none\"}"),
		0, "%s", err.message);
	cr_assert_eq(config.cpus.model, VMM_CPU_V3);
	cr_assert(config.cpus.nested && config.rng && config.balloon && config.deflate_on_oom);
	cr_assert_eq(config.console, VMM_CONSOLE_VIRTIO);
	cr_assert_eq(config.ports[0].fd, 54);
	cr_assert_eq(config.n_disks, 2);
	cr_assert_eq(config.disks[0].cache, BLK_CACHE_NONE);
	cr_assert_eq(config.disks[0].queues, 2);
	cr_assert_eq(config.disks[0].limits.ops_per_s, 7);
	cr_assert_eq(config.disks[1].vhost_user_fd, 56);
	cr_assert_eq(config.disks[1].queues, 1);
	cr_assert_eq(config.nics[0].n_taps, 2);
	cr_assert_eq(config.nics[0].tap_fds[1], 58);
	cr_assert_eq(config.nics[0].mac[5], 1);
	cr_assert_eq(config.on_reboot, VMM_REBOOT_SHUTDOWN);
	cr_assert_eq(config.on_panic, VMM_PANIC_NONE);
}

Test(vmm_config, what_is_wrong_is_refused_with_its_path, .init = open_fds)
{
	static const struct {
		const char *members, *path;
	} cases[] = {
		{ ",\"rnd\":true", "rnd" },
		{ ",\"rng\":1", "rng" },
		{ ",\"kvm_fd2\":3", "kvm_fd2" },
		{ ",\"qmp_fd\":1", "qmp_fd" },
		{ ",\"qmp_fd\":40000", "qmp_fd" },
		{ ",\"cpus\":{\"count\":65}", "cpus.count" },
		{ ",\"cpus\":{\"count\":0}", "cpus.count" },
		{ ",\"cpus\":{\"count\":4,\"sockets\":3}", "cpus.count" },
		{ ",\"cpus\":{\"model\":\"pentium\"}", "cpus.model" },
		{ ",\"disks\":[{\"id\":\"disk0\",\"fd\":52,\"queues\":99}]", "disks[0].queues" },
		{ ",\"disks\":[{\"id\":\"disk0\",\"fd\":52,\"size\":1}]", "disks[0].size" },
		{ ",\"disks\":[{\"id\":\"disk0\",\"fd\":52,\"limits\":{\"iops\":1}}]",
		  "disks[0].limits.iops" },
		{ ",\"disks\":[{\"fd\":52}]", "disks[0].id" },
		{ ",\"nics\":[{\"id\":\"n\",\"mac\":\"53:54:00:00:00:01\",\"stream_fd\":52}]",
		  "nics[0].mac" },
		{ ",\"actions\":{\"panic\":\"reboot\"}", "actions.panic" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cr_assert_eq(parse(cases[i].members), -EINVAL, "%s", cases[i].members);
		cr_assert_str_eq(err.field, cases[i].path, "%s: %s", cases[i].members, err.message);
	}
}

Test(vmm_config, what_does_not_fit_together_is_refused, .init = open_fds)
{
	static const char *const cases[] = {
		",\"qmp_fd\":50", /* twice */
		",\"disks\":[{\"id\":\"disk0\",\"fd\":52,\"vhost_user_fd\":53}]",
		",\"disks\":[{\"id\":\"disk0\"}]",
		",\"disks\":[{\"id\":\"d\",\"fd\":52},{\"id\":\"d\",\"fd\":53}]",
		",\"nics\":[{\"id\":\"n\",\"mac\":\"52:54:00:00:00:01\",\"stream_fd\":52,"
		"\"tap_fds\":[53]}]",
		",\"memory\":{\"bytes\":1}", /* a second "memory" */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cr_assert_lt(parse(cases[i]), 0, "%s", cases[i]);
		cr_assert_neq(err.message[0], '\0');
	}
}

Test(vmm_config, other_versions_and_rubbish_are_refused)
{
	static const char *const cases[] = { "",
		                             "[]",
		                             "{}",
		                             "{\"version\":2}",
		                             "{\"version\":1}",
		                             "[[[[[[[[[[]]]]]]]]]]",
		                             "{\"version\":1",
		                             "\"x\"" };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		err = (struct vmd_error)VMD_ERROR_INIT;
		cr_assert_lt(vmm_config_parse(cases[i], strlen(cases[i]), &config, &err), 0);
		cr_assert_neq(err.message[0], '\0', "%s", cases[i]);
	}
}

Test(vmm_config, a_document_without_end_is_refused)
{
	int fd = memfd_create("config", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, VMM_CONFIG_MAX + 1), 0);
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_lt(vmm_config_read(fd, &config, &err), 0);
	cr_assert(strstr(err.message, "or more"), "%s", err.message);
	close(fd);
}

Test(vmm_config, other_descriptors_are_closed, .init = open_fds)
{
	cr_assert_eq(parse(",\"qmp_fd\":55"), 0);
	cr_assert_eq(vmm_config_close_others(&config, 58), 0);
	for (int fd = 50; fd < 60; fd++) {
		bool kept = fd == 50 || fd == 51 || fd == 55 || fd == 58;

		cr_assert_eq(fcntl(fd, F_GETFD) >= 0, kept, "%d", fd);
	}
	_exit(0); /* Criterion's own descriptors are gone too */
}
