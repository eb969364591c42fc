/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/macros.h"
#include "devices/models.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/guest-ram.h"

/*
 * Every device model behind a driver that is right most of the time and wrong now and then: chains
 * by the book, chains of rubbish, rings overwritten, kicks, config space, resets, pauses, a peer
 * that sends anything and hangs up. The host's file keeps its size, no byte of RAM's surroundings
 * is touched (guard pages), every chain is completed (the core asserts it), and a state that a
 * device saves is one that it loads and saves again as the same bytes.
 *
 * Input: model, features to leave out, then operations of a byte and what each of them takes.
 */

#define RAM_BYTES  (256u << 10)
#define RING       16u
#define QUEUES     6u
#define DATA_AT    (64u << 10)
#define DISK_BYTES (1u << 20)

enum model {
	MODEL_BLK,
	MODEL_BLK_RING,
	MODEL_NET,
	MODEL_CONSOLE,
	MODEL_RNG,
	MODEL_BALLOON,
	MODEL_TAP, /* a datagram socket in its place: two queue pairs, the second nobody's */
	MODELS
};

static struct guest_ram ram;
static struct ioloop *loop;
static struct driver_queue queues[QUEUES];
static int kick_fds[QUEUES], disk_fd, peer;
static uint32_t leave_out;

static void nothing(void *arg UNUSED)
{
}

/* Lets the loop work on what was sent to it. */
static void settle(void)
{
	ioloop_call(loop, nothing, NULL);
	ioloop_call(loop, nothing, NULL);
}

/* Linked with --wrap=ioctl: what a tap is asked for is granted. */
int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	switch (request) {
	case TUNGETIFF:
		((struct ifreq *)arg)->ifr_flags = IFF_TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE;
		return 0;
	case TUNSETVNETHDRSZ:
	case TUNSETVNETLE:
	case TUNSETQUEUE:
	case TUNSETOFFLOAD:
		return 0;
	}
	return __real_ioctl(fd, request, arg);
}

static int pair(int type)
{
	int sv[2];

	FUZZ_CHECK(socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
	peer = sv[1];
	return sv[0];
}

static struct virtio_device *new_blk(bool ring)
{
	struct virtio_blk_config c = { .id = "d",
		                       .fd = memfd_create("disk", MFD_CLOEXEC),
		                       .discard = true,
		                       .serial = "serial",
		                       .n_queues = 2,
		                       .no_io_uring = !ring };
	struct virtio_device *d;

	FUZZ_CHECK(c.fd >= 0 && ftruncate(c.fd, DISK_BYTES) == 0);
	disk_fd = fcntl(c.fd, F_DUPFD_CLOEXEC, 0);
	FUZZ_CHECK(virtio_blk_new(&c, &ram.mem, loop, &d) == 0);
	return d;
}

static struct virtio_device *new_device(enum model model)
{
	struct virtio_net_config net = { .id = "d", .mtu = 1500, .n_pairs = 1 };
	struct virtio_console_config console = { .id = "d",
		                                 .ports = { { NULL, -EBADF }, { "agent", -EBADF } },
		                                 .n_ports = 2 };
	struct virtio_balloon_config balloon = { .id = "d",
		                                 .deflate_on_oom = leave_out & 1,
		                                 .free_page_reporting = !(leave_out & 2) };
	struct virtio_device *d = NULL;

	switch (model) {
	case MODEL_TAP:
		net.n_pairs = 2;
		net.stream_fd = -EBADF;
		net.tap_fds[0] = pair(SOCK_DGRAM);
		FUZZ_CHECK(fcntl(peer, F_SETFL, O_NONBLOCK) == 0);
		net.tap_fds[1] = fcntl(net.tap_fds[0], F_DUPFD_CLOEXEC, 0);
		FUZZ_CHECK(virtio_net_new(&net, &ram.mem, loop, &d) == 0);
		return d;
	case MODEL_NET:
		net.stream_fd = pair(SOCK_STREAM);
		FUZZ_CHECK(virtio_net_new(&net, &ram.mem, loop, &d) == 0);
		return d;
	case MODEL_CONSOLE:
		console.ports[leave_out & 1].fd = pair(SOCK_STREAM);
		FUZZ_CHECK(virtio_console_new(&console, &ram.mem, loop, &d) == 0);
		return d;
	case MODEL_RNG:
		FUZZ_CHECK(virtio_rng_new("d", &ram.mem, loop, &d) == 0);
		return d;
	case MODEL_BALLOON:
		FUZZ_CHECK(virtio_balloon_new(&balloon, &ram.mem, loop, &d) == 0);
		return d;
	default:
		return new_blk(model == MODEL_BLK_RING);
	}
}

static void on_interrupt(struct virtqueue *vq)
{
	FUZZ_CHECK(vq->enabled);
}

static void connect_queue(struct virtio_device *d, unsigned q)
{
	eventfd_t n;

	(void)eventfd_read(kick_fds[q], &n);
	d->queues[q].kick_fd = kick_fds[q];
	d->queues[q].interrupt = on_interrupt;
}

static void start(struct virtio_device *d)
{
	uint64_t f;

	virtio_write_status(d, 0);
	virtio_write_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	f = virtio_device_features(d) & ~(uint64_t)leave_out;
	virtio_write_driver_features(d, 0, (uint32_t)f);
	virtio_write_driver_features(d, 1, (uint32_t)(f >> 32));
	virtio_write_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
	                               VIRTIO_CONFIG_S_FEATURES_OK);
	ram.next = 4096;
	for (unsigned q = 0; q < MIN_OF(d->n_queues, QUEUES); q++) {
		driver_queue_init(&queues[q], &ram, RING);
		memset(guest_ram_at(&ram, queues[q].desc), 0, 16 * RING);
		memset(guest_ram_at(&ram, queues[q].avail), 0, 6 + 2 * RING);
		memset(guest_ram_at(&ram, queues[q].used), 0, 6 + 8 * RING);
		connect_queue(d, q);
		virtio_queue_write(d, q, VIRTIO_QUEUE_SIZE, RING);
		virtio_queue_write(d, q, VIRTIO_QUEUE_DESC, queues[q].desc.v);
		virtio_queue_write(d, q, VIRTIO_QUEUE_DRIVER, queues[q].avail.v);
		virtio_queue_write(d, q, VIRTIO_QUEUE_DEVICE, queues[q].used.v);
		virtio_queue_enable(d, q);
	}
	FUZZ_CHECK(ram.next <= DATA_AT);
	virtio_write_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
	                               VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static unsigned take_queue(struct virtio_device *d, struct fuzz_input *in)
{
	return (unsigned)fuzz_take(in, 1) % MIN_OF(d->n_queues, QUEUES);
}

static void fill_data(uint64_t at, struct fuzz_input *in, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ram.host[at + i] = (uint8_t)fuzz_take(in, 1);
}

/* A chain by the book, filled with input: readable buffers, then writable ones. */
static void op_chain(struct virtio_device *d, struct fuzz_input *in)
{
	struct driver_queue *q = &queues[take_queue(d, in)];
	uint8_t shape = (uint8_t)fuzz_take(in, 1);
	struct driver_buffer b[6];
	unsigned n_out = shape & 3, n_in = shape >> 2 & 3, n = n_out + n_in;

	for (unsigned i = 0; i < n; i++) {
		b[i] = (struct driver_buffer){ GPA(DATA_AT + 8192 * i + fuzz_take(in, 1)),
			                       (uint32_t)fuzz_take(in, 1) << (shape >> 6) * 2,
			                       i >= n_out };
		if (i < n_out)
			fill_data(b[i].gpa.v, in, MIN_OF(b[i].len, 32u));
	}
	if (!n)
		return;
	if (shape & 0x10 && n > 1 && !(leave_out & 0x10000000))
		driver_publish(q, driver_chain_indirect(q, b, n));
	else
		driver_add(q, b, n);
	if (ram.next > DATA_AT)
		ram.next = 48u << 10;
}

/* A disk request that is likely to be a good one. */
static void op_request(struct virtio_device *d, struct fuzz_input *in)
{
	static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 0, 1 };
	uint32_t header[2] = { types[fuzz_take(in, 1) & 7] };
	/* In the disk, at its end, far away. */
	uint64_t sector = fuzz_take(in, 1) << (fuzz_take(in, 1) & 63);
	uint32_t len = (uint32_t)fuzz_take(in, 1) << 9;
	bool reads = header[0] == 0 || header[0] == 8;
	struct driver_buffer b[] = { { GPA(DATA_AT), 16, false },
		                     { GPA(DATA_AT + 4096), header[0] > 8 ? 16 : len, reads },
		                     { GPA(DATA_AT + 64), 1, true } };

	memcpy(ram.host + DATA_AT, header, sizeof(header));
	memcpy(ram.host + DATA_AT + 8, &sector, sizeof(sector));
	if (header[0] > 8)
		fill_data(DATA_AT + 4096, in, 16);
	driver_add(&queues[take_queue(d, in)], b, 3);
}

static void put(uint64_t at, uint64_t value, unsigned bytes)
{
	memcpy(ram.host + at, &value, bytes);
}

/* DEVICE_READY, PORT_READY, PORT_OPEN, and what there is not. */
static void console_message(struct fuzz_input *in)
{
	struct driver_buffer b = { GPA(DATA_AT), 8, false };

	put(DATA_AT, fuzz_take(in, 1) % 4, 4);
	put(DATA_AT + 4, fuzz_take(in, 1) % 9, 2);
	put(DATA_AT + 6, fuzz_take(in, 1) & 1, 2);
	driver_add(&queues[3], &b, 1);
}

/* How many queue pairs are to be used; the queue is the last one, where it is negotiated. */
static void net_control(struct virtio_device *d, struct fuzz_input *in)
{
	struct driver_buffer b[] = { { GPA(DATA_AT), 2, false },
		                     { GPA(DATA_AT + 4096), 2, false },
		                     { GPA(DATA_AT + 64), 1, true } };

	put(DATA_AT, fuzz_take(in, 1) & 1 ? 4 : fuzz_take(in, 2), 2);
	put(DATA_AT + 4096, fuzz_take(in, 1) % 4, 2);
	driver_add(&queues[d->n_queues - 1], b, 3);
}

/* Pages in RAM and around its end; statistics; free pages. */
static void balloon_request(struct virtio_device *d, struct fuzz_input *in)
{
	unsigned q = (unsigned)fuzz_take(in, 1) % MIN_OF(d->n_queues, QUEUES);
	unsigned n = 1 + fuzz_take(in, 1) % 16;
	struct driver_buffer b = { GPA(DATA_AT), 4 * n, false };

	if (q == 2) {
		for (unsigned i = 0; i < n; i++) {
			put(DATA_AT + 10 * i, fuzz_take(in, 1) % 12, 2);
			put(DATA_AT + 10 * i + 2, fuzz_take(in, 2), 8);
		}
		b.len = 10 * n;
	} else if (q > 2) {
		b = (struct driver_buffer){ GPA((32 + fuzz_take(in, 1) % 33) * 4096),
			                    (uint32_t)fuzz_take(in, 1) % 8 * 4096, true };
	} else {
		for (unsigned i = 0; i < n; i++)
			put(DATA_AT + 4 * i, 32 + fuzz_take(in, 1) % 34, 4);
	}
	driver_add(&queues[q], &b, 1);
}

/* What only one kind of device knows. */
static void op_special(struct virtio_device *d, struct fuzz_input *in)
{
	switch (d->ops->id) {
	case VIRTIO_ID_CONSOLE:
		console_message(in);
		break;
	case VIRTIO_ID_NET:
		net_control(d, in);
		break;
	case VIRTIO_ID_BALLOON:
		balloon_request(d, in);
		break;
	default:
		op_request(d, in);
	}
}

/* The host's side of the balloon. */
static void op_host(struct virtio_device *d, struct fuzz_input *in)
{
	if (d->ops->id != VIRTIO_ID_BALLOON)
		return;
	virtio_balloon_set_target(d, fuzz_take(in, 1));
	virtio_balloon_set_poll_interval(d, fuzz_take(in, 1) & 1);
	FUZZ_CHECK(virtio_balloon_actual(d) <= RAM_BYTES / 4096);
	settle();
}

static void op_poke(struct virtio_device *d UNUSED, struct fuzz_input *in)
{
	uint64_t at = fuzz_take(in, 2), n = fuzz_take(in, 1) & 31;

	fill_data(at, in, n);
}

static void op_desc(struct virtio_device *d, struct fuzz_input *in)
{
	struct driver_queue *q = &queues[take_queue(d, in)];
	uint16_t i = (uint16_t)(fuzz_take(in, 1) % RING);

	*driver_desc(q, i) =
		(struct vring_desc){ fuzz_take(in, 8), (uint32_t)fuzz_take(in, 4),
		                     (uint16_t)fuzz_take(in, 1), (uint16_t)fuzz_take(in, 1) };
	driver_publish(q, i);
}

static void op_kick(struct virtio_device *d, struct fuzz_input *in)
{
	virtio_queue_notify(d, take_queue(d, in));
	settle();
}

static void op_send(struct virtio_device *d UNUSED, struct fuzz_input *in)
{
	uint8_t bytes[300] = { 0 };
	size_t n = fuzz_take(in, 1), filled = MIN_OF(n, 40u);

	for (size_t i = 0; i < filled; i++)
		bytes[4 + i] = (uint8_t)fuzz_take(in, 1);
	bytes[3] = (uint8_t)n; /* a frame's length, mostly right */
	if (peer >= 0)
		(void)!send(peer, bytes, n + 4, MSG_NOSIGNAL);
	settle();
}

static void op_drain(struct virtio_device *d UNUSED, struct fuzz_input *in UNUSED)
{
	static uint8_t bytes[1u << 20];

	if (peer >= 0)
		(void)!read(peer, bytes, sizeof(bytes));
	settle();
}

static void op_hang_up(struct virtio_device *d UNUSED, struct fuzz_input *in UNUSED)
{
	if (peer >= 0)
		close(peer);
	peer = -EBADF;
	settle();
}

static void op_config(struct virtio_device *d, struct fuzz_input *in)
{
	uint8_t bytes[16];
	uint32_t offset = (uint32_t)fuzz_take(in, 1), len = (uint32_t)fuzz_take(in, 1) & 15;

	virtio_config_read(d, offset, bytes, len);
	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)fuzz_take(in, 1);
	virtio_config_write(d, offset, bytes, len);
}

static void op_reset(struct virtio_device *d, struct fuzz_input *in UNUSED)
{
	start(d);
}

static void op_pause(struct virtio_device *d, struct fuzz_input *in UNUSED)
{
	virtio_device_pause(d);
	virtio_device_resume(d);
}

static void save(struct virtio_device *d, struct state_out *o)
{
	state_out_init(o);
	virtio_device_save(d, o);
	FUZZ_CHECK(state_finish(o) == 0);
}

/* What was saved can be loaded, and saved again as the same. */
static void op_save(struct virtio_device *d, struct fuzz_input *in UNUSED)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_out a, b;
	struct state_in s;

	virtio_device_pause(d);
	save(d, &a);
	virtio_device_reset(d);
	FUZZ_CHECK(state_open(&s, a.data, a.len, &err) == 0);
	FUZZ_CHECK(virtio_device_load(d, &s, &err) == 0);
	save(d, &b);
	FUZZ_CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
	state_out_deinit(&a);
	state_out_deinit(&b);
	for (unsigned q = 0; q < MIN_OF(d->n_queues, QUEUES); q++)
		connect_queue(d, q);
	virtio_device_resume(d);
}

/* Any bytes as what the device saved of its own: refused, or such that it can go on. */
static void op_load(struct virtio_device *d, struct fuzz_input *in)
{
	uint8_t bytes[256];
	struct state_section s = { .name = d->ops->name, .instance = d->id, .version = 1 };
	struct state_out o;
	size_t n = fuzz_take(in, 1);

	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)fuzz_take(in, 1);
	s.at = bytes;
	s.end = bytes + n;
	virtio_device_pause(d);
	virtio_device_reset(d);
	if (d->ops->load && d->ops->load(d, &s) == 0) {
		save(d, &o);
		state_out_deinit(&o);
	}
	virtio_device_reset(d);
	virtio_device_resume(d);
	start(d);
}

static void op_stats(struct virtio_device *d, struct fuzz_input *in UNUSED)
{
	json_decref(virtio_device_stats(d));
}

static void (*const ops[])(struct virtio_device *d, struct fuzz_input *in) = {
	op_kick,  op_chain,   op_request, op_load,   op_desc,    op_poke,  op_send,
	op_drain, op_kick,    op_chain,   op_config, op_save,    op_reset, op_pause,
	op_stats, op_hang_up, op_special, op_kick,   op_special, op_host,
};

static void set_up(void)
{
	guest_ram_init(&ram, RAM_BYTES);
	FUZZ_CHECK(ioloop_new("fuzz", &loop) == 0 && ioloop_start(loop) == 0);
	for (unsigned q = 0; q < QUEUES; q++)
		kick_fds[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct virtio_device *d;
	struct stat st;

	if (!loop)
		set_up();
	peer = disk_fd = -EBADF;
	enum model model = fuzz_take(&in, 1) % MODELS;
	leave_out = (uint32_t)fuzz_take(&in, 4);
	d = new_device(model);
	start(d);
	while (in.left)
		ops[fuzz_take(&in, 1) % ARRAY_SIZE(ops)](d, &in);
	settle();
	virtio_device_free(d);
	if (disk_fd >= 0) {
		FUZZ_CHECK(fstat(disk_fd, &st) == 0 && st.st_size == DISK_BYTES);
		close(disk_fd);
	}
	if (peer >= 0)
		close(peer);
	return 0;
}
