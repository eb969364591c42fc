/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* vmd-shim: the parent of one guest's processes. See common/shim-proto.h and vmd-shim(8). */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/shim-proto.h"
#include "common/timeutil.h"
#include "shim/shim.h"

#define EXIT_BAD_DOCUMENT 65
#define ENGINE_LOG_BYTES  262144

static struct shim shim = { .dir_fd = -EBADF,
	                    .listen_fd = -EBADF,
	                    .signal_fd = -EBADF,
	                    .qmp_fd = -EBADF,
	                    .console.fd = -EBADF };

/* What each entry of the poll set belongs to. */
struct poll_set {
	struct pollfd fds[MAX_POLL];
	void *owners[MAX_POLL];
	void (*handlers[MAX_POLL])(struct shim *s, void *owner, short revents);
	size_t n;
};

static void on_listen(struct shim *s, void *owner, short revents)
{
	(void)owner;
	(void)revents;
	control_accept(s);
}

static void on_signal(struct shim *s, void *owner, short revents)
{
	struct signalfd_siginfo info;
	ssize_t n = read(s->signal_fd, &info, sizeof(info));

	(void)owner;
	(void)revents;
	if (n > 0)
		child_reap_orphans(s);
}

static void on_console(struct shim *s, void *owner, short revents)
{
	(void)owner;
	if (revents & POLLOUT)
		console_write_input(s);
	if (revents & ~POLLOUT)
		console_read(s);
}

static void on_child(struct shim *s, void *owner, short revents)
{
	(void)revents;
	child_check(s, owner);
}

static void on_stderr(struct shim *s, void *owner, short revents)
{
	(void)revents;
	child_read_stderr(s, owner);
}

static void on_client(struct shim *s, void *owner, short revents)
{
	struct client *c = owner;

	if (revents & (POLLIN | POLLHUP | POLLERR))
		control_request(s, c);
}

static void on_stream(struct shim *s, void *owner, short revents)
{
	stream_service(s, owner, revents);
}

static void add(struct poll_set *p, int fd, int events, void *owner,
                void (*handler)(struct shim *, void *, short))
{
	p->fds[p->n] = (struct pollfd){ .fd = fd, .events = (short)events };
	p->owners[p->n] = owner;
	p->handlers[p->n++] = handler;
}

static void fill(struct shim *s, struct poll_set *p, uint64_t now)
{
	p->n = 0;
	/* The guest's side first, so that readers get in this turn what came in this turn. */
	if (s->console.fd >= 0)
		add(p, s->console.fd, POLLIN | (s->console.input_len ? POLLOUT : 0), NULL,
		    on_console);
	for (size_t i = 0; i < s->n_procs; i++) {
		struct child *c = &s->procs[i];

		if (c->err_fd >= 0)
			add(p, c->err_fd, POLLIN, c, on_stderr);
		if (c->running)
			add(p, c->pidfd, POLLIN, c, on_child);
	}
	for (size_t i = 0; i < MAX_STREAMS; i++) {
		struct stream *t = &s->streams[i];
		int events = t->used ? stream_poll_events(s, t) : -1;

		if (t->used)
			add(p, events < 0 ? -1 : t->fd, MAX_OF(events, 0), t, on_stream);
	}
	/* Last, since requests may give the slots of the entries above to others. */
	add(p, s->signal_fd, POLLIN, NULL, on_signal);
	if (now >= s->accept_pause_us)
		add(p, s->listen_fd, POLLIN, NULL, on_listen);
	for (size_t i = 0; i < MAX_CLIENTS; i++) {
		struct client *c = &s->clients[i];

		if (c->used)
			add(p, c->fd, POLLIN | (control_is_due(c) ? POLLOUT : 0), c, on_client);
	}
}

static int timeout_ms(const struct shim *s, uint64_t now)
{
	uint64_t until = s->deadline_us;

	if (s->accept_pause_us > now && (!until || s->accept_pause_us < until))
		until = s->accept_pause_us;
	if (!until)
		return -1;
	return until > now ? (int)((until - now) / 1000) + 1 : 0;
}

/* Everything that follows from what the turn brought, without waiting for another event. */
static void settle(struct shim *s)
{
	if (s->state == SHIM_ENDING)
		child_end_helpers(s, now_monotonic_us());
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].used && control_is_due(&s->clients[i]))
			control_notify(s, &s->clients[i]);
	for (size_t i = 0; i < MAX_STREAMS; i++)
		if (s->streams[i].used)
			stream_service(s, &s->streams[i], 0);
}

static bool is_done(const struct shim *s)
{
	if (s->state != SHIM_RELEASED)
		return false;
	for (size_t i = 0; i < MAX_STREAMS; i++)
		if (s->streams[i].used && now_monotonic_us() < s->deadline_us)
			return false;
	return true;
}

static void run(struct shim *s)
{
	struct poll_set p;

	while (!is_done(s)) {
		uint64_t now = now_monotonic_us();

		fill(s, &p, now);
		if (poll(p.fds, p.n, timeout_ms(s, now)) < 0)
			continue;
		for (size_t i = 0; i < p.n; i++)
			if (p.fds[i].revents)
				p.handlers[i](s, p.owners[i], p.fds[i].revents);
		settle(s);
	}
}

static void ignore_signals(void)
{
	static const int ignored[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1,
		                       SIGUSR2, SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU, SIGALRM };

	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		(void)signal(ignored[i], SIG_IGN);
}

static int watch_children(struct shim *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return -errno;
	return 0;
}

static void close_stray(void)
{
	(void)setsid();
	(void)umask(077);
	if (chdir("/") < 0)
		fprintf(stderr, "vmd-shim: cannot change to '/': %s\n", strerror(errno));
}

/* Everything before the first process; *ret_step names what failed. */
static int prepare(struct shim *s, const struct launch_doc *doc, const char **ret_step,
                   struct vmd_error *err)
{
	int r;

	*ret_step = "socket";
	s->dir_fd = fs_open_dir(AT_FDCWD, s->runtime_dir);
	if (s->dir_fd < 0)
		return error_set_errno(err, -s->dir_fd, "cannot open '%s'", s->runtime_dir);
	r = control_listen(s, err);
	if (r < 0)
		return r;
	*ret_step = "console";
	logfile_init(&s->engine_log, s->state_dir, "engine.log", ENGINE_LOG_BYTES, 2);
	r = console_init(s, s->console.ring_bytes, doc->log_max_bytes, doc->log_files);
	if (r == 0)
		r = watch_children(s);
	return r < 0 ? error_set_errno(err, -r, "cannot set up the console") : 0;
}

static int write_identity(struct shim *s, struct vmd_error *err)
{
	char data[1024];
	struct jsonw w = { .data = data, .cap = sizeof(data) };
	const struct child *engine = shim_engine(s);
	int r;

	jsonw_printf(&w,
	             "{\"version\":%d,\"uuid\":\"%s\",\"name\":\"%s\",\"shim_pid\":%d,"
	             "\"shim_start_time\":%llu,\"pid\":%d,\"start_time\":%llu,\"boot_id\":\"%s\","
	             "\"started_us\":%llu}\n",
	             SHIM_PROTO_VERSION, s->uuid, s->name, getpid(),
	             (unsigned long long)proc_start_time(getpid()), engine->pid,
	             (unsigned long long)engine->start_time, proc_boot_id(),
	             (unsigned long long)s->start_wall_us);
	r = fs_write_atomic(s->dir_fd, "shim.json", data, w.len, 0);
	return r < 0 ? error_set_errno(err, -r, "cannot write '%s/shim.json'", s->runtime_dir) : 0;
}

/* vmd moves us into a control group of our own first; should it die meanwhile, that opens the gate.
 */
static void wait_for_gate(int gate_fd)
{
	char byte;

	while (gate_fd >= 0 && read(gate_fd, &byte, 1) < 0 && errno == EINTR)
		;
}

static int start(struct shim *s, struct launch_doc *doc, char *step, size_t step_len,
                 struct vmd_error *err)
{
	const char *name;
	int r;

	r = prepare(s, doc, &name, err);
	if (r < 0) {
		snprintf(step, step_len, "%s", name);
		return r;
	}
	wait_for_gate(doc->gate_fd);
	r = launch_spawn(s, doc, &name, err);
	if (r < 0) {
		snprintf(step, step_len, "spawn %s", name);
		return r;
	}
	r = write_identity(s, err);
	if (r < 0) {
		snprintf(step, step_len, "identity");
		child_kill_all(s);
	}
	return r;
}

static void tell_ready(struct shim *s, int ready_fd, int r, const char *step,
                       const struct vmd_error *err)
{
	char data[2048];
	struct jsonw w = { .data = data, .cap = sizeof(data) };

	if (r == 0) {
		jsonw_printf(&w, "{\"ok\":true,\"pid\":%d,\"start_time\":%llu}\n",
		             shim_engine(s)->pid, (unsigned long long)shim_engine(s)->start_time);
	} else {
		jsonw_printf(&w, "{\"ok\":false,\"step\":");
		jsonw_string(&w, step, strlen(step));
		jsonw_printf(&w, ",\"error\":");
		jsonw_string(&w, err->message, strlen(err->message));
		jsonw_printf(&w, ",\"errno\":%d}\n", -r);
	}
	(void)!write(ready_fd, w.data, w.len);
	close(ready_fd);
}

/* From here on nobody reads what we would say. */
static void detach_stdio(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		close(null);
}

static int usage(const char *option)
{
	if (option && strcmp(option, "--version") == 0) {
		puts("vmd-shim " PACKAGE_VERSION);
		return 0;
	}
	fputs("usage: vmd-shim NAME, with a launch document as descriptor 3; started by vmd(8)\n",
	      stderr);
	return 64;
}

int main(int argc, char **argv)
{
	struct launch_doc doc = { .ready_fd = -EBADF, .lock_fd = -EBADF, .gate_fd = -EBADF };
	struct vmd_error err = VMD_ERROR_INIT;
	char step[64] = "";
	int r;

	if (argc != 2 || argv[1][0] == '-')
		return usage(argc == 2 ? argv[1] : NULL);
	ignore_signals();
	close_stray();
	r = launch_read(&shim, &doc, &err);
	if (r < 0) {
		fprintf(stderr, "vmd-shim: %s\n", err.message);
		json_decref(doc.root);
		return EXIT_BAD_DOCUMENT;
	}
	r = start(&shim, &doc, step, sizeof(step), &err);
	if (r == 0)
		launch_close_rest(&shim, doc.ready_fd);
	else if (shim.listen_fd >= 0)
		(void)unlinkat(shim.dir_fd, "shim.sock", 0);
	json_decref(doc.root);
	(void)malloc_trim(0);
	detach_stdio();
	tell_ready(&shim, doc.ready_fd, r, step, &err);
	if (r < 0)
		return 1;
	run(&shim);
	return 0;
}
