/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Engines: what differs between QEMU and our own KVM monitor, up to the exec. Everything after it
 * is QMP and shared code. A capability table per engine drives validation and "auto".
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "daemon/engine-caps.h"

struct vmd;
struct guest;
struct held_fds;
struct host_facts;

/* A definition without "memory"; the default that the contract states. */
#define DEFAULT_MEMORY_BYTES (512u << 20)

#define LAUNCH_MAX_FDS   96
#define LAUNCH_MAX_PROCS 12

/* One process the shim starts: a helper (passt, virtiofsd, swtpm, the storage daemon) or the engine
 * itself (the last). */
struct launch_proc {
	char *name;   /* "engine", "passt0", "virtiofsd-data", "swtpm" */
	json_t *argv; /* array of strings; argv[0] is the program path */
	struct {
		int source; /* index into launch.fds */
		int target; /* number in the process */
	} fds[LAUNCH_MAX_FDS];
	size_t n_fds;
	bool vital;        /* a helper without which the engine must not run on: it is killed too */
	bool jail;         /* a helper that has no files but its descriptors, and no privileges */
	unsigned grace_ms; /* a helper's between SIGTERM and SIGKILL; 0: the shim's own */
};

/* Everything the shim needs to run one guest; built by engine prepare, sent to the shim. */
struct launch {
	int fds[LAUNCH_MAX_FDS]; /* owned; closed by launch_deinit */
	size_t n_fds;
	struct launch_proc procs[LAUNCH_MAX_PROCS];
	size_t n_procs;
	int qmp_fd;     /* vmd's (the shim's keeping) end of the QMP socketpair; owned, or -EBADF */
	int console_fd; /* shim's end of the console socketpair; owned, or -EBADF */
};
void launch_init(struct launch *l);
void launch_deinit(struct launch *l);
/* Takes fd; index into l->fds, or -E2BIG (fd closed). */
int launch_add_fd(struct launch *l, int fd);

struct engine_choice {
	const struct engine *engine;
	const char *accel; /* "kvm" or "tcg" */
	char reason[192];  /* which setting or host fact decided it */
};

struct prepare_opts {
	bool incoming; /* start with -incoming defer, to be fed by migrate-incoming */
	const char *runtime_dir;
	const char *state_dir; /* the guest's own: UEFI variables and TPM state are kept there */
	/*
	 * Name of the guest of ours, other than this one, that has the file open (borrowed), or
	 * NULL; for the error when a disk is locked. May be NULL. Loop thread.
	 */
	const char *(*holder_of)(struct vmd *vmd, const char *path, const json_t *definition);
	int lock_fd; /* the guest's lock file, locked; inherited by the engine (borrowed) */
	/* What {"fd": n} in the definition stands for (borrowed); may be NULL: nothing. */
	const struct held_fds *held;
};

struct engine {
	const char *name;  /* "qemu", "kvm" */
	enum engine_id id; /* its column of engine_caps */
	/* Can this definition run on this host with this engine? Sets choice->accel and reason on
	 * 0; else err with field and reason (ERROR_UNSUPPORTED or ERROR_INVALID). Does not block.
	 */
	int (*check)(const struct host_facts *host, const json_t *definition,
	             struct engine_choice *choice, struct vmd_error *err);
	/* Opens and locks files (in a worker thread), makes sockets, builds argv. Waits (fiber). On
	 * failure nothing is left behind. */
	int (*prepare)(struct vmd *vmd, const json_t *definition,
	               const struct engine_choice *choice, const struct prepare_opts *opts,
	               struct launch *launch, struct vmd_error *err);
};

extern const struct engine engine_qemu, engine_kvm;

/*
 * Everything the definition asks for must be in the engine's capability table: 0, or
 * ERROR_UNSUPPORTED with field and reason.
 */
int engine_check_caps(const struct engine *engine, const struct host_facts *host,
                      const json_t *definition, struct vmd_error *err);
/* The guest's architecture: the definition's, else the host's. */
const char *engine_arch(const struct host_facts *host, const json_t *definition);
/* Sets ERROR_UNSUPPORTED with a field; returns its negative errno. */
int engine_refuse(struct vmd_error *err, const char *field, const char *format, ...)
	PRINTF_LIKE(3, 4);
/*
 * Memory that is taken from the host as a whole when the guest starts (prealloc, huge pages) has to
 * be in it. Other memory is taken as the guest touches it, so it may be more than the host has. 0,
 * or ERROR_UNSUPPORTED with the field.
 */
int engine_check_room(const struct host_facts *host, const json_t *definition,
                      struct vmd_error *err);
/* Can the kvm engine run anything here? 0, or ERROR_UNSUPPORTED with the reason. */
int engine_kvm_available(const struct host_facts *host, struct vmd_error *err);

/* engine: "auto" picks kvm, then qemu with KVM, then qemu with emulation; a named one is checked.
 */
int engine_choose(const struct host_facts *host, const json_t *definition,
                  struct engine_choice *ret, struct vmd_error *err);
