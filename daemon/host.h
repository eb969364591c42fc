/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What this host is and can do: CPU, memory, KVM with the micro-guest's proof, QEMU binaries. */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct vmd;

struct host_facts {
	char arch[16]; /* "x86_64", "aarch64" (uname machine) */
	char cpu_model[64];
	unsigned cpus;      /* online */
	unsigned cpu_level; /* x86-64-vN, 0 elsewhere */
	uint64_t memory_bytes;
	bool kvm_usable;                          /* the micro-guest ran properly and at speed */
	char kvm_reason[192];                     /* why (not), in words */
	json_t *kvm_proof;                        /* the prober's own report, or NULL */
	bool kvm_probed;                          /* the three above are the prober's answer */
	char qemu_x86_64[128], qemu_aarch64[128]; /* paths, or "" */
	char vmm[128]; /* our monitor; VMD_VMM in the environment names another */
	char passt[128], virtiofsd[128], swtpm[128], qemu_img[128], storage_daemon[128];
	char ovmf_code[128], ovmf_vars[128], aavmf_code[128], aavmf_vars[128];
	json_t *qemu_cache; /* by program path, for host_qemu() */
};

/* Finds programs and reads /proc; does not start anything. */
void host_facts_collect(struct host_facts *f);
/* Runs the KVM prober (child process, 5 s at most) once and keeps the answer; later calls return at
 * once. Waits (fiber). VMD_KVM_PROBE in the environment overrides the prober's path. 0, or
 * -ECANCELED or -ETIMEDOUT when the fiber was called off; a prober that fails is an answer. */
int host_probe_kvm(struct vmd *vmd, struct host_facts *f);
void host_facts_deinit(struct host_facts *f);

/* The level n of x86-64-vN that the words of a /proc/cpuinfo flags line allow, at least 1. */
unsigned host_cpu_level(const char *flags);

/* The program that emulates arch, or "" when it is not installed. */
const char *host_qemu_path(const struct host_facts *f, const char *arch);

/*
 * What QEMU programs say of themselves: {"version": "7.2.22", "machines": [names], "cpus": [names]}
 * by program path, asked of those that are installed side by side and kept until a program's file
 * changes. passt is asked as well. Waits (fiber). 0, or negative errno when the fiber was called
 * off.
 */
int host_query_qemu(struct host_facts *f);
/* Does passt carry every forwarded TCP connection? Known after host_query_qemu(). */
bool host_passt_forwards(const struct host_facts *f);
/* The answer for one program (borrowed), or NULL. */
const json_t *host_qemu(const struct host_facts *f, const char *path);

/* host.info's result (new reference); waits. */
int host_describe(struct vmd *vmd, json_t **ret, struct vmd_error *err);
