/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/help.h"
#include "client/output.h"
#include "client/session.h"
#include "common/jsonx.h"
#include "common/strbuf.h"

const struct option_def global_options[] = {
	{ "socket", 's', "PATH", "talk to the vmd at this socket (default: $VMD_SOCKET)" },
	{ "output", 'o', "FORMAT", "table or json" },
	{ "quiet", 'q', NULL, "print names or nothing; errors stay" },
	{ "timeout", 0, "TIME", "give up after this long (90s, 2m)" },
	{ "help", 'h', NULL, "help for this command" },
	{ "version", 0, NULL, "print the version" },
	{ 0 },
};

static const struct {
	enum error_kind kind;
	int code;
} exit_codes[] = {
	{ ERROR_NOT_FOUND, EXIT_NO_SUCH },
	{ ERROR_WRONG_STATE, EXIT_STATE },
	{ ERROR_DENIED, EXIT_DENIED },
	{ ERROR_TIMEOUT, EXIT_TIMEOUT },
};

int exit_code_of(int r, const struct vmd_error *err)
{
	if (r >= 0)
		return EXIT_DONE;
	if (r == -ENOTCONN)
		return EXIT_AWAY;
	if (r == -EINTR)
		return EXIT_INTERRUPT;
	for (size_t i = 0; i < ARRAY_SIZE(exit_codes); i++)
		if (exit_codes[i].kind == err->kind)
			return exit_codes[i].code;
	return EXIT_FAILED;
}

/*
 * vmd's hints speak of methods ("vm.list tells the guests there are"); here they are called by
 * their verbs. For the caller to free.
 */
static char *hint_in_verbs(const char *hint)
{
	static const char *const verbs[][2] = {
		{ "vm.list", "`vmctl list`" },
		{ "vm.get", "`vmctl info`" },
		{ "vm.update", "`vmctl set`" },
		{ "vm.rename", "`vmctl rename`" },
		{ "vm.start", "`vmctl start`" },
		{ "vm.kill", "`vmctl kill`" },
		{ "snapshot.list", "`vmctl snapshot list`" },
		{ "job.wait", "`vmctl job wait`" },
		{ "rpc.discover", "`vmctl help METHOD` or rpc.discover" },
	};
	struct strbuf s = STRBUF_INIT;
	char *text;

	while (*hint) {
		size_t len = strcspn(hint, " ,;:'"), i = 0;
		/* In quotes it is a word of the input: "did you mean 'vm.list'?" */
		bool quoted = s.len && s.data[s.len - 1] == '\'';

		while (i < ARRAY_SIZE(verbs) &&
		       (strlen(verbs[i][0]) != len || strncmp(verbs[i][0], hint, len) != 0))
			i++;
		if (i < ARRAY_SIZE(verbs) && !quoted)
			strbuf_append_str(&s, verbs[i][1]);
		else
			strbuf_append(&s, hint, len);
		hint += len;
		if (*hint)
			strbuf_append_char(&s, *hint++);
	}
	text = strbuf_steal(&s);
	return text ? text : xstrdup("");
}

void print_hint(const char *format, ...)
{
	va_list ap;

	fputs("hint: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* The same hint for one VM after the other is told once. */
static void put_hint(const struct vmd_error *err)
{
	static char *last;
	char *hint;

	if (!err->hint[0] && err->job[0])
		hint = xasprintf("job %s is at work on it: vmctl job wait %s", err->job, err->job);
	else
		hint = hint_in_verbs(err->hint);
	if (*hint && (!last || strcmp(last, hint) != 0)) {
		fputs("hint: ", stderr);
		put_clean(stderr, hint);
		fputc('\n', stderr);
	}
	free(last);
	last = hint;
}

/* The message names its object already as a rule; then what is not said twice. */
void print_error(const struct vmd_error *err, const char *what)
{
	fflush(stdout);
	fputs("vmctl: ", stderr);
	if (what && !strstr(err->message, what)) {
		put_clean(stderr, what);
		fputs(": ", stderr);
	}
	if (err->kind == ERROR_INVALID && err->field[0] && !strstr(err->message, err->field)) {
		put_clean(stderr, err->field);
		fputs(": ", stderr);
	}
	put_clean(stderr, err->message[0] ? err->message : "failed");
	fputc('\n', stderr);
	put_hint(err);
}

json_t *error_to_json(const struct vmd_error *err)
{
	return xpack("{s:i, s:s, s:{s:s, s:s*}}", "code", error_kind_code(err->kind), "message",
	             err->message, "data", "kind", error_kind_name(err->kind), "hint",
	             err->hint[0] ? err->hint : NULL);
}

const json_t *ctx_api_error(const struct ctx *ctx)
{
	return ctx->api_error ? ctx->api_error : rpc_error(ctx->rpc);
}

static void print_api_error(struct ctx *ctx)
{
	const json_t *error = ctx_api_error(ctx);
	cleanup_json json_t *object = NULL;

	if (ctx->format != FORMAT_JSON)
		return;
	object = error ? xpack("{s:O}", "error", error)
	               : xpack("{s:o}", "error", error_to_json(&ctx->err));
	(void)out_json(ctx, object);
}

int ctx_fail(struct ctx *ctx, int r, const char *what, ...)
{
	cleanup_free char *text = NULL;
	va_list ap;

	if (what) {
		va_start(ap, what);
		if (vasprintf(&text, what, ap) < 0)
			die_no_memory();
		va_end(ap);
	}
	if (r == -EINTR)
		return EXIT_INTERRUPT;
	print_error(&ctx->err, text);
	print_api_error(ctx);
	return exit_code_of(r, &ctx->err);
}

int usage_error(struct ctx *ctx, const char *format, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("vmctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (ctx->err.hint[0])
		print_hint("%s", ctx->err.hint);
	else if (ctx->cmd)
		print_hint("see `vmctl help %s%s%s`", ctx->noun ? ctx->noun->name : "",
		           ctx->noun ? " " : "", ctx->cmd->name);
	return EXIT_USAGE;
}

static int explain_away(struct ctx *ctx, const char *path, int r)
{
	if (r == -EACCES || r == -EPERM) {
		error_hint(&ctx->err,
		           "your user needs a role in vmd: see \"groups\" in vmd.conf(5)");
		ctx->err.kind = ERROR_DENIED;
		return r;
	}
	if (r == -ENAMETOOLONG)
		return r;
	/* In OpenBSD's vmctl, create -s SIZE makes a disk. */
	if (!strchr(path, '/') && ctx->cmd && ctx->cmd->run == cmd_create)
		error_hint(&ctx->err,
		           "-s is the socket; `vmctl disk create NAME SIZE` makes a disk");
	if (!ctx->err.hint[0] && strcmp(path, "/run/vmd/vmd.sock") == 0)
		error_hint(&ctx->err, "start it with: systemctl start vmd.socket");
	else if (!ctx->err.hint[0])
		error_hint(&ctx->err, "is it running? -s or VMD_SOCKET name another socket");
	return -ENOTCONN;
}

static int connect_to(struct ctx *ctx, bool may_start)
{
	cleanup_free char *path = NULL;
	bool session;
	int r;

	if (ctx->rpc)
		return 0;
	r = session_socket(ctx->socket, &path, &session, &ctx->err);
	if (r < 0)
		return r;
	r = rpc_connect(path, &ctx->rpc, &ctx->err);
	if (r == 0)
		return 0;
	if (session && may_start && (r == -ENOENT || r == -ECONNREFUSED)) {
		ctx->err = (struct vmd_error)VMD_ERROR_INIT;
		r = session_start(path, &ctx->err);
		if (r < 0)
			return r; /* it has said why */
		r = rpc_connect(path, &ctx->rpc, &ctx->err);
	}
	return r < 0 ? explain_away(ctx, path, r) : 0;
}

int ctx_connect(struct ctx *ctx)
{
	return connect_to(ctx, true);
}

int ctx_connect_running(struct ctx *ctx)
{
	return connect_to(ctx, false);
}

int ctx_call(struct ctx *ctx, const char *method, json_t *params, json_t **ret_result)
{
	uint64_t limit;
	int r = ctx_connect(ctx);

	if (r < 0) {
		json_decref(params);
		return r;
	}
	if (args_duration(&ctx->args, "timeout", &limit, NULL) > 0) {
		if (!params)
			params = xpack("{}");
		if (!json_object_get(params, "timeout_ms"))
			xset(params, "timeout_ms", json_integer((json_int_t)limit));
	}
	return rpc_call(ctx->rpc, method, params, -1, ret_result, &ctx->err);
}

int ctx_done(struct ctx *ctx, const json_t *result, const char *format, ...)
{
	va_list ap;

	if (ctx->format == FORMAT_JSON)
		return out_json(ctx, result);
	if (ctx->quiet)
		return EXIT_DONE;
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	return EXIT_DONE;
}

/* True if word is one of the space-separated aliases. */
static bool has_alias(const struct command *c, const char *word)
{
	const char *p = c->aliases;
	size_t len = strlen(word);

	while (p && *p) {
		size_t n = strcspn(p, " ");

		if (n == len && strncmp(p, word, n) == 0)
			return true;
		p += n + (p[n] == ' ');
	}
	return false;
}

static bool is_command(const struct command *c)
{
	return c->run || c->sub;
}

const struct command *command_find(const struct command *table, const char *word, bool prefixes)
{
	const struct command *found = NULL;
	size_t n = 0, len = strlen(word);

	for (const struct command *c = table; c->name; c++)
		if (is_command(c) && (strcmp(c->name, word) == 0 || has_alias(c, word)))
			return c;
	for (const struct command *c = table; prefixes && len && c->name; c++) {
		if (is_command(c) && !(c->flags & CMD_HIDDEN) && strncmp(c->name, word, len) == 0) {
			found = c;
			n++;
		}
	}
	return n == 1 ? found : NULL;
}

const char *command_nearest(const struct command *table, const char *word)
{
	static char copies[64][24];
	const char *words[ARRAY_SIZE(copies) + 64];
	size_t n = 0, n_copies = 0;

	for (const struct command *c = table; c->name && n < 60; c++) {
		if (is_command(c) && !(c->flags & CMD_HIDDEN))
			words[n++] = c->name;
	}
	for (const struct command *c = table; c->name; c++) {
		const char *p = c->flags & CMD_HIDDEN ? NULL : c->aliases;

		while (p && *p && n_copies < ARRAY_SIZE(copies)) {
			size_t len = strcspn(p, " ");

			snprintf(copies[n_copies], sizeof(copies[0]), "%.*s", (int)len, p);
			words[n++] = copies[n_copies++];
			p += len + (p[len] == ' ');
		}
	}
	return nearest_word(word, words, n);
}

static int unknown_command(struct ctx *ctx, const struct command *table, const char *word)
{
	const char *near = command_nearest(table, word);

	fprintf(stderr, "vmctl: unknown command '%s%s%s'\n", ctx->noun ? ctx->noun->name : "",
	        ctx->noun ? " " : "", word);
	if (near)
		print_hint("did you mean '%s'?", near);
	else
		print_hint("`vmctl help` lists all commands");
	return EXIT_USAGE;
}

static int read_globals(struct ctx *ctx)
{
	const char *format = args_str(&ctx->args, "output");
	uint64_t ignored;

	ctx->socket = args_str(&ctx->args, "socket");
	ctx->quiet = args_has(&ctx->args, "quiet");
	if (args_duration(&ctx->args, "timeout", &ignored, &ctx->err) < 0)
		return usage_error(ctx, "%s", ctx->err.message);
	if (!format || strcmp(format, "table") == 0)
		return 0;
	if (strcmp(format, "json") != 0)
		return usage_error(ctx, "-o: '%s' is neither table nor json", format);
	ctx->format = FORMAT_JSON;
	return 0;
}

static int check_operands(struct ctx *ctx)
{
	const struct command *c = ctx->cmd;
	int n = (int)ctx->args.n_names;
	uint64_t generation;

	if (args_number(&ctx->args, "if-generation", &generation, &ctx->err) < 0)
		return usage_error(ctx, "%s", ctx->err.message);
	if (n < c->min_args)
		return usage_error(ctx, "%s needs %s", c->name, c->operands);
	if (c->max_args >= 0 && n > c->max_args)
		return usage_error(ctx, "%s: one argument too many: '%s'", c->name,
		                   ctx->args.names[c->max_args]);
	return 0;
}

/* Parses up to the next operand with the options that stand before a verb. */
static int parse_front(struct ctx *ctx, int argc, char **argv)
{
	const struct option_def *tables[] = { global_options, NULL };
	struct args_spec spec = { tables, ctx->prefixes, true };

	return args_parse(&ctx->args, &spec, argc, argv, &ctx->err);
}

static int parse_rest(struct ctx *ctx, int argc, char **argv)
{
	static const struct option_def none[] = { { 0 } };
	const struct option_def *tables[] = { ctx->cmd->options ? ctx->cmd->options : none,
		                              global_options,
		                              ctx->cmd->flags & CMD_MANY ? many_options : NULL,
		                              NULL };
	struct args_spec spec = { tables, ctx->prefixes, false };

	return args_parse(&ctx->args, &spec, argc, argv, &ctx->err);
}

/* Finds the command (and its noun), parses everything. 0, or an exit code. */
static int parse_command(struct ctx *ctx, int argc, char **argv)
{
	const struct command *table = commands;
	int used;

	while (!ctx->cmd) {
		const struct command *c;

		used = parse_front(ctx, argc, argv);
		if (used < 0)
			return usage_error(ctx, "%s", ctx->err.message);
		argc -= used;
		argv += used;
		if (argc == 0)
			return 0;
		c = command_find(table, argv[0], ctx->prefixes);
		if (!c)
			return unknown_command(ctx, table, argv[0]);
		argc--;
		argv++;
		if (c->sub) {
			ctx->noun = c;
			table = c->sub;
		} else {
			ctx->cmd = c;
		}
	}
	used = parse_rest(ctx, argc, argv);
	if (ctx->cmd->flags & CMD_ADVICE)
		return 0; /* its options are another tool's */
	return used < 0 ? usage_error(ctx, "%s", ctx->err.message) : 0;
}

static int run(struct ctx *ctx, int argc, char **argv)
{
	int code = parse_command(ctx, argc, argv);

	if (code)
		return code;
	if (ctx->cmd && ctx->cmd->flags & CMD_ADVICE)
		return ctx->cmd->run(ctx);
	code = read_globals(ctx);
	if (code)
		return code;
	if (args_has(&ctx->args, "help"))
		return help_print(ctx, ctx->noun, ctx->cmd);
	if (args_has(&ctx->args, "version"))
		return help_version(ctx);
	if (!ctx->cmd && !ctx->noun) {
		(void)help_print(ctx, NULL, NULL);
		return EXIT_USAGE;
	}
	if (!ctx->cmd)
		return help_missing_verb(ctx);
	code = check_operands(ctx);
	return code ? code : ctx->cmd->run(ctx);
}

/* What was printed has to have arrived: a full disk is an error, a closed pipe is not news. */
static int close_stdout(int code)
{
	int failed = ferror(stdout);

	if (fflush(stdout) == 0 && !failed)
		return code;
	if (errno == EPIPE)
		return code ? code : EXIT_FAILED;
	fprintf(stderr, "vmctl: cannot write the output: %s\n", strerror(errno));
	return code ? code : EXIT_FAILED;
}

/* A standard descriptor that is closed would become the socket, and what is printed go to vmd. Only
 * for reading: then printing fails, as it would have. */
static void fill_standard_fds(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd)
			exit(EXIT_FAILED);
}

int vmctl_main(int argc, char **argv)
{
	struct ctx ctx = { 0 };
	int code;

	fill_standard_fds();
	ctx.out_tty = isatty(STDOUT_FILENO);
	ctx.err_tty = isatty(STDERR_FILENO);
	ctx.prefixes = ctx.out_tty && isatty(STDIN_FILENO);
	code = run(&ctx, argc - 1, argv + 1);
	code = close_stdout(code);
	rpc_free(ctx.rpc);
	json_decref(ctx.api_error);
	args_deinit(&ctx.args);
	return code;
}
