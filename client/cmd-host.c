/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/output.h"
#include "common/jsonx.h"

static void put_engine(const json_t *engine)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	strbuf_append_str(&s, jsonx_bool(engine, "available", false) ? "yes" : "no");
	if (json_array_size(json_object_get(engine, "accel"))) {
		strbuf_append_str(&s, ", with ");
		format_value(&s, json_object_get(engine, "accel"), COL_TEXT);
	}
	if (jsonx_str(engine, "reason", NULL))
		strbuf_printf(&s, " (%s)", jsonx_str(engine, "reason", ""));
	out_pair_text(jsonx_str(engine, "name", "?"), s.data ? s.data : "");
}

static void put_host(const json_t *host)
{
	json_t *item;
	size_t i;

	out_pair("Architecture", json_object_get(host, "arch"), COL_TEXT);
	out_pair("Processors", json_path(host, "cpu.count"), COL_NUMBER);
	out_pair("Model", json_path(host, "cpu.model"), COL_TEXT);
	out_pair("Memory", json_path(host, "memory.total_bytes"), COL_SIZE);
	out_pair("Available", json_path(host, "memory.available_bytes"), COL_SIZE);
	out_pair("KVM usable", json_path(host, "kvm.usable"), COL_TEXT);
	out_pair("because", json_path(host, "kvm.reason"), COL_TEXT);
	puts("Engines");
	json_array_foreach(json_object_get(host, "engines"), i, item)
		put_engine(item);
	puts("QEMU");
	json_array_foreach(json_object_get(host, "qemu"), i, item) {
		cleanup_free char *text = xasprintf("%s, version %s", jsonx_str(item, "path", "?"),
		                                    jsonx_str(item, "version", "unknown"));

		out_pair_text(jsonx_str(item, "arch", "?"), text);
	}
}

static void put_paths(const char *title, const json_t *paths)
{
	json_t *path;
	const char *name;

	puts(title);
	json_object_foreach((json_t *)(uintptr_t)paths, name, path)
		out_pair_text(name, json_is_string(path) ? json_string_value(path) : "missing");
}

int cmd_host_info(struct ctx *ctx)
{
	cleanup_json json_t *host = NULL;
	int r = ctx_call(ctx, "host.info", NULL, &host);

	if (r < 0)
		return ctx_fail(ctx, r, "host");
	if (ctx->format == FORMAT_JSON || args_has(&ctx->args, "fields"))
		return out_object(ctx, host);
	put_host(host);
	put_paths("Programs", json_object_get(host, "programs"));
	put_paths("Firmware", json_object_get(host, "firmware"));
	return EXIT_DONE;
}

/* --- doctor --- */

enum verdict {
	GOOD,
	WEAK, /* something cannot be done here, the rest works */
	BAD   /* VMs cannot run */
};

struct checks {
	json_t *list;
	enum verdict worst;
};

static void add(struct checks *c, enum verdict verdict, const char *what, const char *found,
                const char *todo)
{
	static const char *const words[] = { [GOOD] = "ok", [WEAK] = "warning", [BAD] = "problem" };
	json_t *check = xpack("{s:s, s:s, s:s, s:s?}", "verdict", words[verdict], "check", what,
	                      "found", found, "todo", verdict == GOOD ? NULL : todo);

	if (json_array_append_new(c->list, check) < 0)
		die_no_memory();
	c->worst = MAX_OF(c->worst, verdict);
}

static void check_kvm(struct checks *c, const json_t *host)
{
	bool usable = json_is_true(json_path(host, "kvm.usable"));
	const char *reason = json_string_value(json_path(host, "kvm.reason"));

	add(c, usable ? GOOD : WEAK, "KVM", reason ? reason : (usable ? "usable" : "not usable"),
	    "VMs run by emulation, about ten times slower; turn virtualization on in the firmware "
	    "(or nested virtualization in the outer host) and see that vmd may open /dev/kvm");
}

static void check_engines(struct checks *c, const json_t *host)
{
	json_t *engine;
	bool any = false;
	size_t i;

	json_array_foreach(json_object_get(host, "engines"), i, engine) {
		bool available = jsonx_bool(engine, "available", false);
		cleanup_free char *what = xasprintf("engine %s", jsonx_str(engine, "name", "?"));
		const char *reason =
			jsonx_str(engine, "reason", available ? "available" : "missing");

		any |= available;
		add(c, available ? GOOD : WEAK, what, reason,
		    strcmp(jsonx_str(engine, "name", ""), "qemu") == 0
		            ? "install qemu-system-x86 (and qemu-system-arm for aarch64 guests)"
		            : "VMs that ask for this engine cannot start; engine auto takes another");
	}
	if (!any)
		add(c, BAD, "engines", "none is available", "install qemu-system-x86");
}

static void check_programs(struct checks *c, const json_t *host)
{
	static const struct {
		const char *program, *todo;
	} rows[] = {
		{ "passt", "user networks use QEMU's own, slower one; install passt" },
		{ "virtiofsd",
		  "directories cannot be shared; install virtiofsd (qemu-system-common)" },
		{ "swtpm", "VMs cannot have a TPM; install swtpm" },
		{ "qemu-storage-daemon",
		  "engine kvm has raw disks only; install qemu-system-common" },
		{ "qemu-img", "managed disks cannot be made; install qemu-utils" },
	};
	const json_t *programs = json_object_get(host, "programs");

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *path = jsonx_str(programs, rows[i].program, NULL);

		add(c, path ? GOOD : WEAK, rows[i].program, path ? path : "missing", rows[i].todo);
	}
}

static void check_firmware(struct checks *c, const json_t *host)
{
	const json_t *firmware = json_object_get(host, "firmware");
	const char *name;
	json_t *path;

	json_object_foreach((json_t *)(uintptr_t)firmware, name, path)
		add(c, json_is_string(path) ? GOOD : WEAK, name,
		    json_is_string(path) ? json_string_value(path) : "missing",
		    "VMs cannot boot by UEFI there; install ovmf (x86_64) or qemu-efi-aarch64");
}

static void check_memory(struct checks *c, const json_t *host)
{
	int64_t available = json_integer_value(json_path(host, "memory.available_bytes"));
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	format_value(&s, json_path(host, "memory.available_bytes"), COL_SIZE);
	if (available > 0)
		add(c, available < 256 << 20 ? WEAK : GOOD, "free memory", s.data,
		    "stop what is not needed; a VM that does not fit is killed by the kernel");
}

static void check_daemon(struct checks *c, const json_t *info)
{
	const char *degraded = jsonx_str(info, "degraded", NULL);

	add(c, degraded ? BAD : GOOD, "state directory",
	    degraded ? degraded : jsonx_str(info, "state_dir", "writable"),
	    "changes cannot be stored: make room or repair the file system");
}

static void print_checks(const json_t *list)
{
	json_t *check;
	size_t i;

	json_array_foreach(list, i, check) {
		const char *todo = jsonx_str(check, "todo", NULL);

		printf("%-8s %-16s ", jsonx_str(check, "verdict", ""),
		       jsonx_str(check, "check", ""));
		put_clean(stdout, jsonx_str(check, "found", ""));
		putchar('\n');
		if (todo)
			printf("%26s%s\n", "-> ", todo);
	}
}

int cmd_host_doctor(struct ctx *ctx)
{
	cleanup_json json_t *host = NULL, *info = NULL, *list = xpack("[]");
	struct checks c = { .list = list };
	int r = ctx_call(ctx, "daemon.info", NULL, &info);

	if (r == 0)
		r = ctx_call(ctx, "host.info", NULL, &host);
	if (r < 0)
		return ctx_fail(ctx, r, "doctor");
	check_daemon(&c, info);
	check_engines(&c, host);
	check_kvm(&c, host);
	check_memory(&c, host);
	check_programs(&c, host);
	check_firmware(&c, host);
	if (ctx->format == FORMAT_JSON) {
		cleanup_json json_t *all = xpack("{s:O}", "checks", list);

		(void)out_json(ctx, all);
	} else {
		print_checks(list);
	}
	return c.worst == BAD ? EXIT_FAILED : EXIT_DONE;
}
