/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/unit/net-fixture.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct vguest g;
int net_peer = -1;
const struct net_hdr net_plain;

struct virtio_net_config net_stream_config(void)
{
	struct virtio_net_config c = {
		.id = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .mtu = 1400, .n_pairs = 1
	};
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	c.stream_fd = sv[0];
	net_peer = sv[1];
	return c;
}

struct virtio_device *net_new(const struct virtio_net_config *c)
{
	struct virtio_device *d;

	cr_assert_eq(virtio_net_new(c, &g.mem, g.loop, &d), 0);
	return d;
}

void net_setup(void)
{
	vguest_init(&g);
}

void net_teardown(void)
{
	vguest_deinit(&g);
	if (net_peer >= 0)
		close(net_peer);
}

uint64_t net_give_buffers(unsigned q, unsigned n, uint32_t len)
{
	uint64_t gpa = vguest_alloc(&g, (size_t)n * len);

	for (unsigned i = 0; i < n; i++) {
		struct vguest_buf b = { gpa + (uint64_t)i * len, len, true };

		vguest_add(&g, q, &b, 1);
	}
	vguest_kick(&g, q);
	return gpa;
}

void net_frame(uint8_t *at, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)(i * 13 + i / 256 + seed);
}

void net_send_frame(const void *data, uint32_t len)
{
	uint32_t be = htonl(len);

	cr_assert_eq(write(net_peer, &be, 4), 4);
	for (size_t done = 0; done < len;) {
		ssize_t n = write(net_peer, (const char *)data + done, len - done);

		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

void net_read_all(int fd, void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)data + done, len - done);

		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

unsigned net_link_status(void)
{
	uint8_t status[2];

	virtio_config_read(g.d, 6, status, 2);
	return status[0] | (unsigned)status[1] << 8;
}

void net_transmit_frame(unsigned q, const struct net_hdr *h, const void *data, uint32_t len)
{
	uint64_t gpa = vguest_alloc(&g, len + NET_HDR_BYTES);
	struct vguest_buf bufs[] = { { gpa, NET_HDR_BYTES, false },
		                     { gpa + NET_HDR_BYTES, len, false } };

	memcpy(vguest_at(&g, gpa), h, NET_HDR_BYTES);
	memcpy(vguest_at(&g, gpa + NET_HDR_BYTES), data, len);
	cr_assert_eq(vguest_do(&g, q, bufs, len ? 2 : 1), 0);
}

void net_expect_link_down(void)
{
	uint8_t data[60] = { 0 };

	vguest_wait_config(&g);
	cr_assert_eq(net_link_status(), 0);
	cr_assert_not(vguest_needs_reset(&g));
	net_transmit_frame(1, &net_plain, data, sizeof(data)); /* answered, and goes nowhere */
	vguest_reset(&g);
	vguest_start(&g, g.d, ALL, 2, 0);
	cr_assert_eq(net_link_status(), 0);
	net_transmit_frame(1, &net_plain, data, sizeof(data));
	virtio_device_pause(g.d);
	virtio_device_resume(g.d);
	net_transmit_frame(1, &net_plain, data, sizeof(data));
}
