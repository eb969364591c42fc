/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/unit/shim-fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/strbuf.h"

#define WAIT_MS 20000

static void on_exit_cb(void *userdata, const struct shim_exit *exit)
{
	struct fx *fx = userdata;

	cr_assert_not(fx->exited, "told twice");
	fx->exited = true;
	fx->exit = *exit;
	waitq_wake_all(&fx->q);
}

static void on_lost_cb(void *userdata, const struct shim_exit *exit)
{
	struct fx *fx = userdata;

	fx->lost = true;
	fx->exit = *exit;
	waitq_wake_all(&fx->q);
}

static void on_helper_cb(void *userdata, const struct shim_exit *exit)
{
	struct fx *fx = userdata;

	fx->helper_exited = true;
	fx->helper_exit = *exit;
	waitq_wake_all(&fx->q);
}

static void on_ready_cb(void *userdata, enum shim_ready_level level, uint64_t time_us,
                        uint64_t since_start_us)
{
	struct fx *fx = userdata;

	cr_assert_not(fx->ready[level], "told twice");
	cr_assert_gt(time_us, 1600000000000000u);
	fx->ready[level] = true;
	fx->ready_us[level] = since_start_us;
	waitq_wake_all(&fx->q);
}

const struct shim_ops fx_ops = {
	.on_exit = on_exit_cb,
	.on_ready = on_ready_cb,
	.on_helper_exit = on_helper_cb,
	.on_lost = on_lost_cb,
};

static void init_launch(struct launch *l)
{
	memset(l, 0, sizeof(*l));
	l->qmp_fd = l->console_fd = -EBADF;
}

static void close_launch(struct launch *l)
{
	fd_close_many(l->fds, l->n_fds);
	cleanup_close_p(&l->qmp_fd);
	cleanup_close_p(&l->console_fd);
	for (size_t i = 0; i < l->n_procs; i++) {
		free(l->procs[i].name);
		json_decref(l->procs[i].argv);
	}
	init_launch(l);
}

static void init(struct fx *fx)
{
	static char shim[4096 + 16];
	char cwd[4096];

	if (!getenv("VMD_SHIM")) {
		cr_assert_not_null(getcwd(cwd, sizeof(cwd)));
		snprintf(shim, sizeof(shim), "%s/vmd-shim", cwd);
		setenv("VMD_SHIM", shim, 1);
	}
	memset(fx, 0, sizeof(*fx));
	waitq_init(&fx->q);
	init_launch(&fx->launch);
	strcpy(fx->dir, "/tmp/vmd-test-shim-XXXXXX");
	cr_assert_not_null(mkdtemp(fx->dir));
	snprintf(fx->run, sizeof(fx->run), "%s/run", fx->dir);
	snprintf(fx->state, sizeof(fx->state), "%s/state", fx->dir);
	cr_assert_eq(mkdir(fx->run, 0700), 0);
	cr_assert_eq(mkdir(fx->state, 0700), 0);
	fx->params = (struct shim_params){
		.uuid = FX_UUID,
		.name = "test",
		.runtime_dir = fx->run,
		.state_dir = fx->state,
		.lock_fd = -EBADF,
	};
}

struct run {
	void (*fn)(struct fx *fx);
	struct fx fx;
	struct ev_loop *loop;
};

static void run_fiber(void *arg)
{
	struct run *run = arg;

	run->fn(&run->fx);
	fx_kill(&run->fx);
	ev_break(run->loop, EVBREAK_ALL);
}

void fx_run(void (*fn)(struct fx *fx))
{
	static struct run run;

	run.fn = fn;
	init(&run.fx);
	run.loop = ev_loop_new(EVFLAG_AUTO);
	fiber_init(run.loop);
	cr_assert_eq(fiber_start("test", run_fiber, &run), 0);
	ev_run(run.loop, 0);
	ev_run(run.loop, EVRUN_NOWAIT); /* reaps the shim, when it is quick */
	shim_leave_all(run.loop);
	close_launch(&run.fx.launch);
	fiber_deinit();
	ev_loop_destroy(run.loop);
	(void)fs_remove_tree(AT_FDCWD, run.fx.dir);
}

static int add_fd(struct fx *fx, struct launch_proc *p, int fd, int target)
{
	struct launch *l = &fx->launch;

	p->fds[p->n_fds].source = (int)l->n_fds;
	p->fds[p->n_fds++].target = target;
	l->fds[l->n_fds++] = fd;
	return fd;
}

void fx_add(struct fx *fx, const char *name, const char *script, bool vital)
{
	struct launch_proc *p = &fx->launch.procs[fx->launch.n_procs++];

	p->name = strdup(name);
	p->argv = json_pack("[s,s,s]", "/bin/sh", "-c", script);
	p->vital = vital;
}

void fx_engine(struct fx *fx, const char *script, bool qmp)
{
	struct launch_proc *p = &fx->launch.procs[fx->launch.n_procs];
	int pair[2];

	fx_add(fx, "engine", script, false);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fx->launch.console_fd = pair[0];
	add_fd(fx, p, pair[1], 3);
	if (!qmp)
		return;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fx->launch.qmp_fd = pair[0];
	add_fd(fx, p, pair[1], 4);
}

int fx_start(struct fx *fx, struct vmd_error *err)
{
	int r = shim_start(&fx->params, &fx->launch, &fx_ops, fx, &fx->shim, err);

	close_launch(&fx->launch);
	return r;
}

void fx_must_start(struct fx *fx, const char *script)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int r;

	fx_engine(fx, script, false);
	r = fx_start(fx, &err);
	cr_assert_eq(r, 0, "%s", err.message);
}

void fx_wait(struct fx *fx, const bool *flag)
{
	while (!*flag)
		cr_assert_eq(waitq_wait(&fx->q, WAIT_MS), 0, "nothing came in time");
}

void fx_release(struct fx *fx)
{
	cleanup_close int pidfd = -EBADF;
	struct vmd_error err = VMD_ERROR_INIT;
	pid_t pid = fx_shim_pid(fx);
	int r;

	pidfd = proc_open_identity(pid, proc_start_time(pid));
	cr_assert_geq(pidfd, 0);
	r = shim_release(fx->shim, &err);
	cr_assert_eq(r, 0, "%s", err.message);
	shim_free(TAKE_PTR(fx->shim));
	cr_assert_eq(fiber_wait_fd(pidfd, EV_READ, WAIT_MS), 0, "vmd-shim did not end");
}

void fx_kill(struct fx *fx)
{
	pid_t pid = fx_shim_pid(fx);
	uint64_t start = pid > 0 ? proc_start_time(pid) : 0;
	cleanup_close int pidfd = start ? proc_open_identity(pid, start) : -EBADF;

	shim_free(TAKE_PTR(fx->shim));
	if (pidfd >= 0 && proc_signal(pidfd, SIGKILL) == 0)
		(void)!fiber_wait_fd(pidfd, EV_READ, WAIT_MS);
}

char *fx_read(int fd, const char *until, size_t *ret_len)
{
	size_t want = until ? strlen(until) : 0;
	struct strbuf s = STRBUF_INIT;

	(void)fd_set_nonblock(fd, 1);
	for (;;) {
		char *p = strbuf_reserve(&s, 65536);
		ssize_t n = read(fd, p, 65536);

		if (n == 0)
			break;
		if (n < 0) {
			cr_assert_eq(errno, EAGAIN, "%s", strerror(errno));
			cr_assert_eq(fiber_wait_fd(fd, EV_READ, WAIT_MS), 0, "no more after '%s'",
			             s.data);
			continue;
		}
		strbuf_grew(&s, (size_t)n);
		if (want && s.len >= want && memcmp(s.data + s.len - want, until, want) == 0)
			break;
	}
	if (ret_len)
		*ret_len = s.len;
	return strbuf_steal(&s);
}

char *fx_file(const char *dir, const char *name)
{
	cleanup_close int fd = fs_open_dir(AT_FDCWD, dir);
	char *data = NULL;

	return fd >= 0 && fs_read_file(fd, name, 64 << 20, &data, NULL) == 0 ? data : NULL;
}

char *fx_file_with(const char *dir, const char *name, const char *text)
{
	for (int i = 0; i < WAIT_MS / 5; i++) {
		char *data = fx_file(dir, name);

		if (data && strstr(data, text))
			return data;
		free(data);
		(void)fiber_sleep_ms(5);
	}
	cr_assert_fail("'%s' never held '%s'", name, text);
	return NULL;
}

pid_t fx_shim_pid(struct fx *fx)
{
	cleanup_free char *text = fx_file(fx->run, "shim.json");
	cleanup_json json_t *v = text ? jsonx_parse(text, strlen(text), 4, NULL) : NULL;

	return (pid_t)jsonx_int(v, "shim_pid", -1);
}

bool fx_alive(pid_t pid)
{
	cleanup_free char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	return fs_read_file(AT_FDCWD, path, 4096, &text, NULL) == 0 &&
	       strncmp(strrchr(text, ')'), ") Z", 3) != 0;
}
