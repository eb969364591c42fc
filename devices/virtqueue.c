/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/virtqueue.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"

/*
 * Theory of operation
 *
 * The guest's vCPUs write to all three areas while we read them. So nothing here reads a field
 * twice, every field is read by one relaxed or acquire load of its own width (alignment is checked
 * when the queue is enabled), and what is decided upon lies in our memory. Each release and acquire
 * names its partner in the guest's driver below.
 *
 * Work per pop is bounded: the main table gives at most `size` steps, an indirect table at most
 * VIRTQUEUE_MAX_SIZE more, and a chain holds at most one indirect table, as its last descriptor.
 *
 * slots[] remembers which heads are in flight and how much may be written to each. So a guest that
 * offers a head twice is found out, and a device that completes one twice, or more than it was
 * given, runs into an assertion.
 */

struct virtq_slot {
	uint32_t in_bytes;
	bool in_flight;
};

/* Offsets in the available and used areas (virtio 1.2, 2.7.6 and 2.7.8). */
enum {
	AREA_FLAGS = 0,
	AREA_IDX = 2,
	AREA_RING = 4,
	DESC_BYTES = 16,
	AVAIL_ENTRY = 2,
	USED_ENTRY = 8
};

static uint64_t avail_bytes(uint16_t size)
{
	return AREA_RING + (uint64_t)AVAIL_ENTRY * size + sizeof(uint16_t);
}

static uint64_t used_bytes(uint16_t size)
{
	return AREA_RING + (uint64_t)USED_ENTRY * size + sizeof(uint16_t);
}

static uint16_t load16(const uint8_t *at, memory_order order)
{
	return le16toh(atomic_load_explicit((const _Atomic uint16_t *)(const void *)at, order));
}

static void store16(uint8_t *at, uint16_t v, memory_order order)
{
	atomic_store_explicit((_Atomic uint16_t *)(void *)at, htole16(v), order);
}

static uint32_t load32(const uint8_t *at)
{
	return le32toh(atomic_load_explicit((const _Atomic uint32_t *)(const void *)at,
	                                    memory_order_relaxed));
}

static void store32(uint8_t *at, uint32_t v)
{
	atomic_store_explicit((_Atomic uint32_t *)(void *)at, htole32(v), memory_order_relaxed);
}

static uint64_t load64(const uint8_t *at)
{
	return le64toh(atomic_load_explicit((const _Atomic uint64_t *)(const void *)at,
	                                    memory_order_relaxed));
}

static int make_broken(struct virtqueue *vq, const char *why)
{
	if (!vq->broken)
		vq->why_broken = why;
	vq->broken = true;
	return -EBADMSG;
}

/* The areas never move and RAM never goes while a queue is enabled, so these resolve. */
static uint8_t *avail_area(const struct virtqueue *vq)
{
	return guestmem_at(vq->mem, vq->avail, avail_bytes(vq->size));
}

static uint8_t *used_area(const struct virtqueue *vq)
{
	return guestmem_at(vq->mem, vq->used, used_bytes(vq->size));
}

static bool area_is_valid(const struct guestmem *mem, gpa_t gpa, uint64_t len, unsigned align)
{
	return gpa.v % align == 0 && guestmem_at(mem, gpa, len);
}

static bool overlap(gpa_t a, uint64_t a_bytes, gpa_t b, uint64_t b_bytes)
{
	return a.v < b.v + b_bytes && b.v < a.v + a_bytes;
}

/* Areas on top of each other would have us write what we read: a queue that feeds itself. */
static bool areas_overlap(const struct virtqueue *vq)
{
	uint64_t desc_bytes = (uint64_t)DESC_BYTES * vq->size;

	return overlap(vq->desc, desc_bytes, vq->avail, avail_bytes(vq->size)) ||
	       overlap(vq->desc, desc_bytes, vq->used, used_bytes(vq->size)) ||
	       overlap(vq->avail, avail_bytes(vq->size), vq->used, used_bytes(vq->size));
}

int virtqueue_enable(struct virtqueue *vq, const struct guestmem *mem, uint16_t max_size)
{
	struct virtq_slot *slots;

	if (vq->size == 0 || vq->size > max_size || vq->size > VIRTQUEUE_MAX_SIZE ||
	    (vq->size & (vq->size - 1)))
		return -EINVAL;
	if (!area_is_valid(mem, vq->desc, (uint64_t)DESC_BYTES * vq->size, VRING_DESC_ALIGN_SIZE) ||
	    !area_is_valid(mem, vq->avail, avail_bytes(vq->size), VRING_AVAIL_ALIGN_SIZE) ||
	    !area_is_valid(mem, vq->used, used_bytes(vq->size), VRING_USED_ALIGN_SIZE) ||
	    areas_overlap(vq))
		return -EINVAL;
	slots = calloc(vq->size, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(vq->slots);
	vq->slots = slots;
	vq->mem = mem;
	vq->last_avail = vq->next_used = vq->signalled = 0;
	vq->signalled_valid = vq->pushed = vq->broken = vq->can_unpop = false;
	vq->why_broken = NULL;
	vq->in_flight = 0;
	vq->budget = UINT32_MAX;
	vq->budget_hit = false;
	vq->enabled = true;
	return 0;
}

void virtqueue_disable(struct virtqueue *vq)
{
	free(vq->slots);
	vq->slots = NULL;
	vq->enabled = vq->event_idx = vq->indirect = false;
	vq->broken = vq->can_unpop = vq->signalled_valid = vq->pushed = false;
	vq->why_broken = NULL;
	vq->size = 0;
	vq->desc = vq->avail = vq->used = GPA(0);
	vq->last_avail = vq->next_used = vq->signalled = 0;
	vq->in_flight = 0;
}

void virtqueue_abandon(struct virtqueue *vq)
{
	if (!vq->enabled)
		return;
	(void)make_broken(vq, "the device needs a reset");
	memset(vq->slots, 0, vq->size * sizeof(*vq->slots));
	vq->in_flight = 0;
	vq->next_used = vq->last_avail;
	vq->can_unpop = false;
}

/* One descriptor, in our memory. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* Visible since the acquire of the available index in next_head(). */
static struct desc read_desc(const uint8_t *table, unsigned i)
{
	const uint8_t *at = table + (size_t)DESC_BYTES * i;
	_Alignas(uint64_t) uint8_t copy[DESC_BYTES];

	/* The standard asks for no alignment of indirect tables, atomic loads do. */
	if ((uintptr_t)at % sizeof(uint64_t)) {
		for (size_t n = 0; n < sizeof(copy); n++)
			copy[n] = ((const volatile uint8_t *)at)[n];
		at = copy;
	}
	return (struct desc){
		.addr = load64(at),
		.len = load32(at + offsetof(struct vring_desc, len)),
		.flags = load16(at + offsetof(struct vring_desc, flags), memory_order_relaxed),
		.next = load16(at + offsetof(struct vring_desc, next), memory_order_relaxed)
	};
}

/* What a walk has found so far. */
struct walk {
	struct virtqueue *vq;
	struct virtq_chain *chain;
	unsigned max_iov;
	bool writable_seen;
	uint64_t out_bytes, in_bytes;
};

static int add_buffer(struct walk *w, const struct desc *d)
{
	bool writable = d->flags & VRING_DESC_F_WRITE;
	unsigned n = w->chain->n_out + w->chain->n_in;
	void *host;

	if (w->writable_seen && !writable)
		return make_broken(w->vq, "a readable buffer after a writable one");
	w->writable_seen = writable;
	host = guestmem_at(w->vq->mem, GPA(d->addr), d->len);
	if (!host)
		return make_broken(w->vq, "a buffer outside of RAM");
	if (d->len == 0)
		return 0;
	if (n == w->max_iov)
		return make_broken(w->vq, "a chain of too many buffers");
	w->chain->iov[n] = (struct iovec){ .iov_base = host, .iov_len = d->len };
	if (writable) {
		w->chain->n_in++;
		w->in_bytes += d->len;
	} else {
		w->chain->n_out++;
		w->out_bytes += d->len;
	}
	/* At most 2048 lengths of 32 bits: the 64-bit sums cannot overflow. */
	if (w->in_bytes + w->out_bytes > UINT32_MAX)
		return make_broken(w->vq, "a chain of 4 GiB or more");
	return 0;
}

static int walk_indirect(struct walk *w, const struct desc *d)
{
	unsigned n = d->len / DESC_BYTES, i = 0;
	const uint8_t *table;

	if (!w->vq->indirect)
		return make_broken(w->vq, "an indirect table that was not negotiated");
	if (d->flags & VRING_DESC_F_NEXT)
		return make_broken(w->vq, "an indirect table that is not the last");
	if (d->len == 0 || d->len % DESC_BYTES || n > VIRTQUEUE_MAX_SIZE)
		return make_broken(w->vq, "an indirect table of a bad length");
	table = guestmem_at(w->vq->mem, GPA(d->addr), d->len);
	if (!table)
		return make_broken(w->vq, "an indirect table outside of RAM");
	for (unsigned steps = 0; steps < n; steps++) {
		struct desc e = read_desc(table, i);

		if (e.flags & VRING_DESC_F_INDIRECT)
			return make_broken(w->vq, "an indirect table in an indirect one");
		if (add_buffer(w, &e) < 0)
			return -EBADMSG;
		if (!(e.flags & VRING_DESC_F_NEXT))
			return 0;
		i = e.next;
		if (i >= n)
			return make_broken(w->vq, "a descriptor outside of its table");
	}
	return make_broken(w->vq, "a loop of descriptors");
}

static int walk_chain(struct walk *w, uint16_t head)
{
	struct virtqueue *vq = w->vq;
	const uint8_t *table = guestmem_at(vq->mem, vq->desc, (uint64_t)DESC_BYTES * vq->size);
	uint16_t i = head;

	for (unsigned steps = 0; steps < vq->size; steps++) {
		struct desc d = read_desc(table, i);

		if (d.flags & VRING_DESC_F_INDIRECT)
			return walk_indirect(w, &d);
		if (add_buffer(w, &d) < 0)
			return -EBADMSG;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		i = d.next;
		if (i >= vq->size)
			return make_broken(vq, "a descriptor outside of its table");
	}
	return make_broken(vq, "a loop of descriptors");
}

/* 1 and the head of the next chain, 0 when there is none, -EBADMSG. */
static int next_head(struct virtqueue *vq, uint16_t *ret)
{
	const uint8_t *avail = avail_area(vq);
	/* Pairs with the driver's write barrier between filling descriptors and ring and its store
	 * of idx: with the new idx we see all that it stands for. */
	uint16_t idx = load16(avail + AREA_IDX, memory_order_acquire);
	uint16_t n = (uint16_t)(idx - vq->last_avail);

	if (n == 0)
		return 0;
	if (n > vq->size)
		return make_broken(vq, "an available index that jumps");
	if (vq->in_flight >= vq->size)
		return make_broken(vq, "more chains than the ring has");
	*ret = load16(avail + AREA_RING + (size_t)AVAIL_ENTRY * (vq->last_avail & (vq->size - 1u)),
	              memory_order_relaxed);
	if (*ret >= vq->size)
		return make_broken(vq, "a head outside of the ring");
	if (vq->slots[*ret].in_flight)
		return make_broken(vq, "a chain that is in flight already");
	return 1;
}

int virtqueue_pop(struct virtqueue *vq, struct virtq_chain *chain, struct iovec *iov,
                  unsigned max_iov)
{
	struct walk w = { .vq = vq, .chain = chain, .max_iov = max_iov };
	uint16_t head;
	int r;

	if (vq->broken)
		return -EBADMSG;
	if (!vq->enabled)
		return 0;
	r = next_head(vq, &head);
	if (r <= 0)
		return r;
	if (vq->budget == 0) {
		vq->budget_hit = true;
		return 0;
	}
	*chain = (struct virtq_chain){ .head = head, .iov = iov };
	if (walk_chain(&w, head) < 0)
		return -EBADMSG;
	chain->out_bytes = (uint32_t)w.out_bytes;
	chain->in_bytes = (uint32_t)w.in_bytes;
	vq->slots[head] = (struct virtq_slot){ .in_bytes = chain->in_bytes, .in_flight = true };
	vq->in_flight++;
	vq->budget -= vq->budget != UINT32_MAX;
	vq->last_avail++;
	vq->last_head = head;
	vq->can_unpop = true;
	return 1;
}

/* Takes a head out of flight; a wrong one is a defect of the device model. */
static uint32_t land(struct virtqueue *vq, uint16_t head)
{
	assert(vq->enabled && head < vq->size && vq->slots[head].in_flight && vq->in_flight);
	vq->slots[head].in_flight = false;
	vq->in_flight--;
	return vq->slots[head].in_bytes;
}

/* One entry of the used ring, not yet visible. */
static void fill_used(struct virtqueue *vq, uint8_t *used, const struct virtq_used *u)
{
	uint8_t *entry = used + AREA_RING + (size_t)USED_ENTRY * (vq->next_used & (vq->size - 1u));
	uint32_t in_bytes = land(vq, u->head);

	assert(u->written <= in_bytes);
	store32(entry, u->head);
	store32(entry + sizeof(uint32_t), u->written);
	vq->next_used++;
	vq->pushed = true;
	/* A whole turn of the index since the last flush: it can no longer be compared. */
	if (vq->next_used == vq->signalled)
		vq->signalled_valid = false;
	if (u->head == vq->last_head)
		vq->can_unpop = false;
}

void virtqueue_push_many(struct virtqueue *vq, const struct virtq_used *chains, unsigned n)
{
	uint8_t *used = used_area(vq);

	for (unsigned i = 0; i < n; i++)
		fill_used(vq, used, &chains[i]);
	/* Pairs with the driver's read barrier after it loads idx: it then sees the entries, and
	 * what was written to the buffers. */
	store16(used + AREA_IDX, vq->next_used, memory_order_release);
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
	struct virtq_used u = { .head = head, .written = written };

	virtqueue_push_many(vq, &u, 1);
}

void virtqueue_unpop_head(struct virtqueue *vq, uint16_t head)
{
	(void)land(vq, head);
	vq->last_avail--;
	vq->can_unpop = false;
}

void virtqueue_unpop(struct virtqueue *vq)
{
	assert(vq->can_unpop);
	virtqueue_unpop_head(vq, vq->last_head);
}

/* Does the driver want to hear of the used entries [old, next_used)? */
static bool wants_interrupt(const struct virtqueue *vq, uint16_t old, bool old_valid)
{
	const uint8_t *avail = avail_area(vq);

	if (!vq->event_idx)
		return !(load16(avail + AREA_FLAGS, memory_order_relaxed) &
		         VRING_AVAIL_F_NO_INTERRUPT);
	if (!old_valid)
		return true;
	return vring_need_event(
		load16(avail + AREA_RING + (size_t)AVAIL_ENTRY * vq->size, memory_order_relaxed),
		vq->next_used, old);
}

void virtqueue_flush(struct virtqueue *vq)
{
	uint16_t old = vq->signalled;
	bool old_valid = vq->signalled_valid;

	if (!vq->enabled || !vq->pushed)
		return;
	vq->pushed = false;
	/* Pairs with the driver's full barrier between storing used_event (or clearing
	 * NO_INTERRUPT) and looking at the used index again: either it sees our entries, or we see
	 * that it wants to be told. */
	atomic_thread_fence(memory_order_seq_cst);
	vq->signalled = vq->next_used;
	vq->signalled_valid = true;
	if (wants_interrupt(vq, old, old_valid) && vq->interrupt)
		vq->interrupt(vq);
}

bool virtqueue_enable_kicks(struct virtqueue *vq)
{
	uint8_t *used;

	if (!vq->enabled || vq->broken || vq->budget_hit)
		return false;
	used = used_area(vq);
	if (vq->event_idx)
		store16(used + AREA_RING + (size_t)USED_ENTRY * vq->size, vq->last_avail,
		        memory_order_relaxed);
	else
		store16(used + AREA_FLAGS, 0, memory_order_relaxed);
	/* Pairs with the driver's full barrier between storing the available index and reading
	 * avail_event or flags: either it kicks, or we see the new index. */
	atomic_thread_fence(memory_order_seq_cst);
	return load16(avail_area(vq) + AREA_IDX, memory_order_relaxed) != vq->last_avail;
}

void virtqueue_disable_kicks(struct virtqueue *vq)
{
	/* With event index, the driver kicks only when it passes avail_event, which stays behind.
	 */
	if (vq->enabled && !vq->event_idx)
		store16(used_area(vq) + AREA_FLAGS, VRING_USED_F_NO_NOTIFY, memory_order_relaxed);
}

void virtqueue_save(const struct virtqueue *vq, struct state_out *o)
{
	/* Nothing is in flight, so both indexes are the same: there is one source for it. */
	assert(!vq->enabled || (vq->in_flight == 0 && vq->last_avail == vq->next_used));
	state_put_u8(o, vq->enabled);
	state_put_u16(o, vq->size);
	state_put_u64(o, vq->desc.v);
	state_put_u64(o, vq->avail.v);
	state_put_u64(o, vq->used.v);
	state_put_u16(o, vq->last_avail);
}

int virtqueue_load(struct virtqueue *vq, struct state_section *s, const struct guestmem *mem,
                   uint16_t max_size)
{
	uint8_t enabled = state_get_u8(s);
	uint16_t index;
	int r = 0;

	virtqueue_disable(vq);
	vq->size = state_get_u16(s);
	vq->desc = GPA(state_get_u64(s));
	vq->avail = GPA(state_get_u64(s));
	vq->used = GPA(state_get_u64(s));
	index = state_get_u16(s);
	if (s->failed || enabled > 1 || (!enabled && index))
		r = -EINVAL;
	else if (enabled)
		r = virtqueue_enable(vq, mem, max_size);
	if (r < 0) {
		virtqueue_disable(vq);
		return r;
	}
	vq->last_avail = vq->next_used = index;
	return 0;
}
