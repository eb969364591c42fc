/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The scene of an integration test: a private directory with a vmd of its own, and helpers for real
 * guests in it. Whatever happens to the test, a guard process removes all of it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "tests/lib/client.h"
#include "tests/lib/engine.h"

struct scene {
	char root[64]; /* /tmp/vmd-it-XXXXXX */
	char state_dir[96], runtime_dir[96], socket[112], ro_socket[112], config_file[128];
	char log_file[96]; /* what vmd wrote to stderr, all runs */
	pid_t vmd;         /* 0: not running */
	int pidfd;
	struct client client; /* the main connection */
	int guard_pipe;
	int notify;               /* where vmd's sd_notify messages come, of the present run */
	bool system;              /* system mode instead of --session */
	const char *program_path; /* PATH for vmd, NULL: as ours */
	const char *kvm_probe;    /* program instead of vmd-kvm-probe, or NULL */
	const char *vmm;          /* program instead of vmd-vmm, or NULL */
};

/* Makes the directories and the guard; starts no daemon. */
void scene_init(struct scene *s);
/* scene_init and scene_start. */
void scene_setup(struct scene *s);
/*
 * The end of a test that went well: deletes all guests, checks that nothing of them is left, stops
 * the daemon, checks again, removes the directories.
 */
void scene_teardown(struct scene *s);

/* Starts vmd, waits for its READY=1, connects. */
void scene_start(struct scene *s);
/* Starts vmd and expects that it refuses: its exit code; what it wrote is in *output (static). */
int scene_start_refused(struct scene *s, const char **output);
/*
 * Waits until a message of sd_notify has text; the message (static storage). Those before are
 * dropped. Fails the test at the deadline.
 */
const char *scene_notified(struct scene *s, const char *text, int timeout_ms);
/* SIGTERM, and waits; fails the test unless it exits with 0. Guests go on. */
void scene_stop(struct scene *s);
/* SIGKILL, and waits. */
void scene_kill_daemon(struct scene *s);
/* Writes vmd.conf, read at the next start or reload. */
void scene_config(struct scene *s, const char *text);
/* Path below the scene's directory (static storage, four in turn). */
const char *scene_path(struct scene *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* A file of this size filled with zeros, below the scene's directory; its path. */
const char *scene_disk(struct scene *s, const char *name, size_t bytes);

/* Processes of this scene besides vmd and the guard (shims, engines, helpers). */
size_t scene_count_processes(struct scene *s);
/* Waits until that many are there; fails the test at the deadline. */
void scene_wait_processes(struct scene *s, size_t count, int timeout_ms);
/* pid of the process of guest whose /proc/PID/comm begins with name, or 0. */
pid_t scene_find_process(struct scene *s, const char *comm);

/* Test guests: skips the test when the kit of this architecture is not there. */
const char *kit_kernel(const char *arch);
const char *kit_initrd(const char *arch);
/* More words for the kernel command line of all of them: VMD_TEST_CMDLINE, or "". */
const char *kit_words(void);
/*
 * Defines a guest that boots the kit: 1 CPU, 256M, its console as kernel console and cmdline
 * appended. more (stolen, may be NULL) has further members of the definition.
 */
void guest_create(struct scene *s, const char *name, const char *arch, const char *cmdline,
                  json_t *more);
/* Defines a guest of 64M that boots nothing (engine_bare_boot); cheap, needs no kit. */
void guest_create_bare(struct scene *s, const char *name, json_t *more);
/* vm.start and vm.wait for the login prompt. */
void guest_boot(struct scene *s, const char *name);
/* The state that vm.get tells (static storage). */
const char *guest_state(struct scene *s, const char *name);
void guest_expect_state(struct scene *s, const char *name, const char *state);

/* A console stream. replay: first what was written before. */
int console_open(struct scene *s, const char *name, bool replay);
/* Reads until text has come; fails the test at the deadline with what came instead. */
void console_expect(int fd, const char *text, int timeout_ms);
void console_type(int fd, const char *text);
/* Runs a command line in the guest's shell; its output (static storage, without the last newline).
 */
const char *console_run(int fd, const char *command);
