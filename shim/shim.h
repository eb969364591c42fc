/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * vmd-shim's parts. One thread, one poll(2) loop, everything in one static struct: after the start
 * nothing grows. Whatever a client, the guest or a disk does is answered by dropping that client,
 * those bytes, that line of log; never by ending, since the guest ends with its shim.
 */
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/conlog.h"
#include "common/error.h"
#include "common/jsonw.h"
#include "common/logfile.h"
#include "common/procutil.h"
#include "common/textclean.h"

#define MAX_PROCS   12
#define MAX_CLIENTS 8
#define MAX_STREAMS 16
#define MAX_POLL    (3 + 2 * MAX_PROCS + MAX_CLIENTS + MAX_STREAMS)
#define TAIL_BYTES  4096
#define LINE_BYTES  256
#define N_LEVELS    3
#define MARK_US     100000 /* how exact the ring's times are */

struct child {
	char name[32];
	pid_t pid;
	int pidfd, err_fd;
	bool vital, jailed, running;
	uint64_t grace_us; /* between SIGTERM and SIGKILL */
	uint64_t start_time, ended_us;
	struct proc_status status;
	struct textclean text;
	char tail[TAIL_BYTES]; /* end of its output, cleaned */
	size_t tail_len, line_at;
};

struct client {
	bool used, notify;
	int fd;
	bool exit_due, ready_due[N_LEVELS], helper_due[MAX_PROCS]; /* notifications to send */
};

struct stream {
	bool used, input, logs, follow;
	bool hung; /* its client is gone, what it wrote is not yet all in the guest */
	int fd;
	uint64_t cursor;   /* console: next byte of the ring */
	uint64_t skipped;  /* bytes that the notice in out tells as lost */
	uint64_t log_seen; /* logs: log.written when the end was met */
	struct conlog log;
	size_t out_pos, out_len;
	char out[4096];
};

struct console {
	int fd;
	char *ring;
	size_t ring_bytes;
	uint64_t head; /* bytes ever received; the ring holds the last ring_bytes of them */
	struct {
		uint64_t offset, time_us;
	} marks[512];
	uint64_t n_marks; /* ever; the last ARRAY_SIZE of them are kept */
	struct textclean text;
	struct logfile log;
	char line[LINE_BYTES];
	size_t line_len;
	uint64_t ready_us[N_LEVELS], ready_wall_us[N_LEVELS];
	char input[4096];
	size_t input_pos, input_len;
};

struct launch_doc {
	json_t *root;
	int ready_fd, lock_fd, gate_fd;
	uint64_t log_max_bytes;
	unsigned log_files;
};

struct shim {
	char uuid[37], name[64];
	char runtime_dir[PATH_MAX], state_dir[PATH_MAX];
	int dir_fd, listen_fd, signal_fd, qmp_fd;
	struct child procs[MAX_PROCS]; /* the engine is the last of n_procs */
	size_t n_procs;
	uint64_t start_mono_us, start_wall_us;
	enum {
		SHIM_RUNNING,
		SHIM_ENDING, /* the engine has ended, helpers are being ended */
		SHIM_EXITED,
		SHIM_RELEASED
	} state;
	uint64_t deadline_us; /* of ENDING and RELEASED, monotonic */
	bool helpers_killed, exit_saved;
	char cause[64]; /* why we killed the engine, or "" */
	uint64_t accept_pause_us;
	struct console console;
	struct logfile engine_log;
	struct client clients[MAX_CLIENTS];
	struct stream streams[MAX_STREAMS];
};

static inline struct child *shim_engine(struct shim *s)
{
	return &s->procs[s->n_procs - 1];
}

/* launch.c: reads and checks the launch document, fills s. -EINVAL with err. */
int launch_read(struct shim *s, struct launch_doc *doc, struct vmd_error *err);
/* Starts all processes; on failure *ret_name is the one that failed and none is left. */
int launch_spawn(struct shim *s, struct launch_doc *doc, const char **ret_name,
                 struct vmd_error *err);
/* Closes every descriptor but ready_fd that is not kept by s; call when all processes run. */
void launch_close_rest(struct shim *s, int ready_fd);

/* jail.c: what a helper that is jailed gives up. */
struct jail {
	int ruleset_fd; /* Landlock's, or -EBADF */
	uint64_t handled;
};
/* The rules for a program and its descriptors. Negative errno: this kernel has no Landlock, or it
 * is off; j can be entered all the same. */
int jail_prepare(struct jail *j, const char *program, const struct spawn_fd *fds, size_t n_fds);
void jail_deinit(struct jail *j);
/* In the child, before exec: spawn_spec.confine. */
int jail_enter(const void *arg);

/* child.c */
void child_read_stderr(struct shim *s, struct child *c);
/* Reaps c if it has ended. */
void child_check(struct shim *s, struct child *c);
/* Children that were not ours to begin with: we are their subreaper. */
void child_reap_orphans(struct shim *s);
/* Goes on with SHIM_ENDING; monotonic time. */
void child_end_helpers(struct shim *s, uint64_t now);
void child_exit_json(struct shim *s, const struct child *c, size_t max_stderr, struct jsonw *w);
/* Writes exit.json unless that is done. */
void child_save_exit(struct shim *s);
void child_kill_all(struct shim *s);

/* console.c */
int console_init(struct shim *s, size_t ring_bytes, uint64_t log_max_bytes, unsigned log_files);
void console_read(struct shim *s);
void console_write_input(struct shim *s);
const char *console_level_name(unsigned level);

/* stream.c */
/* A new reader; *ret_fd is its end, for the client. 0 or negative errno. */
int stream_open_console(struct shim *s, bool readonly, bool replay, uint64_t since_us, int *ret_fd);
int stream_open_logs(struct shim *s, int64_t tail, uint64_t since_us, bool timestamps, bool follow,
                     int *ret_fd);
/* What to wait for on t->fd; -1: nothing, not even a hang-up. */
int stream_poll_events(const struct shim *s, const struct stream *t);
void stream_service(struct shim *s, struct stream *t, short revents);
bool stream_has_output(const struct shim *s, const struct stream *t);

/* control.c */
int control_listen(struct shim *s, struct vmd_error *err);
void control_accept(struct shim *s);
void control_request(struct shim *s, struct client *c);
/* Sends due notifications; what does not fit waits for POLLOUT. */
void control_notify(struct shim *s, struct client *c);
bool control_is_due(const struct client *c);
void control_close(struct client *c);
