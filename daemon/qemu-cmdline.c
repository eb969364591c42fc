/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/qemu-cmdline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"
#include "daemon/qemu-builder.h"

/*
 * Order and numbers depend on the definition only, so that a suspended guest or a snapshot finds
 * the same machine again. Descriptor numbers go from 3 up in the order of the arguments.
 */
/* PCI slots that are free on q35, pc and virt alike. */
#define FIRST_SLOT 2

void qemu_arg(struct qemu_builder *b, const char *text)
{
	if (json_array_append_new(b->plan->argv, json_string(text)) < 0)
		b->failed = true;
}

void qemu_argf(struct qemu_builder *b, const char *format, ...)
{
	cleanup_free char *text = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&text, format, ap) < 0) {
		text = NULL;
		b->failed = true;
	}
	va_end(ap);
	if (text)
		qemu_arg(b, text);
}

void qemu_arg_json(struct qemu_builder *b, const char *option, json_t *value)
{
	cleanup_json json_t *owned = value;
	cleanup_free char *text = owned ? jsonx_dump(owned) : NULL;

	if (!text) {
		b->failed = true;
		return;
	}
	qemu_arg(b, option);
	qemu_arg(b, text);
}

void qemu_pci_device(struct qemu_builder *b, json_t *device)
{
	unsigned per_slot = b->packed ? 8 : 1;
	char address[16];

	snprintf(address, sizeof(address), "%x.%x", FIRST_SLOT + b->n_pci / per_slot,
	         b->n_pci % per_slot);
	if (!jsonx_set(device, "addr", json_string(address)))
		b->failed = true;
	if (b->packed && b->n_pci % per_slot == 0)
		(void)jsonx_set(device, "multifunction", json_true());
	b->n_pci++;
	qemu_arg_json(b, "-device", device);
}

int qemu_plan_queue_fd(struct qemu_builder *b, enum plan_fd_kind kind, size_t index, unsigned queue)
{
	int number = plan_add_fd(b->plan, kind, index, queue);

	if (number < 0)
		b->full = true;
	return number;
}

int qemu_plan_fd(struct qemu_builder *b, enum plan_fd_kind kind, size_t index)
{
	return qemu_plan_queue_fd(b, kind, index, 0);
}

const char *qemu_machine_type(const char *arch, const json_t *definition)
{
	const json_t *machine = json_object_get(definition, "machine");
	const char *type = jsonx_str(machine, "type", json_string_value(machine));

	return type ? type : strcmp(arch, "aarch64") == 0 ? "virt" : "q35";
}

const char *qemu_firmware(const char *arch, const json_t *definition)
{
	const json_t *boot = json_object_get(definition, "boot");

	if (json_object_get(boot, "kernel"))
		return "";
	return jsonx_str(boot, "firmware", strcmp(arch, "aarch64") == 0 ? "uefi" : "bios");
}

const char *qemu_cpu_model(const json_t *definition, const char *accel)
{
	return jsonx_str(json_object_get(definition, "cpus"), "model",
	                 strcmp(accel, "kvm") == 0 ? "host" : "max");
}

#define V2_FEATURES "+cx16,+lahf-lm,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3"
/* Every processor of level 3 has XSAVEOPT; Linux hangs at start on XSAVE without it. */
#define V3_FEATURES "+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe,+xsave,+xsaveopt"
#define V4_FEATURES "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"

int qemu_cpu_argument(const char *arch, const char *model, const char *accel, char *buf, size_t len)
{
	/* "enforce": QEMU ends at start rather than leave a feature out. */
	static const struct {
		const char *level, *argument;
	} levels[] = {
		{ "x86-64-v1", "qemu64,-svm,enforce" },
		{ "x86-64-v2", "qemu64,-svm," V2_FEATURES ",enforce" },
		{ "x86-64-v3", "qemu64,-svm," V2_FEATURES "," V3_FEATURES ",enforce" },
		{ "x86-64-v4",
		  "qemu64,-svm," V2_FEATURES "," V3_FEATURES "," V4_FEATURES ",enforce" },
	};
	const char *argument = model;

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (strcmp(model, levels[i].level) == 0)
			argument = levels[i].argument;
	/* The architected pointer authentication costs half the speed when emulated. */
	if (strcmp(arch, "aarch64") == 0 && strcmp(model, "max") == 0 && strcmp(accel, "tcg") == 0)
		argument = "max,pauth-impdef=on";
	return (size_t)snprintf(buf, len, "%s", argument) < len ? 0 : -E2BIG;
}

/* virtiofsd shares the guest's memory, and what is asked of it goes with a backend of its own. */
/* More memory than the host has is none that the kernel would give QEMU as its own. */
static bool has_backend(const struct qemu_builder *b)
{
	return jsonx_size(b->definition, "memory", DEFAULT_MEMORY_BYTES) >
	               b->in->host->memory_bytes ||
	       json_array_size(json_object_get(b->definition, "shares")) ||
	       json_object_get(b->definition, "memory_backing");
}

static void add_machine(struct qemu_builder *b)
{
	static const char *const switches[] = { "acpi", "hpet", "smm", "vmport" };
	const json_t *options =
		json_object_get(json_object_get(b->definition, "machine"), "options");
	const char *gic = b->kvm ? "host" : "3";
	char text[256] = "", gic_text[32] = "";
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		if (json_object_get(options, switches[i]))
			n += (size_t)snprintf(text + n, sizeof(text) - n, ",%s=%s", switches[i],
			                      jsonx_bool(options, switches[i], false) ? "on"
			                                                              : "off");
	if (b->arm)
		snprintf(gic_text, sizeof(gic_text), ",gic-version=%s",
		         jsonx_str(options, "gic", gic));
	qemu_arg(b, "-machine");
	qemu_argf(b, "%s%s%s%s%s", qemu_machine_type(b->arch, b->definition), text, gic_text,
	          has_backend(b) ? ",memory-backend=memory0" : "",
	          strcmp(qemu_firmware(b->arch, b->definition), "uefi") == 0
	                  ? ",pflash0=firmware,pflash1=nvram"
	                  : "");
	qemu_arg(b, "-accel");
	qemu_arg(b, b->kvm ? "kvm" : "tcg,thread=multi");
}

/* The generic models are an AMD processor of before it had threads, and guests then see none. */
#define WITH_THREADS ",vendor=GenuineIntel,family=6,model=26,stepping=3"

static bool is_generic(const struct qemu_builder *b, const char *model)
{
	return !b->arm &&
	       (strncmp(model, "x86-64-v", 8) == 0 || (!b->kvm && strcmp(model, "max") == 0));
}

/*
 * Takes the means for guests within the guest away. "max" has the leaf 0x80000008 for SVM's sake
 * only, and without it Linux takes the processor for one with other addresses than it has.
 */
static const char *without_nesting(const struct qemu_builder *b, const char *model)
{
	const json_t *cpus = json_object_get(b->definition, "cpus");

	if (b->arm || jsonx_bool(cpus, "nested", false))
		return "";
	return !b->kvm && strcmp(model, "max") == 0 ? ",svm=off,xlevel=0x80000008"
	                                            : ",vmx=off,svm=off";
}

static void add_processors(struct qemu_builder *b)
{
	const json_t *cpus = json_object_get(b->definition, "cpus");
	const json_t *topology = json_object_get(cpus, "topology");
	const char *model = qemu_cpu_model(b->definition, b->in->accel);
	unsigned count = definition_cpu_count(b->definition);
	char text[512];

	if (qemu_cpu_argument(b->arch, model, b->in->accel, text, sizeof(text)) < 0)
		b->failed = true;
	qemu_arg(b, "-cpu");
	qemu_argf(b, "%s%s%s", text,
	          jsonx_int(topology, "threads", 1) > 1 && is_generic(b, model) ? WITH_THREADS : "",
	          without_nesting(b, model));
	qemu_arg(b, "-smp");
	if (topology)
		qemu_argf(b, "%u,sockets=%d,cores=%d,threads=%d", count,
		          (int)jsonx_int(topology, "sockets", 1),
		          (int)jsonx_int(topology, "cores", 1),
		          (int)jsonx_int(topology, "threads", 1));
	else
		qemu_argf(b, "%u,sockets=1,cores=%u,threads=1", count, count);
}

static void add_memory(struct qemu_builder *b)
{
	const json_t *backing = json_object_get(b->definition, "memory_backing");
	const char *pages = jsonx_str(backing, "hugepages", "transparent");
	uint64_t bytes = jsonx_size(b->definition, "memory", DEFAULT_MEMORY_BYTES);
	json_t *o;

	qemu_arg(b, "-m");
	qemu_argf(b, "%lluM", (unsigned long long)(bytes >> 20));
	if (!has_backend(b))
		return;
	o = json_pack("{s:s, s:s, s:I, s:b, s:b}", "qom-type", "memory-backend-memfd", "id",
	              "memory0", "size", (json_int_t)bytes, "share", 1, "prealloc",
	              jsonx_bool(backing, "prealloc", false));
	if (strcmp(pages, "transparent") != 0) {
		(void)jsonx_set(o, "hugetlb", json_true());
		(void)jsonx_set(o, "hugetlbsize",
		                json_integer(strcmp(pages, "1G") == 0 ? 1 << 30 : 2 << 20));
	}
	qemu_arg_json(b, "-object", o);
}

static void add_pflash(struct qemu_builder *b, const char *node, enum plan_fd_kind kind,
                       bool readonly)
{
	int number = qemu_plan_fd(b, kind, 0);
	char file[32];

	snprintf(file, sizeof(file), "/dev/fdset/%d", number);
	qemu_arg(b, "-add-fd");
	qemu_argf(b, "fd=%d,set=%d", number, number);
	qemu_arg_json(b, "-blockdev",
	              json_pack("{s:s, s:s, s:b, s:{s:s, s:s, s:s, s:b}}", "driver", "raw",
	                        "node-name", node, "read-only", readonly, "file", "driver", "file",
	                        "filename", file, "locking", "off", "read-only", readonly));
}

/* The kernel goes by /proc/self/fd: QEMU opens it with fopen(), which knows no fdsets. */
static void add_boot(struct qemu_builder *b)
{
	const json_t *boot = json_object_get(b->definition, "boot");

	if (strcmp(qemu_firmware(b->arch, b->definition), "uefi") == 0) {
		add_pflash(b, "firmware", PLAN_FD_FIRMWARE, true);
		add_pflash(b, "nvram", PLAN_FD_NVRAM, false);
	}
	if (!json_object_get(boot, "kernel")) {
		qemu_arg(b, "-boot");
		qemu_arg(b, "menu=off,strict=on");
		return;
	}
	qemu_arg(b, "-kernel");
	qemu_argf(b, "/proc/self/fd/%d", qemu_plan_fd(b, PLAN_FD_KERNEL, 0));
	if (json_object_get(boot, "initrd")) {
		qemu_arg(b, "-initrd");
		qemu_argf(b, "/proc/self/fd/%d", qemu_plan_fd(b, PLAN_FD_INITRD, 0));
	}
	if (jsonx_str(boot, "cmdline", "")[0]) {
		qemu_arg(b, "-append");
		qemu_arg(b, jsonx_str(boot, "cmdline", ""));
	}
}

static const json_t *boot_order(const struct qemu_builder *b)
{
	return json_object_get(json_object_get(b->definition, "boot"), "order");
}

static int order_of(const struct qemu_builder *b, const char *source)
{
	static const char *const usual[] = { "iso", "disk", "network" };
	const json_t *order = boot_order(b), *entry;
	size_t i;

	if (!qemu_firmware(b->arch, b->definition)[0])
		return -1;
	if (!order)
		for (i = 0; i < ARRAY_SIZE(usual); i++)
			if (strcmp(usual[i], source) == 0)
				return (int)i;
	json_array_foreach(order, i, entry)
		if (strcmp(json_string_value(entry), source) == 0)
			return (int)i;
	return -1;
}

bool qemu_boots_from(const struct qemu_builder *b, const char *source)
{
	return order_of(b, source) >= 0;
}

void qemu_set_boot_index(struct qemu_builder *b, json_t *device, const char *source, size_t index)
{
	int order = order_of(b, source);

	if (order >= 0 && !jsonx_set(device, "bootindex", json_integer(order * 64 + (int)index)))
		b->failed = true;
}

/* What QEMU itself does when the guest acts; the rest of `actions` is vmd's, after the exit. */
static void add_actions(struct qemu_builder *b)
{
	const json_t *actions = json_object_get(b->definition, "actions");
	const char *watchdog = jsonx_str(actions, "on_watchdog", "restart");
	bool reset = strcmp(jsonx_str(actions, "on_reboot", "restart"), "restart") == 0;
	bool pause = strcmp(jsonx_str(actions, "on_panic", "stop"), "pause") == 0;

	if (strcmp(watchdog, "restart") == 0)
		watchdog = "reset";
	else if (strcmp(watchdog, "stop") == 0)
		watchdog = "poweroff";
	qemu_arg(b, "-action");
	qemu_argf(b, "reboot=%s,shutdown=poweroff,panic=%s,watchdog=%s",
	          reset ? "reset" : "shutdown", pause ? "pause" : "shutdown", watchdog);
}

static void add_identity(struct qemu_builder *b)
{
	const char *name = jsonx_str(b->definition, "name", "");
	const char *uuid = jsonx_str(b->definition, "uuid", NULL);

	qemu_arg(b, "-name");
	qemu_argf(b, "guest=%s,process=qemu:%.10s,debug-threads=on", name, name);
	if (uuid) {
		qemu_arg(b, "-uuid");
		qemu_arg(b, uuid);
	}
}

static void add_frame(struct qemu_builder *b)
{
	static const char *const fixed[] = {
		"-nodefaults",
		"-no-user-config",
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-display",
		"none",
		"-rtc",
		"base=utc",
		"-S"
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		qemu_arg(b, fixed[i]);
	if (b->in->incoming) {
		qemu_arg(b, "-incoming");
		qemu_arg(b, "defer");
	}
	qemu_arg(b, "-chardev");
	qemu_argf(b, "socket,id=qmp,fd=%d", qemu_plan_fd(b, PLAN_FD_QMP, 0));
	qemu_arg(b, "-mon");
	qemu_arg(b, "chardev=qmp,mode=control");
}

int qemu_build(const struct qemu_input *in, struct plan *ret, struct vmd_error *err)
{
	const json_t *d = in->definition;
	struct qemu_builder b = {
		.in = in,
		.definition = d,
		.arch = engine_arch(in->host, d),
		.kvm = strcmp(in->accel, "kvm") == 0,
		.plan = ret,
	};

	*ret = (struct plan){ .argv = json_array() };
	b.arm = strcmp(b.arch, "aarch64") == 0;
	b.packed = json_array_size(json_object_get(d, "disks")) +
	                   json_array_size(json_object_get(d, "nics")) +
	                   json_array_size(json_object_get(d, "shares")) >
	           12;
	qemu_arg(&b, host_qemu_path(in->host, b.arch));
	add_identity(&b);
	add_frame(&b);
	add_machine(&b);
	add_processors(&b);
	add_memory(&b);
	add_boot(&b);
	qemu_add_console(&b);
	qemu_add_disks(&b);
	qemu_add_iso(&b);
	qemu_add_nics(&b);
	qemu_add_shares(&b);
	qemu_add_small_devices(&b);
	qemu_add_display(&b);
	add_actions(&b);
	if (!b.failed && !b.full)
		return 0;
	plan_deinit(ret);
	if (b.full) {
		(void)error_set(err, ERROR_UNSUPPORTED, "the guest needs more than %d descriptors",
		                LAUNCH_MAX_FDS);
		return -E2BIG;
	}
	return error_set_errno(err, ENOMEM, "cannot build QEMU's command line");
}
