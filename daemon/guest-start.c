/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The start of a guest: launch of the engine, memory, vCPUs; and what becomes of one that failed.
 */
#include "config.h"

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
#include "daemon/guest-run.h"
#include "daemon/guest-stats.h"
#include "daemon/ram.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

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

/*
 * The engine of a guest in GUEST_STARTING, vCPUs not running, QMP negotiated; with incoming it
 * waits for migrate-incoming. On failure nothing is left of the process; the state is the caller's
 * to settle.
 */
static int launch_engine(struct guest *g, const json_t *definition,
                         const struct engine_choice *choice, bool incoming, struct vmd_error *err)
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

/* The end of a start whose guest was killed meanwhile: the kill has said why. */
static enum guest_event undo_event(const struct guest *g, const struct vmd_error *err)
{
	static const enum guest_event undo[] = {
		[GUEST_DEFINED] = GUEST_EVENT_UNDO_DEFINED,
		[GUEST_STOPPED] = GUEST_EVENT_UNDO_STOPPED,
		[GUEST_FAILED] = GUEST_EVENT_CRASH,
		[GUEST_SUSPENDED] = GUEST_EVENT_UNDO_SUSPENDED,
	};

	if (g->state == GUEST_STOPPING)
		return GUEST_EVENT_EXIT;
	/* An image whose guest may have run on its disks is worth nothing any more. */
	if (g->settled_state == GUEST_SUSPENDED)
		return g->start.may_have_run ? GUEST_EVENT_CRASH : GUEST_EVENT_UNDO_SUSPENDED;
	return err->kind == ERROR_ENGINE_FAILED ? GUEST_EVENT_CRASH : undo[g->settled_state];
}

/* A start that failed: the engine's fault means failed, anything else leaves it as it was. */
static void settle_failed_start(struct guest *g, const char *actor, const struct vmd_error *err)
{
	enum guest_event event = undo_event(g, err);
	bool keep_image = event == GUEST_EVENT_UNDO_SUSPENDED;

	if ((g->state != GUEST_STARTING && g->state != GUEST_STOPPING) || g->run)
		return; /* its exit settles it, or has */
	g->want_running = false;
	fiber_shield(true);
	if (!keep_image)
		(void)guest_keep_saved(g, NULL);
	(void)guest_apply(g, event, event == GUEST_EVENT_EXIT ? "kill" : err->message, actor, NULL);
	if (!keep_image)
		ram_drop_suspended(g);
	fiber_shield(false);
}

/* vm.kill does not wait for its turn: between two steps the start looks whether it is still wanted.
 */
static int check_wanted(const struct guest *g, struct vmd_error *err)
{
	if (g->state == GUEST_STARTING)
		return 0;
	return error_set(err, ERROR_CANCELLED, "guest '%s' was killed while it started", g->name);
}

/* Durable before its vCPUs run: from then on a suspend image does not fit its disks any more. */
static int spend_memory(struct guest *g, struct vmd_error *err)
{
	struct store_txn *txn;
	int r;

	if (g->start.from != START_SUSPENDED)
		return 0;
	txn = store_txn_new(g->vmd->store);
	if (!txn)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	g->start.may_have_run = true;
	(void)guest_put(g, txn, NULL, NULL, NULL);
	r = store_commit(txn, err);
	if (r < 0)
		g->start.may_have_run = false;
	return r;
}

static int start_vcpus(struct guest *g, const char *cause, const char *actor, struct vmd_error *err)
{
	int r = check_wanted(g, err);

	if (r == 0 && !g->start.paused)
		r = spend_memory(g, err);
	if (r == 0)
		r = check_wanted(g, err);
	if (r == 0 && !g->start.paused)
		r = guest_qmp(g, "cont", NULL, NULL, err);
	if (r < 0)
		return r;
	if (guest_keep_saved(g, NULL) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	return guest_apply(g, g->start.paused ? GUEST_EVENT_PAUSES : GUEST_EVENT_RUNS, cause, actor,
	                   err);
}

/* A file with the memory of a snapshot. */
struct memory_file {
	const char *path, *checksum;
	uint64_t bytes;
};

static int load_memory(struct guest *g, const struct memory_file *memory, struct vmd_error *err)
{
	int r = check_wanted(g, err);

	if (r == 0 && g->start.from == START_SUSPENDED)
		r = ram_load_suspended(g, err);
	else if (r == 0 && g->start.from == START_SNAPSHOT)
		r = ram_load(g, memory->path, memory->bytes, memory->checksum, err);
	return r;
}

static int prepare_start(struct guest *g, const json_t *definition, struct engine_choice *choice,
                         struct vmd_error *err)
{
	int r;

	/* The last run may still be leaving its directories. */
	r = guest_wait_end(g, -1);
	if (r < 0)
		return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
		                 "the last run of guest '%s' is still ending", g->name);
	r = definition_check(g->vmd, definition, choice, err);
	if (r == 0)
		r = definition_take_choice(g, choice);
	return r == 0 ? check_wanted(g, err) : r;
}

static int start_steps(struct guest *g, const struct memory_file *memory, const char *cause,
                       const char *actor, struct vmd_error *err)
{
	bool suspended = g->start.from == START_SUSPENDED;
	cleanup_json json_t *definition =
		suspended ? json_loads(g->saved_definition, 0, NULL) : guest_definition(g);
	struct engine_choice choice;
	int r;

	if (!definition)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	r = prepare_start(g, definition, &choice, err);
	if (r == 0)
		r = launch_engine(g, definition, &choice, g->start.from != START_BOOT, err);
	if (r == 0) {
		guest_stats_prepare(g);
		r = load_memory(g, memory, err);
	}
	if (r == 0)
		r = start_vcpus(g, cause, actor, err);
	if (g->state == GUEST_RUNNING || g->state == GUEST_PAUSED) {
		/* Up, even when that could not be made durable. */
		if (suspended)
			ram_drop_suspended(g);
	} else if (r < 0 && g->run) {
		(void)guest_force_end(g, g->state == GUEST_STOPPING ? "kill" : "start-failed",
		                      NULL);
	}
	return r;
}

static int start_guest(struct guest *g, enum guest_start_from from,
                       const struct memory_file *memory, bool paused, const char *cause,
                       const char *actor, struct vmd_error *err)
{
	struct vmd_error local = VMD_ERROR_INIT;
	int r;

	if (guest_fsm_next(g->state, GUEST_EVENT_START) < 0)
		return guest_refuse(g, "start", err);
	g->want_running = true;
	g->start = (struct guest_start){ .from = from, .paused = paused };
	snprintf(g->started_boot, sizeof(g->started_boot), "%s", proc_boot_id());
	/* The intent is durable before the first effect. */
	r = guest_apply(g, GUEST_EVENT_START, cause, actor, &local);
	if (r == 0)
		r = start_steps(g, memory, cause, actor, &local);
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
	bool suspended = g->state == GUEST_SUSPENDED;

	return start_guest(g, suspended ? START_SUSPENDED : START_BOOT, NULL, paused, cause, actor,
	                   err);
}

int guest_start_from_memory(struct guest *g, const char *ram_path, uint64_t bytes,
                            const char *checksum, bool paused, const char *cause, const char *actor,
                            struct vmd_error *err)
{
	const struct memory_file memory = { ram_path, checksum, bytes };

	return start_guest(g, START_SNAPSHOT, &memory, paused, cause, actor, err);
}

static void take_back(struct guest *g)
{
	struct vmd_error err = VMD_ERROR_INIT;

	(void)error_set(&err, ERROR_CANCELLED, "the daemon was restarted during the start");
	(void)guest_force_end(g, "start-failed", NULL);
	settle_failed_start(g, "vmd", &err);
}

void guest_finish_start(struct guest *g, const char *status)
{
	bool up = strcmp(status, "running") == 0;

	g->run->unfinished_start = false;
	/* Still without its memory, or nobody could tell later that it ran: nothing has happened.
	 */
	if (strcmp(status, "inmigrate") == 0 ||
	    (!up && !g->start.paused && spend_memory(g, NULL) < 0)) {
		take_back(g);
		return;
	}
	if (!up && !g->start.paused)
		up = guest_qmp(g, "cont", NULL, NULL, NULL) == 0;
	(void)guest_keep_saved(g, NULL);
	(void)guest_apply(g, up ? GUEST_EVENT_RUNS : GUEST_EVENT_PAUSES, "adopted", "vmd", NULL);
	ram_drop_suspended(g);
}
