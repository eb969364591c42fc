/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-rng, virtio-balloon, virtio-console. */
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/virtio.h"
#include "tests.h"

#define RING_FEATURES (1ull << VIRTIO_F_INDIRECT | 1ull << VIRTIO_F_EVENT_IDX)

static struct virtio rng, balloon;

static bool get_random(void *to, uint32_t len)
{
	struct vbuf buf = { to, len };
	uint32_t got;

	TRY(virtq_request(&rng, &rng.queues[0], &buf, 0, 1, &got));
	if (got == 0 || got > len)
		return fail("%u random bytes of %u", got, len);
	return true;
}

static unsigned count_ones(const uint8_t *p, size_t n)
{
	unsigned ones = 0;

	for (size_t i = 0; i < n; i++)
		for (unsigned v = p[i]; v; v &= v - 1)
			ones++;
	return ones;
}

/* Two answers differ, and of 512 bits a half is set: 6 standard deviations are allowed. */
bool test_rng(void)
{
	uint8_t *a = pages_alloc(PAGE_BYTES), *b = a + 64;

	TRY(virtio_find(VIRTIO_RNG, 0, &rng));
	TRY(virtio_begin(&rng, RING_FEATURES));
	TRY(virtio_queue(&rng, 0, VIRTQ_MAX));
	virtio_go(&rng);
	TRY(get_random(a, 1));
	TRY(get_random(a, 64));
	TRY(get_random(b, 64));
	CHECK(memcmp(a, b, 64) != 0);
	CHECK(count_ones(a, 64) > 188 && count_ones(a, 64) < 324);
	TRY(get_random(a, PAGE_BYTES));
	return virtio_reset(&rng);
}

#define BALLOON_F_STATS     1
#define BALLOON_F_REPORTING 5
#define BALLOON_TARGET      0
#define BALLOON_ACTUAL      4
#define PAGES               16u
#define STAT_FREE           4
#define STAT_TOTAL          5

struct balloon_stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static uint32_t frames[PAGES];
static struct balloon_stat stats[2];

static bool move_pages(unsigned queue, const uint8_t *pages)
{
	struct vbuf buf = { frames, sizeof(frames) };
	uint32_t written;

	for (uint32_t i = 0; i < PAGES; i++)
		frames[i] = (uint32_t)((uint64_t)pages / PAGE_BYTES) + i;
	TRY(virtq_request(&balloon, &balloon.queues[queue], &buf, 1, 0, &written));
	if (written != 0)
		return fail("the balloon has written %u bytes", written);
	return true;
}

/* The device keeps the statistics buffer until the host asks; the first ones are just handed over.
 */
static void give_stats(void)
{
	struct virtq *q = &balloon.queues[2];
	struct vbuf buf = { stats, sizeof(stats) };

	stats[0] = (struct balloon_stat){ STAT_FREE, 12345 * PAGE_BYTES };
	stats[1] = (struct balloon_stat){ STAT_TOTAL, memory_end() };
	(void)virtq_add(&balloon, q, &buf, 1, 0);
	virtq_kick(&balloon, q);
}

static bool balloon_start(void)
{
	TRY(virtio_find(VIRTIO_BALLOON, 0, &balloon));
	TRY(virtio_begin(&balloon,
	                 RING_FEATURES | 1 << BALLOON_F_STATS | 1 << BALLOON_F_REPORTING));
	for (unsigned i = 0; i < 2u + virtio_has(&balloon, BALLOON_F_STATS); i++)
		TRY(virtio_queue(&balloon, i, VIRTQ_MAX));
	if (virtio_has(&balloon, BALLOON_F_REPORTING))
		TRY(virtio_queue(&balloon, 2 + virtio_has(&balloon, BALLOON_F_STATS), VIRTQ_MAX));
	virtio_go(&balloon);
	print("balloon: features 0x%lx target %u actual %u\n", balloon.features,
	      mmio_read32(balloon.config + BALLOON_TARGET),
	      mmio_read32(balloon.config + BALLOON_ACTUAL));
	if (virtio_has(&balloon, BALLOON_F_STATS))
		give_stats();
	return true;
}

/* Free pages that are only told of: their contents may be gone afterwards, they stay usable. */
static bool report_free(uint8_t *pages)
{
	struct virtq *q = &balloon.queues[2 + virtio_has(&balloon, BALLOON_F_STATS)];
	struct vbuf buf = { pages, PAGES * PAGE_BYTES };
	uint32_t written;

	if (!virtio_has(&balloon, BALLOON_F_REPORTING))
		return true;
	TRY(virtq_request(&balloon, q, &buf, 0, 1, &written));
	for (unsigned i = 0; i < PAGES; i++)
		pages[i * PAGE_BYTES] = (uint8_t)i;
	for (unsigned i = 0; i < PAGES; i++)
		CHECK(pages[i * PAGE_BYTES] == (uint8_t)i);
	return true;
}

/* Gives pages up, takes them back and uses them; with follow=1 then obeys the host until the line
 * "end" comes. */
static bool follow_target(uint8_t *pages)
{
	uint32_t actual = 0, target;
	char line[16] = "";
	size_t n = 0;
	int c;

	print("balloon: following\n");
	while (strcmp(line, "end") != 0) {
		target = mmio_read32(balloon.config + BALLOON_TARGET);
		if (target / PAGES != actual / PAGES) {
			bool more = target > actual;
			uint32_t at = more ? actual : actual - PAGES;

			TRY(move_pages(more ? 0 : 1, pages + (uint64_t)at * PAGE_BYTES));
			actual = more ? actual + PAGES : actual - PAGES;
			mmio_write32(balloon.config + BALLOON_ACTUAL, actual);
			if (target / PAGES == actual / PAGES)
				print("balloon: actual %u\n", actual);
			continue;
		}
		while ((c = console_getc()) >= 0)
			if (c == '\n' || c == '\r')
				line[n] = '\0', n = 0;
			else if (n + 1 < sizeof(line))
				line[n++] = (char)c;
		sleep_us(1000);
	}
	return true;
}

bool test_balloon(void)
{
	uint8_t *pages;

	TRY(balloon_start());
	pages = pages_alloc(PAGES * PAGE_BYTES);
	for (int round = 0; round < 2; round++) {
		TRY(move_pages(0, pages));
		mmio_write32(balloon.config + BALLOON_ACTUAL, PAGES);
		CHECK(mmio_read32(balloon.config + BALLOON_ACTUAL) == PAGES);
		TRY(move_pages(1, pages));
		mmio_write32(balloon.config + BALLOON_ACTUAL, 0);
		memset(pages, 0x5A + round, PAGES * PAGE_BYTES);
		for (unsigned i = 0; i < PAGES * PAGE_BYTES; i += 512)
			CHECK(pages[i] == 0x5A + round);
	}
	TRY(report_free(pages));
	if (option("follow"))
		TRY(follow_target((uint8_t *)((pages_next() + MIB) & ~(MIB - 1))));
	return virtio_reset(&balloon);
}
