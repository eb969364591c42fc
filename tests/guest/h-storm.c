/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Too much, too often, and at the wrong moment. */
#include "blk.h"
#include "hostile.h"
#include "lib/end.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "victim.h"

#define IN_FLIGHT       16u
#define DATA_BYTES      2048u
#define SETTLE_US       2000
#define MARK            0x77
#define WAIT_US         10000000
#define ILLEGAL_VECTORS 15
#define MASKED_ROUNDS   10

/* Fills the queue with honest requests: the buffer's first half is headers and statuses. */
static void submit_many(struct victim *v, uint8_t *buffer)
{
	struct virtq *q = victim_queue(v);
	bool blk = v->kind->type == VIRTIO_BLOCK;

	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		struct blk_header *header = (void *)(buffer + i * 32);
		uint8_t *data = buffer + BUFFER_BYTES / 2 + i * DATA_BYTES;
		struct vbuf bufs[3] = { { header, sizeof(*header) },
			                { data, DATA_BYTES },
			                { buffer + i * 32 + 16, 1 } };

		*header = (struct blk_header){ .type = BLK_IN, .sector = i * 4 };
		if (blk)
			(void)virtq_add(&v->v, q, bufs, 1, 2);
		else
			(void)virtq_add(&v->v, q, bufs + 1, !v->kind->write, v->kind->write);
	}
	virtq_kick(&v->v, q);
}

/* Once the reset has been confirmed, the buffers are the driver's: nobody writes there any more. */
static bool reset_in_flight(struct victim *v)
{
	uint64_t rounds = option_number("rounds", 50);

	for (uint64_t round = 0; round < rounds; round++) {
		uint8_t *buffer = victim_buffer();

		TRY(victim_start(v));
		submit_many(v, buffer);
		TRY(virtio_reset(&v->v));
		memset(buffer, MARK, BUFFER_BYTES);
		if (round % 8 == 0)
			sleep_us(SETTLE_US);
		for (unsigned i = 0; i < BUFFER_BYTES; i += 64)
			if (buffer[i] != MARK)
				return fail("%s: written to at %u after its reset", v->kind->name,
				            i);
	}
	print("inflight: %s %u: %lu resets\n", v->kind->name, v->nth, rounds);
	return victim_works(v);
}

bool test_inflight(void)
{
	return for_victims(reset_in_flight);
}

static bool reset_often(struct victim *v)
{
	uint64_t n = option_number("count", 1000);

	for (uint64_t i = 0; i < n; i++) {
		if (i % 100 == 0)
			TRY(victim_start(v));
		TRY(virtio_reset(&v->v));
	}
	print("device-resets: %s %u: %lu\n", v->kind->name, v->nth, n);
	return victim_works(v);
}

/* count=N resets of each device, some of them of a running one. */
bool test_device_resets(void)
{
	return for_victims(reset_often);
}

static bool ring_often(struct victim *v)
{
	uint64_t n = option_number("count", 2000);

	TRY(victim_start(v));
	for (uint64_t i = 0; i < n; i++)
		virtq_ring(victim_queue(v));
	TRY(victim_works(v));
	/* Nor does a doorbell wake the dead. */
	for (uint64_t i = 0; i < n / 10; i++)
		virtq_ring(victim_queue(v));
	print("notify-storm: %s %u: %lu\n", v->kind->name, v->nth, n);
	return victim_works(v);
}

bool test_notify_storm(void)
{
	return for_victims(ring_often);
}

static void drain(struct victim *v)
{
	uint16_t head;
	uint32_t len;

	while (virtq_take(&v->v, victim_queue(v), &head, &len))
		;
}

static bool all_answered(void *arg)
{
	struct victim *v = arg;

	drain(v);
	return victim_queue(v)->n_free == victim_queue(v)->size;
}

static bool interrupted(void *arg)
{
	const struct virtq *q = arg;

	return irq_count(q->vector) != q->seen_interrupts;
}

/*
 * An interrupt of a masked vector is pending, and comes when it is unmasked; not before. What was
 * sent before the mask may be on its way (PCIe 5.0, 6.1.4.6): it has reached the local APIC when a
 * read of the device is answered (2.4.1: reads push posted writes), and from there it is delivered.
 */
static bool masked_then_unmasked(struct victim *v, unsigned entry, uint8_t *buffer)
{
	struct virtq *q = victim_queue(v);

	pci_msix_mask(v->v.msix, entry, true);
	(void)mmio_read32(v->v.msix + entry * 16);
	if (!irq_settle(q->vector))
		return fail("%s: the local APIC keeps a request", v->kind->name);
	q->seen_interrupts = irq_count(q->vector);
	submit_many(v, buffer);
	if (!wait_for(all_answered, v, WAIT_US))
		return fail("%s: requests are not answered", v->kind->name);
	sleep_us(SETTLE_US); /* the answer may be seen before its interrupt is sent */
	if (interrupted(q))
		return fail("%s: an interrupt of a masked vector", v->kind->name);
	pci_msix_mask(v->v.msix, entry, false);
	if (!wait_for(interrupted, q, WAIT_US))
		return fail("%s: the interrupt is lost that came while masked", v->kind->name);
	return true;
}

/* Vectors are masked, made illegal, and unmasked while requests are answered; no interrupt is lost
 * at the end. */
static bool mask_often(struct victim *v)
{
	struct virtq *q = victim_queue(v);
	uint8_t *buffer = victim_buffer();
	uint64_t n = option_number("count", 200), before;
	unsigned entry = v->kind->queue + 1;

	if (!v->kind->answers || v->v.n_vectors == 0)
		return true;
	entry = entry < v->v.n_vectors ? entry : v->v.n_vectors - 1;
	TRY(victim_start(v));
	before = irq_count(q->vector);
	for (uint64_t i = 0; i < n; i++) {
		pci_msix_mask(v->v.msix, entry, i & 1);
		if (q->n_free >= 3 * IN_FLIGHT)
			submit_many(v, buffer);
		pci_msix_mask(v->v.msix, entry, !(i & 1));
		mmio_write32(v->v.msix + entry * 16 + 8, (uint32_t)random_next() & ILLEGAL_VECTORS);
		pci_msix_set(v->v.msix, entry, q->vector);
		irq_serve();
		drain(v);
	}
	if (!wait_for(all_answered, v, WAIT_US))
		return fail("%s: requests are not answered", v->kind->name);
	for (unsigned i = 0; i < MASKED_ROUNDS; i++)
		TRY(masked_then_unmasked(v, entry, buffer));
	print("interrupt-storm: %s %u: %lu rounds, %lu interrupts\n", v->kind->name, v->nth, n,
	      irq_count(q->vector) - before);
	return victim_works(v);
}

bool test_interrupt_storm(void)
{
	return for_victims(mask_often);
}

/* kib=N on the serial port and on the virtio console, whether anybody reads or not. The device may
 * take its time; the guest must still run. */
bool test_flood(void)
{
	static struct virtio console;
	static char line[1024];
	uint64_t kib = option_number("kib", 64);
	struct vbuf buf = { line, sizeof(line) };
	uint16_t head;
	uint32_t len;
	uint64_t taken = 0;

	for (size_t i = 0; i < sizeof(line); i++)
		line[i] = i % 64 == 63 ? '\n' : (char)('a' + i % 26);
	for (uint64_t i = 0; i < kib; i++)
		console_write(line, sizeof(line));
	if (!virtio_exists(VIRTIO_CONSOLE, 0))
		return true;
	TRY(virtio_find(VIRTIO_CONSOLE, 0, &console));
	TRY(virtio_begin(&console, 0));
	TRY(virtio_queue(&console, 0, 16));
	TRY(virtio_queue(&console, 1, 16));
	virtio_go(&console);
	for (uint64_t i = 0; i < kib; i++) {
		(void)virtq_add(&console, &console.queues[1], &buf, 1, 0);
		virtq_kick(&console, &console.queues[1]);
		while (virtq_take(&console, &console.queues[1], &head, &len))
			taken++;
	}
	sleep_us(SETTLE_US);
	print("flood: %lu KiB, the console has taken %lu\n", kib, taken);
	return virtio_reset(&console);
}

bool test_triple(void)
{
	print("triple: now\n");
	end_triple_fault();
	return fail("a triple fault has no effect");
}
