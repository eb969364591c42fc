/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the device models cost, without a guest's exits: a driver in one thread, the device in its
 * loop's. A disk's requests per second and the processor time of each, beside the same reads by
 * plain calls; a tap's or stream's frames. Usage: devices [file to read] [seconds per line]
 */
#include "config.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/models.h"

#define RAM_BYTES  (64u << 20)
#define FILE_BYTES (256u << 20)
#define RING       128u
#define SLOT_BYTES (256u << 10)
#define SLOTS_AT   (1u << 20)

struct driver {
	struct guestmem mem;
	struct ioloop *loop;
	struct virtio_device *d;
	int kick_fd, call_fd;
	uint16_t avail, used;
	struct vring_desc *desc;
	struct vring_avail *avail_ring;
	struct vring_used *used_ring;
	uint64_t interrupts, kicks;
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void check(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

static void on_interrupt(struct virtqueue *vq)
{
	struct driver *v = vq->device->owner;

	v->interrupts++;
	(void)eventfd_write(v->call_fd, 1);
}

static void init(struct driver *v)
{
	void *ram =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	check(ram != MAP_FAILED, "mmap");
	v->mem.n = 1;
	v->mem.regions[0] = (struct guestmem_region){ 0, RAM_BYTES, ram };
	check(ioloop_new("bench", &v->loop) == 0 && ioloop_start(v->loop) == 0, "ioloop");
}

static void start_queue(struct driver *v, unsigned q)
{
	uint64_t at = 4096 + 16384 * (uint64_t)q;

	memset(v->mem.regions[0].host + at, 0, 16384);
	virtio_queue_write(v->d, q, VIRTIO_QUEUE_SIZE, RING);
	virtio_queue_write(v->d, q, VIRTIO_QUEUE_DESC, at);
	virtio_queue_write(v->d, q, VIRTIO_QUEUE_DRIVER, at + 4096);
	virtio_queue_write(v->d, q, VIRTIO_QUEUE_DEVICE, at + 8192);
	v->d->queues[q].kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->d->queues[q].interrupt = on_interrupt;
	virtio_queue_enable(v->d, q);
	v->kick_fd = v->d->queues[q].kick_fd;
	v->desc = (void *)(v->mem.regions[0].host + at);
	v->avail_ring = (void *)(v->mem.regions[0].host + at + 4096);
	v->used_ring = (void *)(v->mem.regions[0].host + at + 8192);
	v->avail = v->used = 0;
}

static void start(struct driver *v, struct virtio_device *d, unsigned queue)
{
	const uint64_t wanted =
		1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | 1 << 9;

	v->d = d;
	d->owner = v;
	v->call_fd = eventfd(0, EFD_CLOEXEC);
	virtio_write_status(d, 3);
	virtio_write_driver_features(d, 0, (uint32_t)(virtio_device_features(d) & wanted));
	virtio_write_driver_features(d, 1, (uint32_t)(wanted >> 32));
	virtio_write_status(d, 11);
	start_queue(v, queue);
	virtio_write_status(d, 15);
}

static void stop(struct driver *v)
{
	virtio_device_free(v->d);
	close(v->kick_fd);
	close(v->call_fd);
}

/* Slot i: header, data and status of its own. */
static void prepare(struct driver *v, unsigned i, uint64_t sector, uint32_t bytes)
{
	uint64_t at = SLOTS_AT + (uint64_t)i * SLOT_BYTES;
	uint8_t *host = v->mem.regions[0].host + at;
	uint16_t d = (uint16_t)(3 * i);

	memset(host, 0, 16);
	memcpy(host + 8, &sector, 8);
	v->desc[d] = (struct vring_desc){ at, 16, VRING_DESC_F_NEXT, (uint16_t)(d + 1) };
	v->desc[d + 1] =
		(struct vring_desc){ at + 4096, bytes, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
		                     (uint16_t)(d + 2) };
	v->desc[d + 2] = (struct vring_desc){ at + 16, 1, VRING_DESC_F_WRITE, 0 };
	v->avail_ring->ring[v->avail++ % RING] = d;
}

static void publish(struct driver *v, uint16_t before)
{
	uint16_t event;

	__atomic_store_n(&v->avail_ring->idx, v->avail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n((uint16_t *)(void *)&v->used_ring->ring[RING], __ATOMIC_RELAXED);
	if (vring_need_event(event, v->avail, before)) {
		v->kicks++;
		(void)eventfd_write(v->kick_fd, 1);
	}
}

/* Waits for used entries; how many there are. */
static uint16_t wait_used(struct driver *v)
{
	for (;;) {
		uint16_t idx = __atomic_load_n(&v->used_ring->idx, __ATOMIC_ACQUIRE);
		eventfd_t n;

		if (idx != v->used)
			return (uint16_t)(idx - v->used);
		__atomic_store_n(&v->avail_ring->ring[RING], v->used, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&v->used_ring->idx, __ATOMIC_ACQUIRE) == v->used)
			(void)eventfd_read(v->call_fd, &n);
	}
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void report(const char *what, uint64_t n, uint64_t us, uint64_t cpu)
{
	printf("%-34s %9.0f/s  %6.2f µs each  %6.2f µs cpu", what, (double)n * 1e6 / (double)us,
	       (double)us / (double)n, (double)cpu / (double)n);
}

static uint64_t next_sector(uint64_t *random, uint32_t bytes, bool sequential)
{
	uint64_t blocks = FILE_BYTES / bytes;

	*random = sequential ? *random + 1 : *random * 6364136223846793005u + 1442695040888963407u;
	return (sequential ? *random : *random >> 33) % blocks * (bytes / 512);
}

static void bench_disk(struct driver *v, const char *what, struct virtio_blk_config *c,
                       const char *path, unsigned depth, uint32_t bytes, bool sequential,
                       uint64_t run_us)
{
	struct virtio_device *d;
	uint64_t begin, end, cpu, n = 0, random = 1;

	c->id = "disk0";
	c->n_queues = 1;
	c->fd = open(path, O_RDWR | O_CLOEXEC);
	check(c->fd >= 0 && virtio_blk_new(c, &v->mem, v->loop, &d) == 0, path);
	start(v, d, 0);
	v->interrupts = v->kicks = 0;
	begin = end = now_monotonic_us();
	cpu = cpu_us();
	for (unsigned i = 0; i < depth; i++)
		prepare(v, i, next_sector(&random, bytes, sequential), bytes);
	publish(v, 0);
	while (end - begin < run_us) {
		uint16_t before = v->avail, got = wait_used(v);

		for (uint16_t i = 0; i < got; i++) {
			unsigned id = v->used_ring->ring[v->used++ % RING].id;

			prepare(v, id / 3, next_sector(&random, bytes, sequential), bytes);
		}
		n += got;
		publish(v, before);
		end = now_monotonic_us();
	}
	report(what, n, end - begin, cpu_us() - cpu);
	printf("  %.2f kicks %.2f interrupts\n", (double)v->kicks / (double)n,
	       (double)v->interrupts / (double)n);
	stop(v);
}

/* The same reads by the file's own calls: what the host alone takes. */
static void bench_host(struct driver *v, const char *what, const char *path, uint32_t bytes,
                       bool sequential, uint64_t run_us)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t begin = now_monotonic_us(), end = begin, cpu = cpu_us(), n = 0, random = 1;

	check(fd >= 0, path);
	while (end - begin < run_us) {
		uint64_t sector = next_sector(&random, bytes, sequential);

		check(pread(fd, v->mem.regions[0].host + SLOTS_AT, bytes, (off_t)sector * 512) ==
		              (ssize_t)bytes,
		      "pread");
		n++;
		end = now_monotonic_us();
	}
	report(what, n, end - begin, cpu_us() - cpu);
	printf("\n");
}

/* Two threads that wake each other by eventfd: what any device costs at depth 1. */
static void *echo(void *arg)
{
	const int *fds = arg;
	eventfd_t n;

	while (eventfd_read(fds[0], &n) == 0 && n < 1000)
		(void)eventfd_write(fds[1], 1);
	return NULL;
}

static void bench_wake(uint64_t run_us)
{
	int fds[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) };
	uint64_t begin = now_monotonic_us(), end = begin, cpu = cpu_us(), n = 0;
	pthread_t thread;
	eventfd_t v;

	check(pthread_create(&thread, NULL, echo, fds) == 0, "pthread_create");
	while (end - begin < run_us) {
		(void)eventfd_write(fds[0], 1);
		(void)eventfd_read(fds[1], &v);
		n++;
		end = now_monotonic_us();
	}
	(void)eventfd_write(fds[0], 1000);
	pthread_join(thread, NULL);
	report("two threads wake each other", n, end - begin, cpu_us() - cpu);
	printf("\n");
	close(fds[0]);
	close(fds[1]);
}

static int make_file(char *path)
{
	cleanup_free uint8_t *block = malloc(1u << 20);
	int fd = mkstemp(path);

	check(fd >= 0 && block, path);
	memset(block, 7, 1u << 20);
	for (unsigned i = 0; i < FILE_BYTES >> 20; i++)
		check(write(fd, block, 1u << 20) == 1 << 20, path);
	return fd;
}

int main(int argc, char **argv)
{
	char made[] = "/tmp/vmd-bench-XXXXXX";
	const char *path = argc > 1 && *argv[1] ? argv[1] : made;
	uint64_t run_us = (argc > 2 ? strtoul(argv[2], NULL, 10) : 2) * 1000000u;
	struct driver v = { 0 };

	setlinebuf(stdout);
	init(&v);
	if (path == made)
		close(make_file(made));
	bench_wake(run_us);
	bench_host(&v, "host pread 4 KiB random", path, 4096, false, run_us);
	bench_host(&v, "host pread 128 KiB sequential", path, 131072, true, run_us);
	for (unsigned plain = 0; plain < 2; plain++) {
		struct virtio_blk_config c = { .no_io_uring = plain };

		printf(plain ? "plain calls:\n" : "io_uring:\n");
		bench_disk(&v, "  4 KiB random, depth 1", &c, path, 1, 4096, false, run_us);
		bench_disk(&v, "  4 KiB random, depth 32", &c, path, 32, 4096, false, run_us);
		bench_disk(&v, "  128 KiB sequential, depth 4", &c, path, 4, 131072, true, run_us);
	}
	if (path == made)
		unlink(made);
	ioloop_free(v.loop);
	return 0;
}
