/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many durable changes a second the store takes from many fibers, beside what the disk itself
 * does: one write of the same bytes in place and one fdatasync at a time. Usage:
 * store-commit [directory on the disk to measure] [seconds per line]
 */
#include "config.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/log.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/store.h"

#define MAX_SAMPLES (1u << 20)

struct bench {
	struct ev_loop *loop;
	struct store *store;
	struct event_hub *hub;
	uint64_t until_us;
	unsigned running;
	unsigned next_id;
	bool delete_too;
	uint32_t *samples; /* microseconds of each commit */
	size_t n;
	char value[800];
};

static void note(struct bench *b, uint64_t since)
{
	if (b->n < MAX_SAMPLES)
		b->samples[b->n] = (uint32_t)(now_monotonic_us() - since);
	b->n++;
}

static int change(struct bench *b, const char *id, bool create)
{
	struct store_txn *txn = store_txn_new(b->store);
	uint64_t start = now_monotonic_us(), seq;
	int r;

	seq = event_publish(b->hub, txn,
	                    &(struct event){ .type = create ? "vm.created" : "vm.deleted",
	                                     .vm = "web",
	                                     .uuid = id,
	                                     .actor = "uid:0" });
	if (create)
		store_put(txn, "guests", id, b->value);
	else
		store_delete(txn, "guests", id);
	r = store_commit(txn, NULL);
	event_flush(b->hub, seq);
	note(b, start);
	return r;
}

static void worker(void *arg)
{
	struct bench *b = arg;
	char id[40];

	while (now_monotonic_us() < b->until_us) {
		snprintf(id, sizeof(id), "%08x-0000-4000-8000-000000000000", b->next_id++);
		if (change(b, id, true) < 0 || (b->delete_too && change(b, id, false) < 0)) {
			fprintf(stderr, "store-commit: a commit failed\n");
			exit(1);
		}
	}
	b->running--;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void print_row(const char *what, struct bench *b, uint64_t us)
{
	size_t n = MIN_OF(b->n, (size_t)MAX_SAMPLES);

	qsort(b->samples, n, sizeof(*b->samples), by_value);
	printf("%-34s %10.0f %9.2f %9.2f %9.2f\n", what, (double)b->n * 1e6 / (double)us,
	       n ? b->samples[n / 2] / 1e3 : 0, n ? b->samples[n * 99 / 100] / 1e3 : 0,
	       n ? b->samples[n * 999 / 1000] / 1e3 : 0);
}

static void run_store(struct bench *b, unsigned fibers, unsigned seconds, bool delete_too)
{
	uint64_t start = now_monotonic_us();
	char what[64];

	b->until_us = start + seconds * 1000000u;
	b->delete_too = delete_too;
	b->n = 0;
	for (unsigned i = 0; i < fibers; i++) {
		b->running++;
		if (fiber_start("bench", worker, b) < 0)
			exit(1);
	}
	while (b->running)
		ev_run(b->loop, EVRUN_ONCE);
	snprintf(what, sizeof(what), "%s, %u fibers", delete_too ? "create+delete" : "create",
	         fibers);
	print_row(what, b, now_monotonic_us() - start);
}

static void run_disk(struct bench *b, const char *dir, unsigned seconds)
{
	cleanup_close int dir_fd = fs_open_dir(AT_FDCWD, dir);
	cleanup_close int fd = openat(dir_fd, "bare", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	static char zeros[1 << 20];
	uint64_t start, t;

	if (fd < 0 || fd_write_all(fd, zeros, sizeof(zeros)) < 0 || fsync(fd) < 0) {
		perror("store-commit");
		exit(1);
	}
	b->n = 0;
	start = now_monotonic_us();
	for (off_t at = 0; (t = now_monotonic_us()) < start + seconds * 1000000u; at += 1024) {
		if (pwrite(fd, b->value, sizeof(b->value), at % (off_t)sizeof(zeros)) < 0 ||
		    fdatasync(fd) < 0) {
			perror("store-commit");
			exit(1);
		}
		note(b, t);
	}
	print_row("the disk: write + fdatasync", b, now_monotonic_us() - start);
}

static void print_memory(void)
{
	cleanup_free char *text = NULL;
	const char *p;

	if (fs_read_file(AT_FDCWD, "/proc/self/status", 65536, &text, NULL) < 0)
		return;
	p = strstr(text, "RssAnon:");
	if (p)
		printf("%.*s\n", (int)strcspn(p, "\n"), p);
}

int main(int argc, char **argv)
{
	struct bench b = { .loop = ev_loop_new(EVFLAG_AUTO) };
	unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 3;
	struct vmd_error err = VMD_ERROR_INIT;
	char dir[4096];

	snprintf(dir, sizeof(dir), "%s/vmd-bench-XXXXXX", argc > 1 ? argv[1] : "/var/tmp");
	b.samples = calloc(MAX_SAMPLES, sizeof(*b.samples));
	if (!b.loop || !b.samples || !mkdtemp(dir)) {
		perror("store-commit");
		return 1;
	}
	memset(b.value, 'x', sizeof(b.value) - 1);
	b.value[0] = b.value[sizeof(b.value) - 2] = '"';
	fiber_init(b.loop);
	if (store_open(dir, NULL, NULL, &b.store, &err) < 0 ||
	    event_hub_new(b.store, 16 << 20, &b.hub, &err) < 0) {
		fprintf(stderr, "store-commit: %s\n", err.message);
		return 1;
	}
	printf("%-34s %10s %9s %9s %9s\n", "durable changes of 0.8 KB", "per s", "p50 ms", "p99 ms",
	       "p99.9 ms");
	run_disk(&b, dir, seconds);
	run_store(&b, 1, seconds, false);
	run_store(&b, 1, seconds, true);
	run_store(&b, 16, seconds, true);
	run_store(&b, 64, seconds, true);
	run_store(&b, 256, seconds, true);
	run_store(&b, 64, seconds, false);
	print_memory();
	event_hub_free(b.hub);
	store_close(b.store);
	fiber_deinit();
	ev_loop_destroy(b.loop);
	free(b.samples);
	return fs_remove_tree(AT_FDCWD, dir) < 0;
}
