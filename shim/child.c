/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/timeutil.h"
#include "shim/shim.h"

#define HELPER_LIMIT_US 3000000 /* then the exit is told although a helper hangs in the kernel */

static void log_line(struct shim *s, struct child *c, const char *line, size_t n, uint64_t now)
{
	char text[sizeof(c->name) + 3];
	int len = snprintf(text, sizeof(text), "%s: ", c->name);

	logfile_write(&s->engine_log, text, (size_t)len, now);
	logfile_write(&s->engine_log, line, n, now);
	logfile_write(&s->engine_log, "\n", 1, now);
}

/* Adds to the tail, which forgets its oldest bytes, and logs each line that is complete. */
static void add_output(struct shim *s, struct child *c, const char *text, size_t n, uint64_t now)
{
	for (size_t i = 0; i < n; i++) {
		if (c->tail_len == sizeof(c->tail)) {
			size_t drop = sizeof(c->tail) / 4;

			if (c->line_at < drop) { /* a long line: log it in pieces */
				log_line(s, c, c->tail + c->line_at, c->tail_len - c->line_at, now);
				c->line_at = c->tail_len;
			}
			memmove(c->tail, c->tail + drop, c->tail_len - drop);
			c->tail_len -= drop;
			c->line_at -= drop;
		}
		c->tail[c->tail_len++] = text[i];
		if (text[i] == '\n') {
			log_line(s, c, c->tail + c->line_at, c->tail_len - 1 - c->line_at, now);
			c->line_at = c->tail_len;
		}
	}
}

static bool read_some(struct shim *s, struct child *c)
{
	char raw[1024], clean[2 * sizeof(raw)];
	ssize_t n = read(c->err_fd, raw, sizeof(raw));

	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			cleanup_close_p(&c->err_fd);
		return n < 0 && errno == EINTR;
	}
	add_output(s, c, clean, textclean(&c->text, raw, (size_t)n, clean), now_wall_us());
	return true;
}

void child_read_stderr(struct shim *s, struct child *c)
{
	for (int budget = 16; budget > 0 && c->err_fd >= 0 && read_some(s, c);)
		budget--;
}

static void engine_ended(struct shim *s, uint64_t now)
{
	for (int i = 0; i < 32 && s->console.fd >= 0; i++)
		console_read(s); /* what it said last */
	s->state = SHIM_ENDING;
	s->deadline_us = now;
	for (size_t i = 0; i + 1 < s->n_procs; i++) {
		if (!s->procs[i].running)
			continue;
		(void)proc_signal(s->procs[i].pidfd, SIGTERM);
		s->deadline_us = MAX_OF(s->deadline_us, now + s->procs[i].grace_us);
	}
}

static void helper_ended(struct shim *s, struct child *c)
{
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		s->clients[i].helper_due[c - s->procs] = s->clients[i].notify;
	if (c->vital && s->state == SHIM_RUNNING && !s->cause[0]) {
		snprintf(s->cause, sizeof(s->cause), "helper '%s' ended", c->name);
		(void)proc_signal(shim_engine(s)->pidfd, SIGKILL);
	}
}

void child_check(struct shim *s, struct child *c)
{
	if (!c->running || proc_reap(c->pidfd, &c->status) != 1)
		return;
	c->running = false;
	c->ended_us = now_wall_us();
	cleanup_close_p(&c->pidfd);
	/* A grandchild may hold the pipe open: what is there now is all that is waited for. */
	for (int i = 0; i < 64 && c->err_fd >= 0; i++)
		child_read_stderr(s, c);
	cleanup_close_p(&c->err_fd);
	if (c->tail_len > c->line_at)
		add_output(s, c, "\n", 1, c->ended_us);
	if (c == shim_engine(s))
		engine_ended(s, now_monotonic_us());
	else
		helper_ended(s, c);
}

static struct child *find(struct shim *s, pid_t pid)
{
	for (size_t i = 0; i < s->n_procs; i++)
		if (s->procs[i].running && s->procs[i].pid == pid)
			return &s->procs[i];
	return NULL;
}

void child_reap_orphans(struct shim *s)
{
	for (;;) {
		siginfo_t info = { 0 };
		struct child *c;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		c = find(s, info.si_pid);
		if (c)
			child_check(s, c);
		else
			(void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
	}
}

/* Every process that is left below us. Children cannot be reaped by others: no pid is reused. */
static void kill_rest(void)
{
	cleanup_free char *list = NULL;
	char path[64], *save = NULL;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	if (fs_read_file(AT_FDCWD, path, 65536, &list, NULL) < 0)
		return;
	for (char *p = strtok_r(list, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
		pid_t pid = (pid_t)strtol(p, NULL, 10);
		cleanup_close int fd = -EBADF;
		uint64_t start = proc_start_time(pid);

		fd = start ? proc_open_identity(pid, start) : -1;
		if (fd >= 0)
			(void)proc_signal(fd, SIGKILL);
	}
}

static bool any_running(const struct shim *s)
{
	for (size_t i = 0; i < s->n_procs; i++)
		if (s->procs[i].running)
			return true;
	return false;
}

static void tell_exit(struct shim *s)
{
	s->state = SHIM_EXITED;
	s->deadline_us = 0;
	kill_rest();
	child_save_exit(s);
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		s->clients[i].exit_due = s->clients[i].notify;
}

void child_end_helpers(struct shim *s, uint64_t now)
{
	if (!any_running(s)) {
		tell_exit(s);
		return;
	}
	if (now < s->deadline_us)
		return;
	if (s->helpers_killed) {
		tell_exit(s);
		return;
	}
	s->helpers_killed = true;
	s->deadline_us = now + HELPER_LIMIT_US;
	for (size_t i = 0; i < s->n_procs; i++)
		if (s->procs[i].running)
			(void)proc_signal(s->procs[i].pidfd, SIGKILL);
}

void child_exit_json(struct shim *s, const struct child *c, size_t max_stderr, struct jsonw *w)
{
	const struct proc_status *st = &c->status;
	size_t skip = c->tail_len > max_stderr ? c->tail_len - max_stderr : 0;

	jsonw_printf(w, "\"process\":");
	jsonw_string(w, c == shim_engine(s) ? "engine" : c->name,
	             strlen(c == shim_engine(s) ? "engine" : c->name));
	jsonw_printf(w, ",\"exited\":%s,\"code\":%d,\"signal\":%d,\"core\":%s,\"time_us\":%llu",
	             st->exited ? "true" : "false", st->exited ? st->code : 0,
	             st->exited ? 0 : st->code, st->core ? "true" : "false",
	             (unsigned long long)c->ended_us);
	if (c == shim_engine(s) && s->cause[0]) {
		jsonw_printf(w, ",\"cause\":");
		jsonw_string(w, s->cause, strlen(s->cause));
	}
	jsonw_printf(w, ",\"stderr\":");
	jsonw_string(w, c->tail + skip, c->tail_len - skip);
}

void child_save_exit(struct shim *s)
{
	char data[TAIL_BYTES * 2 + 512];
	struct jsonw w = { .data = data, .cap = sizeof(data) };

	if (s->exit_saved || s->state != SHIM_EXITED)
		return;
	jsonw_printf(&w, "{");
	child_exit_json(s, shim_engine(s), TAIL_BYTES, &w);
	jsonw_printf(&w, "}\n");
	s->exit_saved = fs_write_atomic(s->dir_fd, "exit.json", data, w.len, 1) == 0;
}

void child_kill_all(struct shim *s)
{
	for (size_t i = 0; i < s->n_procs; i++) {
		struct pollfd p = { .fd = s->procs[i].pidfd, .events = POLLIN };

		if (!s->procs[i].running)
			continue;
		(void)proc_signal(p.fd, SIGKILL);
		(void)poll(&p, 1, HELPER_LIMIT_US / 1000);
		child_check(s, &s->procs[i]);
	}
	kill_rest();
}
