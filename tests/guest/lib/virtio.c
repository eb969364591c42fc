/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "virtio.h"

#include "guest.h"
#include "irq.h"

#define VENDOR_VIRTIO  0x1AF4
#define DEVICE_MODERN  0x1040
#define CAP_COMMON     1
#define CAP_NOTIFY     2
#define CAP_ISR        3
#define CAP_DEVICE     4
#define CAP_BAR        4
#define CAP_OFFSET     8
#define CAP_LENGTH     12
#define CAP_MULTIPLIER 16
#define WAIT_US        10000000

static bool find_function(uint16_t type, unsigned nth, pci_fn *ret)
{
	for (unsigned fn = 0; pci_next(&fn); fn++)
		if (pci_read((pci_fn)fn, PCI_VENDOR, 4) ==
		            ((uint32_t)(DEVICE_MODERN + type) << 16 | VENDOR_VIRTIO) &&
		    nth-- == 0) {
			*ret = (pci_fn)fn;
			return true;
		}
	return false;
}

bool virtio_exists(uint16_t type, unsigned nth)
{
	pci_fn fn;

	return find_function(type, nth, &fn);
}

static void read_capability(struct virtio *v, unsigned cap)
{
	unsigned bar = pci_read(v->fn, cap + CAP_BAR, 1);
	uint32_t len = pci_read(v->fn, cap + CAP_LENGTH, 4);
	uint64_t a;

	if (bar >= PCI_BARS)
		return;
	a = pci_bar(v->fn, bar).address + pci_read(v->fn, cap + CAP_OFFSET, 4);
	switch (pci_read(v->fn, cap + 3, 1)) {
	case CAP_COMMON:
		v->common = a;
		break;
	case CAP_NOTIFY:
		v->notify = a;
		v->notify_len = len;
		v->notify_multiplier = pci_read(v->fn, cap + CAP_MULTIPLIER, 4);
		break;
	case CAP_ISR:
		v->isr = a;
		break;
	case CAP_DEVICE:
		v->config = a;
		v->config_len = len;
		break;
	default:
		return;
	}
	memory_map_range(a, len);
}

bool virtio_find(uint16_t type, unsigned nth, struct virtio *v)
{
	memset(v, 0, sizeof(*v));
	v->type = type;
	if (!find_function(type, nth, &v->fn))
		return fail("there is no virtio device %u of type %u", nth, type);
	pci_enable(v->fn);
	for (unsigned cap = 0; (cap = pci_capability(v->fn, PCI_CAP_VENDOR, cap));)
		read_capability(v, cap);
	if (!v->common || !v->notify || !v->isr)
		return fail("virtio device %u of type %u lacks a capability", nth, type);
	v->n_vectors = pci_msix_enable(v->fn, &v->msix);
	if (v->n_vectors == 0 && !option("poll"))
		return fail("virtio device %u of type %u has no MSI-X", nth, type);
	v->n_queues = mmio_read16(v->common + COMMON_NUM_QUEUES);
	return true;
}

uint8_t virtio_status(const struct virtio *v)
{
	return mmio_read8(v->common + COMMON_STATUS);
}

static void set_status(struct virtio *v, uint8_t status)
{
	mmio_write8(v->common + COMMON_STATUS, status);
}

static bool is_reset(void *arg)
{
	return virtio_status(arg) == 0;
}

bool virtio_reset(struct virtio *v)
{
	set_status(v, 0);
	if (!wait_for(is_reset, v, WAIT_US))
		return fail("the reset of the device does not end, status 0x%x", virtio_status(v));
	return true;
}

uint64_t virtio_offered(struct virtio *v)
{
	uint64_t f;

	mmio_write32(v->common + COMMON_DEVICE_FEATURE_SELECT, 0);
	f = mmio_read32(v->common + COMMON_DEVICE_FEATURE);
	mmio_write32(v->common + COMMON_DEVICE_FEATURE_SELECT, 1);
	return f | (uint64_t)mmio_read32(v->common + COMMON_DEVICE_FEATURE) << 32;
}

bool virtio_begin(struct virtio *v, uint64_t wanted)
{
	uint64_t offered;

	TRY(virtio_reset(v));
	set_status(v, VIRTIO_ACKNOWLEDGE);
	set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	offered = virtio_offered(v);
	if (!(offered >> VIRTIO_F_VERSION_1 & 1))
		return fail("the device is not of version 1, features 0x%lx", offered);
	v->features = offered & (wanted | 1ull << VIRTIO_F_VERSION_1);
	v->indirect = virtio_has(v, VIRTIO_F_INDIRECT);
	for (uint32_t i = 0; i < 2; i++) {
		mmio_write32(v->common + COMMON_DRIVER_FEATURE_SELECT, i);
		mmio_write32(v->common + COMMON_DRIVER_FEATURE, (uint32_t)(v->features >> 32 * i));
	}
	set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	if (!(virtio_status(v) & VIRTIO_FEATURES_OK))
		return fail("the device refuses its own features 0x%lx", v->features);
	if (v->n_vectors == 0)
		return true;
	if (!v->config_vector)
		v->config_vector = irq_vector_new();
	pci_msix_set(v->msix, 0, v->config_vector);
	mmio_write16(v->common + COMMON_MSIX_CONFIG, 0);
	return true;
}

/* Queue n has vector n + 1 as long as there are so many; the last one serves the rest. */
static bool set_queue_vector(struct virtio *v, struct virtq *q)
{
	unsigned entry = q->index + 1 < v->n_vectors ? q->index + 1 : v->n_vectors - 1;

	if (v->n_vectors == 0)
		return true;
	if (entry == 0)
		q->vector = v->config_vector;
	else if (!q->vector)
		q->vector = irq_vector_new();
	for (unsigned i = 0; entry > 0 && i < q->index; i++)
		if (i + 1 >= entry && v->queues[i].vector)
			q->vector = v->queues[i].vector;
	pci_msix_set(v->msix, entry, q->vector);
	mmio_write16(v->common + COMMON_QUEUE_VECTOR, (uint16_t)entry);
	if (mmio_read16(v->common + COMMON_QUEUE_VECTOR) != entry)
		return fail("the device has no vector %u for queue %u", entry, q->index);
	return true;
}

static void clear_rings(struct virtq *q)
{
	uint16_t size = q->size;

	memset((void *)(uint64_t)q->desc, 0, size * sizeof(*q->desc));
	memset((void *)(uint64_t)q->avail, 0, 6u + 2u * size);
	memset((void *)(uint64_t)q->used, 0, 6u + 8u * size);
	for (uint16_t i = 0; i < size; i++)
		q->desc[i].next = (uint16_t)(i + 1);
	q->n_free = size;
	q->free_head = q->last_used = q->next_avail = 0;
	q->seen_interrupts = irq_count(q->vector);
}

bool virtio_queue(struct virtio *v, unsigned index, uint16_t max)
{
	struct virtq *q = &v->queues[index];
	uint16_t size;

	if (index >= v->n_queues || index >= VIRTIO_QUEUES)
		return fail("the device has %u queues, not %u", v->n_queues, index + 1);
	mmio_write16(v->common + COMMON_QUEUE_SELECT, (uint16_t)index);
	size = mmio_read16(v->common + COMMON_QUEUE_SIZE);
	if (size == 0 || (size & (size - 1)))
		return fail("queue %u has size %u", index, size);
	size = size > VIRTQ_MAX ? VIRTQ_MAX : size;
	if (!q->desc) {
		q->desc = pages_alloc(VIRTQ_MAX * sizeof(*q->desc));
		q->avail = pages_alloc(6 + 2 * VIRTQ_MAX);
		q->used = pages_alloc(6 + 8 * VIRTQ_MAX);
		q->tables = pages_alloc(VIRTQ_MAX * VIRTQ_TABLE * sizeof(*q->tables));
	}
	q->index = index;
	q->size = size > max ? max : size;
	mmio_write16(v->common + COMMON_QUEUE_SIZE, q->size);
	TRY(set_queue_vector(v, q));
	clear_rings(q);
	mmio_write64(v->common + COMMON_QUEUE_DESC, (uint64_t)q->desc);
	mmio_write64(v->common + COMMON_QUEUE_DRIVER, (uint64_t)q->avail);
	mmio_write64(v->common + COMMON_QUEUE_DEVICE, (uint64_t)q->used);
	q->notify = v->notify + (uint64_t)mmio_read16(v->common + COMMON_QUEUE_NOTIFY_OFF) *
	                                v->notify_multiplier;
	mmio_write16(v->common + COMMON_QUEUE_ENABLE, 1);
	if (mmio_read16(v->common + COMMON_QUEUE_ENABLE) != 1)
		return fail("queue %u cannot be enabled", index);
	return true;
}

void virtio_go(struct virtio *v)
{
	set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

static void fill(volatile struct virtq_desc *d, const struct vbuf *b, bool write, bool next)
{
	d->address = (uint64_t)b->data;
	d->len = b->len;
	d->flags = (uint16_t)((write ? DESC_WRITE : 0) | (next ? DESC_NEXT : 0));
}

static uint16_t take_free(struct virtq *q)
{
	uint16_t d = q->free_head;

	q->free_head = q->desc[d].next;
	q->n_free--;
	return d;
}

static uint16_t add_indirect(struct virtq *q, const struct vbuf *bufs, unsigned n_out, unsigned n)
{
	uint16_t head = take_free(q);
	struct virtq_desc *table = q->tables + (size_t)head * VIRTQ_TABLE;

	for (unsigned i = 0; i < n; i++) {
		fill(&table[i], &bufs[i], i >= n_out, i + 1 < n);
		table[i].next = (uint16_t)(i + 1);
	}
	q->desc[head].address = (uint64_t)table;
	q->desc[head].len = n * (uint32_t)sizeof(*table);
	q->desc[head].flags = DESC_INDIRECT;
	return head;
}

int virtq_add(struct virtio *v, struct virtq *q, const struct vbuf *bufs, unsigned n_out,
              unsigned n_in)
{
	unsigned n = n_out + n_in;
	uint16_t head, d;

	if (v->indirect && n > 1 && n <= VIRTQ_TABLE) {
		if (q->n_free == 0)
			return -1;
		head = add_indirect(q, bufs, n_out, n);
	} else {
		if (n == 0 || q->n_free < n)
			return -1;
		head = q->free_head;
		for (unsigned i = 0; i < n; i++) {
			d = take_free(q);
			fill(&q->desc[d], &bufs[i], i >= n_out, i + 1 < n);
		}
	}
	q->avail[2 + q->next_avail % q->size] = head;
	q->next_avail++;
	return head;
}

void virtq_ring(const struct virtq *q)
{
	mmio_write16(q->notify, (uint16_t)q->index);
}

void virtq_kick(struct virtio *v, struct virtq *q)
{
	uint16_t old = q->avail[1], event;
	bool wanted;

	/* Pairs with the device's load of the index: what the index covers is written before. */
	__atomic_store_n(&q->avail[1], q->next_avail, __ATOMIC_RELEASE);
	/* The index is visible before the device's wish is looked at. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (virtio_has(v, VIRTIO_F_EVENT_IDX)) {
		event = q->used[2 + 4 * q->size];
		wanted = (uint16_t)(q->next_avail - event - 1) < (uint16_t)(q->next_avail - old);
	} else {
		wanted = !(q->used[0] & 1);
	}
	if (wanted)
		virtq_ring(q);
}

void virtq_publish(struct virtq *q, uint16_t head)
{
	q->avail[2 + q->next_avail % q->size] = head;
	q->next_avail++;
	__atomic_store_n(&q->avail[1], q->next_avail, __ATOMIC_RELEASE);
	virtq_ring(q);
}

static void give_back(struct virtq *q, uint16_t head)
{
	uint16_t d = head;
	uint16_t n = 1;

	while ((q->desc[d].flags & DESC_NEXT) && n < q->size) {
		d = q->desc[d].next;
		n++;
	}
	q->desc[d].next = q->free_head;
	q->free_head = head;
	q->n_free = (uint16_t)(q->n_free + n);
}

bool virtq_take(struct virtio *v, struct virtq *q, uint16_t *ret_head, uint32_t *ret_len)
{
	volatile uint32_t *element;

	if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) == q->last_used)
		return false;
	element = (volatile uint32_t *)(q->used + 2) + 2 * (q->last_used % q->size);
	*ret_head = (uint16_t)element[0];
	*ret_len = element[1];
	q->last_used++;
	/* Ask for an interrupt of the next one. Who then waits looks at the ring once more. */
	if (virtio_has(v, VIRTIO_F_EVENT_IDX)) {
		q->avail[2 + q->size] = q->last_used;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
	if (*ret_head < q->size)
		give_back(q, *ret_head);
	return true;
}

struct waiting {
	struct virtio *v;
	struct virtq *q;
	uint16_t head;
	uint32_t len;
};

static bool has_one(void *arg)
{
	struct waiting *w = arg;

	return virtq_take(w->v, w->q, &w->head, &w->len);
}

static bool has_interrupt(void *arg)
{
	const struct virtq *q = arg;

	return irq_count(q->vector) != q->seen_interrupts;
}

bool virtq_wait(struct virtio *v, struct virtq *q, uint16_t *ret_head, uint32_t *ret_len)
{
	struct waiting w = { .v = v, .q = q };

	if (!wait_for(has_one, &w, WAIT_US))
		return fail("queue %u: no answer, status 0x%x", q->index, virtio_status(v));
	*ret_head = w.head;
	*ret_len = w.len;
	return true;
}

/* The interrupt is part of the answer: a driver that sleeps until it comes must be woken. */
bool virtq_request(struct virtio *v, struct virtq *q, const struct vbuf *bufs, unsigned n_out,
                   unsigned n_in, uint32_t *ret_len)
{
	int head;
	uint16_t got;

	q->seen_interrupts = irq_count(q->vector);
	head = virtq_add(v, q, bufs, n_out, n_in);
	if (head < 0)
		return fail("queue %u is full", q->index);
	virtq_kick(v, q);
	TRY(virtq_wait(v, q, &got, ret_len));
	if (got != head)
		return fail("queue %u: chain %u came back, not %d", q->index, got, head);
	if (v->n_vectors > 0 && !wait_for(has_interrupt, q, WAIT_US))
		return fail("queue %u: an answer, but no interrupt", q->index);
	return true;
}
