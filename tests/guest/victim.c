/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "victim.h"

#include "blk.h"
#include "lib/guest.h"
#include "lib/irq.h"

#define RING_FEATURES (1ull << VIRTIO_F_INDIRECT | 1ull << VIRTIO_F_EVENT_IDX)
#define GUARD_BYTES   PAGE_BYTES
#define GUARD         0x5C
#define STRICT_US     5000000
#define LENIENT_US    30000
#define PASSIVE_US    3000
#define SEED          0x2545F4914F6CDD1Dull

static const struct victim_kind kinds[] = {
	{ VIRTIO_BLOCK, "blk", 1ull << BLK_F_FLUSH, 0, true, true, 1 },
	{ VIRTIO_RNG, "rng", 0, 0, true, true, 1 },
	{ VIRTIO_NET, "net-tx", 0, 1, false, true, 2 },
	{ VIRTIO_NET, "net-rx", 0, 0, true, false, 2 },
	{ VIRTIO_CONSOLE, "console-tx", 0, 1, false, true, 2 },
	{ VIRTIO_CONSOLE, "console-rx", 0, 0, true, false, 2 },
	{ VIRTIO_BALLOON, "balloon", 0, 0, false, true, 2 },
};

static uint8_t *buffer;

uint8_t *victim_buffer(void)
{
	if (!buffer) {
		uint8_t *p = pages_alloc(BUFFER_BYTES + 2 * GUARD_BYTES);

		memset(p, GUARD, GUARD_BYTES);
		memset(p + GUARD_BYTES + BUFFER_BYTES, GUARD, GUARD_BYTES);
		buffer = p + GUARD_BYTES;
	}
	return memset(buffer, 0, BUFFER_BYTES);
}

static bool guards_are_whole(void)
{
	const uint64_t *low = (const void *)(buffer - GUARD_BYTES);
	const uint64_t *high = (const void *)(buffer + BUFFER_BYTES);

	for (unsigned i = 0; i < GUARD_BYTES / 8; i++)
		if (low[i] != GUARD * 0x0101010101010101ull ||
		    high[i] != GUARD * 0x0101010101010101ull)
			return fail("the device has written beside its buffer");
	return true;
}

struct virtq *victim_queue(struct victim *v)
{
	return &v->v.queues[v->kind->queue];
}

bool victim_start(struct victim *v)
{
	TRY(virtio_begin(&v->v, RING_FEATURES | v->kind->features));
	for (unsigned i = 0; i < v->kind->n_queues; i++)
		TRY(virtio_queue(&v->v, i, VIRTQ_MAX));
	virtio_go(&v->v);
	return true;
}

/* An honest request; NULL data means that the queue is not one to wait for. */
static bool ask(struct victim *v)
{
	static struct blk_header header;
	static uint8_t status;
	uint8_t *data = victim_buffer();
	unsigned queue = v->kind->type == VIRTIO_NET || v->kind->type == VIRTIO_CONSOLE;
	struct vbuf bufs[3] = { { data, 64 } };
	unsigned n_out = 1, n_in = 0;
	uint32_t written;

	switch (v->kind->type) {
	case VIRTIO_BLOCK:
		header = (struct blk_header){ .type = BLK_IN };
		status = BLK_NOTHING;
		bufs[0] = (struct vbuf){ &header, sizeof(header) };
		bufs[1] = (struct vbuf){ data, SECTOR };
		bufs[2] = (struct vbuf){ &status, 1 };
		n_in = 2;
		break;
	case VIRTIO_RNG:
		n_out = 0;
		n_in = 1;
		break;
	case VIRTIO_NET:
		bufs[0].len = 12 + 60;
		break;
	case VIRTIO_BALLOON:
		*(uint32_t *)(void *)data = (uint32_t)((uint64_t)data / PAGE_BYTES + 1);
		bufs[0].len = 4;
		queue = 1; /* taking back what was never given is harmless */
		break;
	default:
		memcpy(data, "honest\n", 7);
		bufs[0].len = 7;
		break;
	}
	TRY(virtq_request(&v->v, &v->v.queues[queue], bufs, n_out, n_in, &written));
	if (v->kind->type == VIRTIO_BLOCK && status != BLK_OK)
		return fail("reading the first sector: status %u", status);
	return true;
}

bool victim_works(struct victim *v)
{
	TRY(victim_start(v));
	TRY(ask(v));
	TRY(virtio_reset(&v->v));
	return guards_are_whole();
}

struct expectation {
	struct victim *v;
	uint16_t used_before;
};

static enum outcome outcome_now(const struct expectation *e)
{
	if (virtio_status(&e->v->v) & VIRTIO_NEEDS_RESET)
		return OUTCOME_NEEDS_RESET;
	return victim_queue(e->v)->used[1] != e->used_before ? OUTCOME_ANSWERED : OUTCOME_SILENT;
}

static bool has_outcome(void *arg)
{
	return outcome_now(arg) != OUTCOME_SILENT;
}

enum outcome victim_outcome(struct victim *v, uint16_t used_before)
{
	struct expectation e = { v, used_before };

	(void)wait_for(has_outcome, &e,
	               !v->kind->answers  ? PASSIVE_US
	               : option("strict") ? STRICT_US
	                                  : LENIENT_US);
	return outcome_now(&e);
}

const char *outcome_name(enum outcome o)
{
	static const char *const names[] = {
		[OUTCOME_SILENT] = "silent",
		[OUTCOME_ANSWERED] = "answered",
		[OUTCOME_NEEDS_RESET] = "needs reset",
	};

	return names[o];
}

bool for_victims(bool (*abuse)(struct victim *v))
{
	static struct victim v;
	const char *only = option("dev");
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (only && strcmp(only, kinds[i].name) != 0)
			continue;
		for (unsigned nth = 0; virtio_exists(kinds[i].type, nth); nth++, n++) {
			v.kind = &kinds[i];
			v.nth = nth;
			TRY(virtio_find(kinds[i].type, nth, &v.v));
			TRY(abuse(&v));
		}
	}
	return n > 0 || fail("there is no device to abuse");
}

uint64_t ram_top(void)
{
	size_t n;
	const struct memory_range *map = memory_map(&n);
	uint64_t top = 0;

	for (size_t i = 0; i < n; i++)
		if (map[i].type == 1 && map[i].address < 4 * GIB &&
		    map[i].address + map[i].bytes > top)
			top = map[i].address + map[i].bytes;
	for (size_t i = 0; i < n; i++)
		if (map[i].address == top) {
			top += map[i].bytes;
			i = (size_t)-1;
		}
	return top;
}

uint64_t random_next(void)
{
	static uint64_t state;

	if (!state)
		state = option_number("seed", SEED);
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

void put_desc(struct virtq *q, unsigned i, uint64_t address, uint32_t len, unsigned flags,
              unsigned next)
{
	q->desc[i].address = address;
	q->desc[i].len = len;
	q->desc[i].flags = (uint16_t)flags;
	q->desc[i].next = (uint16_t)next;
}
