/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/guest-ram.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_BYTES 4096

void guest_ram_init(struct guest_ram *ram, size_t bytes)
{
	int fd = memfd_create("guest-ram", MFD_CLOEXEC);
	uint8_t *all =
		mmap(NULL, bytes + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert(fd >= 0 && all != MAP_FAILED && bytes % GUARD_BYTES == 0);
	assert(ftruncate(fd, (off_t)bytes) == 0);
	assert(mmap(all + GUARD_BYTES, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
	            0) != MAP_FAILED);
	*ram = (struct guest_ram){
		.memory_fd = fd, .host = all + GUARD_BYTES, .bytes = bytes, .next = 4096
	};
	ram->mem.regions[0] = (struct guestmem_region){ .bytes = bytes, .host = ram->host };
	ram->mem.n = 1;
}

void guest_ram_deinit(struct guest_ram *ram)
{
	if (!ram->host)
		return;
	munmap(ram->host - GUARD_BYTES, ram->bytes + 2 * GUARD_BYTES);
	close(ram->memory_fd);
	ram->host = NULL;
}

gpa_t guest_ram_alloc(struct guest_ram *ram, size_t bytes, size_t align)
{
	uint64_t at = (ram->next + align - 1) / align * align;

	assert(at + bytes <= ram->bytes);
	ram->next = at + bytes;
	return GPA(at);
}

void *guest_ram_at(struct guest_ram *ram, gpa_t gpa)
{
	assert(gpa.v < ram->bytes);
	return ram->host + gpa.v;
}

gpa_t guest_ram_put(struct guest_ram *ram, const void *data, size_t len)
{
	gpa_t gpa = guest_ram_alloc(ram, len, 16);

	if (data)
		memcpy(guest_ram_at(ram, gpa), data, len);
	return gpa;
}

static size_t avail_bytes(uint16_t size)
{
	return 6 + 2 * (size_t)size;
}

static size_t used_bytes(uint16_t size)
{
	return 6 + 8 * (size_t)size;
}

void driver_queue_init(struct driver_queue *q, struct guest_ram *ram, uint16_t size)
{
	*q = (struct driver_queue){ .ram = ram, .size = size };
	q->desc = guest_ram_alloc(ram, 16 * (size_t)size, VRING_DESC_ALIGN_SIZE);
	q->avail = guest_ram_alloc(ram, avail_bytes(size), VRING_AVAIL_ALIGN_SIZE);
	q->used = guest_ram_alloc(ram, used_bytes(size), VRING_USED_ALIGN_SIZE);
	memset(guest_ram_at(ram, q->desc), 0, 16 * (size_t)size);
	memset(guest_ram_at(ram, q->avail), 0, avail_bytes(size));
	memset(guest_ram_at(ram, q->used), 0, used_bytes(size));
}

static _Atomic uint16_t *word(struct driver_queue *q, gpa_t area, size_t offset)
{
	return (_Atomic uint16_t *)guest_ram_at(q->ram, GPA(area.v + offset));
}

struct vring_desc *driver_desc(struct driver_queue *q, uint16_t i)
{
	return (struct vring_desc *)guest_ram_at(q->ram, q->desc) + i;
}

uint16_t *driver_avail_entry(struct driver_queue *q, uint16_t i)
{
	return (uint16_t *)word(q, q->avail, 4 + 2 * (size_t)(i % q->size));
}

/* Atomic, as a hostile driver writes to descriptors that the device is reading. */
static void fill(struct vring_desc *d, const struct driver_buffer *b, bool more, uint16_t next)
{
	uint16_t flags =
		(uint16_t)((b->write ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0));

	__atomic_store_n(&d->addr, b->gpa.v, __ATOMIC_RELAXED);
	__atomic_store_n(&d->len, b->len, __ATOMIC_RELAXED);
	__atomic_store_n(&d->flags, flags, __ATOMIC_RELAXED);
	__atomic_store_n(&d->next, next, __ATOMIC_RELAXED);
}

static uint16_t take_desc(struct driver_queue *q)
{
	uint16_t i = q->next_desc;

	q->next_desc = (uint16_t)((i + 1) % q->size);
	return i;
}

uint16_t driver_chain(struct driver_queue *q, const struct driver_buffer *b, unsigned n)
{
	uint16_t head = q->next_desc;

	for (unsigned i = 0; i < n; i++) {
		uint16_t at = take_desc(q);

		fill(driver_desc(q, at), &b[i], i + 1 < n, q->next_desc);
	}
	return head;
}

uint16_t driver_chain_indirect(struct driver_queue *q, const struct driver_buffer *b, unsigned n)
{
	gpa_t table = guest_ram_alloc(q->ram, 16 * (size_t)n, 16);
	struct vring_desc *d = guest_ram_at(q->ram, table);
	uint16_t head = take_desc(q);

	for (unsigned i = 0; i < n; i++)
		fill(&d[i], &b[i], i + 1 < n, (uint16_t)(i + 1));
	*driver_desc(q, head) = (struct vring_desc){ .addr = table.v,
		                                     .len = 16 * n,
		                                     .flags = VRING_DESC_F_INDIRECT };
	return head;
}

void driver_set_avail_idx(struct driver_queue *q, uint16_t idx)
{
	q->avail_idx = idx;
	atomic_store_explicit(word(q, q->avail, 2), idx, memory_order_release);
}

void driver_publish(struct driver_queue *q, uint16_t head)
{
	atomic_store_explicit((_Atomic uint16_t *)driver_avail_entry(q, q->avail_idx), head,
	                      memory_order_relaxed);
	driver_set_avail_idx(q, (uint16_t)(q->avail_idx + 1));
}

uint16_t driver_add(struct driver_queue *q, const struct driver_buffer *b, unsigned n)
{
	uint16_t head = driver_chain(q, b, n);

	driver_publish(q, head);
	return head;
}

uint16_t driver_used_idx(struct driver_queue *q)
{
	return atomic_load_explicit(word(q, q->used, 2), memory_order_acquire);
}

bool driver_take_used(struct driver_queue *q, uint32_t *id, uint32_t *len)
{
	const struct vring_used_elem *e;

	if (driver_used_idx(q) == q->last_used)
		return false;
	e = guest_ram_at(q->ram, GPA(q->used.v + 4 + 8 * (size_t)(q->last_used % q->size)));
	*id = e->id;
	*len = e->len;
	q->last_used++;
	return true;
}

bool driver_should_kick(struct driver_queue *q)
{
	uint16_t old = q->kicked_idx, event;

	atomic_thread_fence(memory_order_seq_cst);
	q->kicked_idx = q->avail_idx;
	if (!q->event_idx)
		return !(atomic_load(word(q, q->used, 0)) & VRING_USED_F_NO_NOTIFY);
	event = atomic_load(word(q, q->used, 4 + 8 * (size_t)q->size));
	return vring_need_event(event, q->avail_idx, old);
}

void driver_want_interrupts(struct driver_queue *q, bool on)
{
	if (q->event_idx)
		atomic_store(word(q, q->avail, 4 + 2 * (size_t)q->size),
		             (uint16_t)(q->last_used + (on ? 0 : 0x8000)));
	else
		atomic_store(word(q, q->avail, 0), on ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
	atomic_thread_fence(memory_order_seq_cst);
}
