/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/scene.h"

#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "tests/lib/engine.h"
#include "tests/lib/procs.h"

/*
 * Criterion prints what a fixture's end finds wrong and counts the test as passed. Most of what is
 * left behind is found there, so the program fails for it.
 */
static size_t failed_assertions;

ReportHook(ASSERT)(struct criterion_assert_stats *stats)
{
	failed_assertions += !stats->passed;
}

ReportHook(POST_ALL)(struct criterion_global_stats *stats)
{
	if (!failed_assertions || stats->tests_failed)
		return;
	fprintf(stderr, "a test passed, but what came after it did not\n");
	stats->tests_failed++;
}

/* What tells afterwards how a test failed, for whoever asks for it: what the guests wrote, vmd's
 * log and its events. */
static void keep_logs(struct scene *s)
{
	static const char *const kept[] = { "state/guests/*/console.log*", "vmd.log",
		                            "state/events/*" };
	const char *to = getenv("VMD_TEST_LOGS");
	glob_t found = { 0 };
	char path[512];

	if (!to)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		snprintf(path, sizeof(path), "%s/%s", s->root, kept[i]);
		glob(path, i ? GLOB_APPEND : 0, NULL, &found);
	}
	for (size_t i = 0; i < found.gl_pathc; i++) {
		cleanup_free char *text = NULL;
		size_t len;

		snprintf(path, sizeof(path), "%.200s/%.100s-%.100s-%zu-%.60s", to,
		         criterion_current_suite->name, criterion_current_test->name, i,
		         strrchr(found.gl_pathv[i], '/') + 1);
		if (fs_read_file(AT_FDCWD, found.gl_pathv[i], 16 << 20, &text, &len) == 0)
			cr_assert_eq(fs_write_atomic(AT_FDCWD, path, text, len, 0), 0);
	}
	globfree(&found);
}

/* Waits for the test's end, however it comes, and then removes everything of the scene. */
static void run_guard(struct scene *s, int pipe_fd)
{
	char byte;

	setsid(); /* the test's process group may be killed as a whole */
	prctl(PR_SET_NAME, "scene-guard");
	while (read(pipe_fd, &byte, 1) < 0 && errno == EINTR)
		continue;
	procs_kill_all(s->root);
	keep_logs(s);
	if (!getenv("VMD_TEST_KEEP"))
		fs_remove_tree(AT_FDCWD, s->root);
	_exit(0);
}

static void start_guard(struct scene *s)
{
	int fds[2];
	pid_t pid;

	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		/* The runner waits for the end of its pipes; the guard must not hold them. */
		for (int fd = 0; fd < 1024; fd++)
			if (fd != fds[0] && fd != null)
				close(fd);
		run_guard(s, fds[0]);
	}
	close(fds[0]);
	s->guard_pipe = fds[1];
}

void scene_init(struct scene *s)
{
	char path[160];

	memset(s, 0, sizeof(*s));
	s->pidfd = -1;
	s->client.fd = s->notify = -1;
	snprintf(s->root, sizeof(s->root), "/tmp/vmd-it-XXXXXX");
	cr_assert(mkdtemp(s->root));
	snprintf(s->state_dir, sizeof(s->state_dir), "%s/state", s->root);
	snprintf(s->runtime_dir, sizeof(s->runtime_dir), "%s/run", s->root);
	snprintf(s->socket, sizeof(s->socket), "%s/vmd.sock", s->runtime_dir);
	snprintf(s->ro_socket, sizeof(s->ro_socket), "%s/vmd-ro.sock", s->runtime_dir);
	snprintf(s->log_file, sizeof(s->log_file), "%s/vmd.log", s->root);
	snprintf(s->config_file, sizeof(s->config_file), "%s/config/vmd/vmd.conf", s->root);
	snprintf(path, sizeof(path), "%s/config/vmd", s->root);
	cr_assert_eq(fs_mkdir_p(path, 0755), 0);
	start_guard(s);
}

void scene_config(struct scene *s, const char *text)
{
	cr_assert_eq(fs_write_atomic(AT_FDCWD, s->config_file, text, strlen(text), 0), 0);
}

const char *scene_path(struct scene *s, const char *format, ...)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % 4];
	va_list args;
	int n = snprintf(path, sizeof(paths[0]), "%s/", s->root);

	va_start(args, format);
	vsnprintf(path + n, sizeof(paths[0]) - (size_t)n, format, args);
	va_end(args);
	return path;
}

const char *scene_disk(struct scene *s, const char *name, size_t bytes)
{
	const char *path = scene_path(s, "%s", name);
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	return path;
}

/* A datagram socket for vmd's READY=1; its path goes into *ret_env. */
static int notify_socket(struct scene *s, char *ret_env, size_t len)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/notify.sock", s->root);
	unlink(addr.sun_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	snprintf(ret_env, len, "NOTIFY_SOCKET=%s", addr.sun_path);
	return fd;
}

static const char *prober(const struct scene *s)
{
	const char *given = getenv("VMD_TEST_PROBE"), *proof = test_build("tests/kvm-proof");

	if (s->kvm_probe)
		return s->kvm_probe;
	if (given)
		return given;
	return access(proof, X_OK) == 0 ? proof : test_build("vmd-kvm-probe");
}

/* vmd's environment: ours, with what the scene wants instead. Static storage. */
static char *const *make_environment(struct scene *s, const char *notify_env)
{
	static const char *env[512];
	static char config[128], root[96], path[4200], probe[544], shim[544], vmm[544];
	size_t n = 0;

	snprintf(config, sizeof(config), "XDG_CONFIG_HOME=%s/config", s->root);
	snprintf(root, sizeof(root), "VMD_TEST_ROOT=%s", s->root);
	snprintf(path, sizeof(path), "PATH=%s", s->program_path ? s->program_path : "");
	for (char **e = environ; *e && n < 500; e++)
		if (!(s->program_path && strncmp(*e, "PATH=", 5) == 0) &&
		    strncmp(*e, "XDG_CONFIG_HOME=", 16) != 0)
			env[n++] = *e;
	env[n++] = config;
	env[n++] = root;
	snprintf(shim, sizeof(shim), "VMD_SHIM=%s", test_build("vmd-shim"));
	env[n++] = shim;
	snprintf(probe, sizeof(probe), "VMD_KVM_PROBE=%s", prober(s));
	env[n++] = probe;
	snprintf(vmm, sizeof(vmm), "VMD_VMM=%s", s->vmm ? s->vmm : test_build("vmd-vmm"));
	env[n++] = vmm;
	if (s->program_path)
		env[n++] = path;
	if (notify_env)
		env[n++] = notify_env;
	env[n] = NULL;
	return (char *const *)env;
}

static void spawn_vmd(struct scene *s, const char *notify_env)
{
	const char *argv[] = { test_build("vmd"), "--state-dir", s->state_dir, "--runtime-dir",
		               s->runtime_dir,    "--socket",    s->socket,    "--config",
		               s->config_file,    "--session",   NULL };
	cleanup_close int log = open(s->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	struct spawn_fd fds[] = { { .source = log, .target = 1 }, { .source = log, .target = 2 } };
	struct spawn_spec spec = { .path = argv[0],
		                   .argv = (char *const *)argv,
		                   .envp = make_environment(s, notify_env),
		                   .fds = fds,
		                   .n_fds = 2,
		                   .null_stdio = true };
	struct vmd_error err = VMD_ERROR_INIT;

	if (s->system)
		argv[9] = NULL;
	cr_assert_eq(proc_spawn(&spec, &s->vmd, &s->pidfd, &err), 0, "%s", err.message);
}

static const char *log_text(struct scene *s)
{
	static char text[16384];
	cleanup_close int fd = open(s->log_file, O_RDONLY | O_CLOEXEC);
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	ssize_t n;

	if (fd >= 0)
		lseek(fd, size > 16000 ? size - 16000 : 0, SEEK_SET);
	n = fd >= 0 ? fd_read_all(fd, text, sizeof(text) - 1) : 0;
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* Waits for vmd's end. */
static struct proc_status wait_vmd(struct scene *s, int timeout_ms)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	struct proc_status status = { 0 };

	cr_assert_eq(poll(&p, 1, patient(timeout_ms)), 1, "vmd did not end; its log:\n%s",
	             log_text(s));
	cr_assert_eq(proc_reap(s->pidfd, &status), 1);
	close(s->pidfd);
	s->pidfd = -1;
	s->vmd = 0;
	return status;
}

const char *scene_notified(struct scene *s, const char *text, int timeout_ms)
{
	uint64_t deadline = now_monotonic_us() + (uint64_t)patient(timeout_ms) * 1000;
	static char message[512];

	for (;;) {
		struct pollfd p[2] = { { .fd = s->notify, .events = POLLIN },
			               { .fd = s->pidfd, .events = POLLIN } };
		uint64_t now = now_monotonic_us();
		ssize_t n;

		cr_assert(now < deadline && poll(p, 2, (int)((deadline - now) / 1000)) > 0,
		          "vmd did not tell '%s' in time; its log:\n%s", text, log_text(s));
		cr_assert(p[0].revents & POLLIN, "vmd ended without '%s'; its log:\n%s", text,
		          log_text(s));
		n = recv(s->notify, message, sizeof(message) - 1, 0);
		message[n > 0 ? n : 0] = '\0';
		if (strstr(message, text))
			return message;
	}
}

void scene_start(struct scene *s)
{
	char env[160];

	if (s->notify >= 0)
		close(s->notify);
	s->notify = notify_socket(s, env, sizeof(env));
	spawn_vmd(s, env);
	scene_notified(s, "READY=1", 60000);
	cr_assert(client_open(&s->client, s->socket), "nobody listens at %s", s->socket);
}

void scene_setup(struct scene *s)
{
	scene_init(s);
	scene_start(s);
	if (engine_is("kvm"))
		engine_expect_available(&s->client);
}

int scene_start_refused(struct scene *s, const char **output)
{
	struct scene other = *s;
	struct proc_status status;
	char log_file[sizeof(s->log_file)];

	snprintf(log_file, sizeof(log_file), "%s/refused.log", s->root);
	unlink(log_file);
	memcpy(other.log_file, log_file, sizeof(log_file));
	spawn_vmd(&other, NULL);
	status = wait_vmd(&other, 30000);
	cr_assert(status.exited, "vmd died of signal %d", status.code);
	*output = log_text(&other);
	return status.code;
}

void scene_stop(struct scene *s)
{
	struct proc_status status;

	client_close(&s->client);
	cr_assert_eq(proc_signal(s->pidfd, SIGTERM), 0);
	status = wait_vmd(s, 60000);
	cr_assert(status.exited && status.code == 0, "vmd ended with %s %d; its log:\n%s",
	          status.exited ? "status" : "signal", status.code, log_text(s));
}

void scene_kill_daemon(struct scene *s)
{
	client_close(&s->client);
	cr_assert_eq(proc_signal(s->pidfd, SIGKILL), 0);
	wait_vmd(s, 10000);
}

size_t scene_count_processes(struct scene *s)
{
	pid_t pids[512];
	size_t n = procs_of(s->root, pids, 512), others = 0;

	for (size_t i = 0; i < n; i++)
		others += pids[i] != s->vmd;
	return others;
}

void scene_wait_processes(struct scene *s, size_t count, int timeout_ms)
{
	uint64_t deadline = now_monotonic_us() + (uint64_t)patient(timeout_ms) * 1000;
	size_t n;

	while ((n = scene_count_processes(s)) != count) {
		cr_assert(now_monotonic_us() < deadline, "%zu processes where %zu were due", n,
		          count);
		poll(NULL, 0, 20);
	}
}

pid_t scene_find_process(struct scene *s, const char *comm)
{
	pid_t pids[512];
	size_t n = procs_of(s->root, pids, 512);

	for (size_t i = 0; i < n; i++) {
		cleanup_free char *text = NULL;
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pids[i]);
		if (pids[i] != s->vmd && fs_read_file(AT_FDCWD, path, 64, &text, NULL) == 0 &&
		    strncmp(text, comm, strlen(comm)) == 0)
			return pids[i];
	}
	return 0;
}

/* Fails the test when the directory holds anything, and says what. */
static void expect_empty(const char *dir)
{
	cleanup_dir DIR *d = opendir(dir);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		cr_assert(strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0,
		          "left behind: %s/%s", dir, entry->d_name);
}

static void delete_all_guests(struct scene *s)
{
	json_t *list = call(&s->client, "vm.list", NULL), *vm;
	size_t i;

	json_array_foreach(member(list, "vms"), i, vm) {
		const char *uuid = member_str(vm, "uuid");
		json_t *info = call(&s->client, "vm.get", "{s:s}", "vm", uuid);

		call_ok(&s->client, "vm.update", "{s:s, s:{s:{s:b, s:b}}}", "vm", uuid, "set",
		        "protect", "delete", 0, "stop", 0);
		if (json_is_integer(member(info, "pid")))
			call_ok(&s->client, "vm.kill", "{s:s}", "vm", uuid);
		call_ok(&s->client, "vm.delete", "{s:s}", "vm", uuid);
		json_decref(info);
	}
	json_decref(list);
}

void scene_teardown(struct scene *s)
{
	if (!s->root[0])
		return;
	keep_logs(s);
	if (!s->vmd)
		scene_start(s);
	delete_all_guests(s);
	scene_wait_processes(s, 0, 20000);
	expect_empty(scene_path(s, "state/guests"));
	expect_empty(scene_path(s, "state/snapshots"));
	expect_empty(scene_path(s, "run/guests"));
	scene_stop(s);
	scene_wait_processes(s, 0, 1000);
	cr_assert_lt(access(s->socket, F_OK), 0, "the socket is left behind");
	(void)umount2(s->state_dir, MNT_DETACH); /* of tests with a file system of their own */
	cr_assert_eq(fs_remove_tree(AT_FDCWD, s->root), 0);
	close(s->notify);
	close(s->guard_pipe);
}
