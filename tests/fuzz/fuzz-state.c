/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <linux/virtio_config.h>
#include <string.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/dummy-device.h"
#include "tests/lib/guest-pci.h"

/*
 * Saved states. An input of kind 0 is one, as it is. Others change a good state in places, cut or
 * lengthen it, and make the checksum right again, as somebody would who wants to get past it. What
 * is accepted must be saved again as the same bytes, and the device must run on it.
 *
 * Input: kind, then the state; or kind, then (position:2, value:1) ...
 */

#define SLOT      1
#define QUEUES    2
#define QUEUE_MAX 16
#define RAM_BYTES (256u << 10)

struct box {
	struct guest_machine m;
	struct ioloop *loop;
	struct dummy_device *dummy;
	struct virtio_pci *transport;
};

static struct state_out good;

static void box_init(struct box *b)
{
	guest_machine_init(&b->m, RAM_BYTES);
	FUZZ_CHECK(ioloop_new("fuzz", &b->loop) == 0);
	b->dummy = dummy_device_new("dummy0", &b->m.ram.mem, b->loop, QUEUES, QUEUE_MAX);
	FUZZ_CHECK(virtio_pci_new(&b->m.pci, &b->m.doorbells, &b->dummy->virtio, SLOT,
	                          &b->transport, NULL) == 0);
}

static void box_deinit(struct box *b)
{
	virtio_pci_free(b->transport);
	virtio_device_free(&b->dummy->virtio);
	ioloop_free(b->loop);
	guest_machine_deinit(&b->m);
}

static void save(struct box *b, struct state_out *o)
{
	virtio_device_pause(&b->dummy->virtio);
	state_out_init(o);
	pci_bus_save(&b->m.pci, o);
	virtio_pci_save(b->transport, o);
	virtio_device_save(&b->dummy->virtio, o);
	FUZZ_CHECK(state_finish(o) == 0);
}

static void make_good(void)
{
	static struct box b;
	struct driver_queue q;
	struct pci_driver d;

	box_init(&b);
	pci_driver_probe(&d, &b.m, SLOT);
	FUZZ_CHECK(pci_driver_negotiate(&d, 1ull << VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < QUEUES; i++) {
		driver_queue_init(&q, &b.m.ram, QUEUE_MAX);
		pci_driver_set_vector(&d, i);
		pci_driver_set_queue(&d, i, &q, (uint16_t)i);
	}
	pci_driver_ok(&d);
	save(&b, &good);
	box_deinit(&b);
}

static void reseal(uint8_t *data, uint64_t len)
{
	uint64_t sum;

	if (len < 32)
		return;
	memcpy(data + 16, &len, 8);
	sum = XXH3_64bits_withSeed(data + 32, len - 32, XXH3_64bits(data, 24));
	memcpy(data + 24, &sum, 8);
}

static size_t make_changed(struct fuzz_input *in, uint8_t *data, size_t max)
{
	size_t len = good.len;

	memcpy(data, good.data, len);
	while (in->left >= 3) {
		size_t at = fuzz_take(in, 2);

		if (at < len)
			data[at] = (uint8_t)fuzz_take(in, 1);
		else if (at == 0xffff)
			len -= fuzz_take(in, 1) % len;
		else if (at == 0xfffe && len + 256 < max)
			len += fuzz_take(in, 1);
		else
			(void)fuzz_take(in, 1);
		if (!len)
			break;
	}
	reseal(data, len);
	return len;
}

/* From memory of just that size, so that a step beyond its end is seen. */
static bool load(struct box *b, const uint8_t *bytes, size_t len)
{
	cleanup_free uint8_t *data = malloc(len);
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_in in;
	int r;

	FUZZ_CHECK(data || !len);
	if (len)
		memcpy(data, bytes, len);
	r = state_open(&in, data, len, &err);

	if (r == 0)
		r = pci_bus_load(&b->m.pci, &in, &err);
	if (r == 0)
		r = virtio_pci_load(b->transport, &in, &err);
	if (r == 0)
		r = virtio_device_load(&b->dummy->virtio, &in, &err);
	if (r == 0)
		r = state_close(&in, &err);
	FUZZ_CHECK((r < 0) == (err.kind != ERROR_NONE) && (r == 0 || *err.message));
	return r == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t changed[65536];
	static struct box b;
	struct fuzz_input in = { data, size };
	struct state_out again;

	if (!good.data)
		make_good();
	if (fuzz_take(&in, 1) != 0) {
		size = make_changed(&in, changed, sizeof(changed));
		data = changed;
	} else {
		data = in.at;
		size = in.left;
	}
	box_init(&b);
	if (load(&b, data, size)) {
		save(&b, &again);
		FUZZ_CHECK(again.len == size && memcmp(again.data, data, size) == 0);
		state_out_deinit(&again);
		/* The loop has no thread: the device starts and stops here. */
		virtio_device_resume(&b.dummy->virtio);
		for (unsigned i = 0; b.dummy->virtio.started && i < QUEUES; i++)
			b.dummy->virtio.ops->kick(&b.dummy->virtio, i);
	}
	box_deinit(&b);
	return 0;
}
