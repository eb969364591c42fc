/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "devices/models.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/guest-pci.h"

/*
 * A disk whose back-end is hostile: a thread that answers by the book until the input says
 * otherwise, then with wrong headers, lengths and contents, with descriptors, cut short, or not at
 * all but by hanging up. The guest works with the disk all the while. Nothing outside of the ring
 * is believed: the device works, or needs a reset, and comes to its end.
 *
 * Input: how long the guest's part is, the guest's operations, then what the back-end does.
 */

#define SLOT      1
#define QUEUES    2
#define QUEUE_MAX 16
#define RAM_BYTES (256u << 10)
#define MAX_FDS   8
#define RING      512 /* as the front-end makes it for two queues */

struct header {
	uint32_t request, flags, size;
};

enum {
	GET_FEATURES = 1,
	SET_MEM_TABLE = 5,
	SET_VRING_ADDR = 9,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	GET_QUEUE_NUM = 17,
	GET_CONFIG = 24,
	FLAG_REPLY = 5,
	FLAG_NEED_REPLY = 8
};

static struct guest_machine m;
static struct pci_driver driver;
static struct driver_queue queues[QUEUES];
static struct virtio_device *disk;
static struct virtio_pci *transport;

/* The back-end; its thread's, but fd. */
static struct back_end {
	int fd;
	struct fuzz_input in;
	int kicks[QUEUES], calls[QUEUES];
	/* The front-end's ring: a mapping of our own, where it lies in the front-end, and in it. */
	uint8_t *area;
	uint64_t area_bytes, area_host;
	uint8_t *avail, *used;
	uint16_t seen;
} back_end;

/* Answers all that is there, as the input has it: wrong numbers and indices among it. The status
 * bytes stay what they are. */
static void complete(unsigned q)
{
	uint16_t idx, id;

	if (!back_end.avail || !back_end.used)
		return;
	idx = __atomic_load_n((uint16_t *)(void *)(back_end.avail + 2), __ATOMIC_ACQUIRE);
	for (; back_end.seen != idx; back_end.seen++) {
		unsigned at = back_end.seen % RING;
		uint32_t used;

		memcpy(&id, back_end.avail + 4 + at * 2, 2);
		used = id;
		if ((uint8_t)fuzz_take(&back_end.in, 1) >= 0xF0)
			used = (uint32_t)fuzz_take(&back_end.in, 4);
		memcpy(back_end.used + 4 + at * 8, &used, 4);
	}
	if ((uint8_t)fuzz_take(&back_end.in, 1) >= 0xF0)
		idx = (uint16_t)fuzz_take(&back_end.in, 2);
	__atomic_store_n((uint16_t *)(void *)(back_end.used + 2), idx, __ATOMIC_RELEASE);
	if (back_end.calls[q] >= 0)
		eventfd_write(back_end.calls[q], 1);
}

static uint8_t *in_area(const uint8_t *address)
{
	uint64_t at;

	memcpy(&at, address, 8);
	at -= back_end.area_host;
	FUZZ_CHECK(at < back_end.area_bytes);
	return back_end.area + at;
}

/* The last region is the ring's. */
static void take_memory(const uint8_t *payload, const int *fds, size_t n)
{
	const uint8_t *region = payload + 8 + 32 * (n - 1);

	FUZZ_CHECK(n > 0 && !back_end.area);
	memcpy(&back_end.area_bytes, region + 8, 8);
	memcpy(&back_end.area_host, region + 16, 8);
	back_end.area =
		mmap(NULL, back_end.area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[n - 1], 0);
	FUZZ_CHECK(back_end.area != MAP_FAILED);
}

static void on_kick(unsigned q)
{
	eventfd_t n;
	uint8_t how = (uint8_t)fuzz_take(&back_end.in, 1);

	(void)eventfd_read(back_end.kicks[q], &n);
	if (how == 0xFF)
		shutdown(back_end.fd, SHUT_RDWR);
	else if (how == 0xFE)
		(void)!send(back_end.fd, &n, sizeof(n), MSG_NOSIGNAL); /* unasked */
	complete(q);
}

static size_t answer(const struct header *h, const uint8_t *payload, uint8_t *reply)
{
	uint64_t value = 0;

	switch (h->request) {
	case GET_FEATURES: /* with VERSION_1, rings' features, protocol features, the disk's */
		value = 1ull << VIRTIO_F_VERSION_1 | 3ull << 28 | 1ull << 30 | 0x7E66;
		break;
	case GET_PROTOCOL_FEATURES:
		value = 1 | 1 << 3 | 1 << 9;
		break;
	case GET_QUEUE_NUM:
		value = QUEUES;
		break;
	case GET_CONFIG:
		memcpy(reply, payload, h->size);
		for (size_t i = 12; i < h->size; i++)
			reply[i] = (uint8_t)fuzz_take(&back_end.in, 1);
		return h->size;
	}
	memcpy(reply, &value, sizeof(value));
	return sizeof(value);
}

/* What the input makes of the answer. False: the connection is over. */
static bool send_answer(struct header *h, uint8_t *reply, size_t len)
{
	uint8_t how = (uint8_t)fuzz_take(&back_end.in, 1), message[512];
	int fds[2] = { STDERR_FILENO, STDERR_FILENO };
	size_t n_fds = how == 0xF8 ? 2 : 0, at, n;

	h->size = (uint32_t)len;
	h->flags = FLAG_REPLY;
	if (how == 0xFF)
		return false;
	if (how == 0xFE)
		h->request ^= 1u << fuzz_take(&back_end.in, 1) % 32;
	if (how == 0xFD)
		h->flags ^= 1u << fuzz_take(&back_end.in, 1) % 32;
	if (how == 0xFC)
		h->size = (uint32_t)fuzz_take(&back_end.in, 4);
	for (unsigned i = 0; how >= 0xF0 && how < 0xF8 && i < how - 0xF0u && len; i++) {
		at = fuzz_take(&back_end.in, 1) % len;
		reply[at] = (uint8_t)fuzz_take(&back_end.in, 1);
	}
	memcpy(message, h, sizeof(*h));
	memcpy(message + sizeof(*h), reply, len);
	n = sizeof(*h) + len;
	if (how == 0xFB)
		n = fuzz_take(&back_end.in, 1) % n;
	if (fd_send(back_end.fd, message, n, fds, n_fds) < 0)
		return false;
	/* For the rest of a message the front-end waits until its deadline: that is long. */
	return how != 0xFB && how != 0xFC && how != 0xFE && how != 0xFD;
}

static void take_fd(const struct header *h, const uint8_t *payload, int *fds, size_t n)
{
	unsigned q = payload[0];
	int *to = NULL;

	if (h->request == SET_MEM_TABLE)
		take_memory(payload, fds, n);
	if (h->request == SET_VRING_ADDR) {
		back_end.used = in_area(payload + 16);
		back_end.avail = in_area(payload + 24);
	}
	if (h->request == SET_VRING_KICK && q < QUEUES)
		to = &back_end.kicks[q];
	if (h->request == SET_VRING_CALL && q < QUEUES)
		to = &back_end.calls[q];
	if (to && n == 1) {
		cleanup_close_p(to);
		*to = fds[0];
	} else {
		fd_close_many(fds, n);
	}
}

/* One request. False: the connection is over. */
static bool serve(void)
{
	uint8_t payload[300] = { 0 }, reply[300] = { 0 };
	int fds[MAX_FDS];
	struct header h;
	size_t n_fds = 0, len;
	ssize_t n = fd_recv(back_end.fd, &h, sizeof(h), fds, MAX_FDS, &n_fds);

	if (n != sizeof(h))
		return false;
	FUZZ_CHECK(h.size <= sizeof(payload));
	if (h.size && recv(back_end.fd, payload, h.size, MSG_WAITALL) != (ssize_t)h.size)
		return false;
	take_fd(&h, payload, fds, n_fds);
	len = answer(&h, payload, reply);
	if (h.request != GET_FEATURES && h.request != GET_PROTOCOL_FEATURES &&
	    h.request != GET_QUEUE_NUM && h.request != GET_CONFIG && !(h.flags & FLAG_NEED_REPLY))
		return true;
	return send_answer(&h, reply, len);
}

static void *run_back_end(void *arg UNUSED)
{
	struct pollfd p[1 + QUEUES];

	for (;;) {
		p[0] = (struct pollfd){ .fd = back_end.fd, .events = POLLIN };
		for (unsigned q = 0; q < QUEUES; q++)
			p[1 + q] = (struct pollfd){ .fd = back_end.kicks[q], .events = POLLIN };
		(void)poll(p, ARRAY_SIZE(p), -1);
		for (unsigned q = 0; q < QUEUES; q++)
			if (p[1 + q].revents & POLLIN)
				on_kick(q);
		if (p[0].revents && !serve())
			break;
	}
	shutdown(back_end.fd, SHUT_RDWR);
	if (back_end.area)
		(void)munmap(back_end.area, back_end.area_bytes);
	for (unsigned q = 0; q < QUEUES; q++) {
		cleanup_close_p(&back_end.kicks[q]);
		cleanup_close_p(&back_end.calls[q]);
	}
	return NULL;
}

/* As pci_driver_negotiate(), which asserts what a dead back-end does not keep. */
static void bring_up(struct fuzz_input *in)
{
	uint64_t features = 1ull << VIRTIO_F_VERSION_1 | fuzz_take(in, 1) << 9;

	pci_driver_set_status(&driver, 0);
	pci_driver_set_status(&driver, 3);
	for (unsigned half = 0; half < 2; half++) {
		pci_driver_write(&driver, 8, 4, half);
		pci_driver_write(&driver, 12, 4, (uint32_t)(features >> 32 * half));
	}
	pci_driver_set_status(&driver, 11);
	for (unsigned i = 0; i < disk->n_queues; i++) {
		uint64_t next = m.ram.next;

		m.ram.next = 4096 * (1 + i);
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
		m.ram.next = next;
		pci_driver_set_vector(&driver, i);
		pci_driver_write(&driver, 0x16, 2, i);
		pci_driver_set_queue(&driver, i, &queues[i], (uint16_t)i);
	}
	pci_driver_set_status(&driver, 15);
}

static void op_request(struct fuzz_input *in)
{
	struct driver_buffer b[] = { { GPA(65536), 16, false },
		                     { GPA(65536 + 4096), 512, fuzz_take(in, 1) & 1 } };
	unsigned i = fuzz_take(in, 1) % disk->n_queues;

	driver_add(&queues[i], b, 2);
	if (fuzz_take(in, 1) & 3)
		pci_driver_kick(&driver, i);
}

static void op_config(struct fuzz_input *in)
{
	uint64_t at = driver.device + fuzz_take(in, 1) % 64;

	bus_write(&m.mmio, at, 1, fuzz_take(in, 1));
	(void)bus_read(&m.mmio, at, 1u << fuzz_take(in, 1) % 4);
}

static void op_pause(struct fuzz_input *in UNUSED)
{
	virtio_device_pause(disk);
	virtio_device_resume(disk);
}

static void op_reset(struct fuzz_input *in UNUSED)
{
	virtio_pci_reset(transport);
	machine_config_write(&m, SLOT, 4, 2, 6);
}

static void op_save(struct fuzz_input *in UNUSED)
{
	struct state_out o;

	virtio_device_pause(disk);
	state_out_init(&o);
	virtio_device_save(disk, &o);
	FUZZ_CHECK(state_finish(&o) == 0);
	state_out_deinit(&o);
	virtio_device_resume(disk);
}

static void (*const ops[])(struct fuzz_input *in) = { bring_up, op_request, op_config, op_request,
	                                              op_pause, op_reset,   op_save,   bring_up };

static void use_disk(struct fuzz_input *in)
{
	FUZZ_CHECK(virtio_pci_new(&m.pci, &m.doorbells, disk, SLOT, &transport, NULL) == 0);
	pci_driver_probe(&driver, &m, SLOT);
	for (unsigned n = 0; in->left && n < 60; n++) {
		uint8_t status;

		ops[fuzz_take(in, 1) % ARRAY_SIZE(ops)](in);
		status = disk->status;
		FUZZ_CHECK(!(status & VIRTIO_CONFIG_S_DRIVER_OK) ||
		           status & VIRTIO_CONFIG_S_FEATURES_OK);
	}
	transport = virtio_pci_free(transport);
	disk = virtio_device_free(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	size_t guest = fuzz_take(&in, 1);
	struct virtio_blk_config c = {
		.id = "disk0", .remote = true, .patience_ms = 20, .n_queues = QUEUES
	};
	struct ioloop *loop;
	pthread_t thread;
	int sv[2];

	guest_machine_init(&m, RAM_BYTES);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
	FUZZ_CHECK(ioloop_new("fuzz", &loop) == 0 && ioloop_start(loop) == 0);
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
	guest = MIN_OF(guest, in.left);
	back_end = (struct back_end){ .fd = sv[1],
		                      .in = { in.at + guest, in.left - guest },
		                      .kicks = { -EBADF, -EBADF },
		                      .calls = { -EBADF, -EBADF } };
	in.left = guest;
	FUZZ_CHECK(pthread_create(&thread, NULL, run_back_end, NULL) == 0);
	c.fd = sv[0];
	c.memory_fd = m.ram.memory_fd;
	c.readonly = size & 1;
	if (virtio_blk_new(&c, &m.ram.mem, loop, &disk) == 0)
		use_disk(&in);
	else
		close(sv[0]);
	pthread_join(thread, NULL);
	close(sv[1]);
	loop = ioloop_free(loop);
	guest_machine_deinit(&m);
	return 0;
}
