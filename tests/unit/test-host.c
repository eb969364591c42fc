/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <ev.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "daemon/fiber.h"
#include "daemon/host.h"
#include "daemon/vmd.h"

TestSuite(host, .timeout = 60);

Test(host, cpu_levels)
{
	const char *v2 = "fpu cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3";
	char text[512];

	cr_assert_eq(host_cpu_level(""), 1);
	cr_assert_eq(host_cpu_level("cx16 lahf_lm popcnt sse4_1 sse4_2"), 1);
	cr_assert_eq(host_cpu_level(v2), 2);
	snprintf(text, sizeof(text), "%s avx avx2 bmi1 bmi2 f16c fma abm movbe xsaveopt", v2);
	cr_assert_eq(host_cpu_level(text), 2, "a longer word is another word");
	snprintf(text, sizeof(text), "%s avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", v2);
	cr_assert_eq(host_cpu_level(text), 3);
	strcat(text, " avx512f avx512bw avx512cd avx512dq avx512vl\n");
	cr_assert_eq(host_cpu_level(text), 4);
}

struct trial {
	struct vmd vmd;
	void (*body)(struct trial *t);
};

static void trial_fiber(void *arg)
{
	struct trial *t = arg;

	t->body(t);
	ev_break(fiber_loop(), EVBREAK_ALL);
}

static void run(struct trial *t)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);

	fiber_init(loop);
	host_facts_collect(&t->vmd.host);
	cr_assert_eq(fiber_start("test", trial_fiber, t), 0);
	ev_run(loop, 0);
	host_facts_deinit(&t->vmd.host);
	fiber_deinit();
	ev_loop_destroy(loop);
}

static void probe(struct trial *t)
{
	cr_assert_eq(host_probe_kvm(&t->vmd, &t->vmd.host), 0);
}

static void body_probe(struct trial *t)
{
	const struct host_facts *f = &t->vmd.host;

	probe(t);
	cr_assert(json_is_object(f->kvm_proof), "%s", f->kvm_reason);
	cr_assert_eq(jsonx_bool(f->kvm_proof, "usable", !f->kvm_usable), f->kvm_usable);
	/* It is never called usable with a check that failed. */
	if (f->kvm_usable)
		cr_assert_eq(json_object_size(json_object_get(f->kvm_proof, "checks")), 8);
	else
		cr_assert_neq(f->kvm_reason[0], '\0');
}

Test(host, the_real_prober_answers)
{
	struct trial t = { .body = body_probe };

	setenv("VMD_KVM_PROBE", TEST_BUILD_DIR "/vmd-kvm-probe", 1);
	run(&t);
}

/* A prober that is a shell script, to say what a real one can hardly be made to. */
static void write_prober(const char *text)
{
	FILE *f = fopen("prober.sh", "we");

	fprintf(f, "#!/bin/sh\n%s\n", text);
	fclose(f);
	cr_assert_eq(chmod("prober.sh", 0755), 0);
	setenv("VMD_KVM_PROBE", "./prober.sh", 1);
}

static void enter_temp_dir(void)
{
	char dir[] = "/tmp/vmd-test-XXXXXX";

	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(chdir(dir), 0);
}

static void leave_temp_dir(void)
{
	char dir[256];

	unlink("prober.sh");
	cr_assert_not_null(getcwd(dir, sizeof(dir)));
	cr_assert_eq(rmdir(dir), 0);
}

static void body_usable(struct trial *t)
{
	probe(t);
	cr_assert(t->vmd.host.kvm_usable);
	cr_assert_str_eq(t->vmd.host.kvm_reason, "ran well");
	/* The answer is kept. */
	setenv("VMD_KVM_PROBE", "/nonexistent", 1);
	probe(t);
	cr_assert(t->vmd.host.kvm_usable);
}

static void body_hint(struct trial *t)
{
	probe(t);
	cr_assert_not(t->vmd.host.kvm_usable);
	cr_assert_str_eq(t->vmd.host.kvm_reason, "no permission (join kvm)");
}

static void body_rubbish(struct trial *t)
{
	probe(t);
	cr_assert_not(t->vmd.host.kvm_usable);
	cr_assert_str_eq(t->vmd.host.kvm_reason, "the KVM prober gave no answer");
	cr_assert_null(t->vmd.host.kvm_proof);
}

static void body_missing(struct trial *t)
{
	probe(t);
	cr_assert_not(t->vmd.host.kvm_usable);
	cr_assert(strstr(t->vmd.host.kvm_reason, "the KVM prober failed"), "%s",
	          t->vmd.host.kvm_reason);
}

Test(host, answers_of_a_prober)
{
	static const struct {
		const char *script;
		void (*body)(struct trial *t);
	} cases[] = {
		{ "echo '{\"usable\":true,\"reason\":\"ran well\"}'", body_usable },
		{ "echo '{\"usable\":false,\"reason\":\"no permission\",\"hint\":\"join kvm\"}'",
		  body_hint },
		{ "echo hello", body_rubbish },
		{ "echo '[1]'", body_rubbish },
		{ "kill -9 $$", body_rubbish },
	};

	enter_temp_dir();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct trial t = { .body = cases[i].body };

		write_prober(cases[i].script);
		run(&t);
	}
	setenv("VMD_KVM_PROBE", "/nonexistent/prober", 1);
	run(&(struct trial){ .body = body_missing });
	leave_temp_dir();
}

/* The prober's one line for a device; as nobody when told so. */
static json_t *prober_says(const char *device, bool as_nobody)
{
	char text[4096] = "";
	int pipes[2], status;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(pipe(pipes), 0);
	pid = fork();
	if (pid == 0) {
		dup2(pipes[1], 1);
		if (as_nobody && (setgid(65534) < 0 || setuid(65534) < 0))
			_exit(99);
		execl(TEST_BUILD_DIR "/vmd-kvm-probe", "vmd-kvm-probe", device, NULL);
		_exit(98);
	}
	close(pipes[1]);
	n = read(pipes[0], text, sizeof(text) - 1);
	close(pipes[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 98)
		cr_skip_test("the build directory is closed to others");
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
	cr_assert_gt(n, 0);
	return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
}

Test(host, prober_tells_what_is_wrong_with_the_device)
{
	cleanup_json json_t *missing = prober_says("/nonexistent", false);
	cleanup_json json_t *other = prober_says("/dev/null", false);

	cr_assert_not(jsonx_bool(missing, "usable", true));
	cr_assert_str_eq(jsonx_str(missing, "reason", ""), "there is no /nonexistent");
	cr_assert_neq(jsonx_str(missing, "hint", "")[0], '\0');
	cr_assert_not(jsonx_bool(other, "usable", true));
	cr_assert(strstr(jsonx_str(other, "reason", ""), "does not speak the KVM interface"));
}

Test(host, prober_tells_of_missing_permission)
{
	char path[] = "/tmp/vmd-test-device-XXXXXX";
	cleanup_json json_t *report = NULL;
	int fd;

	if (geteuid() != 0)
		cr_skip_test("needs root to become somebody else");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	close(fd);
	report = prober_says(path, true);
	unlink(path);
	cr_assert_not(jsonx_bool(report, "usable", true));
	cr_assert(strstr(jsonx_str(report, "reason", ""), "no permission to open"));
	cr_assert(strstr(jsonx_str(report, "hint", ""), "group 'kvm'"));
}

/* Each engine tells what it can do; what one of them lacks, the other may have. */
static void expect_capabilities(const json_t *engines)
{
	const json_t *engine, *name;
	size_t i, k, uefi = 0, kernel = 0;

	cr_assert_eq(json_array_size(engines), 2);
	json_array_foreach(engines, i, engine) {
		json_array_foreach(json_object_get(engine, "capabilities"), k, name) {
			kernel += strcmp(json_string_value(name), "kernel") == 0;
			uefi += strcmp(json_string_value(name), "uefi") == 0;
		}
	}
	cr_assert_eq(kernel, 2);
	cr_assert_eq(uefi, 1);
}

static void body_info(struct trial *t)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_json json_t *info = NULL;
	const json_t *qemu;

	cr_assert_eq(host_describe(&t->vmd, &info, &err), 0, "%s", err.message);
	cr_assert_str_eq(jsonx_str(info, "arch", ""), t->vmd.host.arch);
	cr_assert_gt(jsonx_int(json_object_get(info, "memory"), "available_bytes", 0), 1 << 20);
	expect_capabilities(json_object_get(info, "engines"));
	qemu = json_array_get(json_object_get(info, "qemu"), 0);
	if (!qemu)
		cr_skip_test("no QEMU is installed");
	cr_assert_geq(atoi(jsonx_str(qemu, "version", "")), 7);
	cr_assert_gt(json_array_size(json_object_get(qemu, "machines")), 3);
}

Test(host, host_info)
{
	struct trial t = { .body = body_info };

	setenv("VMD_KVM_PROBE", TEST_BUILD_DIR "/vmd-kvm-probe", 1);
	run(&t);
}
