/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What the parts of bench/vmm share. It is a measuring tool, not a test: what goes wrong ends it
 * with the reason. One thread; times are nanoseconds of CLOCK_MONOTONIC.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/macros.h"

#define MARK       '!'  /* "the guest's first instruction" on its serial port */
#define LINUX_MARK 1    /* the same of /init: no message of the kernel's has it */
#define BENCH_WAIT 240  /* seconds for anything that a peer says */
#define BENCH_PORT 5000 /* of the host, where the guest's TCP goes */

_Noreturn void bench_fail(const char *format, ...) PRINTF_LIKE(1, 2);

/* Where the programs are. */
struct bench_paths {
	const char *vmd, *shim, *vmm, *probe, *floor, *qemu;
	const char *lkvm; /* NULL: not on PATH */
	char dir[64];     /* private; removed at the end */
};
extern struct bench_paths paths;

/* Peers (vmm-peer.c). */
enum peer_kind {
	PEER_FLOOR,   /* bench/vmm-floor: KVM set up and entered, nothing else */
	PEER_VMM,     /* vmd-vmm, given what vmd-shim gives it */
	PEER_MICROVM, /* QEMU, machine microvm, all that it can do without off */
	PEER_PC,      /* QEMU, machine pc */
	PEER_LKVM,
	_PEER_MAX
};
extern const char *const peer_names[_PEER_MAX];

struct peer_spec {
	enum peer_kind kind;
	const char *kernel, *initrd, *cmdline; /* initrd and cmdline may be NULL */
	unsigned memory_mib;
	const char *disk; /* raw, read-only, NULL: none */
	const char *tap;  /* name of a tap, NULL: none */
	bool incoming;    /* waits for a saved state */
	int memory_fd;    /* floor: a file as its memory, mapped privately; 0: none */
};

struct peer {
	struct peer_spec spec;
	pid_t pid;
	int console, qmp; /* -EBADF: none */
	uint64_t exec_ns; /* when it was executed */
	uint64_t cpu_us;  /* its processor time, once it has ended */
};

/* Executes it; fails the bench if that does not work. */
void peer_start(struct peer *p, const struct peer_spec *spec);
/* SIGKILL, and waits; cpu_us is known then. */
void peer_kill(struct peer *p);
/* Whether the peer can be had at all; else *ret_why says why not. */
bool peer_exists(enum peer_kind kind, const char **ret_why);
/* Waits for byte on its console, drops what comes before; when it came. */
uint64_t peer_wait_byte(struct peer *p, char byte);
/* Reads a line that begins with words (as in "disk: "); what follows (static storage). */
const char *peer_wait_line(struct peer *p, const char *words);
/* Drops what is on the console by now. */
void peer_drain(struct peer *p);
/* QMP: one command, its reply (static storage); fails the bench on an error. fd -1: none. */
const char *peer_qmp(struct peer *p, const char *command, int fd);
/* Until query-migrate says completed; when it did. */
uint64_t peer_wait_migrated(struct peer *p);
/* Sends what the guest is to do to its serial port. */
void peer_say(struct peer *p, const char *text);
/* Bytes of memory, proportional share, without the guest's RAM. */
uint64_t process_pss(pid_t pid, unsigned ram_mib);

/* Bare guests: PVH ELF files in the private directory (vmm-guests.c); paths are static storage. */
const char *guest_first(void); /* MARK, then halts */
/* MARK, count reads of the serial port's line status, '2', and again. */
const char *guest_exits(uint32_t count);
/* Writes to so many MiB from 16 MiB on, a word in each page; then '.' again and again. */
const char *guest_ticks(unsigned mib);

/* Numbers (vmm-table.c). */
#define SAMPLES_MAX 2048
struct samples {
	size_t n;
	double v[SAMPLES_MAX];
};
void sample(struct samples *s, double v);
double median(struct samples *s);
double smallest(struct samples *s);

/* A row of the table: value with its unit, beside another one. limit is of the ratio; at_least: it
 * is to be reached, else not to be exceeded; limit 0: no target. */
void row(const char *what, double value, const char *unit, const char *beside, double other,
         double limit, bool at_least);
/* The same with a limit of the value itself. */
void row_value(const char *what, double value, const char *unit, double limit, bool at_least);
void row_skip(const char *what, const char *why);
void table_head(const char *title);

/* What is measured; each prints its rows. */
void bench_start(unsigned rounds);
void bench_exits(void);
void bench_restore(unsigned mib, unsigned written_mib, unsigned rounds);
void bench_api(unsigned guests);
void bench_linux_boot(const char *what, const char *kernel, const char *initrd, unsigned rounds);
void bench_linux_saved(const char *kernel, const char *initrd, unsigned written_mib,
                       unsigned rounds);
void bench_linux_idle(const char *kernel, const char *initrd);
void bench_disk(const char *kernel, const char *initrd, const char *disk, unsigned rounds);
void bench_net(const char *kernel, const char *initrd, unsigned rounds);
