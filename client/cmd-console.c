/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/term.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"

enum {
	DEFAULT_ESCAPE = 0x1d, /* ^] */
	CHUNK = 4096,
};

/* Both directions have a buffer: neither waits for the other. */
struct console {
	int stream;    /* non-blocking */
	int escape;    /* code that detaches, or -1 */
	bool tty;      /* stdin is a raw terminal */
	bool input;    /* stdin is still read */
	bool readonly; /* what is read is not sent */
	bool detached;
	char to_guest[CHUNK];
	size_t n_to_guest;
};

/* Cuts the input at the escape key. */
static void take_input(struct console *c, const char *data, size_t len)
{
	const char *found = c->tty && c->escape >= 0 ? memchr(data, c->escape, len) : NULL;

	if (found) {
		len = (size_t)(found - data);
		c->detached = true;
	}
	if (c->readonly)
		return;
	memcpy(c->to_guest + c->n_to_guest, data, len);
	c->n_to_guest += len;
}

static int read_input(struct console *c)
{
	char data[CHUNK];
	ssize_t n = read(STDIN_FILENO, data, CHUNK - c->n_to_guest);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (n == 0)
		c->input = false; /* a file came to its end: go on showing output */
	else
		take_input(c, data, (size_t)n);
	return 0;
}

static int write_input(struct console *c)
{
	ssize_t n = send(c->stream, c->to_guest, c->n_to_guest, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	c->n_to_guest -= (size_t)n;
	memmove(c->to_guest, c->to_guest + n, c->n_to_guest);
	return 0;
}

/* 1 while the stream lives, 0 at its end. */
static int read_output(struct console *c)
{
	char data[CHUNK];
	ssize_t n = recv(c->stream, data, sizeof(data), MSG_DONTWAIT);
	int r;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -errno;
	if (n == 0)
		return 0;
	r = fd_write_all(STDOUT_FILENO, data, (size_t)n);
	return r < 0 ? r : 1;
}

static int wait_console(struct console *c, struct pollfd p[3])
{
	p[0] = (struct pollfd){ .fd = c->stream, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = -1, .events = POLLIN };
	p[2] = (struct pollfd){ .fd = STDOUT_FILENO }; /* told when nobody reads it */
	if (c->n_to_guest)
		p[0].events |= POLLOUT;
	if (c->input && c->n_to_guest < CHUNK)
		p[1].fd = STDIN_FILENO;
	return ppoll(p, 3, NULL, term_wait_mask()) < 0 && errno != EINTR ? -errno : 0;
}

/* 1: detached by the escape key; 0: the console closed; negative errno. */
static int relay(struct console *c)
{
	for (;;) {
		struct pollfd p[3];
		int r = wait_console(c, p);

		if (r < 0)
			return r;
		if (term_ended())
			return 1;
		if (p[2].revents && !p[0].revents)
			return -EPIPE;
		if (p[1].fd >= 0 && p[1].revents && (r = read_input(c)) < 0)
			return r;
		if (c->n_to_guest && (r = write_input(c)) < 0)
			return r == -EPIPE || r == -ECONNRESET ? 0 : r;
		if (c->detached)
			return 1;
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			r = read_output(c);
			if (r <= 0)
				return r == -ECONNRESET ? 0 : r;
		}
	}
}

static int open_stream(struct ctx *ctx, const char *vm, int *ret_fd)
{
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:s}", "vm", vm);
	int r;

	if (args_has(&ctx->args, "read-only"))
		xset(params, "readonly", json_true());
	if (args_has(&ctx->args, "no-replay"))
		xset(params, "replay", json_false());
	r = ctx_call(ctx, "console.open", params, &result);
	if (r < 0)
		return r;
	*ret_fd = rpc_take_fd(ctx->rpc,
	                      (size_t)jsonx_int(json_object_get(result, "stream"), "fd", 0));
	if (*ret_fd < 0)
		return error_set(&ctx->err, ERROR_INTERNAL, "vmd sent no stream");
	return 0;
}

static int read_escape(struct ctx *ctx, int *ret)
{
	const char *text = args_str(&ctx->args, "escape");

	*ret = DEFAULT_ESCAPE;
	if (text && term_escape_parse(text, ret) < 0)
		return usage_error(ctx, "--escape: '%s' is no key; write ^], ^a, a letter or none",
		                   text);
	return 0;
}

int console_check_options(struct ctx *ctx)
{
	int escape;

	if (ctx->format == FORMAT_JSON)
		return usage_error(ctx, "a console is no JSON; `logs -f -o json` has its lines");
	return read_escape(ctx, &escape);
}

/* Attributes the guest left behind go, and the prompt begins on a new line. */
static void leave_screen(const struct console *c, bool out_tty)
{
	static const char sane[] = "\033[0m\033[?25h\r\n";
	ssize_t n = c->tty && out_tty ? write(STDOUT_FILENO, sane, sizeof(sane) - 1) : 0;

	(void)n; /* a terminal that is gone needs no care */
	term_restore();
}

int console_attach(struct ctx *ctx, const char *vm)
{
	cleanup_close int fd = -EBADF;
	struct console c = { .readonly = args_has(&ctx->args, "read-only") };
	int r = read_escape(ctx, &c.escape);

	if (r)
		return r;
	r = open_stream(ctx, vm, &fd);
	if (r < 0)
		return ctx_fail(ctx, r, "console of '%s'", vm);
	fflush(stdout);
	c.stream = fd;
	if (isatty(STDIN_FILENO) && ctx->err_tty && !ctx->quiet && c.escape >= 0)
		fprintf(stderr, "console of %s; %s leaves it\n", vm, term_escape_name(c.escape));
	c.tty = term_raw();
	c.input = c.tty || !c.readonly; /* the escape key works in a read-only console, too */
	r = relay(&c);
	leave_screen(&c, ctx->out_tty);
	if (r < 0 && r != -EPIPE) {
		(void)error_set_errno(&ctx->err, -r, "console of '%s'", vm);
		return ctx_fail(ctx, r, NULL);
	}
	if (!ctx->quiet && ctx->err_tty)
		fprintf(stderr, "%s: %s\n", vm, r > 0 ? "detached" : "console closed");
	return EXIT_DONE;
}

int cmd_console(struct ctx *ctx)
{
	int code = console_check_options(ctx);

	return code ? code : console_attach(ctx, ctx->args.names[0]);
}
