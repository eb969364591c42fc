/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/definition.h"

#include <fcntl.h>
#include <libgen.h>
#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"

enum {
	FILE_MAX = 1 << 20,
	FILE_DEPTH = 32,
};

/* --- the tables --- */

static const struct spec disk_spec = {
	(const struct spec_field[]){
		{ "path", NULL, SPEC_PATH },
		{ "disk", NULL, SPEC_TEXT },
		{ "format", NULL, SPEC_TEXT },
		{ "backing", "backing.path", SPEC_PATH },
		{ "backing.format", NULL, SPEC_TEXT },
		{ "size", NULL, SPEC_TEXT },
		{ "readonly", NULL, SPEC_BOOL },
		{ "cache", NULL, SPEC_TEXT },
		{ "discard", NULL, SPEC_TEXT },
		{ "serial", NULL, SPEC_TEXT },
		{ "bus", NULL, SPEC_TEXT },
		{ "queues", NULL, SPEC_INT },
		{ "bandwidth", "bandwidth.total", SPEC_TEXT },
		{ "bandwidth.read", NULL, SPEC_TEXT },
		{ "bandwidth.write", NULL, SPEC_TEXT },
		{ "iops", "iops.total", SPEC_INT },
		{ "iops.read", NULL, SPEC_INT },
		{ "iops.write", NULL, SPEC_INT },
		{ 0 },
	},
	"path",
};

static const struct spec nic_spec = {
	(const struct spec_field[]){
		{ "network", NULL, SPEC_TEXT },
		{ "model", NULL, SPEC_TEXT },
		{ "mac", NULL, SPEC_TEXT },
		{ "forward", NULL, SPEC_LIST },
		{ "ifname", NULL, SPEC_TEXT },
		{ "queues", NULL, SPEC_INT },
		{ 0 },
	},
	"network",
};

static const struct spec share_spec = {
	(const struct spec_field[]){
		{ "path", NULL, SPEC_PATH },
		{ "tag", NULL, SPEC_TEXT },
		{ "readonly", NULL, SPEC_BOOL },
		{ 0 },
	},
	"path",
};

static const struct spec cpus_spec = {
	(const struct spec_field[]){
		{ "count", NULL, SPEC_INT },
		{ "model", NULL, SPEC_TEXT },
		{ "sockets", "topology.sockets", SPEC_INT },
		{ "cores", "topology.cores", SPEC_INT },
		{ "threads", "topology.threads", SPEC_INT },
		{ "nested", NULL, SPEC_BOOL },
		{ 0 },
	},
	"count",
};

static const struct spec backing_spec = {
	(const struct spec_field[]){
		{ "hugepages", NULL, SPEC_TEXT },
		{ "prealloc", NULL, SPEC_BOOL },
		{ 0 },
	},
	NULL,
};

static const struct spec machine_spec = {
	(const struct spec_field[]){
		{ "type", NULL, SPEC_TEXT },
		{ "acpi", "options.acpi", SPEC_BOOL },
		{ "hpet", "options.hpet", SPEC_BOOL },
		{ "smm", "options.smm", SPEC_BOOL },
		{ "vmport", "options.vmport", SPEC_BOOL },
		{ "gic", "options.gic", SPEC_TEXT },
		{ 0 },
	},
	"type",
};

static const struct spec console_spec = {
	(const struct spec_field[]){ { "device", NULL, SPEC_TEXT }, { 0 } },
	"device",
};

static const struct spec display_spec = {
	(const struct spec_field[]){
		{ "type", NULL, SPEC_TEXT },
		{ "socket", NULL, SPEC_PATH },
		{ 0 },
	},
	"type",
};

static const struct spec balloon_spec = {
	(const struct spec_field[]){
		{ "deflate_on_oom", NULL, SPEC_BOOL },
		{ "free_page_reporting", NULL, SPEC_BOOL },
		{ 0 },
	},
	NULL,
};

static const struct spec tpm_spec = {
	(const struct spec_field[]){ { "model", NULL, SPEC_TEXT }, { 0 } },
	"model",
};

static const struct spec autostart_spec = {
	(const struct spec_field[]){
		{ "enabled", NULL, SPEC_BOOL },
		{ "order", NULL, SPEC_INT },
		{ "delay", "delay_ms", SPEC_TIME },
		{ 0 },
	},
	NULL,
};

static const struct spec restart_spec = {
	(const struct spec_field[]){
		{ "policy", NULL, SPEC_TEXT },
		{ "backoff", "backoff_ms", SPEC_TIME },
		{ "max-backoff", "max_backoff_ms", SPEC_TIME },
		{ "max", "max_restarts", SPEC_INT },
		{ 0 },
	},
	"policy",
};

const struct def_option def_options[] = {
	{ "uuid", "uuid", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "label", "labels", DEF_LABEL, SPEC_TEXT, NULL, NULL },
	{ "owner", "owner", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "engine", "engine", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "arch", "arch", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "machine", "machine", DEF_OBJECT, SPEC_TEXT, &machine_spec, "type" },
	{ "cpus", "cpus", DEF_OBJECT, SPEC_TEXT, &cpus_spec, "count" },
	{ "memory", "memory", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "memory-backing", "memory_backing", DEF_OBJECT, SPEC_TEXT, &backing_spec, NULL },
	{ "kernel", "boot.kernel", DEF_VALUE, SPEC_PATH, NULL, NULL },
	{ "initrd", "boot.initrd", DEF_VALUE, SPEC_PATH, NULL, NULL },
	{ "cmdline", "boot.cmdline", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "firmware", "boot.firmware", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "boot-order", "boot.order", DEF_WORDS, SPEC_TEXT, NULL, NULL },
	{ "iso", "boot.iso", DEF_VALUE, SPEC_PATH, NULL, NULL },
	{ "disk", "disks", DEF_ARRAY, SPEC_TEXT, &disk_spec, NULL },
	{ "nic", "nics", DEF_ARRAY, SPEC_TEXT, &nic_spec, NULL },
	{ "console", "console", DEF_SWITCH, SPEC_TEXT, &console_spec, NULL },
	{ "display", "display", DEF_OBJECT, SPEC_TEXT, &display_spec, "type" },
	{ "rng", "rng", DEF_VALUE, SPEC_BOOL, NULL, NULL },
	{ "balloon", "balloon", DEF_SWITCH, SPEC_TEXT, &balloon_spec, NULL },
	{ "vsock", "vsock.cid", DEF_VALUE, SPEC_INT, NULL, NULL },
	{ "tpm", "tpm", DEF_SWITCH, SPEC_TEXT, &tpm_spec, NULL },
	{ "share", "shares", DEF_ARRAY, SPEC_TEXT, &share_spec, NULL },
	{ "watchdog", "watchdog", DEF_VALUE, SPEC_BOOL, NULL, NULL },
	{ "test-device", "test_device", DEF_VALUE, SPEC_BOOL, NULL, NULL },
	{ "autostart", "autostart", DEF_SWITCH, SPEC_TEXT, &autostart_spec, NULL },
	{ "restart", "restart", DEF_OBJECT, SPEC_TEXT, &restart_spec, NULL },
	{ "stop-timeout", "stop_timeout_ms", DEF_VALUE, SPEC_TIME, NULL, NULL },
	{ "on-reboot", "actions.on_reboot", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "on-poweroff", "actions.on_poweroff", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "on-panic", "actions.on_panic", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "on-watchdog", "actions.on_watchdog", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "on-host-shutdown", "on_host_shutdown", DEF_VALUE, SPEC_TEXT, NULL, NULL },
	{ "protect", "protect", DEF_FLAGS, SPEC_BOOL, NULL, NULL },
	{ 0 },
};

/* --- options into a definition --- */

static int put_label(json_t *definition, const char *text, struct vmd_error *err)
{
	const char *equals = strchr(text, '=');
	cleanup_free char *key = NULL;
	json_t *labels = json_object_get(definition, "labels");

	if (!equals || equals == text)
		return error_set(err, ERROR_INVALID, "--label: '%s' is not KEY=VALUE", text);
	key = strndup(text, (size_t)(equals - text));
	if (!key)
		die_no_memory();
	if (!json_is_object(labels)) {
		labels = xpack("{}");
		xset(definition, "labels", labels);
	}
	xset(labels, key, xstring(equals + 1));
	return 0;
}

static void put_words(json_t *definition, const struct def_option *o, const char *text)
{
	json_t *list = o->kind == DEF_WORDS ? xpack("[]") : xpack("{}");

	for (const char *p = text; *p;) {
		size_t len = strcspn(p, ",");
		cleanup_free char *word = strndup(p, len);

		if (!word)
			die_no_memory();
		if (o->kind == DEF_FLAGS)
			xset(list, word, json_true());
		else if (json_array_append_new(list, xstring(word)) < 0)
			die_no_memory();
		p += len + (p[len] == ',');
	}
	json_put(definition, o->path, list);
}

static int put_object(json_t *definition, const struct def_option *o, const char *flag,
                      const char *text, struct vmd_error *err)
{
	json_t *object, *alone;
	int r = spec_parse(o->spec, flag, text, &object, err);

	if (r < 0)
		return r;
	alone = o->alone && json_object_size(object) == 1 ? json_object_get(object, o->alone)
	                                                  : NULL;
	if (alone) {
		json_incref(alone);
		json_decref(object);
		object = alone;
	}
	json_put(definition, o->path, object);
	return 0;
}

static int put_switch(json_t *definition, const struct def_option *o, const char *flag,
                      const char *text, struct vmd_error *err)
{
	struct vmd_error ignored = VMD_ERROR_INIT;
	json_t *on = spec_value(SPEC_BOOL, flag, text, &ignored);
	bool has_enabled = o->spec == &autostart_spec;
	int r;

	if (on) {
		json_put(definition, o->path, has_enabled ? xpack("{s:o}", "enabled", on) : on);
		return 0;
	}
	r = put_object(definition, o, flag, text, err);
	if (r == 0 && has_enabled &&
	    !json_object_get(json_object_get(definition, "autostart"), "enabled"))
		xset(json_object_get(definition, "autostart"), "enabled", json_true());
	return r;
}

static int put_array(json_t *definition, const struct def_option *o, const char *flag,
                     const char *text, struct vmd_error *err)
{
	json_t *list = json_object_get(definition, o->path), *item;
	int r = spec_parse(o->spec, flag, text, &item, err);

	if (r < 0)
		return r;
	if (!json_is_array(list)) {
		list = xpack("[]");
		xset(definition, o->path, list);
	}
	if (json_array_append_new(list, item) < 0)
		die_no_memory();
	return 0;
}

static int put_option(json_t *definition, const struct def_option *o, const char *text,
                      struct vmd_error *err)
{
	cleanup_free char *flag = xasprintf("--%s", o->name);
	json_t *value;

	switch (o->kind) {
	case DEF_LABEL:
		return put_label(definition, text, err);
	case DEF_WORDS:
	case DEF_FLAGS:
		put_words(definition, o, text);
		return 0;
	case DEF_OBJECT:
		return put_object(definition, o, flag, text, err);
	case DEF_SWITCH:
		return put_switch(definition, o, flag, text, err);
	case DEF_ARRAY:
		return put_array(definition, o, flag, text, err);
	case DEF_VALUE:
		break;
	}
	value = spec_value(o->type, flag, text, err);
	if (!value)
		return -EINVAL;
	json_put(definition, o->path, value);
	return 0;
}

/* --- files --- */

static int read_stdin(char **ret, size_t *ret_len)
{
	char *text = xcalloc(1, FILE_MAX + 1);
	ssize_t n = fd_read_all(STDIN_FILENO, text, FILE_MAX);

	if (n < 0) {
		free(text);
		return (int)n;
	}
	*ret = text;
	*ret_len = (size_t)n;
	return 0;
}

static char *directory_of(const char *path)
{
	cleanup_free char *copy = path_absolute(path, NULL);

	return xstrdup(dirname(copy));
}

int definition_read_file(const char *path, json_t **ret, char **ret_dir, struct vmd_error *err)
{
	bool from_stdin = strcmp(path, "-") == 0;
	cleanup_free char *text = NULL, *real = NULL;
	size_t len = 0;
	int r;

	if (from_stdin) {
		r = read_stdin(&text, &len);
	} else {
		real = realpath(path, NULL); /* fs_read_file takes no link as last part */
		r = real ? fs_read_file(AT_FDCWD, real, FILE_MAX, &text, &len) : -errno;
	}
	if (r < 0) {
		(void)error_set(err, ERROR_INVALID, "cannot read '%s': %s", path, strerror(-r));
		return r;
	}
	*ret = jsonx_parse(text, len, FILE_DEPTH, err);
	if (!*ret) {
		error_prefix(err, "'%s'", from_stdin ? "stdin" : path);
		return -EINVAL;
	}
	*ret_dir = directory_of(from_stdin ? "./-" : path);
	return 0;
}

static void resolve_member(json_t *object, const char *key, const char *dir)
{
	const char *path = jsonx_str(object, key, NULL);
	cleanup_free char *absolute = NULL;

	if (!path || !*path || path[0] == '/')
		return;
	absolute = path_absolute(path, dir);
	xset(object, key, xstring(absolute));
}

void definition_resolve(json_t *definition, const char *dir)
{
	json_t *boot = json_object_get(definition, "boot"), *item;
	size_t i;

	resolve_member(boot, "kernel", dir);
	resolve_member(boot, "initrd", dir);
	resolve_member(boot, "iso", dir);
	resolve_member(json_object_get(definition, "display"), "socket", dir);
	json_array_foreach(json_object_get(definition, "disks"), i, item) {
		resolve_member(item, "path", dir);
		resolve_member(json_object_get(item, "backing"), "path", dir);
	}
	json_array_foreach(json_object_get(definition, "shares"), i, item)
		resolve_member(item, "path", dir);
}

static int read_base(struct ctx *ctx, json_t **ret)
{
	const char *path = args_str(&ctx->args, "file");
	cleanup_free char *dir = NULL;
	size_t pos;
	int r;

	if (!path) {
		*ret = xpack("{}");
		return 0;
	}
	pos = 0;
	(void)args_next(&ctx->args, "file", &pos);
	if (args_next(&ctx->args, "file", &pos))
		return error_set(&ctx->err, ERROR_INVALID, "-f: one definition at a time");
	r = definition_read_file(path, ret, &dir, &ctx->err);
	if (r < 0)
		return r;
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		(void)error_set(&ctx->err, ERROR_INVALID, "'%s' holds no JSON object", path);
		error_hint(&ctx->err, "`vmctl apply -f FILE --plan` checks a list of definitions");
		return -EINVAL;
	}
	definition_resolve(*ret, dir);
	return 0;
}

int definition_build(struct ctx *ctx, const char *name, json_t **ret)
{
	cleanup_json json_t *definition = NULL;
	int r = read_base(ctx, &definition);

	if (r < 0)
		return ctx_fail(ctx, r, NULL);
	if (name)
		xset(definition, "name", xstring(name));
	for (const struct def_option *o = def_options; o->name; o++) {
		const char *text;
		size_t pos = 0;

		while ((text = args_next(&ctx->args, o->name, &pos))) {
			r = put_option(definition, o, text, &ctx->err);
			if (r < 0)
				return usage_error(ctx, "%s", ctx->err.message);
		}
	}
	*ret = TAKE_PTR(definition);
	return 0;
}
