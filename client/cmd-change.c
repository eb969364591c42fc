/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/confirm.h"
#include "client/contractview.h"
#include "client/definition.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "client/patch.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"

enum {
	TEXT_MAX = 1 << 20,
	TEXT_DEPTH = 32,
	TRIES = 5, /* of set, when somebody else changes the VM at the same time */
};

struct current {
	json_t *info;       /* vm.get */
	json_t *definition; /* borrowed from info */
	int64_t generation;
};

static int get_current(struct ctx *ctx, const char *vm, struct current *c)
{
	int r = ctx_call(ctx, "vm.get", xpack("{s:s}", "vm", vm), &c->info);

	if (r < 0)
		return r;
	c->definition = json_object_get(c->info, "definition");
	c->generation = jsonx_int(c->info, "generation", 0);
	return 0;
}

static void current_deinit(struct current *c)
{
	json_decref(c->info);
}

static json_t *copy(const json_t *value)
{
	json_t *c = json_deep_copy(value);

	if (!c)
		die_no_memory();
	return c;
}

/* vm.update at the generation that was read. */
static int update(struct ctx *ctx, const char *vm, json_t *patch, int64_t generation, bool dry_run,
                  json_t **ret_result)
{
	json_t *params = xpack("{s:s, s:O, s:I}", "vm", vm, "set", patch, "if_generation",
	                       (json_int_t)generation);
	uint64_t wanted;

	if (dry_run)
		xset(params, "dry_run", json_true());
	if (args_number(&ctx->args, "if-generation", &wanted, NULL) > 0)
		xset(params, "if_generation", json_integer((json_int_t)wanted));
	return ctx_call(ctx, "vm.update", params, ret_result);
}

static bool is_pending(const json_t *pending, const char *path)
{
	json_t *word;
	size_t i;

	json_array_foreach(pending, i, word) {
		const char *field = json_string_value(word);
		size_t len = field ? strlen(field) : 0;

		if (field && strncmp(path, field, len) == 0 && (!path[len] || path[len] == '.'))
			return true;
	}
	return false;
}

static void put_changes(const json_t *changes, const json_t *pending, bool running)
{
	json_t *change;
	size_t i;

	json_array_foreach(changes, i, change) {
		cleanup_strbuf struct strbuf s = STRBUF_INIT;
		const char *path = jsonx_str(change, "field", "");

		clean_word(&s, path);
		strbuf_append_str(&s, ": ");
		patch_show(&s, json_object_get(change, "from"));
		strbuf_append_str(&s, " -> ");
		patch_show(&s, json_object_get(change, "to"));
		if (running)
			strbuf_append_str(&s, is_pending(pending, path) ? "  (at the next start)"
			                                                : "  (now)");
		printf("  %s\n", s.data ? s.data : "");
	}
}

/*
 * "web: changed" and what, with from which moment on; or that there was nothing to change. JSON is
 * vmd's result. vmd tells the definition as stored: what only looks different is no change.
 */
static int tell_changes(struct ctx *ctx, const char *vm, const struct current *c,
                        const json_t *result)
{
	cleanup_json json_t *changes =
		patch_changes(c->definition, json_object_get(result, "definition"));
	bool any = json_array_size(changes) != 0;

	if (ctx->format == FORMAT_JSON)
		return out_json(ctx, result);
	if (ctx->quiet)
		return EXIT_DONE;
	printf("%s: %s\n", vm,
	       !any                              ? "nothing to change"
	       : args_has(&ctx->args, "dry-run") ? "would be changed"
	                                         : "changed");
	put_changes(changes, json_object_get(result, "pending"),
	            json_is_integer(json_object_get(c->info, "pid")));
	return EXIT_DONE;
}

/* "cpus": 2 and "balloon": true are short for objects: they become one when a member is set. */
static void make_object(json_t *definition, const char *path)
{
	size_t len = strcspn(path, ".");
	cleanup_free char *key = strndup(path, len);
	const json_t *old = key ? json_object_get(definition, key) : NULL;

	if (!path[len] || !old)
		return;
	if (json_is_integer(old) && strcmp(key, "cpus") == 0)
		xset(definition, key, xpack("{s:I}", "count", json_integer_value(old)));
	else if (json_is_boolean(old))
		xset(definition, key, xpack("{}"));
}

static int put_change(struct ctx *ctx, json_t *definition, const char *text)
{
	const char *equals = strchr(text, '=');
	cleanup_free char *key = NULL;
	json_t *value;

	if (!equals || equals == text)
		return usage_error(ctx, "'%s' is not KEY=VALUE", text);
	key = strndup(text, (size_t)(equals - text));
	if (!key)
		die_no_memory();
	make_object(definition, key);
	value = contract_schema_value("VmDefinition", key, equals + 1);
	if (patch_put(definition, key, value, &ctx->err) < 0)
		return usage_error(ctx, "%s", ctx->err.message);
	return 0;
}

/* One try: reads, changes, writes if still at that generation. *code is the exit code when done. */
static int try_set(struct ctx *ctx, const char *vm, int *code)
{
	struct current c = { 0 };
	cleanup_json json_t *wanted = NULL, *patch = NULL, *result = NULL, *info = NULL;
	int r = get_current(ctx, vm, &c);

	if (r < 0)
		return r;
	info = c.info;
	wanted = copy(c.definition);
	for (size_t i = 1; i < ctx->args.n_names; i++) {
		*code = put_change(ctx, wanted, ctx->args.names[i]);
		if (*code)
			return 0;
	}
	definition_resolve(wanted, NULL);
	patch = patch_diff(c.definition, wanted);
	r = update(ctx, vm, patch, c.generation, args_has(&ctx->args, "dry-run"), &result);
	if (r < 0)
		return r;
	*code = tell_changes(ctx, vm, &c, result);
	return 0;
}

int cmd_set(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0];
	int code = EXIT_DONE, r = 0;

	for (int i = 0; i < TRIES; i++) {
		ctx->err = (struct vmd_error)VMD_ERROR_INIT;
		r = try_set(ctx, vm, &code);
		if (r == 0 || ctx->err.kind != ERROR_CONFLICT ||
		    args_has(&ctx->args, "if-generation"))
			break;
	}
	return r < 0 ? ctx_fail(ctx, r, "'%s'", vm) : code;
}

/* --- edit --- */

static const char *editor(void)
{
	static const char *const names[] = { "VISUAL", "EDITOR" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *e = getenv(names[i]);

		if (e && *e)
			return e;
	}
	return "vi";
}

/* The editor may be a command with arguments, so a shell runs it. 0 or an exit code. */
static int run_editor(struct ctx *ctx, const char *path)
{
	cleanup_free char *command = xasprintf("%s \"$1\"", editor());
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, "vmctl-edit", path, (char *)NULL);
		_exit(127);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	(void)error_set(&ctx->err, ERROR_INTERNAL, "the editor '%s' failed; nothing was changed",
	                editor());
	return ctx_fail(ctx, -EIO, NULL);
}

static int write_text(int fd, const json_t *value, struct vmd_error *err)
{
	cleanup_free char *text = json_dumps(value, JSON_INDENT(2));
	int r;

	if (!text)
		die_no_memory();
	r = fd_write_all(fd, text, strlen(text));
	if (r == 0)
		r = fd_write_all(fd, "\n", 1);
	return r < 0 ? error_set_errno(err, -r, "cannot write the file to edit") : 0;
}

static int read_text(const char *path, json_t **ret, struct vmd_error *err)
{
	cleanup_free char *text = NULL;
	size_t len;
	int r = fs_read_file(AT_FDCWD, path, TEXT_MAX, &text, &len);

	if (r < 0)
		return error_set_errno(err, -r, "cannot read '%s'", path);
	*ret = jsonx_parse(text, len, TEXT_DEPTH, err);
	return *ret ? 0 : -EINVAL;
}

/*
 * Somebody else changed the VM meanwhile. What both did not touch is taken over: 0 with the present
 * state in *c. When both changed a field, -EBUSY, and *c is the present state all the same: who
 * edits again has been told.
 */
static int meet_conflict(struct ctx *ctx, const char *vm, const json_t *patch, struct current *c)
{
	cleanup_json json_t *before = c->info, *theirs = NULL;
	const json_t *old = c->definition;
	const char *field;
	json_t *value;
	int r;

	c->info = NULL;
	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	r = get_current(ctx, vm, c);
	if (r < 0) {
		c->info = TAKE_PTR(before);
		return r;
	}
	theirs = patch_diff(old, c->definition);
	json_object_foreach(theirs, field, value) {
		if (!json_object_get(patch, field))
			continue;
		(void)error_set(&ctx->err, ERROR_CONFLICT,
		                "somebody else has changed '%s' since you began", field);
		error_hint(&ctx->err, "`vmctl info %s` shows it; what you save next holds", vm);
		return -EBUSY;
	}
	return 0;
}

/* Writes what was edited, past changes of others to other fields. */
static int write_edited(struct ctx *ctx, const char *vm, const json_t *patch, struct current *c,
                        json_t **ret_result)
{
	int r = -EBUSY;

	for (int i = 0; i < TRIES; i++) {
		cleanup_json json_t *copied = copy(patch);

		r = update(ctx, vm, copied, c->generation, false, ret_result);
		if (r == 0 || ctx->err.kind != ERROR_CONFLICT)
			return r;
		r = meet_conflict(ctx, vm, patch, c);
		if (r < 0)
			return r;
	}
	return r;
}

/* One round of editing. 0: settled with *code; 1: the text is wrong and shall be edited again. */
static int edit_round(struct ctx *ctx, const char *path, struct current *c, int *code)
{
	cleanup_json json_t *wanted = NULL, *patch = NULL, *result = NULL;
	const char *vm = ctx->args.names[0];
	int r;

	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	*code = run_editor(ctx, path);
	if (*code)
		return 0;
	r = read_text(path, &wanted, &ctx->err);
	if (r == 0) {
		patch = patch_diff(c->definition, wanted);
		if (json_object_size(patch) == 0) {
			*code = ctx_done(ctx, c->info, "%s: nothing changed", vm);
			return 0;
		}
		r = write_edited(ctx, vm, patch, c, &result);
	}
	if (r == 0) {
		*code = tell_changes(ctx, vm, c, result);
		return 0;
	}
	*code = ctx_fail(ctx, r, "'%s'", vm);
	return isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && confirm("Edit it again?");
}

/* Is there nothing in the file that would be lost with it? */
static bool is_unchanged(const char *path, const json_t *definition)
{
	cleanup_json json_t *text = NULL;
	struct vmd_error ignored = VMD_ERROR_INIT;

	return read_text(path, &text, &ignored) == 0 && json_equal(text, definition);
}

int cmd_edit(struct ctx *ctx)
{
	const char *vm = ctx->args.names[0], *tmp = getenv("TMPDIR");
	cleanup_free char *path = xasprintf("%s/vmctl-XXXXXX.json", tmp && *tmp ? tmp : "/tmp");
	__attribute__((cleanup(current_deinit))) struct current c = { 0 };
	int r = get_current(ctx, vm, &c), fd, code = EXIT_DONE;

	if (r < 0)
		return ctx_fail(ctx, r, "'%s'", vm);
	fd = mkostemps(path, 5, O_CLOEXEC);
	if (fd < 0) {
		r = error_set_errno(&ctx->err, errno, "cannot make '%s'", path);
		return ctx_fail(ctx, r, NULL);
	}
	r = write_text(fd, c.definition, &ctx->err);
	close(fd);
	if (r < 0) {
		code = ctx_fail(ctx, r, NULL);
		(void)unlink(path);
		return code;
	}
	while (edit_round(ctx, path, &c, &code) > 0)
		;
	if (code && !is_unchanged(path, c.definition))
		print_hint("your text is kept in %s", path);
	else
		(void)unlink(path);
	return code;
}

/* --- apply --- */

/* What the file does not say about identity is what the VM has. */
static void keep_identity(json_t *wanted, const json_t *current)
{
	static const char *const kept[] = { "uuid", "owner" };
	json_t *nics = json_object_get(wanted, "nics"), *nic;
	size_t i;

	for (size_t k = 0; k < ARRAY_SIZE(kept); k++) {
		json_t *v = json_object_get(current, kept[k]);

		if (v && !json_object_get(wanted, kept[k]))
			xset(wanted, kept[k], json_incref(v));
	}
	json_array_foreach(nics, i, nic) {
		json_t *mac =
			json_object_get(json_array_get(json_object_get(current, "nics"), i), "mac");

		if (mac && json_is_object(nic) && !json_object_get(nic, "mac"))
			xset(nic, "mac", json_incref(mac));
	}
}

static bool plan_only(const struct ctx *ctx)
{
	return args_has(&ctx->args, "plan") || args_has(&ctx->args, "dry-run");
}

static int apply_create(struct ctx *ctx, const char *name, json_t *definition, json_t *report)
{
	cleanup_json json_t *result = NULL;
	json_t *params = xpack("{s:O}", "definition", definition);
	int r;

	ctx->err = (struct vmd_error)VMD_ERROR_INIT;
	if (plan_only(ctx))
		xset(params, "dry_run", json_true());
	r = ctx_call(ctx, "vm.create", params, &result);
	if (r < 0)
		return r;
	if (ctx->format == FORMAT_TABLE && !ctx->quiet)
		printf("%s: %s\n", name, plan_only(ctx) ? "would be created" : "created");
	xset(report, "action", xstring("create"));
	xset(report, "result", json_incref(result));
	return 0;
}

static int apply_update(struct ctx *ctx, const char *name, json_t *definition,
                        const struct current *c, json_t *report)
{
	cleanup_json json_t *patch = NULL, *result = NULL, *changes = NULL;
	const json_t *stored;
	int r;

	keep_identity(definition, c->definition);
	patch = patch_diff(c->definition, definition);
	r = update(ctx, name, patch, c->generation, plan_only(ctx), &result);
	if (r < 0)
		return r;
	/* vmd tells the definition as stored: what only looks different is no change. */
	stored = json_object_get(result, "definition");
	changes = patch_changes(c->definition, stored ? stored : definition);
	xset(report, "action", xstring(json_array_size(changes) ? "update" : "none"));
	xset(report, "changes", json_incref(changes));
	xset(report, "result", json_incref(result));
	if (ctx->format != FORMAT_TABLE || ctx->quiet)
		return 0;
	if (json_array_size(changes) == 0)
		printf("%s: up to date\n", name);
	else
		printf("%s: %s\n", name, plan_only(ctx) ? "would be changed" : "changed");
	put_changes(changes, json_object_get(result, "pending"),
	            json_is_integer(json_object_get(c->info, "pid")));
	return 0;
}

static int apply_one(struct ctx *ctx, json_t *definition, json_t *reports)
{
	const char *name = jsonx_str(definition, "name", NULL);
	cleanup_json json_t *info = NULL;
	struct current c = { 0 };
	json_t *report;
	int r;

	if (!name) {
		r = error_set(&ctx->err, ERROR_INVALID, "a definition without a name");
		return ctx_fail(ctx, r, NULL);
	}
	report = xpack("{s:s}", "vm", name);
	if (json_array_append_new(reports, report) < 0)
		die_no_memory();
	r = get_current(ctx, name, &c);
	info = c.info;
	if (r < 0 && ctx->err.kind == ERROR_NOT_FOUND)
		r = apply_create(ctx, name, definition, report);
	else if (r == 0)
		r = apply_update(ctx, name, definition, &c, report);
	if (r < 0) {
		int code = exit_code_of(r, &ctx->err);
		cleanup_free char *what = xasprintf("'%s'", name);

		print_error(&ctx->err, what);
		if (rpc_error(ctx->rpc))
			xset(report, "error",
			     json_incref((json_t *)(uintptr_t)rpc_error(ctx->rpc)));
		ctx->err = (struct vmd_error)VMD_ERROR_INIT;
		return code;
	}
	return EXIT_DONE;
}

/* A file holds one definition or an array of them; all become one list. 0 or an exit code. */
static int read_files(struct ctx *ctx, json_t *list)
{
	const char *path;
	size_t pos = 0;

	while ((path = args_next(&ctx->args, "file", &pos))) {
		cleanup_free char *dir = NULL;
		cleanup_json json_t *value = NULL;
		json_t *one;
		size_t i;
		int r = definition_read_file(path, &value, &dir, &ctx->err);

		if (r == 0 && !json_is_array(value) && !json_is_object(value))
			r = error_set(&ctx->err, ERROR_INVALID,
			              "'%s' holds neither a JSON object nor an array", path);
		if (r < 0)
			return ctx_fail(ctx, r, NULL);
		if (json_is_object(value)) {
			definition_resolve(value, dir);
			if (json_array_append(list, value) < 0)
				die_no_memory();
		}
		json_array_foreach(value, i, one) {
			definition_resolve(one, dir);
			if (json_array_append(list, one) < 0)
				die_no_memory();
		}
	}
	return 0;
}

int cmd_apply(struct ctx *ctx)
{
	cleanup_json json_t *list = xpack("[]"), *reports = xpack("[]");
	size_t i, failed = 0;
	int code, worst = EXIT_DONE;
	json_t *definition;

	if (!args_has(&ctx->args, "file"))
		return usage_error(ctx, "apply needs -f FILE");
	code = read_files(ctx, list);
	if (code)
		return code;
	json_array_foreach(list, i, definition) {
		code = apply_one(ctx, definition, reports);
		if (!code)
			continue;
		worst = code;
		failed++;
	}
	if (ctx->format == FORMAT_JSON)
		(void)out_json(ctx, reports);
	return failed && failed < json_array_size(list) ? EXIT_PARTIAL : worst;
}
