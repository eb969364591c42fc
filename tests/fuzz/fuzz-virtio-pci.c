/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "common/macros.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/dummy-device.h"
#include "tests/lib/guest-pci.h"

/*
 * The input is a list of what a guest does to a virtio function: config space by both ways,
 * registers, doorbells, bytes in its memory, and whole sensible steps, so that it gets somewhere.
 * After each step: the status is one that can be, what is enabled stays what it was.
 */

#define SLOT      1
#define QUEUES    2
#define QUEUE_MAX 16
#define RAM_BYTES (256u << 10)
#define MAX_STEPS 200

static struct guest_machine m;
static struct pci_driver driver;
static struct dummy_device *dummy;
static struct virtio_pci *transport;
static struct driver_queue queues[QUEUES];

/* Registers as they were when each queue was enabled. */
static struct virtqueue frozen[QUEUES];

static void access_config(struct fuzz_input *in)
{
	unsigned offset = fuzz_take(in, 2) & 0xfff, size = 1u << fuzz_take(in, 1) % 4;
	uint64_t at = MACHINE_ECAM + (SLOT << 15) + offset;

	bus_write(&m.mmio, at, size, fuzz_take(in, size));
	(void)bus_read(&m.mmio, at, size);
}

static void access_ports(struct fuzz_input *in)
{
	uint64_t port = 0xcf8 + fuzz_take(in, 1) % 8;
	unsigned size = 1u << fuzz_take(in, 1) % 3;

	bus_write(&m.pio, port, size, fuzz_take(in, size));
	(void)bus_read(&m.pio, port, size);
}

static void access_bar(struct fuzz_input *in)
{
	uint64_t at = driver.common + fuzz_take(in, 2) % 0x4000;
	unsigned size = 1u << fuzz_take(in, 1) % 4;

	bus_write(&m.mmio, at, size, fuzz_take(in, size));
	(void)bus_read(&m.mmio, at, size);
}

/* The MSI-X table, and one entry more than it has. */
static void access_table(struct fuzz_input *in)
{
	uint64_t at = driver.table + fuzz_take(in, 1) % ((QUEUES + 2) * 4) * 4;

	machine_write(&m, at, 4, fuzz_take(in, 4));
}

static void access_common(struct fuzz_input *in)
{
	uint64_t at = driver.common + fuzz_take(in, 1) % 0x40;
	unsigned size = 1u << fuzz_take(in, 1) % 3;

	machine_write(&m, at, size, fuzz_take(in, size));
}

static void kick(struct fuzz_input *in)
{
	machine_write(&m, driver.notify + fuzz_take(in, 1) % 16, 2, 0);
}

static void poke(struct fuzz_input *in)
{
	uint64_t at = fuzz_take(in, 2) % (m.ram.next + 64);

	__atomic_store_n(m.ram.host + at, (uint8_t)fuzz_take(in, 1), __ATOMIC_RELAXED);
}

/* As pci_driver_negotiate(), which asserts what a moved BAR does not keep. */
static void negotiate(struct fuzz_input *in)
{
	uint64_t features = 1ull << VIRTIO_F_VERSION_1 | fuzz_take(in, 1) % 4
	                                                         << VIRTIO_RING_F_INDIRECT_DESC;

	pci_driver_set_status(&driver, 0);
	pci_driver_set_status(&driver, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	for (unsigned half = 0; half < 2; half++) {
		pci_driver_write(&driver, VIRTIO_PCI_COMMON_GFSELECT, 4, half);
		pci_driver_write(&driver, VIRTIO_PCI_COMMON_GF, 4,
		                 (uint32_t)(features >> 32 * half));
	}
	pci_driver_set_status(&driver, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
	                                       VIRTIO_CONFIG_S_FEATURES_OK);
}

static void set_queue(struct fuzz_input *in)
{
	unsigned i = fuzz_take(in, 1) % QUEUES;

	pci_driver_set_vector(&driver, i);
	pci_driver_set_queue(&driver, i, &queues[i], (uint16_t)i);
}

static void driver_ok(struct fuzz_input *in UNUSED)
{
	pci_driver_ok(&driver);
}

static void add_chain(struct fuzz_input *in)
{
	struct driver_queue *q = &queues[fuzz_take(in, 1) % QUEUES];
	struct driver_buffer b[] = {
		{ GPA(fuzz_take(in, 3)), (uint32_t)fuzz_take(in, 2), false },
		{ GPA(fuzz_take(in, 3)), (uint32_t)fuzz_take(in, 2), true },
	};

	driver_add(q, b, 2);
}

static void enable_again(struct fuzz_input *in UNUSED)
{
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_0, 4, MACHINE_LOW);
	machine_config_write(&m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void pause_and_resume(struct fuzz_input *in UNUSED)
{
	virtio_device_pause(&dummy->virtio);
	virtio_device_resume(&dummy->virtio);
}

static void change_config(struct fuzz_input *in UNUSED)
{
	virtio_config_changed(&dummy->virtio);
}

static void reset_machine(struct fuzz_input *in UNUSED)
{
	virtio_pci_reset(transport);
	enable_again(NULL);
}

static void (*const actions[])(struct fuzz_input *in) = {
	access_config, access_ports,  access_bar,       access_common, kick,
	poke,          negotiate,     set_queue,        driver_ok,     add_chain,
	enable_again,  change_config, pause_and_resume, reset_machine, access_table,
};

static void check_frozen(unsigned i)
{
	const struct virtqueue *vq = &dummy->virtio.queues[i];

	FUZZ_CHECK(vq->size && vq->size <= QUEUE_MAX && !(vq->size & (vq->size - 1)));
	FUZZ_CHECK(guestmem_at(&m.ram.mem, vq->desc, 16ull * vq->size));
	if (frozen[i].enabled && frozen[i].size)
		FUZZ_CHECK(vq->size == frozen[i].size && vq->desc.v == frozen[i].desc.v &&
		           vq->avail.v == frozen[i].avail.v && vq->used.v == frozen[i].used.v);
}

static void check(void)
{
	uint8_t status = dummy->virtio.status;

	FUZZ_CHECK(!(status & VIRTIO_CONFIG_S_DRIVER) || status & VIRTIO_CONFIG_S_ACKNOWLEDGE);
	FUZZ_CHECK(!(status & VIRTIO_CONFIG_S_FEATURES_OK) || status & VIRTIO_CONFIG_S_DRIVER);
	FUZZ_CHECK(!(status & VIRTIO_CONFIG_S_DRIVER_OK) || status & VIRTIO_CONFIG_S_FEATURES_OK);
	FUZZ_CHECK(!(status & 0x30));
	for (unsigned i = 0; i < QUEUES; i++) {
		const struct virtqueue *vq = &dummy->virtio.queues[i];

		if (vq->enabled)
			check_frozen(i);
		/* A reset in the same step lets go of it; only what stays enabled is compared. */
		frozen[i].enabled = vq->enabled;
		frozen[i].size = vq->size;
		frozen[i].desc = vq->desc;
		frozen[i].avail = vq->avail;
		frozen[i].used = vq->used;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct ioloop *loop;

	guest_machine_init(&m, RAM_BYTES);
	FUZZ_CHECK(ioloop_new("fuzz", &loop) == 0 && ioloop_start(loop) == 0);
	dummy = dummy_device_new("dummy0", &m.ram.mem, loop, QUEUES, QUEUE_MAX);
	FUZZ_CHECK(virtio_pci_new(&m.pci, &m.doorbells, &dummy->virtio, SLOT, &transport, NULL) ==
	           0);
	pci_driver_probe(&driver, &m, SLOT);
	memset(frozen, 0, sizeof(frozen));
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
	for (unsigned n = 0; in.left && n < MAX_STEPS; n++) {
		unsigned resets = dummy->resets;

		actions[fuzz_take(&in, 1) % ARRAY_SIZE(actions)](&in);
		if (dummy->resets != resets)
			memset(frozen, 0, sizeof(frozen));
		check();
	}
	virtio_pci_free(transport);
	FUZZ_CHECK(dummy->starts == dummy->stops);
	virtio_device_free(&dummy->virtio);
	ioloop_free(loop);
	guest_machine_deinit(&m);
	return 0;
}
