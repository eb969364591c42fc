/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* The real vmd-shim and its client: starting, ending, losing, finding again. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fsutil.h"
#include "tests/unit/shim-fixture.h"

TestSuite(shim, .timeout = 60);

static void exit_status(struct fx *fx)
{
	struct shim_exit left;

	fx_must_start(fx, "read x <&3; echo first >&2; echo 'last words' >&2; exit 7");
	cr_assert_null(shim_exited(fx->shim));
	cr_assert_gt(shim_pid(fx->shim), 0);
	cr_assert_geq(shim_pidfd(fx->shim), 0);
	cr_assert_eq(shim_take_qmp_fd(fx->shim), -EBADF);

	struct vmd_error err = VMD_ERROR_INIT;
	int fd;

	cr_assert_eq(shim_release(fx->shim, &err), -ESTALE);
	cr_assert_eq(err.kind, ERROR_WRONG_STATE);
	cr_assert_eq(shim_console(fx->shim, false, true, 0, &fd, NULL), 0);
	cr_assert_eq(write(fd, "go\n", 3), 3);
	fx_wait(fx, &fx->exited);
	close(fd);
	cr_assert(fx->exit.known);
	cr_assert(fx->exit.exited);
	cr_assert_eq(fx->exit.code, 7);
	cr_assert_str_eq(fx->exit.process, "engine");
	cr_assert_str_eq(fx->exit.stderr_tail, "first\nlast words\n");
	cr_assert_eq(shim_pidfd(fx->shim), -EBADF);
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), -ESRCH);
	cr_assert_not_null(shim_exited(fx->shim));
	cr_assert_eq(shim_last_exit(fx->run, &left), 0);
	cr_assert_eq(left.code, 7);
	cr_assert_str_eq(left.stderr_tail, "first\nlast words\n");
	fx_release(fx);
	cr_assert_eq(shim_last_exit(fx->run, &left), -ENOENT);
	cr_assert_null(fx_file(fx->run, "shim.json"));
	cr_assert_eq(access(fx->run, F_OK), 0);
}

Test(shim, exit_status_and_release)
{
	fx_run(exit_status);
}

static void by_signal(struct fx *fx)
{
	char text[256];

	fx_must_start(fx, "exec sleep 1000");
	cr_assert_eq(shim_signal(fx->shim, SIGTERM), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_not(fx->exit.exited);
	cr_assert_eq(fx->exit.signal, SIGTERM);
	cr_assert_eq(fx->exit.code, 0);
	cr_assert_not(fx->exit.core);
	cr_assert_str_eq(shim_exit_text(&fx->exit, text, sizeof(text)),
	                 "killed by signal 15 (Terminated)");
	fx_release(fx);
}

Test(shim, killed_by_signal)
{
	fx_run(by_signal);
}

static void core(struct fx *fx)
{
	char pattern[256] = "";
	struct rlimit limit = { 1 << 20, 1 << 20 };
	int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY);

#ifdef VMD_SANITIZERS
	cr_skip_test("sanitizers switch core dumps off");
#endif

	cr_assert_geq(read(fd, pattern, sizeof(pattern) - 1), 0);
	close(fd);
	if (strchr(pattern, '/') || setrlimit(RLIMIT_CORE, &limit) < 0)
		cr_skip_test("core files go to a pattern with a path or a program here");
	fx_must_start(fx, "ulimit -c unlimited 2>/dev/null; mkdir /tmp/vmd-core-$$ && cd "
	                  "/tmp/vmd-core-$$ && echo ok >&2; read x <&3");
	free(fx_file_with(fx->state, "engine.log", "ok\n"));
	cr_assert_eq(shim_signal(fx->shim, SIGQUIT), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(fx->exit.signal, SIGQUIT);
	cr_assert(fx->exit.core);

	char dir[64];

	snprintf(dir, sizeof(dir), "/tmp/vmd-core-%d", shim_pid(fx->shim));
	(void)fs_remove_tree(AT_FDCWD, dir);
	fx_release(fx);
}

Test(shim, core_flag)
{
	fx_run(core);
}

static void no_program(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;

	fx_add(fx, "passt0", "sleep 1000", false);
	fx_engine(fx, "", false);
	json_array_set_new(fx->launch.procs[1].argv, 0, json_string("/nonexistent/qemu"));
	cr_assert_eq(fx_start(fx, &err), -EREMOTEIO);
	cr_assert_eq(err.kind, ERROR_ENGINE_FAILED);
	cr_assert_not_null(strstr(err.message, "/nonexistent/qemu"), "%s", err.message);
	cr_assert_not_null(strstr(err.message, "spawn engine"), "%s", err.message);
	cr_assert_eq(access(fx->run, F_OK), 0);
	cr_assert_null(fx_file(fx->run, "shim.json"));
	cr_assert_eq(rmdir(fx->run), 0, "something was left behind");
}

/* "not_found" would say that there is no such guest. */
static void no_shim(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;

	fx_engine(fx, "", false);
	setenv("VMD_SHIM", "/nonexistent/vmd-shim", 1);
	cr_assert_lt(fx_start(fx, &err), 0);
	cr_assert_eq(err.kind, ERROR_ENGINE_FAILED);
	cr_assert_not_null(strstr(err.message, "/nonexistent/vmd-shim"), "%s", err.message);
}

Test(shim, missing_shim_is_no_missing_guest)
{
	fx_run(no_shim);
}

Test(shim, missing_engine_is_told_by_name_and_step)
{
	fx_run(no_program);
}

static void early_end(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;

	fx_engine(fx, "echo 'qemu-system-x86_64: -drive: no such format' >&2; exit 1", true);
	cr_assert_eq(fx_start(fx, &err), -EREMOTEIO);
	cr_assert_eq(err.kind, ERROR_ENGINE_FAILED);
	cr_assert_str_eq(err.message, "the engine ended while starting: exited with status 1: "
	                              "qemu-system-x86_64: -drive: no such format");
	cr_assert_eq(rmdir(fx->run), 0, "something was left behind");
}

Test(shim, engine_that_ends_before_qmp)
{
	fx_run(early_end);
}

/* As engine a real QEMU: the argv after the program, QMP on descriptor 4. */
static void qemu(struct fx *fx, const char *option, const char *value)
{
	json_t *argv;

	if (access("/usr/bin/qemu-system-x86_64", X_OK) < 0)
		cr_skip_test("qemu-system-x86_64 is not installed");
	fx_engine(fx, "", true);
	argv = json_pack("[s,s,s,s,s,s,s,s,s,s,s,s]", "/usr/bin/qemu-system-x86_64", "-nodefaults",
	                 "-no-user-config", "-display", "none", "-M", "none", "-chardev",
	                 "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control", "-S");
	if (option) {
		json_array_append_new(argv, json_string(option));
		json_array_append_new(argv, json_string(value));
	}
	json_decref(fx->launch.procs[0].argv);
	fx->launch.procs[0].argv = argv;
}

static void real_qemu(struct fx *fx)
{
	cleanup_close int fd = -EBADF;
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_free char *text = NULL;

	qemu(fx, NULL, NULL);
	cr_assert_eq(fx_start(fx, &err), 0, "%s", err.message);
	fd = shim_take_qmp_fd(fx->shim);
	text = fx_read(fd, "\n", NULL);
	cr_assert_not_null(strstr(text, "\"QMP\""), "%s", text);
	cr_assert_gt(dprintf(fd, "%s", "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}"),
	             0);
	fx_wait(fx, &fx->exited);
	cr_assert(fx->exit.exited);
	cr_assert_eq(fx->exit.code, 0);
	/* The guest's last words on QMP are still there for a vmd that comes now. */
	shim_free(TAKE_PTR(fx->shim));
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0);
	cleanup_close_p(&fd);
	fd = shim_take_qmp_fd(fx->shim);
	cr_assert_geq(fd, 0);
	free(TAKE_PTR(text));
	text = fx_read(fd, NULL, NULL);
	cr_assert_not_null(strstr(text, "SHUTDOWN"), "%s", text);
	fx_release(fx);
}

Test(shim, real_qemu_and_its_last_event)
{
	fx_run(real_qemu);
}

static void qemu_error(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;

	qemu(fx, "-drive", "file=/nonexistent/disk,format=raw,if=none");
	cr_assert_eq(fx_start(fx, &err), -EREMOTEIO);
	cr_assert_not_null(strstr(err.message, "exited with status 1: qemu-system-x86_64: -drive "),
	                   "%s", err.message);
	cr_assert_not_null(strstr(err.message, "/nonexistent/disk"), "%s", err.message);
}

Test(shim, real_qemu_tells_why_it_failed)
{
	fx_run(qemu_error);
}

static void silent(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;

	fx->params.timeout_ms = 300;
	fx_engine(fx, "exec sleep 1000", true);
	cr_assert_eq(fx_start(fx, &err), -ETIMEDOUT);
	cr_assert_eq(err.kind, ERROR_TIMEOUT);
	cr_assert_eq(rmdir(fx->run), 0, "something was left behind");
}

Test(shim, silent_engine_is_ended_at_the_deadline)
{
	fx_run(silent);
}

static void qmp(struct fx *fx)
{
	cleanup_close int fd = -EBADF, again = -EBADF;
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_free char *text = NULL;
	char buf[16];

	fx_engine(fx, "echo hello >&4; head -c 5 <&4 >&4; exec sleep 1000", true);
	cr_assert_eq(fx_start(fx, &err), 0, "%s", err.message);
	fd = shim_take_qmp_fd(fx->shim);
	cr_assert_geq(fd, 0);
	cr_assert_eq(shim_take_qmp_fd(fx->shim), -EBADF);
	cr_assert_eq(read(fd, buf, sizeof(buf)), 6);
	cr_assert_eq(write(fd, "abcd\n", 5), 5);
	/* vmd dies and comes back: the answer waits on the other copy. */
	cleanup_close_p(&fd);
	shim_free(TAKE_PTR(fx->shim));
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0);
	again = shim_take_qmp_fd(fx->shim);
	cr_assert_geq(again, 0);
	text = fx_read(again, "abcd\n", NULL);
	cr_assert_str_eq(text, "abcd\n");
}

Test(shim, qmp_survives_vmd)
{
	fx_run(qmp);
}

static void away(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_close int pidfd = -EBADF, fd = -EBADF;
	cleanup_free char *text = NULL;

	fx_must_start(fx, "echo 'Linux version 6.1' >&3; read x <&3; echo bye >&2; exit 3");
	fx_wait(fx, &fx->ready[SHIM_READY_KERNEL]);
	pidfd = fcntl(shim_pidfd(fx->shim), F_DUPFD_CLOEXEC, 0);
	cr_assert_eq(shim_console(fx->shim, false, true, 0, &fd, NULL), 0);
	shim_free(TAKE_PTR(fx->shim));
	/* A console outlives vmd; the guest ends with nobody there. */
	cr_assert_eq(write(fd, "x\n", 2), 2);
	text = fx_read(fd, NULL, NULL);
	cr_assert_str_eq(text, "Linux version 6.1\n");
	cr_assert_eq(fiber_wait_fd(pidfd, EV_READ, 10000), 0);
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0, "%s",
	             err.message);
	cr_assert_not_null(shim_exited(fx->shim));
	cr_assert_eq(shim_exited(fx->shim)->code, 3);
	cr_assert_str_eq(shim_exited(fx->shim)->stderr_tail, "bye\n");
	cr_assert_gt(shim_ready_us(fx->shim, SHIM_READY_KERNEL), 0);
	cr_assert_eq(shim_ready_us(fx->shim, SHIM_READY_INIT), 0);
	cr_assert_eq(shim_console_bytes(fx->shim), strlen("Linux version 6.1\n"));
	cr_assert_not(fx->exited, "no callback for what attach has told");
	fx_release(fx);
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), -ENOENT);
}

Test(shim, exit_while_vmd_was_away)
{
	fx_run(away);
}

static void adopt(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	pid_t pid;

	fx_must_start(fx, "exec sleep 1000");
	pid = shim_pid(fx->shim);
	shim_free(TAKE_PTR(fx->shim));
	for (int i = 0; i < 20; i++) {
		cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0,
		             "%s", err.message);
		cr_assert_eq(shim_pid(fx->shim), pid);
		if (i < 19)
			shim_free(TAKE_PTR(fx->shim));
	}
	cr_assert_eq(shim_attach(fx->run, "00000000-2222-4333-8444-555555555555", 5000, &fx_ops, fx,
	                         &fx->shim, &err),
	             -EREMOTEIO, "another guest's socket must be recognised");
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(fx->exit.signal, SIGKILL);
	fx_release(fx);
}

Test(shim, adopt_again_and_again)
{
	fx_run(adopt);
}

static void killed_shim(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct shim *none = NULL;
	char text[256];
	pid_t engine, helper_pid;
	cleanup_free char *helper = NULL;

	fx_add(fx, "swtpm", "echo $$ >&2; exec sleep 1000", false);
	fx_must_start(fx, "exec sleep 1000");
	engine = shim_pid(fx->shim);
	helper = fx_file_with(fx->state, "engine.log", "\n");
	cr_assert_eq(sscanf(strstr(helper, "swtpm: "), "swtpm: %d", &helper_pid), 1);
	cr_assert_eq(kill(fx_shim_pid(fx), SIGKILL), 0);
	fx_wait(fx, &fx->lost);
	cr_assert_not(fx->exit.known);
	cr_assert_not(fx->exit.alive);
	cr_assert_not(fx_alive(engine), "the engine must die with its shim");
	cr_assert_str_eq(shim_exit_text(&fx->exit, text, sizeof(text)),
	                 "gone together with its shim; how it ended is not known");
	for (int i = 0; i < 200 && fx_alive(helper_pid); i++)
		(void)fiber_sleep_ms(10);
	cr_assert_not(fx_alive(helper_pid), "helpers must die with the shim");
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 1000, &fx_ops, fx, &none, &err), -ENOENT, "%s",
	             err.message);
	shim_free(TAKE_PTR(fx->shim));
	shim_forget(fx->run);
	cr_assert_eq(rmdir(fx->run), 0);
}

Test(shim, kill_9_of_the_shim)
{
	fx_run(killed_shim);
}

static void stopped_shim(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct shim *none = NULL;

	fx_must_start(fx, "exec sleep 1000");
	cr_assert_eq(kill(fx_shim_pid(fx), SIGSTOP), 0);
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 200, &fx_ops, fx, &none, &err), -ETIMEDOUT);
	cr_assert_eq(kill(fx_shim_pid(fx), SIGCONT), 0);
	cr_assert(fx_alive(shim_pid(fx->shim)), "silence must not end a guest");
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	/* The attempt that timed out had taken the notifications: hello brings them back. */
	shim_free(TAKE_PTR(fx->shim));
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0);
	if (!shim_exited(fx->shim))
		fx_wait(fx, &fx->exited);
	fx_release(fx);
}

Test(shim, silent_shim_is_unknown_not_stopped)
{
	fx_run(stopped_shim);
}

static void ignores_signals(struct fx *fx)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1 };

	fx_must_start(fx, "exec sleep 1000");
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		cr_assert_eq(kill(fx_shim_pid(fx), signals[i]), 0);
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_not(fx->lost);
	fx_release(fx);
}

Test(shim, ends_by_no_signal_but_kill)
{
	fx_run(ignores_signals);
}

static void helpers(struct fx *fx)
{
	fx_add(fx, "passt0", "echo oops >&2; exit 4", false);
	fx_add(fx, "swtpm", "trap '' TERM; echo deaf >&2; while :; do sleep 1; done", false);
	fx_must_start(fx, "read x <&3; exit 0");
	fx_wait(fx, &fx->helper_exited);
	cr_assert_str_eq(fx->helper_exit.process, "passt0");
	cr_assert_eq(fx->helper_exit.code, 4);
	cr_assert_str_eq(fx->helper_exit.stderr_tail, "oops\n");
	cr_assert_not(fx->exited, "it was not vital");
	fx->helper_exited = false;
	free(fx_file_with(fx->state, "engine.log", "deaf\n"));
	cr_assert_eq(shim_signal(fx->shim, SIGTERM), 0);
	fx_wait(fx, &fx->exited);
	fx_wait(fx, &fx->helper_exited);
	cr_assert_str_eq(fx->helper_exit.process, "swtpm");
	cr_assert_eq(fx->helper_exit.signal, SIGKILL, "one that ignores SIGTERM is killed");
	fx_release(fx);
}

/* What a jailed helper tries, each with a line if it can. */
static const char escapes[] =
	"cat /proc/self/fd/5 >&2; echo more >> /proc/self/fd/5 && echo appended >&2;"
	"{ echo x > /proc/self/fd/6; } 2>/dev/null && echo 'wrote what it may read' >&2;"
	"cat $0/secret 2>/dev/null >&2; { echo x > $0/new; } 2>/dev/null && echo 'made a file' >&2;"
	"cat /proc/self/status 2>/dev/null >&2; [ $(ulimit -c) = 0 ] && echo coreless >&2;"
	"trap '' TERM; sleep 1.5; echo graceful >&2";

static int given(struct fx *fx, const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fx->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, name, strlen(name)), (ssize_t)strlen(name));
	close(fd);
	return launch_add_fd(&fx->launch, open(path, flags | O_CLOEXEC));
}

static void jailed(struct fx *fx)
{
	bool landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
	struct launch_proc *proc = &fx->launch.procs[0];
	char *log;

	(void)given(fx, "secret", O_RDONLY); /* it does not get this one */
	fx_add(fx, "storage", escapes, false);
	json_array_append_new(proc->argv, json_string(fx->dir));
	proc->jail = true;
	proc->grace_ms = 10000;
	proc->fds[proc->n_fds].source = given(fx, "written-file", O_RDWR);
	proc->fds[proc->n_fds++].target = 5;
	proc->fds[proc->n_fds].source = given(fx, "read-file", O_RDONLY);
	proc->fds[proc->n_fds++].target = 6;
	fx_must_start(fx, "read x <&3; exit 0");
	free(fx_file_with(fx->state, "engine.log", "coreless"));
	cr_assert_eq(shim_signal(fx->shim, SIGTERM), 0);
	fx_wait(fx, &fx->exited);
	log = fx_file_with(fx->state, "engine.log", "graceful");
	cr_expect(strstr(log, "written-file") && strstr(log, "appended"), "%s", log);
	cr_expect_eq(!strstr(log, "no Landlock"), landlock, "%s", log);
	if (landlock) {
		cr_expect_not(strstr(log, "wrote what"), "%s", log);
		cr_expect_not(strstr(log, "secret"), "%s", log);
		cr_expect_not(strstr(log, "made a file"), "%s", log);
		cr_expect_not(strstr(log, "CapEff"), "%s", log);
	}
	free(log);
	fx_release(fx);
}

Test(shim, a_jailed_helper_has_its_descriptors_and_its_time)
{
	fx_run(jailed);
}

Test(shim, helpers_end_with_the_engine)
{
	fx_run(helpers);
}

static void vital(struct fx *fx)
{
	char text[256], script[256], go[128];

	/* It ends when the engine has started, however long that takes. */
	snprintf(go, sizeof(go), "%s/go", fx->state);
	snprintf(script, sizeof(script), "until [ -e %s ]; do sleep 0.01; done; exit 1", go);
	fx_add(fx, "swtpm", script, true);
	fx_must_start(fx, "exec sleep 1000");
	cr_assert_eq(mkdir(go, 0700), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(fx->exit.signal, SIGKILL);
	cr_assert_str_eq(fx->exit.cause, "helper 'swtpm' ended");
	cr_assert_str_eq(shim_exit_text(&fx->exit, text, sizeof(text)),
	                 "killed by signal 9 (Killed), because helper 'swtpm' ended");
	fx_release(fx);
}

Test(shim, vital_helper_takes_the_engine_along)
{
	fx_run(vital);
}

static void orphans(struct fx *fx)
{
	cleanup_free char *log = NULL;
	pid_t pid;

	/* A grandchild that outlives the engine, with the engine's stderr still open. */
	fx_must_start(fx, "(sleep 1000 & echo $! >&2); read x <&3");
	free(fx_file_with(fx->state, "engine.log", "\n"));
	cr_assert_eq(shim_signal(fx->shim, SIGTERM), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(sscanf(fx->exit.stderr_tail, "%d", &pid), 1);
	for (int i = 0; i < 200 && fx_alive(pid); i++)
		(void)fiber_sleep_ms(10);
	cr_assert_not(fx_alive(pid), "what the engine left must be killed");
	fx_release(fx);
}

Test(shim, orphans_of_the_engine)
{
	fx_run(orphans);
}

static void no_exit_file(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct shim_exit left;
	char moved[96];

	fx_must_start(fx, "read x <&3; exit 9");
	/* exit.json cannot be written: a directory is in its place. */
	snprintf(moved, sizeof(moved), "%s/exit.json", fx->run);
	cr_assert_eq(mkdir(moved, 0700), 0);
	cr_assert_eq(shim_signal(fx->shim, SIGTERM), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(fx->exit.signal, SIGTERM, "the record is kept in memory");
	cr_assert_neq(shim_last_exit(fx->run, &left), 0);
	cr_assert_eq(rmdir(moved), 0);
	shim_free(TAKE_PTR(fx->shim));
	cr_assert_eq(shim_attach(fx->run, FX_UUID, 5000, &fx_ops, fx, &fx->shim, &err), 0);
	cr_assert_eq(shim_exited(fx->shim)->signal, SIGTERM);
	cr_assert_eq(shim_last_exit(fx->run, &left), 0, "written when asked again");
	fx_release(fx);
}

Test(shim, exit_record_that_cannot_be_written)
{
	fx_run(no_exit_file);
}

static void lock(struct fx *fx)
{
	cleanup_close int fd = -EBADF, other = -EBADF;
	struct vmd_error err = VMD_ERROR_INIT;
	char path[96];

	snprintf(path, sizeof(path), "%s/lock", fx->run);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(fs_lock_ofd(fd, 1), 0);
	fx->params.lock_fd = fd;
	fx_must_start(fx, "exec sleep 1000");
	cleanup_close_p(&fd);
	other = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fs_lock_ofd(other, 1), -EAGAIN, "the engine holds it");
	/* A second shim of the same guest is refused, and the first one lives on. */
	struct shim *first = TAKE_PTR(fx->shim);

	fx->params.lock_fd = -EBADF;
	fx_engine(fx, "exit 0", false);
	cr_assert_eq(fx_start(fx, &err), -EREMOTEIO);
	cr_assert_not_null(strstr(err.message, "another vmd-shim runs this guest"), "%s",
	                   err.message);
	fx->shim = first;
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_eq(fs_lock_ofd(other, 1), 0, "and nobody after its end");
	fx_release(fx);
}

Test(shim, lock_is_the_engines_and_one_guest_runs_once)
{
	fx_run(lock);
}

static void chatter(struct fx *fx)
{
	struct stat st;
	char path[96];

	fx_must_start(fx, "i=0; while [ $i -lt 20000 ]; do echo \"line $i of many words here\"; "
	                  "i=$((i+1)); done >&2; printf 'end\\033[0m' >&2; exit 1");
	fx_wait(fx, &fx->exited);
	cr_assert_leq(strlen(fx->exit.stderr_tail), 4096);
	cr_assert_not_null(strstr(fx->exit.stderr_tail, "line 19999 of many words here\nend\n"),
	                   "not the end: %s", fx->exit.stderr_tail);
	fx_release(fx);
	snprintf(path, sizeof(path), "%s/engine.log", fx->state);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_leq(st.st_size, 270000, "the log must be bounded");
}

Test(shim, stderr_is_bounded)
{
	fx_run(chatter);
}
