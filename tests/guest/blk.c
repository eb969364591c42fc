/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "blk.h"

#include "lib/guest.h"

#define CONFIG_CAPACITY   0
#define CONFIG_NUM_QUEUES 34

bool blk_start(struct blk *b, unsigned n, uint64_t features, uint16_t queue_max)
{
	TRY(virtio_find(VIRTIO_BLOCK, n, &b->v));
	TRY(virtio_begin(&b->v, features));
	b->sectors = mmio_read64(b->v.config + CONFIG_CAPACITY);
	b->n_queues =
		virtio_has(&b->v, BLK_F_MQ) ? mmio_read16(b->v.config + CONFIG_NUM_QUEUES) : 1;
	if (b->n_queues == 0 || b->n_queues > b->v.n_queues)
		return fail("the disk tells of %u queues, the device of %u", b->n_queues,
		            b->v.n_queues);
	for (unsigned i = 0; i < b->n_queues; i++)
		TRY(virtio_queue(&b->v, i, queue_max));
	virtio_go(&b->v);
	return true;
}

bool blk_request(struct blk *b, unsigned queue, uint32_t type, uint64_t sector, void *data,
                 uint32_t len, uint8_t *ret_status)
{
	static struct blk_header header;
	static volatile uint8_t status;
	bool in = type == BLK_IN || type == BLK_GET_ID;
	struct vbuf bufs[3] = { { &header, sizeof(header) } };
	unsigned n = 1;
	uint32_t written;

	header = (struct blk_header){ .type = type, .sector = sector };
	status = BLK_NOTHING;
	if (len > 0)
		bufs[n++] = (struct vbuf){ data, len };
	bufs[n] = (struct vbuf){ (const void *)(uint64_t)&status, 1 };
	TRY(virtq_request(&b->v, &b->v.queues[queue], bufs, in ? 1 : n, in ? n : 1, &written));
	*ret_status = status;
	if (status == BLK_OK && written != (in ? len : 0) + 1)
		return fail("request %u of %u bytes: the used length is %u", type, len, written);
	return true;
}

bool blk_expect(struct blk *b, unsigned queue, uint32_t type, uint64_t sector, void *data,
                uint32_t len, uint8_t status)
{
	uint8_t got;

	TRY(blk_request(b, queue, type, sector, data, len, &got));
	if (got != status)
		return fail("request %u at sector 0x%lx of %u bytes: status %u, not %u", type,
		            sector, len, got, status);
	return true;
}

static uint64_t pattern(uint64_t sector, uint64_t word, uint64_t seed)
{
	return (sector * 64 + word + seed * 0x10001) * 0x9E3779B97F4A7C15ull;
}

void blk_fill(void *data, uint64_t sector, uint32_t sectors, uint64_t seed)
{
	uint64_t *p = data;

	for (uint64_t i = 0; i < sectors; i++)
		for (uint64_t w = 0; w < SECTOR / 8; w++)
			*p++ = pattern(sector + i, w, seed);
}

bool blk_check(const void *data, uint64_t sector, uint32_t sectors, uint64_t seed)
{
	const uint64_t *p = data;

	for (uint64_t i = 0; i < sectors; i++)
		for (uint64_t w = 0; w < SECTOR / 8; w++, p++)
			if (*p != pattern(sector + i, w, seed))
				return fail("sector 0x%lx word %lu is 0x%lx, not 0x%lx", sector + i,
				            w, *p, pattern(sector + i, w, seed));
	return true;
}
