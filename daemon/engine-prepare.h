/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * From an engine's plan to what the shim is given: files are opened, checked and locked in a worker
 * thread, sockets and helper processes are made, the engine's process comes last.
 */
#include "daemon/engine-files.h"
#include "daemon/engine.h"
#include "daemon/plan.h"

struct opening {
	struct engine_file file;
	size_t plan_index; /* in plan.fds; SIZE_MAX: checked only */
	int fd;
};

struct preparation {
	struct vmd *vmd;
	const json_t *definition; /* schema-checked, managed disks resolved */
	const struct host_facts *host;
	const struct prepare_opts *opts;
	const char *arch;
	struct plan plan;
	/* Where the engine keeps what it needs beside the definition; "" where it needs nothing. */
	char nvram[512], tpm_dir[512];
	char stale_socket[256]; /* of a former run: removed */
	const char *nvram_template;

	struct opening openings[LAUNCH_MAX_FDS + 8];
	size_t n_openings;
	size_t export_index;    /* in launch.fds: the storage daemon's end of the last export */
	size_t failed;          /* index of the opening that failed */
	struct vmd_error error; /* of the worker */
};

/* On the heap, for a definition and what the caller of engine prepare gave. NULL with err. */
struct preparation *preparation_new(struct vmd *vmd, const json_t *definition,
                                    const struct prepare_opts *opts, struct vmd_error *err);
void preparation_free(struct preparation *p);

/* Passt runs only where it finds a default route. */
bool preparation_has_passt(const struct preparation *p);

/*
 * Makes everything the plan names and adds it to launch. Waits (fiber). On failure launch may hold
 * some of it: the caller deinits it. Negative errno with err and, where it is the input's fault,
 * the field.
 */
int preparation_run(struct preparation *p, struct launch *launch, struct vmd_error *err);
