/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The transport's registers, written in ways and at times that make no sense. */
#include "hostile.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "victim.h"

#define NO_VECTOR 0xFFFF

static void write_status(struct victim *v, uint8_t status)
{
	mmio_write8(v->v.common + COMMON_STATUS, status);
}

static void select_queue(struct victim *v, uint16_t queue)
{
	mmio_write16(v->v.common + COMMON_QUEUE_SELECT, queue);
}

/* With "strict" the state machine of virtio 1.2, 2.1 and 3.1 is asked for, else only survival. */
static bool strictly(struct victim *v, bool holds, const char *what)
{
	print("registers: %s: %s: %s\n", v->kind->name, what, holds ? "yes" : "no");
	return holds || !option("strict") || fail("%s: not so: %s", v->kind->name, what);
}

static bool wrong_features(struct victim *v)
{
	uint64_t offered;

	TRY(virtio_reset(&v->v));
	write_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	offered = virtio_offered(&v->v);
	for (uint32_t i = 0; i < 2; i++) {
		mmio_write32(v->v.common + COMMON_DRIVER_FEATURE_SELECT, i);
		mmio_write32(v->v.common + COMMON_DRIVER_FEATURE, ~(uint32_t)(offered >> 32 * i));
	}
	write_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	TRY(strictly(v, !(virtio_status(&v->v) & VIRTIO_FEATURES_OK),
	             "features that were not offered are refused"));
	write_status(v, 0xF);
	/* Selectors that select nothing. */
	for (uint32_t i = 2; i; i <<= 1) {
		mmio_write32(v->v.common + COMMON_DEVICE_FEATURE_SELECT, i);
		if (mmio_read32(v->v.common + COMMON_DEVICE_FEATURE) != 0)
			return fail("feature word %u is not 0", i);
		mmio_write32(v->v.common + COMMON_DRIVER_FEATURE_SELECT, i);
		mmio_write32(v->v.common + COMMON_DRIVER_FEATURE, 0xFFFFFFFF);
	}
	return victim_works(v);
}

static bool wrong_status(struct victim *v)
{
	/* Everything at once; DRIVER_OK without queues and features; bits taken back. */
	static const uint8_t values[] = { 0xFF, 0x04, 0x08, 0x0F, 0x80, 0x40, 0x10, 0x03, 0x01 };

	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		TRY(virtio_reset(&v->v));
		write_status(v, values[i]);
		virtq_ring(victim_queue(v));
		write_status(v, values[ARRAY_SIZE(values) - 1 - i]);
	}
	TRY(victim_start(v));
	write_status(v, VIRTIO_ACKNOWLEDGE);
	write_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	virtq_publish(victim_queue(v), 0);
	return victim_works(v);
}

static bool wrong_queue_numbers(struct victim *v)
{
	static const uint16_t numbers[] = { 64, 255, 0x7FFF, 0xFFFF };

	TRY(victim_start(v));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		uint64_t at = v->v.common;

		if (numbers[i] < v->v.n_queues)
			continue;
		select_queue(v, numbers[i]);
		if (mmio_read16(at + COMMON_QUEUE_SIZE) != 0)
			return fail("queue %u has a size", numbers[i]);
		mmio_write16(at + COMMON_QUEUE_SIZE, 16);
		mmio_write16(at + COMMON_QUEUE_VECTOR, 1);
		mmio_write64(at + COMMON_QUEUE_DESC, MIB);
		mmio_write64(at + COMMON_QUEUE_DRIVER, MIB);
		mmio_write64(at + COMMON_QUEUE_DEVICE, MIB);
		mmio_write16(at + COMMON_QUEUE_ENABLE, 1);
		mmio_write16(v->v.notify, numbers[i]);
		mmio_write32(v->v.notify, 0xFFFF0000u | numbers[i]);
	}
	/* Doorbells behind those of the queues, to the end of their area. */
	for (uint64_t a = v->v.notify; a < v->v.notify + v->v.notify_len; a += 256)
		mmio_write16(a, 0xFFFF);
	TRY(strictly(v, !(virtio_status(&v->v) & VIRTIO_NEEDS_RESET),
	             "a doorbell of no queue is nothing"));
	return victim_works(v);
}

static bool wrong_vectors(struct victim *v)
{
	uint64_t at = v->v.common;

	TRY(victim_start(v));
	mmio_write16(at + COMMON_MSIX_CONFIG, 0x7FFE);
	TRY(strictly(v, mmio_read16(at + COMMON_MSIX_CONFIG) == NO_VECTOR,
	             "a vector that is not there is refused"));
	select_queue(v, (uint16_t)v->kind->queue);
	mmio_write16(at + COMMON_QUEUE_VECTOR, 0x7FFE);
	TRY(strictly(v, mmio_read16(at + COMMON_QUEUE_VECTOR) == NO_VECTOR,
	             "a queue's vector that is not there is refused"));
	virtq_publish(victim_queue(v), 0);
	return victim_works(v);
}

static bool abuse_registers(struct victim *v)
{
	TRY(victim_works(v));
	TRY(wrong_features(v));
	TRY(wrong_status(v));
	TRY(wrong_queue_numbers(v));
	return wrong_vectors(v);
}

bool test_registers(void)
{
	return for_victims(abuse_registers);
}

/* What a queue may be told to be, and what none is. */
struct queue_values {
	const char *name;
	uint16_t size;
	uint64_t desc, driver, device;
};

static bool enable_with(struct victim *v, const struct queue_values *w)
{
	struct virtq *q = victim_queue(v);
	uint64_t at = v->v.common;
	uint16_t enabled;

	TRY(virtio_begin(&v->v, v->kind->features));
	/* The honest rings first, so that the driver's own addresses are known. */
	TRY(virtio_queue(&v->v, v->kind->queue, VIRTQ_MAX));
	TRY(virtio_begin(&v->v, v->kind->features));
	select_queue(v, (uint16_t)v->kind->queue);
	mmio_write16(at + COMMON_QUEUE_SIZE, w->size);
	mmio_write64(at + COMMON_QUEUE_DESC, w->desc ? w->desc : (uint64_t)q->desc);
	mmio_write64(at + COMMON_QUEUE_DRIVER, w->driver ? w->driver : (uint64_t)q->avail);
	mmio_write64(at + COMMON_QUEUE_DEVICE, w->device ? w->device : (uint64_t)q->used);
	mmio_write16(at + COMMON_QUEUE_ENABLE, 1);
	enabled = mmio_read16(at + COMMON_QUEUE_ENABLE);
	virtio_go(&v->v);
	put_desc(q, 0, (uint64_t)victim_buffer(), 64, v->kind->write ? DESC_WRITE : 0, 0);
	virtq_publish(q, 0);
	(void)victim_outcome(v, 0);
	print("queues: %s: %s: enabled %u, status 0x%x\n", v->kind->name, w->name, enabled,
	      virtio_status(&v->v));
	return victim_works(v);
}

/* Every one of them is written once more when the device runs: nothing may change by that. */
static bool change_running(struct victim *v)
{
	uint64_t at = v->v.common;
	struct virtq *q = victim_queue(v);
	enum outcome o;

	TRY(victim_start(v));
	select_queue(v, (uint16_t)v->kind->queue);
	mmio_write64(at + COMMON_QUEUE_DESC, ram_top());
	mmio_write64(at + COMMON_QUEUE_DRIVER, ~0ull - 1);
	mmio_write64(at + COMMON_QUEUE_DEVICE, 0xFEE00000);
	mmio_write16(at + COMMON_QUEUE_SIZE, 0xFFFF);
	mmio_write16(at + COMMON_QUEUE_ENABLE, 0);
	mmio_write16(at + COMMON_QUEUE_ENABLE, 2);
	mmio_write32(at + COMMON_DRIVER_FEATURE_SELECT, 0);
	mmio_write32(at + COMMON_DRIVER_FEATURE, 0);
	put_desc(q, 0, (uint64_t)victim_buffer(), 64, v->kind->write ? DESC_WRITE : 0, 0);
	virtq_publish(q, 0);
	o = victim_outcome(v, 0);
	print("queues: %s: changed while running: %s\n", v->kind->name, outcome_name(o));
	return victim_works(v);
}

static bool abuse_queues(struct victim *v)
{
	const struct queue_values values[] = {
		{ .name = "size 0", .size = 0 },
		{ .name = "size 3", .size = 3 },
		{ .name = "size 32768", .size = 0x8000 },
		{ .name = "size 65535", .size = 0xFFFF },
		{ .name = "descriptors outside RAM", .size = 16, .desc = ram_top() },
		{ .name = "descriptors half outside", .size = 16, .desc = ram_top() - 16 },
		{ .name = "descriptors wrap", .size = 16, .desc = ~0ull - 15 },
		{ .name = "descriptors odd", .size = 16, .desc = MIB / 2 + 3 },
		{ .name = "descriptors on device", .size = 16, .desc = v->v.common },
		{ .name = "driver area outside RAM", .size = 16, .driver = ram_top() },
		{ .name = "driver area odd", .size = 16, .driver = MIB / 2 + 1 },
		{ .name = "driver area wraps", .size = 16, .driver = ~0ull - 1 },
		{ .name = "device area outside RAM", .size = 16, .device = ram_top() },
		{ .name = "device area odd", .size = 16, .device = MIB / 2 + 2 },
		{ .name = "device area on APIC", .size = 16, .device = 0xFEE00000 },
		{ .name = "device area wraps", .size = 16, .device = ~0ull - 3 },
		{ .name = "all in one place",
		  .size = 16,
		  .desc = MIB / 2,
		  .driver = MIB / 2,
		  .device = MIB / 2 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		TRY(enable_with(v, &values[i]));
	return change_running(v);
}

bool test_queues(void)
{
	return for_victims(abuse_queues);
}

static void read_at(uint64_t a, unsigned width)
{
	switch (width) {
	case 1:
		(void)mmio_read8(a);
		break;
	case 2:
		(void)mmio_read16(a);
		break;
	case 4:
		(void)mmio_read32(a);
		break;
	default:
		(void)mmio_read64(a);
		break;
	}
}

static void write_at(uint64_t a, unsigned width, uint64_t value)
{
	switch (width) {
	case 1:
		mmio_write8(a, (uint8_t)value);
		break;
	case 2:
		mmio_write16(a, (uint16_t)value);
		break;
	case 4:
		mmio_write32(a, (uint32_t)value);
		break;
	default:
		mmio_write64(a, value);
		break;
	}
}

/* Every offset of the area and some behind it, at every width; then the same with writes. */
static void sweep(uint64_t base, uint64_t bytes, bool write)
{
	for (unsigned width = 1; width <= 8; width *= 2)
		for (uint64_t at = 0; at < bytes + 16; at++) {
			read_at(base + at, width);
			if (write)
				write_at(base + at, width, random_next());
		}
}

static bool abuse_config(struct victim *v)
{
	uint64_t config_bytes = v->v.config_len < 256 ? v->v.config_len : 256;

	/* Just started, in no state at all, and running. */
	for (int state = 0; state < 3; state++) {
		if (state == 1)
			write_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
		else if (state == 2)
			TRY(victim_start(v));
		sweep(v->v.common, COMMON_BYTES, true);
		if (v->v.config)
			sweep(v->v.config, config_bytes, true);
		sweep(v->v.isr, 4, true);
		/* The vector table: random contents, masked at the end. */
		sweep(v->v.msix, (uint64_t)v->v.n_vectors * 16 < 64 ? v->v.n_vectors * 16 : 64,
		      false);
		TRY(victim_works(v));
	}
	print("config: %s %u: swept\n", v->kind->name, v->nth);
	return true;
}

bool test_config(void)
{
	return for_victims(abuse_config);
}
