/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-blk: everything a driver may ask, and the refusals. The disk's contents are lost. */
#include "blk.h"
#include "lib/guest.h"
#include "tests.h"

#define CHUNK                   32u /* sectors */
#define CONFIG_MAX_DISCARD      36
#define CONFIG_MAX_WRITE_ZEROES 48
#define UNKNOWN_TYPE            0x7777u
#define FEATURES                                                                              \
	(1ull << BLK_F_RO | 1ull << BLK_F_BLK_SIZE | 1ull << BLK_F_FLUSH | 1ull << BLK_F_MQ | \
	 1ull << BLK_F_DISCARD | 1ull << BLK_F_WRITE_ZEROES)
#define RING_FEATURES (1ull << VIRTIO_F_INDIRECT | 1ull << VIRTIO_F_EVENT_IDX)

static struct blk disk;
static uint8_t *data;

static bool start(uint64_t ring_features, uint16_t queue_max)
{
	if (!data)
		data = pages_alloc(CHUNK * SECTOR);
	return blk_start(&disk, (unsigned)option_number("disk", 0), FEATURES | ring_features,
	                 queue_max);
}

static bool write_pattern(unsigned queue, uint64_t sector, uint32_t n, uint64_t seed)
{
	blk_fill(data, sector, n, seed);
	return blk_expect(&disk, queue, BLK_OUT, sector, data, n * SECTOR, BLK_OK);
}

static bool verify_pattern(unsigned queue, uint64_t sector, uint32_t n, uint64_t seed)
{
	memset(data, 0, n * SECTOR);
	TRY(blk_expect(&disk, queue, BLK_IN, sector, data, n * SECTOR, BLK_OK));
	return blk_check(data, sector, n, seed);
}

static bool flush(unsigned queue)
{
	return !virtio_has(&disk.v, BLK_F_FLUSH) ||
	       blk_expect(&disk, queue, BLK_FLUSH, 0, NULL, 0, BLK_OK);
}

static bool print_disk(void)
{
	static char serial[21];

	memset(serial, 0, sizeof(serial));
	TRY(blk_expect(&disk, 0, BLK_GET_ID, 0, serial, 20, BLK_OK));
	print("blk: %lu sectors, %u queues of %u, features 0x%lx, serial '%s'\n", disk.sectors,
	      disk.n_queues, disk.v.queues[0].size, disk.v.features, serial);
	if (option("serial") && strcmp(option("serial"), serial) != 0)
		return fail("the serial number is '%s'", serial);
	return true;
}

/* The last sector too, by every queue. */
static bool write_and_verify(uint64_t seed)
{
	uint64_t end = disk.sectors;

	CHECK(end >= 4 * CHUNK);
	for (unsigned q = 0; q < disk.n_queues; q++) {
		uint64_t at = (q * 97 + 8) % (end - 2 * CHUNK);

		TRY(write_pattern(q, at, CHUNK, seed + q));
		TRY(write_pattern(q, at + CHUNK, 1, seed + q));
		TRY(write_pattern(q, end - 3, 3, seed + q));
		TRY(flush(q));
		TRY(verify_pattern(q, at, CHUNK, seed + q));
		TRY(verify_pattern(q, at + CHUNK, 1, seed + q));
		TRY(verify_pattern(q, end - 3, 3, seed + q));
	}
	return true;
}

/* A header in three parts, data in pieces of odd sizes. */
static bool scattered(bool in)
{
	static struct blk_header header;
	static uint8_t status;
	uint32_t written;
	struct vbuf bufs[] = {
		{ &header, 1 },
		{ (uint8_t *)&header + 1, 8 },
		{ (uint8_t *)&header + 9, 7 },
		{ data, 3 },
		{ data + 3, SECTOR },
		{ data + 3 + SECTOR, 2 * SECTOR - 3 },
		{ &status, 1 },
	};

	header = (struct blk_header){ .type = in ? BLK_IN : BLK_OUT, .sector = 100 };
	status = BLK_NOTHING;
	TRY(virtq_request(&disk.v, &disk.v.queues[0], bufs, in ? 3 : 6, in ? 4 : 1, &written));
	if (status != BLK_OK || written != (in ? 3 * SECTOR : 0) + 1)
		return fail("a scattered request: status %u, used length %u", status, written);
	return true;
}

static bool write_and_verify_scattered(void)
{
	blk_fill(data, 100, 3, 77);
	TRY(scattered(false));
	TRY(verify_pattern(0, 100, 3, 77));
	memset(data, 0, 3 * SECTOR);
	TRY(scattered(true));
	return blk_check(data, 100, 3, 77);
}

#define DEPTH 16u

/* As many requests at once as the queue takes, answered in any order, each once. */
static bool deep(uint32_t type, uint64_t seed)
{
	static struct blk_header headers[DEPTH];
	static uint8_t statuses[DEPTH];
	static int heads[DEPTH];
	struct virtq *q = &disk.v.queues[disk.n_queues - 1];
	unsigned done = 0, n = 0, i;
	uint16_t head;
	uint32_t len;

	for (; n < DEPTH; n++) {
		struct vbuf bufs[] = { { &headers[n], sizeof(headers[n]) },
			               { data + n * SECTOR, SECTOR },
			               { &statuses[n], 1 } };

		headers[n] = (struct blk_header){ .type = type, .sector = 200 + n };
		statuses[n] = BLK_NOTHING;
		heads[n] = virtq_add(&disk.v, q, bufs, type == BLK_OUT ? 2 : 1,
		                     type == BLK_OUT ? 1 : 2);
		if (heads[n] < 0)
			break;
	}
	CHECK(n > 1);
	virtq_kick(&disk.v, q);
	for (; done < n; done++) {
		TRY(virtq_wait(&disk.v, q, &head, &len));
		for (i = 0; i < n && heads[i] != head; i++)
			;
		if (i == n)
			return fail("chain %u came back, nobody sent it", head);
		heads[i] = -1;
		if (statuses[i] != BLK_OK)
			return fail("request %u of %u at once: status %u", i, n, statuses[i]);
	}
	return type == BLK_OUT || blk_check(data, 200, n, seed);
}

static bool write_and_verify_deep(void)
{
	blk_fill(data, 200, DEPTH, 55);
	TRY(deep(BLK_OUT, 55));
	memset(data, 0, DEPTH * SECTOR);
	return deep(BLK_IN, 55);
}

static bool zeroes(uint64_t sector, uint32_t n)
{
	memset(data, 0xFF, n * SECTOR);
	TRY(blk_expect(&disk, 0, BLK_IN, sector, data, n * SECTOR, BLK_OK));
	for (uint32_t i = 0; i < n * SECTOR; i++)
		if (data[i])
			return fail("byte %u after sector 0x%lx is not zero", i, sector);
	return true;
}

/* Eight sectors become zeroes, or are given up; their neighbours stay. */
static bool discard_and_zero(void)
{
	static struct blk_range range;

	TRY(write_pattern(0, 1024, CHUNK, 9));
	if (virtio_has(&disk.v, BLK_F_WRITE_ZEROES)) {
		CHECK(mmio_read32(disk.v.config + CONFIG_MAX_WRITE_ZEROES) > 0);
		range = (struct blk_range){ .sector = 1032, .sectors = 8 };
		TRY(blk_expect(&disk, 0, BLK_WRITE_ZEROES, 0, &range, sizeof(range), BLK_OK));
		TRY(zeroes(1032, 8));
		range = (struct blk_range){ .sector = disk.sectors - 1, .sectors = 2 };
		TRY(blk_expect(&disk, 0, BLK_WRITE_ZEROES, 0, &range, sizeof(range), BLK_IOERR));
		range = (struct blk_range){ .sector = 1032, .sectors = 8, .flags = 0x80 };
		TRY(blk_expect(&disk, 0, BLK_WRITE_ZEROES, 0, &range, sizeof(range), BLK_UNSUPP));
	}
	if (virtio_has(&disk.v, BLK_F_DISCARD)) {
		CHECK(mmio_read32(disk.v.config + CONFIG_MAX_DISCARD) > 0);
		range = (struct blk_range){ .sector = 1040, .sectors = 8 };
		TRY(blk_expect(&disk, 0, BLK_DISCARD, 0, &range, sizeof(range), BLK_OK));
		range = (struct blk_range){ .sector = ~0ull - 2, .sectors = 8 };
		TRY(blk_expect(&disk, 0, BLK_DISCARD, 0, &range, sizeof(range), BLK_IOERR));
	}
	TRY(verify_pattern(0, 1024, 8, 9));
	return verify_pattern(0, 1048, 8, 9);
}

static bool refusals(void)
{
	uint64_t end = disk.sectors;

	TRY(blk_expect(&disk, 0, BLK_IN, end, data, SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_IN, end - 1, data, 2 * SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_OUT, end, data, SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_OUT, end - 1, data, 2 * SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_OUT, ~0ull, data, SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_IN, 1ull << 55, data, SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_IN, 0, data, SECTOR - 1, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_OUT, 0, data, 100, BLK_IOERR));
	return blk_expect(&disk, 0, UNKNOWN_TYPE, 0, data, SECTOR, BLK_UNSUPP);
}

static bool all_of_it(uint64_t ring_features, uint16_t queue_max)
{
	TRY(start(ring_features, queue_max));
	TRY(print_disk());
	if (virtio_has(&disk.v, BLK_F_RO))
		return fail("the disk is read-only");
	TRY(write_and_verify(option_number("seed", 1) + queue_max));
	TRY(write_and_verify_scattered());
	TRY(write_and_verify_deep());
	TRY(discard_and_zero());
	return refusals();
}

/* Three times: plain rings, indirect chains with the event index, and a ring of 8 entries. */
bool test_blk(void)
{
	TRY(all_of_it(0, VIRTQ_MAX));
	TRY(all_of_it(RING_FEATURES, VIRTQ_MAX));
	TRY(all_of_it(1ull << VIRTIO_F_EVENT_IDX, 8));
	return virtio_reset(&disk.v);
}

/* disk=N: what the device says may not be written is not written, and can be read. */
bool test_blk_readonly(void)
{
	TRY(start(RING_FEATURES, VIRTQ_MAX));
	TRY(print_disk());
	if (!virtio_has(&disk.v, BLK_F_RO))
		return fail("the disk is not read-only");
	TRY(blk_expect(&disk, 0, BLK_IN, 0, data, SECTOR, BLK_OK));
	memcpy(data + SECTOR, data, SECTOR);
	memset(data, ~data[0], SECTOR);
	TRY(blk_expect(&disk, 0, BLK_OUT, 0, data, SECTOR, BLK_IOERR));
	TRY(blk_expect(&disk, 0, BLK_IN, 0, data, SECTOR, BLK_OK));
	CHECK(memcmp(data, data + SECTOR, SECTOR) == 0);
	return virtio_reset(&disk.v);
}

/* Writes, or only verifies, at=SECTOR count=SECTORS seed=N: the two halves of a test in which the
 * machine ends or is saved in between. */
static bool for_chunks(bool (*one)(unsigned queue, uint64_t sector, uint32_t n, uint64_t seed))
{
	uint64_t at = option_number("at", 0), end = at + option_number("count", 512);

	for (; at < end; at += CHUNK)
		TRY(one(0, at, end - at < CHUNK ? (uint32_t)(end - at) : CHUNK,
		        option_number("seed", 1)));
	return true;
}

bool test_blk_write(void)
{
	TRY(start(RING_FEATURES, VIRTQ_MAX));
	TRY(for_chunks(write_pattern));
	return flush(0);
}

bool test_blk_verify(void)
{
	TRY(start(RING_FEATURES, VIRTQ_MAX));
	return for_chunks(verify_pattern);
}
