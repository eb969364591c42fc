/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/guest-run.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/procutil.h"
#include "common/timeutil.h"
#include "daemon/definition.h"
#include "daemon/engine.h"
#include "daemon/qmp.h"
#include "daemon/ram.h"
#include "daemon/shim.h"
#include "daemon/vmd.h"

void guest_run_free(struct guest_run *run)
{
	if (!run)
		return;
	qmp_free(run->qmp);
	shim_free(run->shim);
	free(run->definition);
	free(run->exit);
	free(run);
}

/* Something lasting worth telling clients about, from QMP; the table is the whole translation. */
static const struct {
	const char *qmp, *event;
} forwarded[] = {
	{ "RESET", "vm.reset" },
	{ "POWERDOWN", "vm.powerdown" },
	{ "BLOCK_IO_ERROR", "vm.io_error" },
	{ "GUEST_PANICKED", "vm.panic" },
	{ "GUEST_CRASHLOADED", "vm.crashloaded" },
	{ "WATCHDOG", "vm.watchdog" },
	{ "BALLOON_CHANGE", "vm.balloon" },
	{ "VSERPORT_CHANGE", "vm.port" },
	{ "NIC_RX_FILTER_CHANGED", "vm.nic" },
	{ "BLOCK_JOB_COMPLETED", "vm.block_job" },
	{ "BLOCK_JOB_ERROR", "vm.block_job" },
	{ "MEMORY_FAILURE", "vm.memory_failure" },
};

/* STOP and RESUME that no operation of ours is behind: the guest paused itself (I/O error, panic).
 */
static void on_stop_or_resume(struct guest *g, bool stopped)
{
	if (g->state == GUEST_RUNNING && stopped && !g->lock.owner)
		(void)guest_apply(g, GUEST_EVENT_PAUSES,
		                  g->run->panicked ? "guest-panic" : "engine", "guest", NULL);
	else if (g->state == GUEST_PAUSED && !stopped && !g->lock.owner)
		(void)guest_apply(g, GUEST_EVENT_RUNS, "engine", "guest", NULL);
}

static void on_qmp_event(void *userdata, const char *name, const json_t *data, uint64_t time_us)
{
	struct guest *g = userdata;
	struct guest_run *run = g->run;

	(void)time_us;
	if (!run)
		return;
	if (strcmp(name, "SHUTDOWN") == 0)
		snprintf(run->shutdown_reason, sizeof(run->shutdown_reason), "%s",
		         jsonx_str(data, "reason", "unknown"));
	else if (strcmp(name, "STOP") == 0 || strcmp(name, "RESUME") == 0)
		on_stop_or_resume(g, name[0] == 'S');
	if (strcmp(name, "GUEST_PANICKED") == 0)
		run->panicked = true;
	if (strcmp(name, "WATCHDOG") == 0)
		run->watchdog_fired = true;
	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
		if (strcmp(name, forwarded[i].qmp) == 0)
			guest_publish(g, forwarded[i].event, data ? json_deep_copy(data) : NULL);
}

/* QMP ends a moment before the shim tells of the exit. Only an engine that outlives its QMP by more
 * than this is out of reach. */
enum {
	EXIT_GRACE_MS = 2000
};

static void after_qmp_closed(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;
	uint64_t end = now_monotonic_us() + EXIT_GRACE_MS * 1000u, now;

	while (g->run == run && !run->exited && (now = now_monotonic_us()) < end)
		if (waitq_wait(&g->changed, (int64_t)((end - now) / 1000) + 1) == -ECANCELED)
			break;
	if (g->run == run && !run->exited && guest_state_is_live(g->state) &&
	    g->state != GUEST_UNRESPONSIVE)
		(void)guest_apply(g, GUEST_EVENT_MUTE, "qmp-closed", "vmd", NULL);
	guest_unref(g);
}

static void on_qmp_closed(void *userdata, const char *reason)
{
	struct guest *g = userdata;

	if (!g->run)
		return;
	g->run->qmp_closed = true;
	log_debug("Guest '%s': QMP ended: %s", g->name, reason);
	waitq_wake_all(&g->changed);
	if (!g->run->exited && fiber_start("qmp-closed", after_qmp_closed, guest_ref(g)) < 0)
		guest_unref(g);
}

const struct qmp_ops guest_qmp_ops = { .on_event = on_qmp_event, .on_closed = on_qmp_closed };

static void on_shim_ready(void *userdata, enum shim_ready_level level, uint64_t time_us,
                          uint64_t since_start_us)
{
	struct guest *g = userdata;

	if (!g->run)
		return;
	g->run->ready_us[level] = since_start_us ? since_start_us : 1;
	registry_touch(g->vmd->guests);
	guest_publish(g, "vm.ready",
	              json_pack("{s:s, s:I, s:I}", "level", shim_ready_name(level), "time_us",
	                        (json_int_t)time_us, "since_start_us", (json_int_t)since_start_us));
	waitq_wake_all(&g->changed);
}

static void on_shim_exit(void *userdata, const struct shim_exit *exit)
{
	guest_on_exit(userdata, exit);
}

static void on_shim_lost(void *userdata, const struct shim_exit *exit)
{
	struct guest *g = userdata;

	if (!exit->known && exit->alive) {
		if (guest_state_is_live(g->state) && g->state != GUEST_UNRESPONSIVE)
			(void)guest_apply(g, GUEST_EVENT_MUTE, "shim-lost", "vmd", NULL);
		return;
	}
	guest_on_exit(g, exit);
}

static void on_shim_helper_exit(void *userdata, const struct shim_exit *exit)
{
	struct guest *g = userdata;
	char text[256];

	log_warning("Guest '%s': helper '%s' %s", g->name, exit->process,
	            shim_exit_text(exit, text, sizeof(text)));
	guest_publish(g, "vm.helper_exit",
	              json_pack("{s:s, s:s}", "process", exit->process, "text", text));
}

const struct shim_ops guest_shim_ops = {
	.on_exit = on_shim_exit,
	.on_ready = on_shim_ready,
	.on_helper_exit = on_shim_helper_exit,
	.on_lost = on_shim_lost,
};

/* An engine that was mute is asked again and again until it answers or ends. */
enum {
	RECOVER_PAUSE_MS = 500
};

/* It answers. A "stop" that came too late for its caller is taken back: a call that failed must not
 * take effect after all. */
static int ask_again(struct guest *g, struct guest_run *run)
{
	int64_t timeout_ms = (int64_t)g->vmd->config.qmp_timeout_ms;
	cleanup_json json_t *status = NULL;
	bool running;
	int r = qmp_call(run->qmp, "query-status", NULL, NULL, 0, timeout_ms, &status, NULL);

	if (r < 0 || g->run != run || g->state != GUEST_UNRESPONSIVE)
		return r;
	running = jsonx_bool(status, "running", false);
	if (!running && run->ran_before_mute &&
	    strcmp(jsonx_str(status, "status", ""), "paused") == 0)
		running = qmp_call(run->qmp, "cont", NULL, NULL, 0, timeout_ms, NULL, NULL) == 0;
	if (g->run == run && g->state == GUEST_UNRESPONSIVE)
		(void)guest_apply(g, running ? GUEST_EVENT_RUNS : GUEST_EVENT_PAUSES,
		                  "answers-again", "vmd", NULL);
	return 0;
}

static void recover(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;

	while (g->run == run && !run->exited && !run->qmp_closed &&
	       g->state == GUEST_UNRESPONSIVE) {
		if (ask_again(g, run) == 0)
			break;
		if (fiber_sleep_ms(RECOVER_PAUSE_MS) < 0)
			break;
	}
	if (g->run == run)
		run->recovering = false;
	guest_unref(g);
}

static void became_mute(struct guest *g)
{
	if (g->state != GUEST_UNRESPONSIVE) {
		g->run->ran_before_mute = g->state == GUEST_RUNNING;
		(void)guest_apply(g, GUEST_EVENT_MUTE, "no-answer", "vmd", NULL);
	}
	if (!g->run || g->run->recovering)
		return;
	g->run->recovering = true;
	if (fiber_start("recover", recover, guest_ref(g)) < 0) {
		g->run->recovering = false;
		guest_unref(g);
	}
}

int guest_qmp_fds(struct guest *g, const char *command, const json_t *args, const int *fds,
                  size_t n_fds, json_t **ret, struct vmd_error *err)
{
	bool ours;
	int r;

	if (!g->run || !g->run->qmp || g->run->exited)
		return error_set(err, ERROR_ENGINE_FAILED, "guest '%s' has no engine process",
		                 g->name);
	r = qmp_call(g->run->qmp, command, args, fds, n_fds, (int64_t)g->vmd->config.qmp_timeout_ms,
	             ret, err);
	/* A call that ran into its own deadline says nothing about the engine. */
	ours = fiber_deadline() && now_monotonic_us() >= fiber_deadline();
	if (r == -ETIMEDOUT && !ours && g->run && guest_state_is_live(g->state)) {
		became_mute(g);
		error_hint(err,
		           "the engine process may be stopped or stuck: wait for it, or kill it");
	}
	if (r < 0)
		error_prefix(err, "guest '%s'", g->name);
	return r;
}

int guest_qmp(struct guest *g, const char *command, const json_t *args, json_t **ret,
              struct vmd_error *err)
{
	return guest_qmp_fds(g, command, args, NULL, 0, ret, err);
}

int guest_run_connect(struct guest *g, bool fresh, struct vmd_error *err)
{
	int fd = shim_take_qmp_fd(g->run->shim);

	if (fd < 0)
		return error_set_errno(err, -fd, "guest '%s' has no QMP socket", g->name);
	if (qmp_new(fd, fresh, &guest_qmp_ops, g, &g->run->qmp) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	vmd_watch_health(g->vmd);
	return 0;
}

int guest_wait_end(struct guest *g, int64_t timeout_ms)
{
	uint64_t end = now_monotonic_us() + (uint64_t)timeout_ms * 1000;

	while (g->run) {
		int64_t left = -1;
		int r;

		if (timeout_ms >= 0) {
			uint64_t now = now_monotonic_us();

			left = now >= end ? 0 : (int64_t)((end - now) / 1000) + 1;
			if (!left)
				return -ETIMEDOUT;
		}
		r = waitq_wait(&g->changed, left);
		if (r < 0)
			return r;
	}
	return 0;
}

int guest_force_end(struct guest *g, const char *hint, struct vmd_error *err)
{
	int r;

	if (!g->run)
		return 0;
	if (!g->run->cause_hint[0])
		snprintf(g->run->cause_hint, sizeof(g->run->cause_hint), "%s", hint);
	r = shim_signal(g->run->shim, SIGKILL);
	if (r < 0 && r != -ESRCH)
		return error_set_errno(err, -r, "cannot end the engine of guest '%s'", g->name);
	fiber_shield(true);
	r = guest_wait_end(g, 10000);
	fiber_shield(false);
	if (r < 0)
		return error_set(
			err, ERROR_TIMEOUT,
			"guest '%s' did not end within 10 s of SIGKILL (stuck in the kernel?)",
			g->name);
	return 0;
}

struct lock_job {
	const char *dir;
	int fd;
};

/* The lock file lives with the state, so that two daemons on two runtime directories see it too. */
static int open_lock(void *arg)
{
	struct lock_job *job = arg;
	cleanup_free char *path = NULL;
	cleanup_close int fd = -EBADF;
	int r = fs_mkdir_p(job->dir, 0700);

	if (r < 0)
		return r;
	if (asprintf(&path, "%s/lock", job->dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = fs_lock_ofd(fd, 1);
	if (r < 0)
		return r;
	job->fd = TAKE_FD(fd);
	return 0;
}

static int make_dir(void *arg)
{
	return fs_mkdir_p(arg, 0700);
}

static int prepare_dirs(struct guest *g, const char *runtime, const char *state, int *ret_lock,
                        struct vmd_error *err)
{
	struct lock_job job = { .dir = state, .fd = -EBADF };
	int r = work_run(make_dir, (void *)(uintptr_t)runtime);

	if (r < 0)
		return error_set_errno(err, -r, "cannot make '%s'", runtime);
	r = work_run(open_lock, &job);
	if (r == -EAGAIN) {
		(void)error_set(err, ERROR_BUSY,
		                "guest '%s' is running already, outside this daemon", g->name);
		error_hint(err, "its lock file %s/lock is held by a live process", state);
		return -EBUSY;
	}
	if (r < 0)
		return error_set_errno(err, -r, "cannot lock guest '%s'", g->name);
	*ret_lock = job.fd;
	return 0;
}

static int launch_process(struct guest *g, const json_t *definition,
                          const struct engine_choice *choice, bool incoming, struct vmd_error *err)
{
	char runtime[512], state[512];
	struct prepare_opts opts = { .incoming = incoming, .lock_fd = -EBADF };
	cleanup_close int lock = -EBADF;
	cleanup_json json_t *resolved = definition_resolve(g->vmd, definition, err);
	struct launch launch;
	int r;

	if (!resolved)
		return -EINVAL;
	guest_runtime_dir(g, runtime, sizeof(runtime));
	guest_state_dir(g, state, sizeof(state));
	r = prepare_dirs(g, runtime, state, &lock, err);
	if (r < 0)
		return r;
	opts.runtime_dir = runtime;
	opts.lock_fd = lock;
	opts.state_dir = state;
	opts.holder_of = definition_holder_of;
	opts.held = &g->held;
	launch_init(&launch);
	r = choice->engine->prepare(g->vmd, resolved, choice, &opts, &launch, err);
	if (r == 0) {
		const struct shim_params params = {
			.uuid = g->uuid,
			.name = g->name,
			.runtime_dir = runtime,
			.state_dir = state,
			.log_max_bytes = g->vmd->config.console_log_bytes,
			.log_files = g->vmd->config.console_log_files,
			.ring_bytes = g->vmd->config.console_ring_bytes,
			.lock_fd = lock,
		};

		r = shim_start(&params, &launch, &guest_shim_ops, g, &g->run->shim, err);
	}
	launch_deinit(&launch);
	return r;
}

int guest_launch(struct guest *g, const json_t *definition, const struct engine_choice *choice,
                 bool incoming, struct vmd_error *err)
{
	struct guest_run *run = calloc(1, sizeof(*run));
	int r;

	if (!run)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	run->definition = jsonx_dump(definition);
	run->started_us = now_wall_us();
	g->run = run;
	r = run->definition ? launch_process(g, definition, choice, incoming, err)
	                    : error_set(err, ERROR_NO_SPACE, "out of memory");
	if (r < 0) {
		g->run = NULL;
		guest_run_free(run);
		return r;
	}
	run->pid = shim_pid(run->shim);
	r = guest_run_connect(g, true, err);
	if (r < 0)
		(void)guest_force_end(g, "start-failed", NULL);
	return r;
}

static const char *undo_cause(const struct vmd_error *err)
{
	return err && err->kind != ERROR_NONE ? err->message : "start-failed";
}

/* A start that failed: the engine's fault means failed, anything else leaves it as it was. */
static void settle_failed_start(struct guest *g, const char *actor, const struct vmd_error *err)
{
	static const enum guest_event undo[] = {
		[GUEST_DEFINED] = GUEST_EVENT_UNDO_DEFINED,
		[GUEST_STOPPED] = GUEST_EVENT_UNDO_STOPPED,
		[GUEST_FAILED] = GUEST_EVENT_CRASH,
		[GUEST_SUSPENDED] = GUEST_EVENT_UNDO_SUSPENDED,
	};
	enum guest_event event = undo[g->settled_state];

	if (g->state != GUEST_STARTING)
		return; /* its exit has been settled already */
	if (err->kind == ERROR_ENGINE_FAILED && event != GUEST_EVENT_UNDO_SUSPENDED)
		event = GUEST_EVENT_CRASH;
	g->want_running = false;
	fiber_shield(true);
	(void)guest_apply(g, event, undo_cause(err), actor, NULL);
	fiber_shield(false);
}

static int start_vcpus(struct guest *g, bool paused, const char *cause, const char *actor,
                       struct vmd_error *err)
{
	int r;

	if (paused)
		return guest_apply(g, GUEST_EVENT_PAUSES, cause, actor, err);
	r = guest_qmp(g, "cont", NULL, NULL, err);
	if (r < 0)
		return r;
	return guest_apply(g, GUEST_EVENT_RUNS, cause, actor, err);
}

/* Where the guest's memory comes from at a start. */
struct start_from {
	enum {
		FROM_BOOT,
		FROM_SUSPEND,
		FROM_FILE
	} kind;
	const char *path, *checksum;
	uint64_t bytes;
};

static int load_memory(struct guest *g, const struct start_from *from, struct vmd_error *err)
{
	if (from->kind == FROM_SUSPEND)
		return ram_load_suspended(g, err);
	if (from->kind == FROM_FILE)
		return ram_load(g, from->path, from->bytes, from->checksum, err);
	return 0;
}

static int start_steps(struct guest *g, const struct start_from *from, bool paused,
                       const char *cause, const char *actor, struct vmd_error *err)
{
	cleanup_json json_t *definition = guest_definition(g);
	struct engine_choice choice;
	int r;

	if (!definition)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	/* The last run may still be leaving its directories. */
	r = guest_wait_end(g, -1);
	if (r < 0)
		return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
		                 "the last run of guest '%s' is still ending", g->name);
	r = definition_check(g->vmd, definition, &choice, err);
	if (r == 0)
		r = definition_take_choice(g, &choice);
	if (r == 0)
		r = guest_launch(g, definition, &choice, from->kind != FROM_BOOT, err);
	if (r == 0)
		r = load_memory(g, from, err);
	if (r == 0)
		r = start_vcpus(g, paused, cause, actor, err);
	if (r < 0 && g->run)
		(void)guest_force_end(g, "start-failed", NULL);
	if (r == 0 && from->kind == FROM_SUSPEND)
		ram_drop_suspended(g);
	return r;
}

static int start_guest(struct guest *g, const struct start_from *from, bool paused,
                       const char *cause, const char *actor, struct vmd_error *err)
{
	struct vmd_error local = VMD_ERROR_INIT;
	int r;

	if (guest_fsm_next(g->state, GUEST_EVENT_START) < 0)
		return guest_refuse(g, "start", err);
	g->want_running = true;
	snprintf(g->started_boot, sizeof(g->started_boot), "%s", proc_boot_id());
	/* The intent is durable before the first effect. */
	r = guest_apply(g, GUEST_EVENT_START, cause, actor, &local);
	if (r == 0)
		r = start_steps(g, from, paused, cause, actor, &local);
	if (r < 0) {
		if (local.kind == ERROR_NONE)
			(void)error_set_errno(&local, -r, "cannot start guest '%s'", g->name);
		settle_failed_start(g, actor, &local);
		if (err && err->kind == ERROR_NONE)
			*err = local;
	}
	return r;
}

int guest_start(struct guest *g, bool paused, const char *cause, const char *actor,
                struct vmd_error *err)
{
	struct start_from from = {
		.kind = g->state == GUEST_SUSPENDED ? FROM_SUSPEND : FROM_BOOT,
	};

	return start_guest(g, &from, paused, cause, actor, err);
}

int guest_start_from_memory(struct guest *g, const char *ram_path, uint64_t bytes,
                            const char *checksum, bool paused, const char *cause, const char *actor,
                            struct vmd_error *err)
{
	struct start_from from = {
		.kind = FROM_FILE, .path = ram_path, .checksum = checksum, .bytes = bytes
	};

	return start_guest(g, &from, paused, cause, actor, err);
}

static void ping(void *arg)
{
	struct guest *g = arg;
	struct guest_run *run = g->run;

	(void)guest_qmp(g, "query-status", NULL, NULL, NULL);
	if (g->run == run)
		run->ping_in_flight = false;
	guest_unref(g);
}

bool guest_health_check(struct vmd *vmd)
{
	bool any = false;
	struct guest *g;

	list_for_each(g, registry_list(vmd->guests), link) {
		any |= g->run != NULL;
		if (!g->run || !g->run->qmp || g->run->exited || g->run->ping_in_flight)
			continue;
		if (g->state != GUEST_RUNNING && g->state != GUEST_PAUSED)
			continue;
		g->run->ping_in_flight = true;
		if (fiber_start("health", ping, guest_ref(g)) < 0) {
			g->run->ping_in_flight = false;
			guest_unref(g);
		}
	}
	return any;
}
