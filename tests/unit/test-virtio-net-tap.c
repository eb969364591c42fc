/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/unit/net-fixture.h"

TestSuite(virtio_net_tap, .init = net_setup, .fini = net_teardown, .timeout = 60);

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
	net_frame(at, len, seed);
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

Test(virtio_net_tap, tap)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 1, .stream_fd = -EBADF };
	uint8_t sent[1000], got[2000], *at;
	uint64_t f, rx;
	int s;

	if (!open_taps(c.tap_fds, 1, IFF_VNET_HDR))
		return;
	s = packet_socket();
	f = vguest_start(&g, net_new(&c), ALL, 2, 0);
	cr_assert(f >> NET_F_HOST_TSO4 & 1);
	cr_assert(f >> NET_F_GUEST_TSO6 & 1);
	test_frame(sent, sizeof(sent), 1);
	net_transmit_frame(1, &net_plain, sent, sizeof(sent));
	cr_assert_eq(recv(s, got, sizeof(got), 0), sizeof(sent));
	cr_assert_arr_eq(got, sent, sizeof(sent));
	rx = net_give_buffers(0, 32, 2048);
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
Test(virtio_net_tap, tap_multi_queue)
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
	vguest_start(&g, net_new(&c), ALL, 5, 0);
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
		net_transmit_frame(2 * i + 1, &net_plain, sent, sizeof(sent));
		cr_assert_eq(recv(s, got, sizeof(got), 0), sizeof(sent));
		cr_assert_arr_eq(got, sent, sizeof(sent));
	}
	close(s);
}

/* The interface disappears under us. */
Test(virtio_net_tap, tap_gone)
{
	struct virtio_net_config c = { .id = "net0", .n_pairs = 1, .stream_fd = -EBADF };
	int ns;

	if (!open_taps(c.tap_fds, 1, IFF_VNET_HDR))
		return;
	ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_give_buffers(0, 4, 2048);
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
	net_expect_link_down();
}

Test(virtio_net_tap, bad_config)
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
