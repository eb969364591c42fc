/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/vguest.h"

#include <criterion/criterion.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define WAIT_MS 20000

void vguest_init(struct vguest *g)
{
	memset(g, 0, sizeof(*g));
	g->memfd = memfd_create("ram", MFD_CLOEXEC);
	cr_assert_geq(g->memfd, 0);
	cr_assert_eq(ftruncate(g->memfd, VGUEST_RAM), 0);
	g->ram = mmap(NULL, VGUEST_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, g->memfd, 0);
	cr_assert_neq(g->ram, MAP_FAILED);
	g->mem.n = 1;
	g->mem.regions[0] = (struct guestmem_region){ VGUEST_GPA, VGUEST_RAM, g->ram };
	g->next = VGUEST_GPA;
	g->config_fd = eventfd(0, EFD_CLOEXEC);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		g->kick_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		g->rings[i].call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	cr_assert_eq(ioloop_new("test", &g->loop), 0);
	cr_assert_eq(ioloop_start(g->loop), 0);
}

void vguest_deinit(struct vguest *g)
{
	virtio_device_free(g->d);
	ioloop_free(g->loop);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		close(g->kick_fds[i]);
		close(g->rings[i].call_fd);
	}
	close(g->config_fd);
	munmap(g->ram, VGUEST_RAM);
	close(g->memfd);
}

static void on_interrupt(struct virtqueue *vq)
{
	struct vguest *g = vq->device->owner;

	atomic_fetch_add(&g->rings[vq->index].interrupts, 1);
	(void)eventfd_write(g->rings[vq->index].call_fd, 1);
}

static void on_config(struct virtio_device *d)
{
	struct vguest *g = d->owner;

	(void)eventfd_write(g->config_fd, 1);
}

uint64_t vguest_negotiate(struct vguest *g, struct virtio_device *d, uint64_t wanted)
{
	uint64_t f;

	g->d = d;
	d->owner = g;
	d->config_interrupt = on_config;
	virtio_write_status(d, 0);
	virtio_write_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	f = virtio_device_features(d) & (wanted | 1ull << VIRTIO_F_VERSION_1);
	virtio_write_driver_features(d, 0, (uint32_t)f);
	virtio_write_driver_features(d, 1, (uint32_t)(f >> 32));
	virtio_write_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
	                               VIRTIO_CONFIG_S_FEATURES_OK);
	return f;
}

void vguest_connect(struct vguest *g, unsigned q)
{
	g->d->queues[q].kick_fd = g->kick_fds[q];
	g->d->queues[q].interrupt = on_interrupt;
}

void vguest_add_queue(struct vguest *g, unsigned q, uint16_t size)
{
	struct vguest_ring *r = &g->rings[q];
	eventfd_t n;

	if (!size)
		size = (uint16_t)virtio_queue_read(g->d, q, VIRTIO_QUEUE_SIZE);
	r->size = size;
	r->next_desc = r->avail = r->used = 0;
	r->desc_gpa = vguest_alloc(g, 16u * size);
	r->avail_gpa = vguest_alloc(g, 6u + 2u * size);
	r->used_gpa = vguest_alloc(g, 6u + 8u * size);
	(void)eventfd_read(g->kick_fds[q], &n);
	vguest_connect(g, q);
	virtio_queue_write(g->d, q, VIRTIO_QUEUE_SIZE, size);
	virtio_queue_write(g->d, q, VIRTIO_QUEUE_DESC, r->desc_gpa);
	virtio_queue_write(g->d, q, VIRTIO_QUEUE_DRIVER, r->avail_gpa);
	virtio_queue_write(g->d, q, VIRTIO_QUEUE_DEVICE, r->used_gpa);
	virtio_queue_enable(g->d, q);
}

void vguest_driver_ok(struct vguest *g)
{
	virtio_write_status(g->d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
	                                  VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

uint64_t vguest_start(struct vguest *g, struct virtio_device *d, uint64_t wanted, unsigned n_queues,
                      uint16_t size)
{
	uint64_t f = vguest_negotiate(g, d, wanted);

	cr_assert(d->status & VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned q = 0; q < n_queues; q++)
		vguest_add_queue(g, q, size);
	vguest_driver_ok(g);
	cr_assert_not(vguest_needs_reset(g));
	return f;
}

void vguest_reset(struct vguest *g)
{
	virtio_write_status(g->d, 0);
}

uint64_t vguest_alloc(struct vguest *g, size_t bytes)
{
	uint64_t gpa = g->next;

	g->next += (bytes + 4095) & ~(size_t)4095;
	cr_assert_leq(g->next, VGUEST_GPA + VGUEST_RAM);
	memset(vguest_at(g, gpa), 0, bytes);
	return gpa;
}

void *vguest_at(struct vguest *g, uint64_t gpa)
{
	return g->ram + (gpa - VGUEST_GPA);
}

void vguest_desc(struct vguest *g, unsigned q, uint16_t i, uint64_t gpa, uint32_t len,
                 uint16_t flags, uint16_t next)
{
	struct vring_desc *table = vguest_at(g, g->rings[q].desc_gpa);

	table[i] = (struct vring_desc){ gpa, len, flags, next };
}

void vguest_offer(struct vguest *g, unsigned q, uint16_t head)
{
	struct vguest_ring *r = &g->rings[q];
	struct vring_avail *avail = vguest_at(g, r->avail_gpa);

	avail->ring[r->avail++ & (r->size - 1)] = head;
	__atomic_store_n(&avail->idx, r->avail, __ATOMIC_RELEASE);
}

static void fill(struct vring_desc *table, unsigned mask, unsigned first,
                 const struct vguest_buf *bufs, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		table[(first + i) & mask] =
			(struct vring_desc){ bufs[i].gpa, bufs[i].len,
			                     (uint16_t)((bufs[i].write ? VRING_DESC_F_WRITE : 0) |
			                                (i + 1 < n ? VRING_DESC_F_NEXT : 0)),
			                     (uint16_t)((first + i + 1) & mask) };
}

uint16_t vguest_add(struct vguest *g, unsigned q, const struct vguest_buf *bufs, unsigned n)
{
	struct vguest_ring *r = &g->rings[q];
	uint16_t head = r->next_desc & (r->size - 1);

	fill(vguest_at(g, r->desc_gpa), r->size - 1u, head, bufs, n);
	r->next_desc = (uint16_t)(r->next_desc + n);
	vguest_offer(g, q, head);
	return head;
}

uint16_t vguest_add_indirect(struct vguest *g, unsigned q, const struct vguest_buf *bufs,
                             unsigned n)
{
	struct vguest_ring *r = &g->rings[q];
	uint16_t head = r->next_desc++ & (r->size - 1);
	uint64_t table = vguest_alloc(g, 16u * n);

	fill(vguest_at(g, table), 0xffff, 0, bufs, n);
	vguest_desc(g, q, head, table, 16u * n, VRING_DESC_F_INDIRECT, 0);
	vguest_offer(g, q, head);
	return head;
}

void vguest_kick(struct vguest *g, unsigned q)
{
	virtio_queue_notify(g->d, q);
}

bool vguest_poll(struct vguest *g, unsigned q, uint16_t *ret_head, uint32_t *ret_len)
{
	struct vguest_ring *r = &g->rings[q];
	struct vring_used *used = vguest_at(g, r->used_gpa);
	struct vring_used_elem *e = &used->ring[r->used & (r->size - 1)];

	if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == r->used)
		return false;
	r->used++;
	*ret_head = (uint16_t)e->id;
	if (ret_len)
		*ret_len = e->len;
	return true;
}

static void wait_fd(int fd, const char *what)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	eventfd_t n;

	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "no %s", what);
	(void)eventfd_read(fd, &n);
}

uint16_t vguest_wait(struct vguest *g, unsigned q, uint32_t *ret_len)
{
	struct vguest_ring *r = &g->rings[q];
	struct vring_avail *avail = vguest_at(g, r->avail_gpa);
	uint16_t head;

	for (;;) {
		/* used_event: interrupt for the next one. */
		__atomic_store_n(&avail->ring[r->size], r->used, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (vguest_poll(g, q, &head, ret_len))
			return head;
		wait_fd(r->call_fd, "interrupt of a queue");
	}
}

uint32_t vguest_do(struct vguest *g, unsigned q, const struct vguest_buf *bufs, unsigned n)
{
	uint16_t head = vguest_add(g, q, bufs, n);
	uint32_t len;

	vguest_kick(g, q);
	cr_assert_eq(vguest_wait(g, q, &len), head);
	return len;
}

static void nothing(void *arg)
{
	(void)arg;
}

/* A kick sent before has been fetched by the loop's epoll in the first turn after it. */
void vguest_settle(struct vguest *g)
{
	struct pollfd p = { .events = POLLIN };

	for (unsigned q = 0; q < g->d->n_queues; q++) {
		p.fd = g->kick_fds[q];
		for (int i = 0; g->d->started && poll(&p, 1, 0) == 1; i++) {
			cr_assert_lt(i, WAIT_MS);
			usleep(1000);
		}
	}
	ioloop_call(g->loop, nothing, NULL);
	ioloop_call(g->loop, nothing, NULL);
}

void vguest_wait_config(struct vguest *g)
{
	wait_fd(g->config_fd, "interrupt of the config space");
}

bool vguest_needs_reset(struct vguest *g)
{
	return g->d->status & VIRTIO_CONFIG_S_NEEDS_RESET;
}

void vguest_expect_needs_reset(struct vguest *g)
{
	vguest_wait_config(g);
	cr_assert(vguest_needs_reset(g));
}

long long vguest_stat(struct vguest *g, const char *direction, const char *name)
{
	json_t *stats = virtio_device_stats(g->d);
	json_t *value = json_object_get(json_object_get(stats, direction), name);
	long long n;

	cr_assert(json_is_integer(value), "%s.%s", direction, name);
	n = json_integer_value(value);
	json_decref(stats);
	return n;
}
