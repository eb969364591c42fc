/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <pthread.h>
#include <string.h>

#include "common/macros.h"
#include "tests/lib/dummy-device.h"
#include "tests/lib/guest-pci.h"

#define SLOT      3
#define QUEUES    2
#define QUEUE_MAX 64
#define V1        (1ull << VIRTIO_F_VERSION_1)
#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  (1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define READY                                                                                 \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_DRIVER_OK)

/* Everything goes through the PCI transport: what a driver can do is what is tested. */
static struct guest_machine m;
static struct ioloop *loop;
static struct dummy_device *dummy;
static struct virtio_pci *transport;
static struct pci_driver driver;
static struct driver_queue queues[QUEUES];
static char why[128];
static bool freed;

static void note_why(struct virtio_device *d UNUSED, const char *text)
{
	strncpy(why, text, sizeof(why) - 1);
}

static void plug_in(void)
{
	struct vmd_error err = VMD_ERROR_INIT;

	cr_assert_eq(ioloop_new("dummy", &loop), 0);
	cr_assert_eq(ioloop_start(loop), 0);
	dummy = dummy_device_new("dummy0", &m.ram.mem, loop, QUEUES, QUEUE_MAX);
	dummy->virtio.on_needs_reset = note_why;
	freed = false;
	dummy->freed = &freed;
	cr_assert_eq(virtio_pci_new(&m.pci, &m.doorbells, &dummy->virtio, SLOT, &transport, &err),
	             0, "%s", err.message);
}

static void unplug(void)
{
	transport = virtio_pci_free(transport);
	virtio_device_free(&dummy->virtio);
	cr_expect(freed);
	loop = ioloop_free(loop);
}

static void set_up(void)
{
	guest_machine_init(&m, 8u << 20);
	plug_in();
	pci_driver_probe(&driver, &m, SLOT);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
}

static void tear_down(void)
{
	unplug();
	guest_machine_deinit(&m);
}

TestSuite(virtio, .init = set_up, .fini = tear_down, .timeout = 60);

static void bring_up(uint64_t features)
{
	cr_assert(pci_driver_negotiate(&driver, features | V1));
	for (unsigned i = 0; i < QUEUES; i++) {
		queues[i].event_idx = features & EVENT_IDX;
		pci_driver_set_vector(&driver, i);
		pci_driver_set_queue(&driver, i, &queues[i], (uint16_t)i);
	}
	pci_driver_set_vector(&driver, QUEUES);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_MSIX, 2, QUEUES);
	pci_driver_ok(&driver);
	cr_assert_eq(pci_driver_status(&driver), READY);
}

/* One request to queue i, answered. */
static void echo(unsigned i)
{
	static const char text[] = "what comes back is what went in";
	gpa_t out = guest_ram_put(&m.ram, text, sizeof(text));
	gpa_t in = guest_ram_put(&m.ram, NULL, sizeof(text));
	struct driver_buffer b[] = { { out, sizeof(text), false }, { in, sizeof(text), true } };
	uint32_t id;
	uint16_t head = driver_add(&queues[i], b, 2);

	if (driver_should_kick(&queues[i]))
		pci_driver_kick(&driver, i);
	cr_assert_eq(pci_driver_wait_used(&driver, &queues[i], (uint8_t)(i + 1), &id),
	             sizeof(text));
	cr_expect_eq(id, head);
	cr_expect_str_eq(guest_ram_at(&m.ram, in), text);
}

Test(virtio, requests_are_answered_on_every_queue)
{
	bring_up(0);
	for (unsigned n = 0; n < 200; n++)
		echo(n % QUEUES);
	cr_expect_eq(dummy->starts, 1u);
}

Test(virtio, requests_are_answered_by_event_index)
{
	bring_up(EVENT_IDX | INDIRECT);
	for (unsigned n = 0; n < 200; n++)
		echo(n % QUEUES);
}

Test(virtio, requests_made_before_driver_ok_are_served)
{
	gpa_t at = guest_ram_put(&m.ram, NULL, 4);
	struct driver_buffer b = { at, 4, true };

	cr_assert(pci_driver_negotiate(&driver, V1));
	pci_driver_set_vector(&driver, 0);
	pci_driver_set_queue(&driver, 0, &queues[0], 0);
	driver_add(&queues[0], &b, 1);
	pci_driver_ok(&driver);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
}

static void offer_again(struct dummy_device *d UNUSED)
{
	driver_publish(&queues[0], 0);
}

Test(virtio, a_queue_without_an_end_does_not_keep_the_loop)
{
	/* Each answer is the next request, as from a vCPU that is always quicker. */
	*driver_desc(&queues[0], 0) = (struct vring_desc){ .addr = 4096, .len = 0 };
	bring_up(EVENT_IDX);
	dummy->on_answer = offer_again;
	driver_publish(&queues[0], 0);
	pci_driver_kick(&driver, 0);
	while (dummy->answered < 10 * QUEUE_MAX)
		sched_yield();
	echo(1);
	echo(1);
	ioloop_pause(loop);
	dummy->on_answer = NULL;
	ioloop_resume(loop);
	pci_driver_set_status(&driver, 0);
	cr_expect_eq(dummy->stops, 1u);
}

Test(virtio, features)
{
	uint64_t offered = pci_driver_features(&driver);

	cr_expect_eq(offered,
	             V1 | EVENT_IDX | INDIRECT | 1u << DUMMY_FEATURE | 1u << DUMMY_REFUSED);
	cr_expect(pci_driver_negotiate(&driver, V1 | 1u << DUMMY_FEATURE));
	cr_expect_not(pci_driver_negotiate(&driver, 1u << DUMMY_FEATURE), "no VERSION_1");
	cr_expect_not(pci_driver_negotiate(&driver, V1 | 1ull << 60), "never offered");
	cr_expect_not(pci_driver_negotiate(&driver, V1 | 1u << DUMMY_REFUSED), "refused");
	cr_expect(pci_driver_negotiate(&driver, V1));
	/* After FEATURES_OK they stay. */
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_GF, 4, 1u << DUMMY_FEATURE);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_GF, 4), 0u);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_GFSELECT, 4, 2);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_GF, 4, 1);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_GF, 4), 0u);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_DFSELECT, 4, UINT32_MAX);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_DF, 4), 0u);
}

/* Every status a driver may write, from every status it can be in: bits come in order, none goes.
 */
Test(virtio, the_status_machine)
{
	static const uint8_t order[] = { VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER,
		                         VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK };

	for (unsigned at = 0; at <= ARRAY_SIZE(order); at++) {
		for (unsigned written = 1; written < 256; written++) {
			uint8_t before = 0, expected;

			pci_driver_set_status(&driver, 0);
			for (unsigned i = 0; i < at; i++) {
				if (i == 2) {
					pci_driver_write(&driver, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
					pci_driver_write(&driver, VIRTIO_PCI_COMMON_GF, 4,
					                 V1 >> 32);
				}
				pci_driver_set_status(&driver, before |= order[i]);
			}
			cr_assert_eq(pci_driver_status(&driver), before);
			expected = before;
			for (unsigned i = 0; i < 4 && !(written & VIRTIO_CONFIG_S_FAILED); i++) {
				if (!(written & order[i]) || expected & order[i])
					continue;
				/* The bit before is there; features were chosen with DRIVER. */
				if ((i && !(expected & order[i - 1])) || (i == 2 && at < 3))
					break;
				expected |= order[i];
			}
			expected |= written & VIRTIO_CONFIG_S_FAILED;
			pci_driver_set_status(&driver, (uint8_t)written);
			cr_expect_eq(pci_driver_status(&driver), expected,
			             "0x%02x written at 0x%02x: 0x%02x", written, before,
			             pci_driver_status(&driver));
		}
	}
}

Test(virtio, queues_are_frozen)
{
	static const unsigned offsets[] = { VIRTIO_PCI_COMMON_Q_DESCLO, VIRTIO_PCI_COMMON_Q_DESCHI,
		                            VIRTIO_PCI_COMMON_Q_AVAILLO,
		                            VIRTIO_PCI_COMMON_Q_USEDLO };

	/* One of the two is enabled; the other one is frozen by DRIVER_OK. */
	cr_assert(pci_driver_negotiate(&driver, V1));
	pci_driver_set_vector(&driver, 0);
	pci_driver_set_queue(&driver, 0, &queues[0], 0);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned queue = 0; queue <= round; queue++) {
			pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
			pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
			cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2),
			             (uint32_t)QUEUE_MAX);
			for (unsigned i = 0; i < ARRAY_SIZE(offsets); i++) {
				uint32_t before = pci_driver_read(&driver, offsets[i], 4);

				pci_driver_write(&driver, offsets[i], 4, 0x12345670);
				cr_expect_eq(pci_driver_read(&driver, offsets[i], 4), before);
			}
			pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
			cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2),
			             queue == 0 ? 1u : 0u);
		}
		pci_driver_ok(&driver);
	}
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0u);
	echo(0);
}

Test(virtio, a_queue_that_makes_no_sense_is_needs_reset)
{
	struct driver_queue bad = queues[0];

	bad.desc.v = 1ull << 40;
	cr_assert(pci_driver_negotiate(&driver, V1));
	pci_driver_set_queue(&driver, 0, &bad, 0);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0u);
	cr_expect(pci_driver_status(&driver) & VIRTIO_CONFIG_S_NEEDS_RESET);
	pci_driver_ok(&driver);
	cr_expect_not(pci_driver_status(&driver) & VIRTIO_CONFIG_S_DRIVER_OK);
	cr_expect_eq(dummy->starts, 0u);
	bring_up(0);
	echo(0);
}

Test(virtio, queues_that_are_not_there)
{
	bring_up(0);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, 65535);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0u);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0u);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffffu);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0u);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 4096);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	for (uint64_t at = driver.notify; at < driver.notify + 4096; at += 2)
		machine_write(&m, at, 2, 65535);
	echo(0);
	echo(1);
}

Test(virtio, registers_at_other_widths_and_offsets_read_as_ones_and_take_nothing)
{
	static const uint8_t sizes[0x38] = {
		[0x00] = 4, [0x04] = 4, [0x08] = 4, [0x0c] = 4, [0x10] = 2, [0x12] = 2, [0x14] = 1,
		[0x15] = 1, [0x16] = 2, [0x18] = 2, [0x1a] = 2, [0x1c] = 2, [0x1e] = 2, [0x20] = 4,
		[0x24] = 4, [0x28] = 4, [0x2c] = 4, [0x30] = 4, [0x34] = 4
	};

	bring_up(0);
	for (unsigned at = 0; at < 0x100; at++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			uint64_t ones = size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;

			if ((at < sizeof(sizes) && sizes[at] == size) || (at == 0x40 && size == 1))
				continue;
			/* A whole address of the three; no driver may, QEMU lets it. */
			if (size == 8 && at % 8 == 0 && at >= 0x20 && at < 0x38)
				continue;
			cr_expect_eq(bus_read(&m.mmio, driver.common + at, size), ones,
			             "offset 0x%x, %u bytes", at, size);
			bus_write(&m.mmio, driver.common + at, size, 0);
		}
	}
	cr_expect_eq(pci_driver_status(&driver), READY);
	echo(0);
}

Test(virtio, the_config_space_ends_where_it_ends)
{
	uint64_t end = driver.device + DUMMY_CONFIG_BYTES;

	bring_up(0);
	for (unsigned i = 0; i < DUMMY_CONFIG_BYTES; i++)
		bus_write(&m.mmio, driver.device + i, 1, i);
	cr_expect_eq(bus_read(&m.mmio, driver.device + 1, 4), 0x04030201u);
	cr_expect_eq(bus_read(&m.mmio, driver.device, 8), 0x0706050403020100ull);
	cr_expect_eq(bus_read(&m.mmio, end - 1, 2), 0xff0bu);
	cr_expect_eq(bus_read(&m.mmio, end - 3, 8), 0xffffffffff0b0a09ull);
	cr_expect_eq(bus_read(&m.mmio, end, 4), UINT32_MAX);
	bus_write(&m.mmio, end - 1, 2, 0);
	cr_expect_eq(bus_read(&m.mmio, end - 1, 1), 0x0bu);
	pci_driver_set_status(&driver, 0);
	bus_write(&m.mmio, driver.device, 1, 7);
	cr_expect_eq(bus_read(&m.mmio, driver.device, 1), 0u, "no driver, no write");
}

Test(virtio, a_config_change_is_told)
{
	uint32_t generation;

	virtio_config_changed(&dummy->virtio);
	cr_expect_eq(machine_sent(&m, QUEUES + 1), 0u, "nobody is there to hear it");
	bring_up(0);
	generation = pci_driver_read(&driver, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	virtio_config_changed(&dummy->virtio);
	cr_expect_eq(machine_sent(&m, QUEUES + 1), 1u);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation + 1);
	cr_expect_eq(bus_read(&m.mmio, driver.isr, 1), 2u);
	cr_expect_eq(bus_read(&m.mmio, driver.isr, 1), 0u, "reading clears");
	echo(0);
	cr_expect_eq(bus_read(&m.mmio, driver.isr, 1), 1u);
}

static void break_queue(void)
{
	unsigned told = machine_sent(&m, QUEUES + 1);

	driver_publish(&queues[0], QUEUE_MAX); /* a head outside of the ring */
	pci_driver_kick(&driver, 0);
	machine_wait_sent(&m, QUEUES + 1, told + 1);
}

Test(virtio, a_broken_ring_is_needs_reset_and_a_reset_heals_it)
{
	json_t *stats;

	for (unsigned n = 0; n < 3; n++) {
		unsigned answered;

		bring_up(0);
		echo(0);
		break_queue();
		cr_expect_eq(pci_driver_status(&driver), READY | VIRTIO_CONFIG_S_NEEDS_RESET);
		cr_expect_str_eq(why, "a head outside of the ring");
		/* Nothing is served any more, on no queue. */
		answered = dummy->answered;
		pci_driver_kick(&driver, 1);
		ioloop_pause(loop);
		ioloop_resume(loop);
		cr_expect_eq(dummy->answered, answered);
		cr_expect_eq(dummy->stops, n + 1);
		for (unsigned i = 0; i < QUEUES; i++)
			driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
	}
	stats = virtio_device_stats(&dummy->virtio);
	cr_expect_eq(json_integer_value(json_object_get(stats, "needs_reset")), 3);
	json_decref(stats);
}

Test(virtio, a_device_that_cannot_start_is_needs_reset)
{
	dummy->fail_start = true;
	cr_assert(pci_driver_negotiate(&driver, V1));
	pci_driver_set_queue(&driver, 0, &queues[0], 0xffff);
	pci_driver_ok(&driver);
	cr_expect_eq(pci_driver_status(&driver), READY | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_expect_eq(dummy->stops, 0u);
	dummy->fail_start = false;
	bring_up(0);
	echo(0);
}

Test(virtio, reset_waits_for_what_is_in_flight)
{
	gpa_t at = guest_ram_put(&m.ram, "abcd", 4), to = guest_ram_put(&m.ram, NULL, 4);
	struct driver_buffer b[] = { { at, 4, false }, { to, 4, true } };

	bring_up(0);
	dummy->hold = true;
	driver_add(&queues[0], b, 2);
	pci_driver_kick(&driver, 0);
	while (!dummy->kicks)
		sched_yield();
	pci_driver_set_status(&driver, 0);
	/* The memory is the guest's again. */
	cr_expect_eq(dummy->stops, 1u);
	cr_expect_eq(dummy->resets, 1u);
	memset(guest_ram_at(&m.ram, to), 0, 4);
	cr_expect_eq(pci_driver_status(&driver), 0);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_MSIX, 2), 0xffffu);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2), (uint32_t)QUEUE_MAX);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0u);
	cr_expect_eq(*(uint32_t *)guest_ram_at(&m.ram, to), 0u);
}

static void *kick_storm(void *arg)
{
	while (!*(atomic_bool *)arg)
		for (unsigned i = 0; i < 64; i++)
			machine_write(&m, driver.notify + 4 * (i % 3), 2, i);
	return NULL;
}

static void *config_storm(void *arg)
{
	while (!*(atomic_bool *)arg)
		virtio_config_changed(&dummy->virtio);
	return NULL;
}

static void *ring_storm(void *arg)
{
	gpa_t at = guest_ram_put(&m.ram, NULL, 4);
	struct driver_buffer b[] = { { at, 4, false }, { at, 4, true } };

	while (!*(atomic_bool *)arg) {
		driver_add(&queues[0], b, 2);
		sched_yield();
	}
	return NULL;
}

Test(virtio, a_thousand_resets_under_storms)
{
	void *(*const storms[])(void *) = { kick_storm, config_storm, ring_storm };
	pthread_t t[ARRAY_SIZE(storms)];
	atomic_bool stop = false;

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_create(&t[i], NULL, storms[i], &stop);
	for (unsigned n = 0; n < 1000; n++) {
		cr_assert(pci_driver_negotiate(&driver, V1 | (n % 2 ? EVENT_IDX : 0)));
		for (unsigned i = 0; i < QUEUES; i++)
			pci_driver_set_queue(&driver, i, &queues[i], (uint16_t)i);
		pci_driver_ok(&driver);
	}
	stop = true;
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	pci_driver_set_status(&driver, 0);
	cr_expect_eq(dummy->starts, dummy->stops);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
	bring_up(0);
	echo(0);
	echo(1);
}

Test(virtio, vectors_that_are_not_there)
{
	cr_assert(pci_driver_negotiate(&driver, V1));
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_MSIX, 2, QUEUES);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_MSIX, 2), (uint32_t)QUEUES);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_MSIX, 2, QUEUES + 1);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_MSIX, 2), 0xffffu);
	pci_driver_write(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2, 0x8000);
	cr_expect_eq(pci_driver_read(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffffu);
}

Test(virtio, no_bus_mastering_no_dma)
{
	struct driver_buffer b = { guest_ram_put(&m.ram, NULL, 4), 4, true };

	bring_up(0);
	machine_config_write(&m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	cr_expect_eq(dummy->stops, 1u);
	driver_add(&queues[0], &b, 1);
	pci_driver_kick(&driver, 0);
	ioloop_pause(loop);
	ioloop_resume(loop);
	cr_expect_eq(driver_used_idx(&queues[0]), 0);
	machine_config_write(&m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
}

Test(virtio, paused_and_resumed)
{
	struct driver_buffer b = { guest_ram_put(&m.ram, NULL, 4), 4, true };

	bring_up(EVENT_IDX);
	echo(0);
	virtio_device_pause(&dummy->virtio);
	driver_add(&queues[0], &b, 1);
	pci_driver_kick(&driver, 0);
	ioloop_pause(loop);
	ioloop_resume(loop);
	cr_expect_eq(driver_used_idx(&queues[0]), 1);
	virtio_device_resume(&dummy->virtio);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
	echo(0);
}

static void save(struct state_out *o)
{
	virtio_device_pause(&dummy->virtio);
	state_out_init(o);
	pci_bus_save(&m.pci, o);
	virtio_pci_save(transport, o);
	virtio_device_save(&dummy->virtio, o);
	cr_assert_eq(state_finish(o), 0);
}

static int load(const struct state_out *o, struct vmd_error *err)
{
	struct state_in in;
	int r = state_open(&in, o->data, o->len, err);

	if (r == 0)
		r = pci_bus_load(&m.pci, &in, err);
	if (r == 0)
		r = virtio_pci_load(transport, &in, err);
	if (r == 0)
		r = virtio_device_load(&dummy->virtio, &in, err);
	if (r == 0)
		r = state_close(&in, err);
	return r;
}

Test(virtio, saved_with_a_request_waiting_and_loaded_into_another)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct driver_buffer b = { guest_ram_put(&m.ram, NULL, 4), 4, true };
	struct state_out o, again;

	bring_up(EVENT_IDX);
	echo(0);
	echo(1);
	bus_write(&m.mmio, driver.device, 4, 0x11223344);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_0, 4, MACHINE_LOW + 0x100000);
	virtio_device_pause(&dummy->virtio);
	driver_add(&queues[0], &b, 1);
	save(&o);
	unplug();
	plug_in();
	cr_assert_eq(load(&o, &err), 0, "%s", err.message);
	cr_expect_eq(bus_read(&m.mmio, driver.device, 1), 0xffu, "the BAR has moved");
	save(&again);
	cr_assert_eq(again.len, o.len);
	cr_expect_arr_eq(again.data, o.data, o.len);
	pci_driver_probe(&driver, &m, SLOT);
	cr_expect_eq(pci_driver_status(&driver), READY);
	cr_expect_eq(bus_read(&m.mmio, driver.device, 4), 0x11223344u);
	virtio_device_resume(&dummy->virtio);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
	echo(0);
	echo(1);
	state_out_deinit(&again);
	state_out_deinit(&o);
}

Test(virtio, saved_when_it_needs_a_reset)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_out o;

	bring_up(0);
	break_queue();
	save(&o);
	unplug();
	plug_in();
	cr_assert_eq(load(&o, &err), 0, "%s", err.message);
	virtio_device_resume(&dummy->virtio);
	cr_expect_eq(pci_driver_status(&driver), READY | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_expect_eq(dummy->starts, 0u);
	driver_queue_init(&queues[0], &m.ram, QUEUE_MAX);
	driver_queue_init(&queues[1], &m.ram, QUEUE_MAX);
	bring_up(0);
	echo(0);
	state_out_deinit(&o);
}

/* The sections of a good state, with one byte of one section changed and the frame made good. */
static void copy_changed(const struct state_out *from, struct state_out *to, const char *name,
                         size_t at, uint8_t value)
{
	static const char *const sections[][2] = {
		{ "pci", "bridge" },        { "pci-bus", "" },      { "pci", "dummy0" },
		{ "virtio-pci", "dummy0" }, { "virtio", "dummy0" }, { "dummy", "dummy0" },
	};
	struct state_in in;

	state_out_init(to);
	cr_assert_eq(state_open(&in, from->data, from->len, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		struct state_section s;

		cr_assert_eq(state_take(&in, sections[i][0], sections[i][1], 1, &s, NULL), 0);
		state_begin(to, sections[i][0], sections[i][1], s.version);
		for (size_t k = 0; s.at < s.end; k++) {
			uint8_t byte = state_get_u8(&s);
			bool it = strcmp(sections[i][0], name) == 0 &&
			          strcmp(sections[i][1], "bridge") != 0 && k == at;

			state_put_u8(to, it ? value : byte);
		}
		state_end(to);
	}
	cr_assert_eq(state_finish(to), 0);
}

Test(virtio, a_state_that_no_driver_could_reach_is_refused)
{
	/* Offsets in section "virtio": id 0, status 2, generation 3, features 4, queues 12, then 29
	 * bytes per queue: enabled, size, desc, avail, used, index. */
	static const struct {
		const char *section;
		size_t at;
		uint8_t value;
	} cases[] = {
		{ "virtio", 0, 2 },      /* another kind of device */
		{ "virtio", 2, 0x04 },   /* DRIVER_OK alone */
		{ "virtio", 2, 0x10 },   /* a bit that does not exist */
		{ "virtio", 2, 0x01 },   /* features and queues before there is a driver */
		{ "virtio", 4, 0x40 },   /* a feature the device refuses */
		{ "virtio", 7, 0x80 },   /* features never offered */
		{ "virtio", 8, 0x00 },   /* no VERSION_1 */
		{ "virtio", 12, 3 },     /* a queue too many */
		{ "virtio", 14, 2 },     /* enabled: neither yes nor no */
		{ "virtio", 14, 0 },     /* not enabled, with an index */
		{ "virtio", 15, 0x21 },  /* a size that is no power of two */
		{ "virtio", 16, 1 },     /* a size above the maximum */
		{ "virtio", 17, 1 },     /* descriptors not aligned */
		{ "virtio", 24, 1 },     /* descriptors outside of RAM */
		{ "virtio", 40, 1 },     /* used ring outside of RAM */
		{ "virtio-pci", 10, 4 }, /* an interrupt status that does not exist */
		{ "virtio-pci", 12, 1 }, /* a vector that does not exist */
		{ "pci", 0, 0 },         /* another vendor */
		{ "pci", 0x34, 0 },      /* no capabilities */
		{ "pci", 256, 9 },       /* vectors */
		{ "pci", 258 + 13, 1 },  /* reserved bits of a vector */
		{ "pci", 258 + 16, 2 },  /* pending: neither yes nor no */
		{ "pci", 258 + 16, 1 },  /* pending, and not masked */
		{ "dummy", 0, 0xee },    /* what the device itself refuses */
	};
	struct state_out good, bad;

	bring_up(0);
	echo(0);
	echo(1);
	save(&good);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vmd_error err = VMD_ERROR_INIT;

		copy_changed(&good, &bad, cases[i].section, cases[i].at, cases[i].value);
		unplug();
		plug_in();
		cr_expect_eq(load(&bad, &err), -EINVAL, "case %zu was taken", i);
		cr_expect(strstr(err.message, "dummy0"), "case %zu: '%s'", i, err.message);
		virtio_device_resume(&dummy->virtio);
		cr_expect_eq(dummy->starts, 0u);
		state_out_deinit(&bad);
	}
	unplug();
	plug_in();
	cr_expect_eq(load(&good, NULL), 0);
	state_out_deinit(&good);
}

Test(virtio, the_machine_is_reset)
{
	bring_up(0);
	echo(0);
	virtio_pci_reset(transport);
	cr_expect_eq(dummy->resets, 1u);
	cr_expect_eq(machine_config_read(&m, SLOT, PCI_COMMAND, 2), 0u);
	cr_expect_eq(bus_read(&m.mmio, driver.common, 4), UINT32_MAX, "memory is not decoded");
	cr_expect_eq(m.n_bells, 0u);
	pci_driver_probe(&driver, &m, SLOT);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_MAX);
	bring_up(0);
	echo(1);
}

/* The same registers by the window in config space. */
static uint32_t window(uint32_t offset, unsigned size, int64_t write)
{
	unsigned data = driver.window + sizeof(struct virtio_pci_cap);

	machine_config_write(&m, SLOT, driver.window + 8, 4, offset);
	machine_config_write(&m, SLOT, driver.window + 12, 4, size);
	if (write >= 0)
		machine_config_write(&m, SLOT, data, size, (uint32_t)write);
	return machine_config_read(&m, SLOT, data, size);
}

Test(virtio, access_through_the_config_space)
{
	bring_up(0);
	/* Also with memory decoding off. */
	machine_config_write(&m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	cr_expect_eq(window(VIRTIO_PCI_COMMON_STATUS, 1, -1), (uint32_t)READY);
	cr_expect_eq(window(VIRTIO_PCI_COMMON_NUMQ, 2, -1), (uint32_t)QUEUES);
	cr_expect_eq(window(0x100, 4, 0x55667788), 0x55667788u);
	window(VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	cr_expect_eq(window(VIRTIO_PCI_COMMON_Q_SIZE, 2, -1), (uint32_t)QUEUE_MAX);
	cr_expect_eq(window(0xfffffffc, 4, 0), 0u, "outside: the data written stays");
	window(VIRTIO_PCI_COMMON_STATUS, 3, 0);
	window(VIRTIO_PCI_COMMON_STATUS + 1, 2, 0);
	cr_expect_eq(window(VIRTIO_PCI_COMMON_STATUS, 1, -1), (uint32_t)READY);
	machine_config_write(&m, SLOT, driver.window + 4, 1, 1);
	window(VIRTIO_PCI_COMMON_STATUS, 1, 0);
	machine_config_write(&m, SLOT, driver.window + 4, 1, 0);
	cr_expect_eq(window(VIRTIO_PCI_COMMON_STATUS, 1, -1), (uint32_t)READY, "another BAR");
	cr_expect_eq(window(VIRTIO_PCI_COMMON_STATUS, 1, 0), 0u);
}

Test(virtio, without_doorbells_every_kick_is_an_exit)
{
	virtio_pci_free(transport);
	cr_assert_eq(virtio_pci_new(&m.pci, NULL, &dummy->virtio, SLOT, &transport, NULL), 0);
	pci_driver_probe(&driver, &m, SLOT);
	cr_assert_eq(m.n_bells, 0u);
	bring_up(0);
	echo(0);
	echo(1);
}
