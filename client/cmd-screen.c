/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"

static int copy_file(int from, int to)
{
	char data[8192];
	ssize_t n;

	if (lseek(from, 0, SEEK_SET) < 0 && errno != ESPIPE)
		return -errno;
	while ((n = read(from, data, sizeof(data))) > 0) {
		int r = fd_write_all(to, data, (size_t)n);

		if (r < 0)
			return r;
	}
	return n < 0 ? -errno : 0;
}

static int save(struct ctx *ctx, int from, const char *path)
{
	cleanup_close int to = -EBADF;
	int r;

	if (strcmp(path, "-") == 0) {
		fflush(stdout);
		r = copy_file(from, STDOUT_FILENO);
	} else {
		to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		r = to < 0 ? -errno : copy_file(from, to);
	}
	return r < 0 ? error_set_errno(&ctx->err, -r, "cannot write '%s'", path) : 0;
}

int cmd_screenshot(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0], *format = args_str(&ctx->args, "format");
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:s}", "vm", vm);
	cleanup_free char *path = NULL;
	cleanup_close int fd = -EBADF;
	int r;

	if (format)
		xset(params, "format", xstring(format));
	r = ctx_call(ctx, "vm.screenshot", params, &result);
	if (r < 0)
		return ctx_fail(ctx, r, "screenshot of '%s'", vm);
	path = ctx->args.n_names > 1 ? xstrdup(ctx->args.names[1])
	                             : xasprintf("%s.%s", vm, jsonx_str(result, "format", "png"));
	fd = rpc_take_fd(ctx->rpc, (size_t)jsonx_int(json_object_get(result, "file"), "fd", 0));
	r = fd < 0 ? error_set(&ctx->err, ERROR_INTERNAL, "vmd sent no picture")
	           : save(ctx, fd, path);
	if (r < 0)
		return ctx_fail(ctx, r, "screenshot of '%s'", vm);
	return strcmp(path, "-") == 0 ? EXIT_DONE
	                              : ctx_done(ctx, result, "%s: saved as %s", vm, path);
}

/* "ctrl-alt-delete" to ["ctrl", "alt", "delete"]; a lone "-" is the key minus. */
static json_t *chord(const char *text)
{
	json_t *keys = xpack("[]");

	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "-+");
		cleanup_free char *word = len ? strndup(p, len) : xstrdup("minus");

		if (!word)
			die_no_memory();
		if (json_array_append_new(keys, xstring(word)) < 0)
			die_no_memory();
		p += MAX_OF(len, (size_t)1);
		if (len && (*p == '-' || *p == '+'))
			p++;
	}
	return keys;
}

int cmd_send_key(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0];
	uint64_t hold = 0;

	if (args_duration(&ctx->args, "hold", &hold, &ctx->err) < 0)
		return usage_error(ctx, "%s", ctx->err.message);
	for (size_t i = 1; i < ctx->args.n_names; i++) {
		cleanup_json json_t *result = NULL;
		json_t *params = xpack("{s:s, s:o}", "vm", vm, "keys", chord(ctx->args.names[i]));
		int r;

		if (hold)
			xset(params, "hold_ms", json_integer((json_int_t)hold));
		r = ctx_call(ctx, "vm.send_key", params, &result);
		if (r < 0)
			return ctx_fail(ctx, r, "'%s'", vm);
	}
	if (ctx->format == FORMAT_JSON)
		puts("{}");
	return EXIT_DONE;
}
