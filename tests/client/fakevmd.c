/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/client/fakevmd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/strbuf.h"

enum {
	MAX_ARGS = 32,
};

int vmctl_limit_ms = 10000;

/* --- the server; runs in a child process, so it just exits when something is wrong --- */

static const struct fake_rule *find_rule(const struct fake_rule *rules, const char *method,
                                         unsigned *counts)
{
	const struct fake_rule *found = NULL;
	unsigned seen = 0;

	for (size_t i = 0; rules[i].method; i++) {
		if (strcmp(rules[i].method, method) != 0)
			continue;
		found = &rules[i];
		if (seen++ == counts[i])
			break;
	}
	for (size_t i = 0; rules[i].method; i++)
		if (strcmp(rules[i].method, method) == 0)
			counts[i]++;
	return found;
}

static void send_line(int conn, const char *text, const int *fds, size_t n_fds)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	strbuf_append_str(&s, text);
	strbuf_append_char(&s, '\n');
	if (fd_send(conn, s.data, s.len, fds, n_fds) != (ssize_t)s.len)
		_exit(0);
}

static void send_events(int conn, const char *json)
{
	json_t *events = json_loads(json, 0, NULL), *event;
	size_t i;

	json_array_foreach(events, i, event) {
		json_t *message = json_pack("{s:s, s:s, s:O}", "jsonrpc", "2.0", "method", "event",
		                            "params", event);
		char *text = jsonx_dump(message);

		send_line(conn, text, NULL, 0);
		free(text);
		json_decref(message);
	}
	json_decref(events);
}

/* One end for the client; the other writes text, then echoes. */
static int make_stream(const char *text)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		_exit(1);
	if (fork() == 0) {
		char data[256];
		ssize_t n;

		close(pair[1]);
		if (fd_write_all(pair[0], text, strlen(text)) < 0)
			_exit(1);
		while ((n = read(pair[0], data, sizeof(data))) > 0) {
			if (fd_write_all(pair[0], data, (size_t)n) < 0)
				_exit(1);
			if (memchr(data, '.', (size_t)n)) /* "." ends the stream */
				_exit(0);
		}
		_exit(0);
	}
	close(pair[0]);
	return pair[1];
}

static void answer(int conn, const struct fake_rule *rule, const json_t *id)
{
	const char *reply = rule ? rule->reply
	                         : "!{\"code\": -32601, \"message\": \"no such method\","
	                           "\"data\": {\"kind\": \"method_not_found\"}}";
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	int stream = rule && rule->stream ? make_stream(rule->stream) : -EBADF;

	if (rule && rule->silent)
		return;
	if (*reply == '~') {
		const char *newline = strchr(reply, '\n');
		char *events = strndup(reply + 1, (size_t)(newline - reply - 1));

		send_events(conn, events);
		free(events);
		reply = newline + 1;
	}
	strbuf_printf(&s, "{\"jsonrpc\":\"2.0\",\"id\":%lld,\"%s\":%s}",
	              (long long)json_integer_value(id), *reply == '!' ? "error" : "result",
	              *reply == '!' ? reply + 1 : reply);
	send_line(conn, s.data, &stream, stream >= 0);
	if (stream >= 0)
		close(stream);
}

static void serve_line(int conn, const struct fake_rule *rules, unsigned *counts, int log,
                       const char *line, size_t len)
{
	json_t *request = json_loadb(line, len, 0, NULL);
	const char *method = jsonx_str(request, "method", "?");
	json_t *params = json_object_get(request, "params");
	json_t *kept = json_pack("{s:s, s:O?}", "method", method, "params", params);
	char *text = jsonx_dump(kept);

	if (fd_write_all(log, text, strlen(text)) < 0 || fd_write_all(log, "\n", 1) < 0)
		_exit(1);
	answer(conn, find_rule(rules, method, counts), json_object_get(request, "id"));
	free(text);
	json_decref(kept);
	json_decref(request);
}

static void serve(int conn, const struct fake_rule *rules, unsigned *counts, int log)
{
	struct strbuf in = STRBUF_INIT;

	for (;;) {
		char *newline = in.len ? memchr(in.data, '\n', in.len) : NULL;
		char *room;
		ssize_t n;

		if (newline) {
			size_t len = (size_t)(newline - in.data);

			serve_line(conn, rules, counts, log, in.data, len);
			strbuf_consume(&in, len + 1);
			continue;
		}
		room = strbuf_reserve(&in, 65536);
		n = room ? read(conn, room, 65536) : -1;
		if (n <= 0)
			break;
		strbuf_grew(&in, (size_t)n);
	}
	strbuf_deinit(&in);
}

static _Noreturn void run_server(int listener, const struct fake_rule *rules, const char *log_path)
{
	int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	unsigned counts[64] = { 0 };

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (conn < 0)
			_exit(0);
		serve(conn, rules, counts, log);
		close(conn);
	}
}

void fake_start(struct fake *f, const struct fake_rule *rules)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(f->dir, "/tmp/vmctl-test-XXXXXX");
	cr_assert_not_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/vmd.sock", f->dir);
	snprintf(f->log, sizeof(f->log), "%s/requests", f->dir);
	strcpy(sa.sun_path, f->socket);
	cr_assert_eq(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(listener, 8), 0);
	f->pid = fork();
	cr_assert_geq(f->pid, 0);
	if (f->pid == 0)
		run_server(listener, rules, f->log);
	close(listener);
}

void fake_stop(struct fake *f)
{
	(void)kill(f->pid, SIGKILL); /* our own unreaped child: the number is still its */
	(void)waitpid(f->pid, NULL, 0);
	(void)unlink(f->socket);
	(void)unlink(f->log);
	(void)rmdir(f->dir);
}

json_t *fake_requests(struct fake *f)
{
	json_t *all = json_array();
	FILE *in = fopen(f->log, "re");
	char *line = NULL;
	size_t cap = 0;

	while (in && getline(&line, &cap, in) > 0)
		json_array_append_new(all, json_loads(line, 0, NULL));
	free(line);
	if (in)
		fclose(in);
	return all;
}

const json_t *fake_params(const json_t *all, const char *method, size_t n)
{
	json_t *request;
	size_t i;

	json_array_foreach(all, i, request)
		if (strcmp(jsonx_str(request, "method", ""), method) == 0 && n-- == 0)
			return json_object_get(request, "params");
	cr_assert_fail("no such call of %s", method);
	return NULL;
}

/* --- vmctl --- */

static void collect_args(char **argv, va_list ap)
{
	size_t n = 1; /* argv[0] is the caller's */

	while (n < MAX_ARGS && (argv[n] = va_arg(ap, char *)))
		n++;
	argv[MAX_ARGS] = NULL;
}

static void set_environment(const struct fake *f)
{
	if (f)
		setenv("VMD_SOCKET", f->socket, 1);
	else
		unsetenv("VMD_SOCKET");
	setenv("LC_ALL", "C.UTF-8", 1);
	setenv("TZ", "UTC", 1);
	unsetenv("VISUAL");
}

static int make_input(const char *input)
{
	int fd = memfd_create("input", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	if (input)
		cr_assert_eq(fd_write_all(fd, input, strlen(input)), 0);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static char *take_output(int fd)
{
	struct strbuf s = STRBUF_INIT;
	off_t size = lseek(fd, 0, SEEK_END);
	char *room = strbuf_reserve(&s, (size_t)size);

	cr_assert_eq(pread(fd, room, (size_t)size, 0), size);
	strbuf_grew(&s, (size_t)size);
	close(fd);
	return strbuf_steal(&s);
}

struct outcome vmctl(struct fake *f, const char *input, ...)
{
	int in = make_input(input), out = memfd_create("out", MFD_CLOEXEC),
	    err = memfd_create("err", MFD_CLOEXEC);
	char name[sizeof("./vmctl")], *argv[MAX_ARGS + 1];
	struct outcome o;
	va_list ap;
	pid_t pid;

	va_start(ap, input);
	collect_args(argv, ap);
	va_end(ap);
	strcpy(name, "./vmctl");
	argv[0] = name;
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		set_environment(f);
		dup2(in, 0);
		dup2(out, 1);
		dup2(err, 2);
		execv(argv[0], argv);
		_exit(127);
	}
	close(in);
	o.code = wait_exit(pid);
	o.out = take_output(out);
	o.err = take_output(err);
	return o;
}

void outcome_free(struct outcome *o)
{
	free(o->out);
	free(o->err);
}

int wait_exit(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = 0;
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	cr_assert_geq(pidfd, 0);
	if (poll(&p, 1, vmctl_limit_ms) <= 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		cr_assert_fail("vmctl does not end");
	}
	close(pidfd);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

pid_t vmctl_on_tty(struct fake *f, int *ret_fd, ...)
{
	struct winsize ws = { .ws_row = 25, .ws_col = 100 };
	char name[sizeof("./vmctl")], *argv[MAX_ARGS + 1];
	sigset_t ends, mask;
	va_list ap;
	pid_t pid;

	va_start(ap, ret_fd);
	collect_args(argv, ap);
	va_end(ap);
	strcpy(name, "./vmctl");
	argv[0] = name;
	/* One that comes before the child has made itself ready waits, and is not lost. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	cr_assert_eq(sigprocmask(SIG_BLOCK, &ends, &mask), 0);
	pid = forkpty(ret_fd, NULL, NULL, &ws);
	if (pid != 0)
		(void)sigprocmask(SIG_SETMASK, &mask, NULL);
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		/* As a login on a terminal has it; a shell's background jobs ignore them. */
		(void)signal(SIGINT, SIG_DFL);
		(void)signal(SIGQUIT, SIG_DFL);
		(void)signal(SIGTERM, SIG_DFL);
		(void)sigprocmask(SIG_UNBLOCK, &ends, NULL);
		set_environment(f);
		setenv("TERM", "xterm", 1);
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

void tty_expect(int fd, const char *text, char *buf, size_t len)
{
	size_t have = 0;

	buf[0] = '\0';
	while (!strstr(buf, text)) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		cr_assert(have + 1 < len, "too much output, no '%s' in it: %s", text, buf);
		cr_assert(poll(&p, 1, vmctl_limit_ms) > 0, "'%s' did not come; came: %s", text,
		          buf);
		n = read(fd, buf + have, len - have - 1);
		cr_assert(n > 0, "terminal closed before '%s'; came: %s", text, buf);
		have += (size_t)n;
		buf[have] = '\0';
	}
}
