/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bare guests on each monitor: the start, an exit, saving and restoring. */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/vmm-bench.h"
#include "common/cleanup.h"
#include "common/timeutil.h"

enum {
	START_MIB = 64,
	EXITS = 4000
};

static double ms(uint64_t from, uint64_t to)
{
	return (double)(to - from) / 1e6;
}

/* exec to the first instruction, milliseconds; and the processor time of all of it. */
static void start_once(const struct peer_spec *spec, struct samples *wall, struct samples *cpu)
{
	struct peer p;

	peer_start(&p, spec);
	sample(wall, ms(p.exec_ns, peer_wait_byte(&p, MARK)));
	peer_kill(&p);
	sample(cpu, (double)p.cpu_us / 1e3);
}

void bench_start(unsigned rounds)
{
	static struct samples wall[_PEER_MAX], cpu[_PEER_MAX];
	const char *kernel = guest_first(), *why;
	double floor, vmm;

	for (unsigned i = 0; i < rounds; i++)
		for (enum peer_kind k = 0; k < PEER_LKVM; k++)
			/* QEMU takes long, with a BIOS above all: fewer rounds will do. */
			if (peer_exists(k, &why) &&
			    (k < PEER_MICROVM || i % (k == PEER_PC ? 20 : 3) == 0))
				start_once(&(struct peer_spec){ .kind = k,
				                                .kernel = kernel,
				                                .memory_mib = START_MIB },
				           &wall[k], &cpu[k]);
	floor = median(&wall[PEER_FLOOR]);
	vmm = median(&wall[PEER_VMM]);
	row("exec to first instruction", vmm, "ms", "floor", floor, 1.5, false);
	row("its processor time", median(&cpu[PEER_VMM]), "ms", "floor", median(&cpu[PEER_FLOOR]),
	    0, false);
	row("the quickest of all runs", smallest(&wall[PEER_VMM]), "ms", "floor",
	    smallest(&wall[PEER_FLOOR]), 0, false);
	if (peer_exists(PEER_MICROVM, &why)) {
		row("exec to first instruction", vmm, "ms", "QEMU microvm",
		    median(&wall[PEER_MICROVM]), 0.3, false);
		row("exec to first instruction", vmm, "ms", "QEMU pc", median(&wall[PEER_PC]), 0,
		    false);
	} else {
		row_skip("exec to first instruction, QEMU", why);
	}
	if (!peer_exists(PEER_LKVM, &why))
		row_skip("exec to first instruction, lkvm", why);
	else
		row_skip("exec to first instruction, lkvm", "it starts no PVH file");
}

void bench_exits(void)
{
	static struct samples us[_PEER_MAX];
	const char *kernel = guest_exits(EXITS), *why;

	for (unsigned round = 0; round < 3; round++) {
		for (enum peer_kind k = 0; k <= PEER_MICROVM; k++) {
			struct peer p;

			if (!peer_exists(k, &why))
				continue;
			peer_start(&p, &(struct peer_spec){ .kind = k,
			                                    .kernel = kernel,
			                                    .memory_mib = START_MIB });
			(void)peer_wait_byte(&p, '2');
			for (unsigned i = 0; i < 4; i++) {
				uint64_t from = peer_wait_byte(&p, MARK);

				sample(&us[k],
				       (double)(peer_wait_byte(&p, '2') - from) / 1e3 / EXITS);
			}
			peer_kill(&p);
		}
	}
	row("a port read answered by a device", smallest(&us[PEER_VMM]), "µs", "bare KVM_RUN loop",
	    smallest(&us[PEER_FLOOR]), 1.1, false);
	if (peer_exists(PEER_MICROVM, &why))
		row("a port read answered by a device", smallest(&us[PEER_VMM]), "µs",
		    "QEMU microvm", smallest(&us[PEER_MICROVM]), 0, false);
}

/* Saves p to fd: milliseconds in which the guest stood still. */
static double save(struct peer *p, int fd)
{
	uint64_t from;

	(void)peer_qmp(p, "{\"execute\":\"qmp_capabilities\"}\n", -1);
	(void)peer_qmp(p, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}\n", fd);
	from = now_monotonic_ns();
	(void)peer_qmp(p, "{\"execute\":\"stop\"}\n", -1);
	(void)peer_qmp(p, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:s\"}}\n", -1);
	return ms(from, peer_wait_migrated(p));
}

static double restore_once(const struct peer_spec *spec, int fd)
{
	struct peer p;
	double t;

	peer_start(&p, spec);
	(void)peer_qmp(&p, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"s\"}}\n", fd);
	(void)peer_qmp(&p, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:s\"}}\n",
	               -1);
	t = ms(p.exec_ns, peer_wait_byte(&p, '.'));
	peer_kill(&p);
	return t;
}

/* The same bytes by the host alone: what writing them takes at least. */
static double host_write(unsigned mib)
{
	cleanup_close int fd = open(paths.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	cleanup_free char *block = calloc(1, 1 << 20);
	uint64_t from = now_monotonic_ns();

	for (unsigned i = 0; i < mib && block; i++)
		if (write(fd, block, 1 << 20) != 1 << 20)
			bench_fail("cannot write to '%s'", paths.dir);
	return ms(from, now_monotonic_ns());
}

void bench_restore(unsigned mib, unsigned written_mib, unsigned rounds)
{
	static struct samples vmm, wall, cpu;
	const char *kernel = guest_ticks(written_mib), *first = guest_first();
	cleanup_close int fd = open(paths.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct peer_spec spec = { .kind = PEER_VMM, .kernel = kernel, .memory_mib = mib };
	struct peer p;
	char what[96];
	double saved;

	vmm.n = wall.n = cpu.n = 0;
	peer_start(&p, &spec);
	peer_wait_byte(&p, MARK);
	saved = save(&p, fd);
	peer_kill(&p);
	spec.incoming = true;
	for (unsigned i = 0; i < rounds; i++) {
		start_once(&(struct peer_spec){ .kind = PEER_FLOOR,
		                                .kernel = first,
		                                .memory_mib = mib,
		                                .memory_fd = fd },
		           &wall, &cpu);
		sample(&vmm, restore_once(&spec, fd));
	}
	snprintf(what, sizeof(what), "restore of %u MiB to the next instruction", mib);
	row(what, median(&vmm), "ms", "floor", median(&wall), 1.5, false);
	snprintf(what, sizeof(what), "save of %u MiB, %u MiB written: stopped for", mib,
	         written_mib);
	row(what, saved, "ms", "the host's own write", host_write(written_mib), 0, false);
}
