/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/net-fixture.h"

TestSuite(virtio_net, .init = net_setup, .fini = net_teardown, .timeout = 60);

/* MAC, MTU and link in the config space; frames both ways by the stream. */
Test(virtio_net, stream)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t sent[1414], got[1414], config[12];
	uint32_t be, len;
	uint64_t rx;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	virtio_config_read(g.d, 0, config, sizeof(config));
	cr_assert_arr_eq(config, c.mac, 6);
	cr_assert_eq(config[6], 1);
	cr_assert_eq(config[10] | config[11] << 8, 1400);

	net_frame(sent, sizeof(sent), 1);
	net_transmit_frame(1, &net_plain, sent, sizeof(sent));
	net_read_all(net_peer, &be, 4);
	cr_assert_eq(ntohl(be), sizeof(sent));
	net_read_all(net_peer, got, sizeof(got));
	cr_assert_arr_eq(got, sent, sizeof(sent));

	rx = net_give_buffers(0, 4, 2048);
	net_frame(sent, sizeof(sent), 2);
	net_send_frame(sent, sizeof(sent));
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
	struct virtio_net_config c = net_stream_config();
	uint8_t *sent = malloc(65562), *at;
	uint32_t len, total = 0;
	uint64_t rx;
	unsigned n = 0;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_frame(sent, 65562, 5);
	rx = net_give_buffers(0, 50, 1500);
	net_send_frame(sent, 65562);
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
	struct virtio_net_config c = net_stream_config();
	uint8_t *sent = malloc(30000);
	struct vring_used *used;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_frame(sent, 30000, 5);
	used = vguest_at(&g, g.rings[0].used_gpa);
	for (unsigned i = 0; i < 3000; i++) {
		uint16_t old = used->idx, idx, head;

		g.next = VGUEST_GPA + (8u << 20);
		net_give_buffers(0, 43, 700);
		net_send_frame(sent, 30000);
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
	struct virtio_net_config c = net_stream_config();
	uint8_t *sent = malloc(65562), *got = malloc(70000);
	unsigned seed = 1;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	for (unsigned i = 0; i < 400; i++) {
		uint32_t len, total = 0, bytes, buffer = 1100 + 37 * (i % 50);
		struct vring_desc *table = vguest_at(&g, g.rings[0].desc_gpa);

		seed = seed * 1103515245 + 12345;
		/* Long runs of small ones, too. */
		bytes = i % 200 < 100 ? sizes[(seed >> 16) % 3] : sizes[(seed >> 16) % 10];
		net_frame(sent, bytes, i);
		if (i % 60 == 0)
			g.next = VGUEST_GPA + (8u << 20);
		net_give_buffers(0, (bytes + NET_HDR_BYTES + buffer - 1) / buffer, buffer);
		net_send_frame(sent, bytes);
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
	struct virtio_net_config c = net_stream_config();
	uint8_t sent[3000];
	uint64_t rx[4];
	uint32_t len;
	uint16_t head;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_frame(sent, sizeof(sent), 7);
	net_send_frame(sent, sizeof(sent));
	net_send_frame(sent, 100);
	for (unsigned i = 0; i < 3; i++) {
		rx[i] = net_give_buffers(0, 1, 1024);
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
	rx[3] = net_give_buffers(0, 1, 1024);
	cr_assert_eq(vguest_wait(&g, 0, &len), 3);
	cr_assert_eq(len, 112);
	cr_assert_arr_eq(vguest_at(&g, rx[3] + NET_HDR_BYTES), sent, 100);
}

/* Without merged buffers, a frame that is too large is dropped and the buffer used for the next. */
Test(virtio_net, too_large)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t sent[3000];
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, net_new(&c), ALL & ~MRG, 2, 0);
	rx = net_give_buffers(0, 2, 1526);
	net_frame(sent, sizeof(sent), 8);
	net_send_frame(sent, sizeof(sent));
	net_send_frame(sent, 1514);
	cr_assert_eq(vguest_wait(&g, 0, &len), 0);
	cr_assert_eq(len, 1526);
	cr_assert_arr_eq(vguest_at(&g, rx + NET_HDR_BYTES), sent, 1514);
	cr_assert_eq(vguest_stat(&g, "rx", "errors"), 1);
}

/* Frames cut anywhere by the stream. */
Test(virtio_net, stream_in_pieces)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t bytes[3 * (4 + 200)];
	uint32_t len, be = htonl(200);
	uint64_t rx;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	rx = net_give_buffers(0, 3, 1024);
	for (unsigned i = 0; i < 3; i++) {
		memcpy(bytes + i * 204, &be, 4);
		net_frame(bytes + i * 204 + 4, 200, i);
	}
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		cr_assert_eq(write(net_peer, bytes + i, 1), 1);
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
	struct virtio_net_config c = net_stream_config();
	const uint32_t len = 60000;
	uint8_t *data = malloc(len), *got = malloc(len);
	uint64_t gpa;
	uint16_t head;
	unsigned done = 0;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	gpa = vguest_alloc(&g, NET_HDR_BYTES + len);
	net_frame(vguest_at(&g, gpa + NET_HDR_BYTES), len, 3);
	net_frame(data, len, 3);
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

		net_read_all(net_peer, &be, 4);
		cr_assert_eq(ntohl(be), len);
		net_read_all(net_peer, got, len);
		cr_assert_arr_eq(got, data, len);
	}
	while (done < 40) {
		cr_assert_eq(vguest_wait(&g, 1, NULL), done);
		done++;
	}
	free(data);
	free(got);
}

Test(virtio_net, stream_hang_up)
{
	struct virtio_net_config c = net_stream_config();

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	cr_assert_eq(net_link_status(), 1);
	net_give_buffers(0, 4, 2048);
	vguest_settle(&g);
	close(net_peer);
	net_peer = -1;
	net_expect_link_down();
}

/* The same while the guest has no buffers. */
Test(virtio_net, stream_hang_up_no_buffers)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t data[60] = { 0 };

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_send_frame(data, sizeof(data));
	vguest_settle(&g);
	close(net_peer);
	net_peer = -1;
	net_expect_link_down();
}

Test(virtio_net, stream_garbage)
{
	static const uint32_t lengths[] = { 0, 13, 65563, 0x7fffffff, 0xffffffff };

	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct virtio_net_config c = net_stream_config();
		uint32_t be = htonl(lengths[i]);

		vguest_start(&g, net_new(&c), ALL, 2, 0);
		net_give_buffers(0, 4, 2048);
		cr_assert_eq(write(net_peer, &be, 4), 4);
		net_expect_link_down();
		vguest_deinit(&g);
		close(net_peer);
		net_peer = -1;
		vguest_init(&g);
	}
}

/* Frames that are none, and headers that ask for what was not agreed on, are dropped. */
Test(virtio_net, bad_frames)
{
	struct virtio_net_config c = net_stream_config();
	struct net_hdr h = { .flags = 1, .csum_start = 34, .csum_offset = 16 };
	struct vguest_buf b;
	uint8_t data[100] = { 0 };
	uint32_t be;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	net_transmit_frame(1, &net_plain, data, 0);
	net_transmit_frame(1, &net_plain, data, 13);
	net_transmit_frame(1, &h, data, sizeof(data)); /* no offload here */
	b = (struct vguest_buf){ vguest_alloc(&g, 16), 5, false };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* less than a header */
	b = (struct vguest_buf){ vguest_alloc(&g, 16), 5, true };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* nothing to read */
	b = (struct vguest_buf){ vguest_alloc(&g, 1u << 20), 1u << 20, false };
	cr_assert_eq(vguest_do(&g, 1, &b, 1), 0); /* a megabyte */
	cr_assert_eq(vguest_stat(&g, "tx", "errors"), 6);
	net_transmit_frame(1, &net_plain, data, 60);
	net_read_all(net_peer, &be, 4);
	cr_assert_eq(ntohl(be), 60);
}

/* Receive buffers without room: given back, and no turn of the loop that never ends. */
Test(virtio_net, empty_buffers)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t data[100];
	struct vguest_buf none;
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	none = (struct vguest_buf){ vguest_alloc(&g, 16), 0, true };
	net_frame(data, sizeof(data), 4);
	net_send_frame(data, sizeof(data));
	for (unsigned i = 0; i < 3; i++) {
		vguest_add(&g, 0, &none, 1);
		vguest_kick(&g, 0);
		cr_assert_eq(vguest_wait(&g, 0, &len), i);
		cr_assert_eq(len, 0);
	}
	rx = net_give_buffers(0, 1, 1024);
	cr_assert_eq(vguest_wait(&g, 0, &len), 3);
	cr_assert_eq(len, 112);
	cr_assert_arr_eq(vguest_at(&g, rx + NET_HDR_BYTES), data, 100);
}

/* Dependencies between features, 5.1.3.1. */
Test(virtio_net, features)
{
	struct virtio_net_config c = net_stream_config();

	vguest_negotiate(&g, net_new(&c), ALL);
	cr_assert(g.d->status & VIRTIO_CONFIG_S_FEATURES_OK);
	cr_assert_not(virtio_device_features(g.d) & (1u << NET_F_CSUM | 1u << NET_F_HOST_TSO4));
	cr_assert_not(virtio_device_features(g.d) & (1u << NET_F_MQ | 1u << NET_F_CTRL_VQ));
}

/* Frames that wait in the socket are there after a pause; buffers are given back and taken again.
 */
Test(virtio_net, pause)
{
	struct virtio_net_config c = net_stream_config();
	uint8_t data[100];
	uint64_t rx;
	uint32_t len;

	vguest_start(&g, net_new(&c), ALL, 2, 0);
	rx = net_give_buffers(0, 8, 1024);
	vguest_settle(&g);
	for (unsigned i = 0; i < 8; i++) {
		virtio_device_pause(g.d);
		net_frame(data, sizeof(data), i);
		net_send_frame(data, sizeof(data));
		virtio_device_resume(g.d);
		cr_assert_eq(vguest_wait(&g, 0, &len), i);
		cr_assert_arr_eq(vguest_at(&g, rx + i * 1024 + NET_HDR_BYTES), data, 100);
	}
}
