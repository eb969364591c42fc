/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/host.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"

#define DEFAULT_PATH    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PROBE_TIME_US   20000000u
#define PROBE_REPLY_MAX 8192u

/* Looks for an executable file in a list of directories with ':' between them. */
static bool find_in(const char *dirs, const char *name, char *ret, size_t len)
{
	while (*dirs) {
		size_t n = strcspn(dirs, ":");
		int r = snprintf(ret, len, "%.*s/%s", (int)n, dirs, name);

		if (n && dirs[0] == '/' && r > 0 && (size_t)r < len && access(ret, X_OK) == 0)
			return true;
		dirs += n + (dirs[n] == ':');
	}
	ret[0] = '\0';
	return false;
}

static void find_programs(struct host_facts *f)
{
	const struct {
		const char *name, *extra;
		char *to;
	} programs[] = {
		{ "qemu-system-x86_64", "", f->qemu_x86_64 },
		{ "qemu-system-aarch64", "", f->qemu_aarch64 },
		{ "passt", "", f->passt },
		{ "swtpm", "", f->swtpm },
		{ "qemu-img", "", f->qemu_img },
		{ "qemu-storage-daemon", "", f->storage_daemon },
		{ "virtiofsd", "/usr/libexec:/usr/lib/qemu:/usr/libexec/qemu", f->virtiofsd },
	};
	const char *path = getenv("PATH");

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (!find_in(path ? path : DEFAULT_PATH, programs[i].name, programs[i].to,
		             sizeof(f->passt)))
			(void)find_in(programs[i].extra, programs[i].name, programs[i].to,
			              sizeof(f->passt));
}

static void find_monitor(struct host_facts *f)
{
	const char *given = getenv("VMD_VMM");

	snprintf(f->vmm, sizeof(f->vmm), "%s", given ? given : VMD_LIBEXECDIR "/vmd-vmm");
	if (access(f->vmm, X_OK) < 0)
		f->vmm[0] = '\0';
}

/* Firmware comes in pairs: code, and a template of the variables for it. */
static void find_firmware(struct host_facts *f)
{
	static const struct {
		bool arm;
		const char *code, *vars;
	} known[] = {
		{ false, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd" },
		{ false, "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd" },
		{ false, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd" },
		{ false, "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
		  "/usr/share/edk2/x64/OVMF_VARS.4m.fd" },
		{ true, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd" },
		{ true, "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
		  "/usr/share/edk2/aarch64/vars-template-pflash.raw" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		char *code = known[i].arm ? f->aavmf_code : f->ovmf_code;
		char *vars = known[i].arm ? f->aavmf_vars : f->ovmf_vars;

		if (code[0] || access(known[i].code, R_OK) < 0 || access(known[i].vars, R_OK) < 0)
			continue;
		snprintf(code, sizeof(f->ovmf_code), "%s", known[i].code);
		snprintf(vars, sizeof(f->ovmf_vars), "%s", known[i].vars);
	}
}

/* Whether text has word between white space. */
static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p += n)
		if ((p == text || p[-1] == ' ' || p[-1] == '\t') &&
		    (p[n] == '\0' || p[n] == ' ' || p[n] == '\n'))
			return true;
	return false;
}

unsigned host_cpu_level(const char *flags)
{
	static const char *const levels[][10] = {
		{ "cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3" },
		{ "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave" },
		{ "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl" },
	};
	unsigned level = 1;

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++, level++)
		for (size_t k = 0; levels[i][k]; k++)
			if (!has_word(flags, levels[i][k]))
				return level;
	return level;
}

/* The value of the first line "<key>\t*: <value>", cut at its end; NULL when there is none. */
static char *info_value(char *text, const char *key)
{
	for (char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, strlen(key)) == 0 && strchr("\t :", line[strlen(key)])) {
			char *value = strchr(line, ':');

			if (!value)
				return NULL;
			value += 1 + (value[1] == ' ');
			return strndup(value, strcspn(value, "\n"));
		}
	}
	return NULL;
}

static void read_cpu(struct host_facts *f)
{
	cleanup_free char *text = NULL, *flags = NULL, *model = NULL;

	if (fs_read_file(AT_FDCWD, "/proc/cpuinfo", 65536, &text, NULL) < 0)
		return;
	flags = info_value(text, "flags");
	model = info_value(text, "model name");
	if (strcmp(f->arch, "x86_64") == 0)
		f->cpu_level = host_cpu_level(flags ? flags : "");
	snprintf(f->cpu_model, sizeof(f->cpu_model), "%s", model ? model : "");
}

void host_facts_collect(struct host_facts *f)
{
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	struct utsname name;

	*f = (struct host_facts){ .cpus = online > 0 ? (unsigned)online : 1 };
	if (uname(&name) == 0)
		snprintf(f->arch, sizeof(f->arch), "%.15s", name.machine);
	if (pages > 0 && page > 0)
		f->memory_bytes = (uint64_t)pages * (uint64_t)page;
	snprintf(f->kvm_reason, sizeof(f->kvm_reason), "KVM was not tried yet");
	read_cpu(f);
	find_programs(f);
	find_monitor(f);
	find_firmware(f);
}

void host_facts_deinit(struct host_facts *f)
{
	json_decref(f->kvm_proof);
	json_decref(f->qemu_cache);
	f->kvm_proof = f->qemu_cache = NULL;
}

const char *host_qemu_path(const struct host_facts *f, const char *arch)
{
	if (strcmp(arch, "x86_64") == 0)
		return f->qemu_x86_64;
	return strcmp(arch, "aarch64") == 0 ? f->qemu_aarch64 : "";
}

static void take_proof(struct host_facts *f, const char *output)
{
	struct vmd_error err = VMD_ERROR_INIT;
	json_t *proof = jsonx_parse(output, strlen(output), 8, &err);
	const char *hint = jsonx_str(proof, "hint", NULL);
	int n;

	json_decref(f->kvm_proof);
	f->kvm_proof = json_is_object(proof) ? proof : NULL;
	f->kvm_usable = jsonx_bool(f->kvm_proof, "usable", false);
	n = snprintf(f->kvm_reason, sizeof(f->kvm_reason), "%.120s",
	             jsonx_str(f->kvm_proof, "reason", "the KVM prober gave no answer"));
	if (hint)
		snprintf(f->kvm_reason + n, sizeof(f->kvm_reason) - (size_t)n, " (%.60s)", hint);
	if (!json_is_object(proof))
		json_decref(proof);
}

int host_probe_kvm(struct vmd *vmd UNUSED, struct host_facts *f)
{
	const char *path = getenv("VMD_KVM_PROBE");
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_free char *output = NULL;
	uint64_t deadline = fiber_deadline(), limit = now_monotonic_us() + PROBE_TIME_US;
	struct proc_status status;
	struct spawn_spec spec = { .death_signal = SIGKILL, .null_stdio = true };
	char *argv[2];
	int r;

	if (f->kvm_probed)
		return 0;
	spec.path = path ? path : VMD_LIBEXECDIR "/vmd-kvm-probe";
	argv[0] = (char *)(uintptr_t)spec.path;
	argv[1] = NULL;
	spec.argv = argv;
	fiber_set_deadline(deadline ? MIN_OF(deadline, limit) : limit);
	r = fiber_run_program(&spec, PROBE_REPLY_MAX, &output, &status, &err);
	fiber_set_deadline(deadline);
	if (r == -ECANCELED || (r == -ETIMEDOUT && deadline && deadline <= limit))
		return r;
	if (r < 0) {
		log_warning("KVM prober: %s", err.kind ? err.message : strerror(-r));
		snprintf(f->kvm_reason, sizeof(f->kvm_reason), "the KVM prober failed: %.150s",
		         err.kind ? err.message : strerror(-r));
	} else {
		take_proof(f, output ? output : "");
	}
	f->kvm_probed = true;
	log_info("KVM is %susable: %s", f->kvm_usable ? "" : "not ", f->kvm_reason);
	return 0;
}
