/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * vmd's side of vmd-shim, the parent process of one guest (common/shim-proto.h). Functions marked
 * "waits" run in a fiber only; callbacks come from the loop or from an internal fiber, never inside
 * a shim_ call, and may call anything here, shim_free() too. Main thread only.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/cleanup.h"
#include "common/error.h"

struct ev_loop;
struct shim;
struct launch;

enum shim_ready_level {
	SHIM_READY_KERNEL,
	SHIM_READY_INIT,
	SHIM_READY_LOGIN,
	_SHIM_READY_MAX,
};
const char *shim_ready_name(enum shim_ready_level level); /* "kernel", "init", "login" */

/* How a process ended. */
struct shim_exit {
	char process[32]; /* "engine", or the helper's name */
	/*
	 * true: waited for by its parent, everything here is fact. false: the shim died before it
	 * could tell; only `alive` and time_us (when vmd noticed) mean anything.
	 */
	bool known;
	bool alive;       /* only with known == false: the engine still runs without its shim */
	bool exited;      /* by itself, with status code; else killed by signal */
	int code;         /* exit status, 0 unless exited */
	int signal;       /* signal number, 0 when exited */
	bool core;        /* dumped core */
	uint64_t time_us; /* wall clock */
	char cause[64];   /* why the shim killed it ("helper 'swtpm' ended"), or "" */
	char stderr_tail[4096 + 1]; /* end of its stderr, valid UTF-8, "" when it said nothing */
};
/* "exited with status 1: <last line of stderr>", "killed by signal 9 (Killed)"...; returns buf. */
const char *shim_exit_text(const struct shim_exit *exit, char *buf, size_t len);

struct shim_ops {
	/* The engine ended. Once; the shim stays connected (console, logs) until shim_release(). */
	void (*on_exit)(void *userdata, const struct shim_exit *exit);
	/* Console text reached a level; since_start_us counts from the engine's start. Once each.
	 */
	void (*on_ready)(void *userdata, enum shim_ready_level level, uint64_t time_us,
	                 uint64_t since_start_us);
	void (*on_helper_exit)(void *userdata, const struct shim_exit *exit);
	/*
	 * The shim is gone without release, instead of on_exit. exit->known when it had left an
	 * exit record; else exit->alive tells whether the engine outlived it (unresponsive, not
	 * stopped: its pidfd stays valid). Nothing comes after this.
	 */
	void (*on_lost)(void *userdata, const struct shim_exit *exit);
};

struct shim_params {
	const char *uuid, *name;
	const char *runtime_dir; /* the guest's own: <runtime>/guests/<uuid>; must exist */
	const char *state_dir;   /* the guest's own: <state>/guests/<uuid>, for console.log */
	uint64_t log_max_bytes;  /* per log file; 0: 4 MiB */
	unsigned log_files;      /* files kept in all, console.log included; 0: 4 */
	size_t ring_bytes;       /* 0: 256 KiB */
	int lock_fd;             /* the guest's lock file; inherited by the engine; -EBADF: none */
	int64_t timeout_ms;      /* for the whole start; 0: 30 s */
};

/*
 * Starts vmd-shim (VMD_SHIM in the environment overrides its path), which starts the helpers and
 * the engine. launch and lock_fd are borrowed: close them after (launch_deinit()), so that only the
 * engine holds the disks. Waits until the engine has sent its first byte of QMP, or, when
 * launch->qmp_fd is not set, until it was executed.
 * 0, or negative errno with err: ERROR_ENGINE_FAILED names the process and carries the end of its
 * stderr; nothing of the guest is left running then.
 */
int shim_start(const struct shim_params *params, const struct launch *launch,
               const struct shim_ops *ops, void *userdata, struct shim **ret,
               struct vmd_error *err) MUST_CHECK;

/*
 * Connects to the shim of a guest that was started earlier (by another vmd). Waits; never signals
 * anything. On 0 the engine runs, or has ended while nobody looked: then shim_exited() tells how
 * and on_exit is not called. On failure:
 *   -ENOENT (ERROR_NOT_FOUND): neither shim nor engine exists any more; ask shim_last_exit();
 *   -ETIMEDOUT (ERROR_TIMEOUT): the shim does not answer: unknown, not stopped; try again later;
 *   -EREMOTEIO (ERROR_ENGINE_FAILED): the engine runs but its shim is gone or makes no sense.
 * runtime_dir is the guest's own.
 */
int shim_attach(const char *runtime_dir, const char *uuid, int64_t timeout_ms,
                const struct shim_ops *ops, void *userdata, struct shim **ret,
                struct vmd_error *err) MUST_CHECK;

/* Lets go of the connection; shim and guest live on. Waiting calls return -ECANCELED. NULL is fine.
 */
void shim_free(struct shim *s);
DEFINE_CLEANUP(struct shim *, shim_free);

/*
 * At the end of the daemon: forgets the shims that were started and are not reaped yet. They live
 * on, as children of init.
 */
void shim_leave_all(struct ev_loop *loop);

/* The exit record a shim left in the guest's runtime_dir. 0, -ENOENT, or -EBADMSG. Small file. */
int shim_last_exit(const char *runtime_dir, struct shim_exit *ret) MUST_CHECK;

pid_t shim_pid(const struct shim *s);           /* the engine's, for people only */
uint64_t shim_start_time(const struct shim *s); /* of the engine, proc(5) clock ticks */
int shim_pidfd(const struct shim *s);           /* the engine's; borrowed; -EBADF once ended */
/* vmd's end of QMP, a dup that now belongs to the caller; -EBADF when there is none (any more) or
 * when it was taken before. */
int shim_take_qmp_fd(struct shim *s);
/* NULL while the engine runs; borrowed. */
const struct shim_exit *shim_exited(const struct shim *s);
/* Microseconds from the engine's start to the level; 0: not reached. */
uint64_t shim_ready_us(const struct shim *s, enum shim_ready_level level);
uint64_t shim_console_bytes(const struct shim *s); /* as of start or attach */

/* pidfd_send_signal(2) to the engine. 0, -ESRCH when it has ended. Does not wait. */
int shim_signal(struct shim *s, int sig) MUST_CHECK;

/*
 * A stream socket with the console's raw bytes, for the caller; writable ones take input. replay:
 * begins with what the ring holds, not before since_us (wall clock, 0: all). Ends when the engine
 * has ended and everything was read. Waits.
 */
int shim_console(struct shim *s, bool readonly, bool replay, uint64_t since_us, int *ret_fd,
                 struct vmd_error *err) MUST_CHECK;

struct shim_logs_opts {
	int64_t tail;      /* last lines; -1: all */
	uint64_t since_us; /* wall clock; 0: all */
	bool timestamps;   /* keep "2026-11-23T09:47:06.123456Z " before each line */
	bool follow;       /* do not end at the end; only for shim_logs() */
};
/* A stream socket with the text of the console logs over all rotated files. Waits. */
int shim_logs(struct shim *s, const struct shim_logs_opts *opts, int *ret_fd,
              struct vmd_error *err) MUST_CHECK;
/*
 * The same text as one string for the caller, also of a guest without a shim: valid UTF-8, the last
 * max_bytes of it when there is more (*ret_truncated, may be NULL). No log at all is "". Waits
 * (a worker thread reads). state_dir is the guest's own.
 */
int shim_logs_text(const char *state_dir, const struct shim_logs_opts *opts, size_t max_bytes,
                   char **ret_text, bool *ret_truncated, struct vmd_error *err) MUST_CHECK;

/*
 * After the engine ended and its exit is durable in vmd: the shim removes its socket and records
 * and ends. -ESTALE (ERROR_WRONG_STATE) while the engine runs. Free s afterwards. Waits.
 */
int shim_release(struct shim *s, struct vmd_error *err) MUST_CHECK;
/*
 * Ends an engine whose shim does not answer, and that shim, by the record the shim left; returns
 * when both have ended. -ENOENT: there is no record; -ETIMEDOUT: they do not end. Waits.
 */
int shim_kill_recorded(const char *runtime_dir) MUST_CHECK;
/* Removes what a dead shim left in the guest's runtime_dir (after on_lost or -ENOENT). */
void shim_forget(const char *runtime_dir);
