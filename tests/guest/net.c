/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net.h"

#include "lib/guest.h"

#define BUFFERS      16u
#define BUFFER_BYTES 2048u
#define QUEUE_RX     0
#define QUEUE_TX     1
#define NUM_BUFFERS  10 /* offset in the header */

static void offer(struct nic *nic, uint8_t *buffer)
{
	struct vbuf buf = { buffer, BUFFER_BYTES };

	(void)virtq_add(&nic->v, &nic->v.queues[QUEUE_RX], &buf, 0, 1);
	virtq_kick(&nic->v, &nic->v.queues[QUEUE_RX]);
}

bool nic_start(struct nic *nic, unsigned n, uint64_t ring_features)
{
	TRY(virtio_find(VIRTIO_NET, n, &nic->v));
	TRY(virtio_begin(&nic->v, ring_features | 1 << NET_F_MAC | 1 << NET_F_STATUS));
	if (!virtio_has(&nic->v, NET_F_MAC))
		return fail("the NIC has no address");
	for (unsigned i = 0; i < 6; i++)
		nic->mac[i] = mmio_read8(nic->v.config + i);
	TRY(virtio_queue(&nic->v, QUEUE_RX, BUFFERS));
	TRY(virtio_queue(&nic->v, QUEUE_TX, BUFFERS));
	nic->rx = pages_alloc((BUFFERS + 1) * BUFFER_BYTES);
	nic->tx = nic->rx + BUFFERS * BUFFER_BYTES;
	virtio_go(&nic->v);
	for (unsigned i = 0; i < BUFFERS; i++)
		offer(nic, nic->rx + i * BUFFER_BYTES);
	print("net: nic %u %02x:%02x:%02x:%02x:%02x:%02x features 0x%lx\n", n, nic->mac[0],
	      nic->mac[1], nic->mac[2], nic->mac[3], nic->mac[4], nic->mac[5], nic->v.features);
	return true;
}

bool nic_send(struct nic *nic, const void *frame, uint32_t len)
{
	struct vbuf buf = { nic->tx, NET_HEADER + len };
	uint32_t written;

	memset(nic->tx, 0, NET_HEADER);
	memcpy(nic->tx + NET_HEADER, frame, len);
	return virtq_request(&nic->v, &nic->v.queues[QUEUE_TX], &buf, 1, 0, &written);
}

static uint8_t *last_buffer;

bool nic_receive(struct nic *nic, const uint8_t **ret_frame, uint32_t *ret_len)
{
	struct virtq *q = &nic->v.queues[QUEUE_RX];
	uint16_t head;
	uint32_t len;

	*ret_len = 0;
	if (!virtq_take(&nic->v, q, &head, &len))
		return true;
	last_buffer = (uint8_t *)q->desc[head].address;
	if (len < NET_HEADER + 14 || len > BUFFER_BYTES)
		return fail("a frame of %u bytes with its header", len);
	/* virtio 1.2, 5.1.6.4.1: without mergeable buffers the number is 1; QEMU 7 leaves it 0. */
	if (last_buffer[NUM_BUFFERS] > 1 || last_buffer[NUM_BUFFERS] < !!option("strict"))
		return fail("a frame in %u buffers", last_buffer[NUM_BUFFERS]);
	if (last_buffer[0] != 0)
		return fail("a frame with flags 0x%x, nobody agreed on any", last_buffer[0]);
	*ret_frame = last_buffer + NET_HEADER;
	*ret_len = len - NET_HEADER;
	return true;
}

void nic_done(struct nic *nic)
{
	offer(nic, last_buffer);
}
