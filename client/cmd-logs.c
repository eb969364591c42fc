/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "common/timeutil.h"

enum {
	CHUNK = 4096
};

/* "10m" (ago), "@seconds", or a local date and time. */
static int parse_since(const char *text, uint64_t *ret_us)
{
	static const char *const formats[] = { "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S",
		                               "%Y-%m-%d %H:%M", "%Y-%m-%d" };
	uint64_t v, now = now_wall_us();

	if (text[0] == '@' && parse_u64(text + 1, &v) == 0 && v < UINT64_MAX / 1000000) {
		*ret_us = v * 1000000;
		return 0;
	}
	if (parse_duration_ms(text, &v) == 0) {
		*ret_us = v < now / 1000 ? now - v * 1000 : 0;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		struct tm tm = { .tm_isdst = -1 };
		const char *end = strptime(text, formats[i], &tm);

		if (end && !*end) {
			*ret_us = (uint64_t)mktime(&tm) * 1000000;
			return 0;
		}
	}
	return -EINVAL;
}

static int read_params(struct ctx *ctx, json_t *params)
{
	const char *since = args_str(&ctx->args, "since");
	uint64_t v;
	int r = args_number(&ctx->args, "tail", &v, &ctx->err);

	if (r < 0)
		return usage_error(ctx, "%s", ctx->err.message);
	if (r > 0)
		xset(params, "tail", json_integer((json_int_t)v));
	if (since && parse_since(since, &v) < 0)
		return usage_error(ctx,
		                   "--since: '%s' is neither a time ago (10m) nor a date "
		                   "(2026-01-31 12:00)",
		                   since);
	if (since)
		xset(params, "since_us", json_integer((json_int_t)v));
	if (args_has(&ctx->args, "timestamps"))
		xset(params, "timestamps", json_true());
	if (args_has(&ctx->args, "follow"))
		xset(params, "follow", json_true());
	return 0;
}

static void put_json_lines(struct strbuf *pending, const char *data, size_t len)
{
	strbuf_append(pending, data, len);
	for (;;) {
		char *newline = pending->len ? memchr(pending->data, '\n', pending->len) : NULL;
		cleanup_json json_t *line = NULL;
		size_t n;

		if (!newline)
			return;
		n = (size_t)(newline - pending->data) + 1;
		line = xpack("{s:o}", "text", json_stringn(pending->data, n));
		out_json_line(line);
		strbuf_consume(pending, n);
	}
}

/* One chunk of guest text, as it is or made harmless. */
static void put_chunk(struct ctx *ctx, struct cleaner *cleaner, struct strbuf *pending,
                      const char *data, size_t len)
{
	cleanup_strbuf struct strbuf clean = STRBUF_INIT;
	bool json = ctx->format == FORMAT_JSON;

	if (args_has(&ctx->args, "raw") && !json) {
		(void)fwrite(data, 1, len, stdout);
		return;
	}
	clean_text(cleaner, &clean, data, len);
	if (json)
		put_json_lines(pending, clean.data ? clean.data : "", clean.len);
	else
		(void)fwrite(clean.data, 1, clean.len, stdout);
}

/* Waits for more to read; false when nobody can read what would be written. */
static bool wait_more(int fd)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = STDOUT_FILENO } };

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	return p[0].revents || !p[1].revents;
}

static int follow(struct ctx *ctx, int fd)
{
	cleanup_strbuf struct strbuf pending = STRBUF_INIT;
	struct cleaner cleaner = { 0 };
	char data[CHUNK];
	ssize_t n;

	while (wait_more(fd) && (n = read(fd, data, sizeof(data))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			(void)error_set_errno(&ctx->err, errno, "reading the log");
			return -EIO;
		}
		put_chunk(ctx, &cleaner, &pending, data, (size_t)n);
		if (fflush(stdout) != 0)
			break; /* told when stdout is closed */
	}
	return 0;
}

int cmd_logs(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0], *text;
	cleanup_close int fd = -EBADF;
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:s}", "vm", vm);
	struct cleaner cleaner = { 0 };
	int r = read_params(ctx, params);

	if (r) {
		json_decref(params);
		return r;
	}
	r = ctx_call(ctx, "vm.logs", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "logs of '%s'", vm);
	/* A VM that does not run says no more: then the text comes, and that is all. */
	if (json_object_get(result, "stream")) {
		fd = rpc_take_fd(ctx->rpc,
		                 (size_t)jsonx_int(json_object_get(result, "stream"), "fd", 0));
		if (fd < 0)
			r = error_set(&ctx->err, ERROR_INTERNAL, "vmd sent no stream");
		else
			r = follow(ctx, fd);
		return r < 0 ? ctx_fail(ctx, r, "logs of '%s'", vm) : EXIT_DONE;
	}
	if (ctx->format == FORMAT_JSON)
		return out_json(ctx, result);
	if (jsonx_bool(result, "truncated", false) && !ctx->quiet)
		print_hint("earlier lines are left out; --since and --tail choose others");
	text = jsonx_str(result, "text", "");
	put_chunk(ctx, &cleaner, NULL, text, strlen(text));
	return EXIT_DONE;
}
