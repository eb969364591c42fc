/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/models.h"
#include "devices/net-hdr.h"
#include "tests/lib/vguest.h"

#define MRG   (1ull << NET_F_MRG_RXBUF)
#define RINGS (1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define ALL   (~0ull)

static struct vguest g;
static int peer = -1; /* of the stream */

static struct virtio_net_config stream_config(void)
{
	struct virtio_net_config c = {
		.id = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .mtu = 1400, .n_pairs = 1
	};
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	c.stream_fd = sv[0];
	peer = sv[1];
	return c;
}

static struct virtio_device *new_net(const struct virtio_net_config *c)
{
	struct virtio_device *d;

	cr_assert_eq(virtio_net_new(c, &g.mem, g.loop, &d), 0);
	return d;
}

static void setup(void)
{
	vguest_init(&g);
}

static void teardown(void)
{
	vguest_deinit(&g);
	if (peer >= 0)
		close(peer);
}

TestSuite(virtio_net, .init = setup, .fini = teardown, .timeout = 60);

/* n receive buffers of len bytes each, one after the other; where they begin. */
static uint64_t give_buffers(unsigned q, unsigned n, uint32_t len)
{
	uint64_t gpa = vguest_alloc(&g, (size_t)n * len);

	for (unsigned i = 0; i < n; i++) {
		struct vguest_buf b = { gpa + (uint64_t)i * len, len, true };

		vguest_add(&g, q, &b, 1);
	}
	vguest_kick(&g, q);
	return gpa;
}

static void frame(uint8_t *at, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)(i * 13 + i / 256 + seed);
}

static void send_frame(const void *data, uint32_t len)
{
	uint32_t be = htonl(len);

	cr_assert_eq(write(peer, &be, 4), 4);
	for (size_t done = 0; done < len;) {
		ssize_t n = write(peer, (const char *)data + done, len - done);

		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

static void read_all(int fd, void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)data + done, len - done);

		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

static unsigned link_status(void)
{
	uint8_t status[2];

	virtio_config_read(g.d, 6, status, 2);
	return status[0] | (unsigned)status[1] << 8;
}

/* A frame of the guest behind header h; used by the device when this returns. */
static void transmit(unsigned q, const struct net_hdr *h, const void *data, uint32_t len)
{
	uint64_t gpa = vguest_alloc(&g, len + NET_HDR_BYTES);
	struct vguest_buf bufs[] = { { gpa, NET_HDR_BYTES, false },
		                     { gpa + NET_HDR_BYTES, len, false } };

	memcpy(vguest_at(&g, gpa), h, NET_HDR_BYTES);
	memcpy(vguest_at(&g, gpa + NET_HDR_BYTES), data, len);
	cr_assert_eq(vguest_do(&g, q, bufs, len ? 2 : 1), 0);
}

static const struct net_hdr plain;

/* MAC, MTU and link in the config space; frames both ways by the stream. */
Test(virtio_net, stream)
{
	struct virtio_net_config c = stream_config();
	uint8_t sent[1414], got[1414], config[12];
	uint32_t be, len;
	uint64_t rx;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	virtio_config_read(g.d, 0, config, sizeof(config));
	cr_assert_arr_eq(config, c.mac, 6);
	cr_assert_eq(config[6], 1);
	cr_assert_eq(config[10] | config[11] << 8, 1400);

	frame(sent, sizeof(sent), 1);
	transmit(1, &plain, sent, sizeof(sent));
	read_all(peer, &be, 4);
	cr_assert_eq(ntohl(be), sizeof(sent));
	read_all(peer, got, sizeof(got));
	cr_assert_arr_eq(got, sent, sizeof(sent));

	rx = give_buffers(0, 4, 2048);
	frame(sent, sizeof(sent), 2);
	send_frame(sent, sizeof(sent));
	cr_assert_eq(vguest_wait(&g, 0, &len), 0);
	cr_assert_eq(len, NET_HDR_BYTES + sizeof(sent));
	cr_assert_arr_eq(vguest_at(&g, rx + NET_HDR_BYTES), sent, sizeof(sent));
	cr_assert_eq(((struct net_hdr *)vguest_at(&g, rx))->num_buffers, 1);
	cr_assert_eq(vguest_stat(&g, "rx", "operations"), 1);
	cr_assert_eq(vguest_stat(&g, "rx", "bytes"), sizeof(sent));
	cr_assert_eq(vguest_stat(&g, "tx", "bytes"), sizeof(sent));
}

/* The largest frame, over many buffers: filled to the last byte, all visible together. */
Test(virtio_net, merged_buffers)
{
	struct virtio_net_config c = stream_config();
	uint8_t *sent = malloc(65562), *at;
	uint32_t len, total = 0;
	uint64_t rx;
	unsigned n = 0;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	frame(sent, 65562, 5);
	rx = give_buffers(0, 50, 1500);
	send_frame(sent, 65562);
	while (total < NET_HDR_BYTES + 65562) {
		cr_assert_eq(vguest_wait(&g, 0, &len), n);
		total += len;
		n++;
		cr_assert(len == 1500 || total == NET_HDR_BYTES + 65562);
	}
	at = vguest_at(&g, rx);
	cr_assert_eq(((struct net_hdr *)(void *)at)->num_buffers, n);
	cr_assert_arr_eq(at + NET_HDR_BYTES, sent, 65562);
	free(sent);
}

/* A driver that polls the used index never sees a packet's first buffer without its last. */
Test(virtio_net, merged_buffers_polled)
{
	struct virtio_net_config c = stream_config();
	uint8_t *sent = malloc(30000);
	struct vring_used *used;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	frame(sent, 30000, 5);
	used = vguest_at(&g, g.rings[0].used_gpa);
	for (unsigned i = 0; i < 3000; i++) {
		uint16_t old = used->idx, idx, head;

		g.next = VGUEST_GPA + (8u << 20);
		give_buffers(0, 43, 700);
		send_frame(sent, 30000);
		while ((idx = __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE)) == old)
			;
		cr_assert_eq((uint16_t)(idx - old), 43);
		while (vguest_poll(&g, 0, &head, NULL))
			;
	}
	free(sent);
}

/* Frames of all sizes through buffers of all sizes: what the device has learnt of the last frames
 * changes where it reads the next into, never what arrives. */
Test(virtio_net, sizes)
{
	static const uint32_t sizes[] = {
		14, 60, 1514, 4000, 4083, 4084, 4085, 9000, 30000, 65562
	};
	struct virtio_net_config c = stream_config();
	uint8_t *sent = malloc(65562), *got = malloc(70000);
	unsigned seed = 1;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	for (unsigned i = 0; i < 400; i++) {
		uint32_t len, total = 0, bytes, buffer = 1100 + 37 * (i % 50);
		struct vring_desc *table = vguest_at(&g, g.rings[0].desc_gpa);

		seed = seed * 1103515245 + 12345;
		/* Long runs of small ones, too. */
		bytes = i % 200 < 100 ? sizes[(seed >> 16) % 3] : sizes[(seed >> 16) % 10];
		frame(sent, bytes, i);
		if (i % 60 == 0)
			g.next = VGUEST_GPA + (8u << 20);
		give_buffers(0, (bytes + NET_HDR_BYTES + buffer - 1) / buffer, buffer);
		send_frame(sent, bytes);
		while (total < bytes + NET_HDR_BYTES) {
			uint16_t head = vguest_wait(&g, 0, &len);

			memcpy(got + total, vguest_at(&g, table[head].addr), len);
			total += len;
		}
		cr_assert_eq(total, bytes + NET_HDR_BYTES);
		cr_assert_arr_eq(got + NET_HDR_BYTES, sent, bytes);
	}
	free(sent);
	free(got);
}

/* Buffers that come one by one: the frame waits, and nothing of it is lost. */
Test(virtio_net, buffers_come_late)
{
	struct virtio_net_config c = stream_config();
	uint8_t sent[3000];
	uint64_t rx[4];
	uint32_t len;
	uint16_t head;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	frame(sent, sizeof(sent), 7);
	send_frame(sent, sizeof(sent));
	send_frame(sent, 100);
	for (unsigned i = 0; i < 3; i++) {
		rx[i] = give_buffers(0, 1, 1024);
		vguest_settle(&g);
		cr_assert_eq(vguest_poll(&g, 0, &head, &len), i == 2, "buffer %u", i);
	}
	cr_assert_eq(len, 1024);
	cr_assert_eq(vguest_wait(&g, 0, &len), 1);
	cr_assert_eq(vguest_wait(&g, 0, &len), 2);
	cr_assert_eq(len, 3012 - 2048);
	cr_assert_arr_eq(vguest_at(&g, rx[0] + NET_HDR_BYTES), sent, 1012);
	cr_assert_arr_eq(vguest_at(&g, rx[1]), sent + 1012, 1024);
	cr_assert_arr_eq(vguest_at(&g, rx[2]), sent + 2036, 964);
	rx[3] = give_buffers(0, 1, 1024);
	cr_assert_eq(vguest_wait(&g, 0, &len), 3);
	cr_assert_eq(len, 112);
	cr_assert_arr_eq(vguest_at(&g, rx[3] + NET_HDR_BYTES), sent, 100);
}

/* Without merged buffers, a frame that is too large is dropped and the buffer used for the next. */
Test(virtio_net, too_large)
{
	struct virtio_net_config c = stream_config();
	uint8_t sent[3000];
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, new_net(&c), ALL & ~MRG, 2, 0);
	rx = give_buffers(0, 2, 1526);
	frame(sent, sizeof(sent), 8);
	send_frame(sent, sizeof(sent));
	send_frame(sent, 1514);
	cr_assert_eq(vguest_wait(&g, 0, &len), 0);
	cr_assert_eq(len, 1526);
	cr_assert_arr_eq(vguest_at(&g, rx + NET_HDR_BYTES), sent, 1514);
	cr_assert_eq(vguest_stat(&g, "rx", "errors"), 1);
}

/* Frames cut anywhere by the stream. */
Test(virtio_net, stream_in_pieces)
{
	struct virtio_net_config c = stream_config();
	uint8_t bytes[3 * (4 + 200)];
	uint32_t len, be = htonl(200);
	uint64_t rx;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	rx = give_buffers(0, 3, 1024);
	for (unsigned i = 0; i < 3; i++) {
		memcpy(bytes + i * 204, &be, 4);
		frame(bytes + i * 204 + 4, 200, i);
	}
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		cr_assert_eq(write(peer, bytes + i, 1), 1);
		if (i % 50 == 0)
			vguest_settle(&g);
	}
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(vguest_wait(&g, 0, &len), i);
		cr_assert_eq(len, 212);
		cr_assert_arr_eq(vguest_at(&g, rx + i * 1024 + NET_HDR_BYTES), bytes + i * 204 + 4,
		                 200);
	}
}

/* The host does not read: the guest's frames wait in its ring, whole and in order afterwards. */
Test(virtio_net, stream_back_pressure)
{
	struct virtio_net_config c = stream_config();
	const uint32_t len = 60000;
	uint8_t *data = malloc(len), *got = malloc(len);
	uint64_t gpa;
	uint16_t head;
	unsigned done = 0;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	gpa = vguest_alloc(&g, NET_HDR_BYTES + len);
	frame(vguest_at(&g, gpa + NET_HDR_BYTES), len, 3);
	frame(data, len, 3);
	for (unsigned i = 0; i < 40; i++) {
		struct vguest_buf b = { gpa, NET_HDR_BYTES + len, false };

		vguest_add(&g, 1, &b, 1);
	}
	vguest_kick(&g, 1);
	vguest_settle(&g);
	while (vguest_poll(&g, 1, &head, NULL))
		done++;
	cr_assert_lt(done, 40);
	for (unsigned i = 0; i < 40; i++) {
		uint32_t be;

		read_all(peer, &be, 4);
		cr_assert_eq(ntohl(be), len);
		read_all(peer, got, len);
		cr_assert_arr_eq(got, data, len);
	}
	while (done < 40) {
		cr_assert_eq(vguest_wait(&g, 1, NULL), done);
		done++;
	}
	free(data);
	free(got);
}

/* Peer goes away, sends what is no frame: the cable is pulled, the guest lives on. */
static void expect_link_down(void)
{
	uint8_t data[60] = { 0 };

	vguest_wait_config(&g);
	cr_assert_eq(link_status(), 0);
	cr_assert_not(vguest_needs_reset(&g));
	transmit(1, &plain, data, sizeof(data)); /* answered, and goes nowhere */
	vguest_reset(&g);
	vguest_start(&g, g.d, ALL, 2, 0);
	cr_assert_eq(link_status(), 0);
	transmit(1, &plain, data, sizeof(data));
	virtio_device_pause(g.d);
	virtio_device_resume(g.d);
	transmit(1, &plain, data, sizeof(data));
}

Test(virtio_net, stream_hang_up)
{
	struct virtio_net_config c = stream_config();

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	cr_assert_eq(link_status(), 1);
	give_buffers(0, 4, 2048);
	vguest_settle(&g);
	close(peer);
	peer = -1;
	expect_link_down();
}

/* The same while the guest has no buffers. */
Test(virtio_net, stream_hang_up_no_buffers)
{
	struct virtio_net_config c = stream_config();
	uint8_t data[60] = { 0 };

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	send_frame(data, sizeof(data));
	vguest_settle(&g);
	close(peer);
	peer = -1;
	expect_link_down();
}

Test(virtio_net, stream_garbage)
{
	static const uint32_t lengths[] = { 0, 13, 65563, 0x7fffffff, 0xffffffff };

	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct virtio_net_config c = stream_config();
		uint32_t be = htonl(lengths[i]);

		vguest_start(&g, new_net(&c), ALL, 2, 0);
		give_buffers(0, 4, 2048);
		cr_assert_eq(write(peer, &be, 4), 4);
		expect_link_down();
		vguest_deinit(&g);
		close(peer);
		peer = -1;
		vguest_init(&g);
	}
}

/* Frames that are none, and headers that ask for what was not agreed on, are dropped. */
Test(virtio_net, bad_frames)
{
	struct virtio_net_config c = stream_config();
	struct net_hdr h = { .flags = 1, .csum_start = 34, .csum_offset = 16 };
	struct vguest_buf b;
	uint8_t data[100] = { 0 };
	uint32_t be;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	transmit(1, &plain, data, 0);
	transmit(1, &plain, data, 13);
	transmit(1, &h, data, sizeof(data)); /* no offload here */
	b = (struct vguest_buf){ vguest_alloc(&g, 16), 5, false };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* less than a header */
	b = (struct vguest_buf){ vguest_alloc(&g, 16), 5, true };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* nothing to read */
	b = (struct vguest_buf){ vguest_alloc(&g, 1u << 20), 1u << 20, false };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* a megabyte */
	cr_assert_eq(vguest_stat(&g, "tx", "errors"), 6);
	transmit(1, &plain, data, 60);
	read_all(peer, &be, 4);
	cr_assert_eq(ntohl(be), 60);
}

/* Receive buffers without room: given back, and no turn of the loop that never ends. */
Test(virtio_net, empty_buffers)
{
	struct virtio_net_config c = stream_config();
	uint8_t data[100];
	struct vguest_buf none;
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	none = (struct vguest_buf){ vguest_alloc(&g, 16), 0, true };
	frame(data, sizeof(data), 4);
	send_frame(data, sizeof(data));
	for (unsigned i = 0; i < 3; i++) {
		vguest_add(&g, 0, &none, 1);
		vguest_kick(&g, 0);
		cr_assert_eq(vguest_wait(&g, 0, &len), i);
		cr_assert_eq(len, 0);
	}
	rx = give_buffers(0, 1, 1024);
	cr_assert_eq(vguest_wait(&g, 0, &len), 3);
	cr_assert_eq(len, 112);
	cr_assert_arr_eq(vguest_at(&g, rx + NET_HDR_BYTES), data, 100);
}

/* Dependencies between features, 5.1.3.1. */
Test(virtio_net, features)
{
	struct virtio_net_config c = stream_config();

	vguest_negotiate(&g, new_net(&c), ALL);
	cr_assert(g.d->status & VIRTIO_CONFIG_S_FEATURES_OK);
	cr_assert_not(virtio_device_features(g.d) & (1u << NET_F_CSUM | 1u << NET_F_HOST_TSO4));
	cr_assert_not(virtio_device_features(g.d) & (1u << NET_F_MQ | 1u << NET_F_CTRL_VQ));
}

struct header_case {
	struct net_hdr h;
	uint64_t features;
	uint32_t bytes;
	bool ok;
};

#define CSUM (1ull << NET_F_CSUM)
#define TSO4 (CSUM | 1ull << NET_F_HOST_TSO4)
#define TSO6 (CSUM | 1ull << NET_F_HOST_TSO6)
#define ECN4 (TSO4 | 1ull << NET_F_HOST_ECN)

/* flags, type, hdr_len, gso_size, csum_start, csum_offset, num_buffers */
static const struct header_case cases[] = {
	{ { 0 }, 0, 14, true },
	{ { 0 }, 0, 13, false },
	{ { 0 }, 0, 0, false },
	{ { 0 }, 0, 65589, true },
	{ { 0 }, 0, 65590, false },
	{ { 1, 0, 0, 0, 34, 16, 0 }, 0, 100, false }, /* CSUM not agreed on */
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 100, true },
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 52, true },
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 51, false },
	{ { 1, 0, 0, 0, 13, 16, 0 }, CSUM, 100, false },
	{ { 1, 0, 0, 0, 0xffff, 0xffff, 0 }, CSUM, 65589, false },
	{ { 1, 0, 0, 0, 34, 0xfff0, 0 }, CSUM, 100, false },
	{ { 2, 0, 0, 0, 0xffff, 0, 0 }, 0, 100, true }, /* flags that say nothing here */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO4, 20000, true },
	{ { 1, 1, 0, 1448, 34, 16, 0 }, TSO4, 20000, true }, /* hdr_len is a hint */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, CSUM, 20000, false },
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO6, 20000, false },
	{ { 1, 4, 74, 1428, 54, 16, 0 }, TSO6, 20000, true },
	{ { 1, 4, 74, 1428, 54, 16, 0 }, TSO4, 20000, false },
	{ { 1, 0x81, 54, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 0x81, 54, 1448, 34, 16, 0 }, ECN4, 20000, true },
	{ { 0, 1, 54, 1448, 34, 16, 0 }, TSO4, 20000, false }, /* without NEEDS_CSUM */
	{ { 1, 1, 54, 0, 34, 16, 0 }, TSO4, 20000, false },    /* segments of nothing */
	{ { 1, 1, 54, 7, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 20001, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 513, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 54, 1448, 34, 6, 0 }, TSO4, 20000, false },     /* UDP's checksum */
	{ { 1, 1, 54, 1448, 19000, 16, 0 }, TSO4, 20000, false }, /* headers of 19 kB */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO4, 54, false },       /* nothing but headers */
	{ { 1, 3, 42, 1448, 34, 6, 0 }, TSO4, 20000, false },     /* UDP fragmentation */
	{ { 1, 5, 42, 1448, 34, 6, 0 }, TSO4, 20000, false },
	{ { 1, 0x80, 54, 1448, 34, 16, 0 }, ECN4, 20000, false },
};

Test(virtio_net, header_check, .init = NULL, .fini = NULL)
{
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct net_hdr h = cases[i].h;

		cr_expect_eq(net_hdr_check(&h, cases[i].features, cases[i].bytes), cases[i].ok,
		             "case %u", i);
	}
}

/* A tap device in a network namespace of its own; skips with the reason where there is none. */
static bool open_taps(int *fds, unsigned n, unsigned flags)
{
	struct ifreq ifr = { .ifr_name = "tap0",
		             .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags |
		                                  (n > 1 ? IFF_MULTI_QUEUE : 0)) };
	int s;

	if (unshare(CLONE_NEWNET) < 0) {
		cr_skip_test("no network namespace: %s", strerror(errno));
		return false;
	}
	for (unsigned i = 0; i < n; i++) {
		fds[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
		if (fds[i] < 0 || ioctl(fds[i], TUNSETIFF, &ifr) < 0) {
			cr_skip_test("no tap device: %s", strerror(errno));
			return false;
		}
	}
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING | IFF_NOARP;
	cr_assert_eq(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
	close(s);
	return true;
}

/* A packet socket on the tap's host side. */
static int packet_socket(void)
{
	struct ifreq ifr = { .ifr_name = "tap0" };
	struct sockaddr_ll sa = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));

	cr_assert_geq(s, 0);
	cr_assert_eq(ioctl(s, SIOCGIFINDEX, &ifr), 0);
	sa.sll_ifindex = ifr.ifr_ifindex;
	cr_assert_eq(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return s;
}

/* A frame of the local experimental EtherType, which no stack answers. */
static void test_frame(uint8_t *at, size_t len, unsigned seed)
{
	frame(at, len, seed);
	memset(at, 0xff, 6);
	memcpy(at + 6, "\x52\x54\x00\x01\x02\x03", 6);
	at[12] = 0x88;
	at[13] = 0xb5;
}

/* The first received frame of that type; the host may send some of its own. */
static uint8_t *wait_test_frame(uint64_t rx, uint32_t buffer, uint32_t len)
{
	for (;;) {
		uint32_t got;
		uint16_t head = vguest_wait(&g, 0, &got);
		uint8_t *at = (uint8_t *)vguest_at(&g, rx) + (size_t)head * buffer;

		if (got == len + NET_HDR_BYTES && at[NET_HDR_BYTES + 12] == 0x88 &&
		    at[NET_HDR_BYTES + 13] == 0xb5)
			return at + NET_HDR_BYTES;
	}
}

Test(virtio_net, tap)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 1, .stream_fd = -EBADF };
	uint8_t sent[1000], got[2000], *at;
	uint64_t f, rx;
	int s;

	if (!open_taps(c.tap_fds, 1, IFF_VNET_HDR))
		return;
	s = packet_socket();
	f = vguest_start(&g, new_net(&c), ALL, 2, 0);
	cr_assert(f >> NET_F_HOST_TSO4 & 1);
	cr_assert(f >> NET_F_GUEST_TSO6 & 1);
	test_frame(sent, sizeof(sent), 1);
	transmit(1, &plain, sent, sizeof(sent));
	cr_assert_eq(recv(s, got, sizeof(got), 0), sizeof(sent));
	cr_assert_arr_eq(got, sent, sizeof(sent));
	rx = give_buffers(0, 32, 2048);
	test_frame(sent, sizeof(sent), 2);
	cr_assert_eq(send(s, sent, sizeof(sent), 0), sizeof(sent));
	at = wait_test_frame(rx, 2048, sizeof(sent));
	cr_assert_arr_eq(at, sent, sizeof(sent));
	close(s);
}

static bool is_detached(int fd)
{
	struct ifreq ifr = { 0 };

	cr_assert_eq(ioctl(fd, TUNGETIFF, &ifr), 0);
	return ifr.ifr_flags & IFF_DETACH_QUEUE;
}

/* Two pairs: the control queue gives and takes the second one. */
Test(virtio_net, tap_multi_queue)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 2, .stream_fd = -EBADF };
	static const struct {
		uint8_t command[4], ack;
	} commands[] = {
		{ { 4, 0, 2, 0 }, 0 }, { { 4, 0, 0, 0 }, 1 }, { { 4, 0, 3, 0 }, 1 },
		{ { 4, 0, 2, 1 }, 1 }, { { 4, 1, 2, 0 }, 1 }, { { 1, 0, 2, 0 }, 1 },
		{ { 4, 0, 1, 0 }, 0 }, { { 4, 0, 2, 0 }, 0 },
	};
	uint8_t sent[100], got[200], *ctrl;
	uint64_t gpa;
	int s;

	if (!open_taps(c.tap_fds, 2, IFF_VNET_HDR))
		return;
	s = packet_socket();
	vguest_start(&g, new_net(&c), ALL, 5, 0);
	cr_assert(is_detached(c.tap_fds[1])); /* one pair, until the guest asks for more */
	gpa = vguest_alloc(&g, 16);
	ctrl = vguest_at(&g, gpa);
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct vguest_buf bufs[] = { { gpa, 2, false },
			                     { gpa + 2, 2, false },
			                     { gpa + 4, 1, true } };

		memcpy(ctrl, commands[i].command, 4);
		ctrl[4] = 0xee;
		cr_assert_eq(vguest_do(&g, 4, bufs, 3), 1);
		cr_assert_eq(ctrl[4], commands[i].ack, "command %u", i);
		cr_assert_eq(is_detached(c.tap_fds[1]), i == 6);
	}
	for (unsigned i = 0; i < 2; i++) {
		test_frame(sent, sizeof(sent), i);
		transmit(2 * i + 1, &plain, sent, sizeof(sent));
		cr_assert_eq(recv(s, got, sizeof(got), 0), sizeof(sent));
		cr_assert_arr_eq(got, sent, sizeof(sent));
	}
	close(s);
}

/* The interface disappears under us. */
Test(virtio_net, tap_gone)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 1, .stream_fd = -EBADF };
	int ns;

	if (!open_taps(c.tap_fds, 1, IFF_VNET_HDR))
		return;
	ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	vguest_start(&g, new_net(&c), ALL, 2, 0);
	give_buffers(0, 4, 2048);
	vguest_settle(&g);
	{
		char del[] = "ip link delete tap0";

		if (system(del) != 0) {
			cr_skip_test("no ip(8)");
			close(ns);
			return;
		}
	}
	close(ns);
	expect_link_down();
}

Test(virtio_net, bad_config)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 1, .stream_fd = -EBADF };
	struct virtio_device *d;
	int sv[2];

	if (!open_taps(c.tap_fds, 1, 0)) /* without IFF_VNET_HDR */
		return;
	cr_assert_eq(virtio_net_new(&c, &g.mem, g.loop, &d), -EINVAL);
	cr_assert_geq(fcntl(c.tap_fds[0], F_GETFD), 0);
	close(c.tap_fds[0]);
	c.n_pairs = 9;
	cr_assert_eq(virtio_net_new(&c, &g.mem, g.loop, &d), -EINVAL);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv), 0);
	c.stream_fd = sv[0];
	cr_assert_eq(virtio_net_new(&c, &g.mem, g.loop, &d), -EINVAL);
	close(sv[0]);
	close(sv[1]);
}

/* Frames that wait in the socket are there after a pause; buffers are given back and taken again.
 */
Test(virtio_net, pause)
{
	struct virtio_net_config c = stream_config();
	uint8_t data[100];
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, new_net(&c), ALL, 2, 0);
	rx = give_buffers(0, 8, 1024);
	vguest_settle(&g);
	for (unsigned i = 0; i < 8; i++) {
		virtio_device_pause(g.d);
		frame(data, sizeof(data), i);
		send_frame(data, sizeof(data));
		virtio_device_resume(g.d);
		cr_assert_eq(vguest_wait(&g, 0, &len), i);
		cr_assert_arr_eq(vguest_at(&g, rx + i * 1024 + NET_HDR_BYTES), data, 100);
	}
}
