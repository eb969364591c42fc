/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "common/macros.h"
#include "devices/virtqueue.h"
#include "tests/lib/guest-ram.h"

#define RING_SIZE 16
#define RAM_BYTES (4u << 20)

static struct guest_ram ram;
static struct driver_queue q;
static struct virtqueue vq;
static struct iovec iov[VIRTQUEUE_MAX_IOV];
static struct virtq_chain chain;
static unsigned interrupts;

static void on_interrupt(struct virtqueue *v UNUSED)
{
	interrupts++;
}

static void set_up(void)
{
	guest_ram_init(&ram, RAM_BYTES);
	driver_queue_init(&q, &ram, RING_SIZE);
	vq = (struct virtqueue){ .size = RING_SIZE,
		                 .desc = q.desc,
		                 .avail = q.avail,
		                 .used = q.used,
		                 .kick_fd = -EBADF,
		                 .interrupt = on_interrupt };
	cr_assert_eq(virtqueue_enable(&vq, &ram.mem, 256), 0);
	vq.indirect = true;
	interrupts = 0;
}

static void tear_down(void)
{
	virtqueue_disable(&vq);
	guest_ram_deinit(&ram);
}

TestSuite(virtqueue, .init = set_up, .fini = tear_down);

static int pop(void)
{
	return virtqueue_pop(&vq, &chain, iov, VIRTQUEUE_MAX_IOV);
}

static void use_event_idx(void)
{
	vq.event_idx = q.event_idx = true;
}

Test(virtqueue, a_chain_comes_as_the_driver_made_it)
{
	gpa_t out = guest_ram_put(&ram, "hello", 5), in = guest_ram_put(&ram, NULL, 8);
	struct driver_buffer b[] = { { out, 5, false },
		                     { in, 3, true },
		                     { GPA(in.v + 3), 5, true } };
	uint16_t head = driver_add(&q, b, 3);
	uint32_t id, len;

	cr_assert_eq(pop(), 1);
	cr_expect_eq(chain.head, head);
	cr_expect(chain.n_out == 1 && chain.n_in == 2);
	cr_expect(chain.out_bytes == 5 && chain.in_bytes == 8);
	cr_expect_arr_eq(chain.iov[0].iov_base, "hello", 5);
	cr_expect_eq(chain.iov[2].iov_base, guest_ram_at(&ram, b[2].gpa));
	cr_expect_eq(vq.in_flight, 1u);
	cr_expect_eq(pop(), 0);
	virtqueue_push(&vq, head, 7);
	cr_expect_eq(vq.in_flight, 0u);
	cr_assert(driver_take_used(&q, &id, &len));
	cr_expect(id == head && len == 7);
	cr_expect_not(driver_take_used(&q, &id, &len));
}

Test(virtqueue, indexes_wrap)
{
	gpa_t at = guest_ram_put(&ram, NULL, 4);
	struct driver_buffer b = { at, 4, true };
	uint32_t id, len;

	for (unsigned i = 0; i < 70000; i++) {
		uint16_t head = driver_add(&q, &b, 1);

		cr_assert_eq(pop(), 1, "at %u", i);
		virtqueue_push(&vq, chain.head, i % 5);
		virtqueue_flush(&vq);
		cr_assert(driver_take_used(&q, &id, &len) && id == head && len == i % 5);
	}
	cr_expect_eq(interrupts, 70000u);
}

Test(virtqueue, a_full_ring_completes_out_of_order)
{
	gpa_t at = guest_ram_put(&ram, NULL, 4);
	struct driver_buffer b = { at, 4, true };
	uint16_t heads[RING_SIZE];
	uint32_t id, len;

	for (unsigned i = 0; i < RING_SIZE; i++)
		driver_add(&q, &b, 1);
	for (unsigned i = 0; i < RING_SIZE; i++) {
		cr_assert_eq(pop(), 1);
		heads[i] = chain.head;
	}
	cr_expect_eq(vq.in_flight, (uint32_t)RING_SIZE);
	for (unsigned i = RING_SIZE; i-- > 0;)
		virtqueue_push(&vq, heads[i], i % 5);
	for (unsigned i = RING_SIZE; i-- > 0;)
		cr_assert(driver_take_used(&q, &id, &len) && id == heads[i] && len == i % 5);
}

Test(virtqueue, empty_buffers_are_left_out)
{
	gpa_t at = guest_ram_put(&ram, NULL, 4);
	struct driver_buffer b[] = {
		{ at, 0, false }, { at, 4, false }, { at, 0, true }, { at, 1, true }
	};

	driver_add(&q, b, 4);
	cr_assert_eq(pop(), 1);
	cr_expect(chain.n_out == 1 && chain.n_in == 1 && chain.out_bytes == 4 &&
	          chain.in_bytes == 1);
	driver_add(&q, b, 1);
	cr_assert_eq(pop(), 1);
	cr_expect(chain.n_out == 0 && chain.n_in == 0 && chain.in_bytes == 0);
	virtqueue_push(&vq, chain.head, 0);
}

Test(virtqueue, indirect_tables)
{
	struct driver_buffer b[40];

	for (unsigned i = 0; i < ARRAY_SIZE(b); i++)
		b[i] = (struct driver_buffer){ guest_ram_put(&ram, NULL, 8), 8, i >= 10 };
	driver_publish(&q, driver_chain_indirect(&q, b, ARRAY_SIZE(b)));
	cr_assert_eq(pop(), 1);
	cr_expect(chain.n_out == 10 && chain.n_in == 30 && chain.in_bytes == 240);
}

Test(virtqueue, an_indirect_table_after_plain_descriptors_and_not_aligned)
{
	gpa_t at = guest_ram_put(&ram, NULL, 8), table = guest_ram_alloc(&ram, 64, 16);
	struct driver_buffer b[] = { { at, 3, false }, { at, 5, true } };
	struct vring_desc inner = { .addr = at.v, .len = 8, .flags = VRING_DESC_F_WRITE };
	uint16_t head;

	table.v += 3;
	memcpy(guest_ram_at(&ram, table), &inner, sizeof(inner));
	head = driver_chain(&q, b, 2);
	/* WRITE means nothing on a descriptor that refers to a table. */
	*driver_desc(&q, 1) = (struct vring_desc){
		.addr = table.v, .len = 16, .flags = VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE
	};
	driver_publish(&q, head);
	cr_assert_eq(pop(), 1);
	cr_expect(chain.n_out == 1 && chain.n_in == 1 && chain.in_bytes == 8);
}

/* What a hostile driver puts on the ring; each must break the queue with this reason. */
static void desc0(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*driver_desc(&q, 0) =
		(struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

static gpa_t table_of(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	struct vring_desc d = { .addr = addr, .len = len, .flags = flags, .next = next };

	return guest_ram_put(&ram, &d, sizeof(d));
}

static void loop_of_one(void)
{
	desc0(0, 1, VRING_DESC_F_NEXT, 0);
	driver_publish(&q, 0);
}

static void loop_of_empty_ones(void)
{
	desc0(0, 0, VRING_DESC_F_NEXT, 0);
	driver_publish(&q, 0);
}

static void next_outside(void)
{
	desc0(0, 1, VRING_DESC_F_NEXT, RING_SIZE);
	driver_publish(&q, 0);
}

static void head_outside(void)
{
	driver_publish(&q, RING_SIZE);
}

static void index_jumps(void)
{
	desc0(0, 1, 0, 0);
	driver_set_avail_idx(&q, RING_SIZE + 1);
}

static void index_goes_back(void)
{
	driver_set_avail_idx(&q, UINT16_MAX);
}

static void address_outside(void)
{
	desc0(RAM_BYTES, 1, 0, 0);
	driver_publish(&q, 0);
}

static void empty_outside(void)
{
	desc0(RAM_BYTES, 0, 0, 0);
	driver_publish(&q, 0);
}

static void leaves_ram(void)
{
	desc0(RAM_BYTES - 1, 2, 0, 0);
	driver_publish(&q, 0);
}

static void wraps_around(void)
{
	desc0(UINT64_MAX, 2, 0, 0);
	driver_publish(&q, 0);
}

static void longest(void)
{
	desc0(0, UINT32_MAX, 0, 0);
	driver_publish(&q, 0);
}

static void readable_after_writable(void)
{
	struct driver_buffer b[] = { { GPA(0), 1, true }, { GPA(0), 1, false } };

	driver_add(&q, b, 2);
}

static void readable_after_empty_writable(void)
{
	struct driver_buffer b[] = { { GPA(0), 0, true }, { GPA(0), 1, false } };

	driver_add(&q, b, 2);
}

static void same_head_twice(void)
{
	desc0(0, 1, 0, 0);
	driver_publish(&q, 0);
	cr_assert_eq(pop(), 1);
	driver_publish(&q, 0);
}

static void not_negotiated(void)
{
	vq.indirect = false;
	desc0(table_of(0, 1, 0, 0).v, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_in_table(void)
{
	gpa_t inner = table_of(0, 1, 0, 0);

	desc0(table_of(inner.v, 16, VRING_DESC_F_INDIRECT, 0).v, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_with_next(void)
{
	desc0(table_of(0, 1, 0, 0).v, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	driver_publish(&q, 0);
}

static void table_length(uint32_t len)
{
	desc0(table_of(0, 1, 0, 0).v, len, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_of_nothing(void)
{
	table_length(0);
}

static void table_of_17(void)
{
	table_length(17);
}

static void table_too_long(void)
{
	table_length(16 * (VIRTQUEUE_MAX_SIZE + 1));
}

static void table_longest(void)
{
	table_length(UINT32_MAX - 15);
}

static void table_outside(void)
{
	desc0(RAM_BYTES - 8, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_loops(void)
{
	desc0(table_of(0, 1, VRING_DESC_F_NEXT, 0).v, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_next_outside(void)
{
	desc0(table_of(0, 1, VRING_DESC_F_NEXT, 1).v, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void table_inner_outside(void)
{
	desc0(table_of(RAM_BYTES, 1, 0, 0).v, 16, VRING_DESC_F_INDIRECT, 0);
	driver_publish(&q, 0);
}

static void more_than_4_gib(void)
{
	static struct driver_buffer b[1024];

	for (unsigned i = 0; i < 1024; i++)
		b[i] = (struct driver_buffer){ GPA(0), RAM_BYTES, true };
	driver_publish(&q, driver_chain_indirect(&q, b, 1024));
}

Test(virtqueue, what_makes_no_sense_breaks_the_queue)
{
	static const struct {
		void (*make)(void);
		const char *why;
	} cases[] = {
		{ loop_of_one, "a loop of descriptors" },
		{ loop_of_empty_ones, "a loop of descriptors" },
		{ next_outside, "a descriptor outside of its table" },
		{ head_outside, "a head outside of the ring" },
		{ index_jumps, "an available index that jumps" },
		{ index_goes_back, "an available index that jumps" },
		{ address_outside, "a buffer outside of RAM" },
		{ empty_outside, "a buffer outside of RAM" },
		{ leaves_ram, "a buffer outside of RAM" },
		{ wraps_around, "a buffer outside of RAM" },
		{ longest, "a buffer outside of RAM" },
		{ readable_after_writable, "a readable buffer after a writable one" },
		{ readable_after_empty_writable, "a readable buffer after a writable one" },
		{ same_head_twice, "a chain that is in flight already" },
		{ not_negotiated, "an indirect table that was not negotiated" },
		{ table_in_table, "an indirect table in an indirect one" },
		{ table_with_next, "an indirect table that is not the last" },
		{ table_of_nothing, "an indirect table of a bad length" },
		{ table_of_17, "an indirect table of a bad length" },
		{ table_too_long, "an indirect table of a bad length" },
		{ table_longest, "an indirect table of a bad length" },
		{ table_outside, "an indirect table outside of RAM" },
		{ table_loops, "a loop of descriptors" },
		{ table_next_outside, "a descriptor outside of its table" },
		{ table_inner_outside, "a buffer outside of RAM" },
		{ more_than_4_gib, "a chain of 4 GiB or more" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint32_t in_flight;

		tear_down();
		set_up();
		cases[i].make();
		in_flight = vq.in_flight;
		cr_expect_eq(pop(), -EBADMSG, "case %zu", i);
		cr_expect(vq.broken, "case %zu", i);
		cr_expect_str_eq(vq.why_broken, cases[i].why);
		cr_expect_eq(vq.in_flight, in_flight, "case %zu", i);
		/* Broken stays, even when the ring is fine again. */
		driver_set_avail_idx(&q, 0);
		cr_expect_eq(pop(), -EBADMSG, "case %zu", i);
	}
}

Test(virtqueue, a_chain_of_more_buffers_than_there_is_room_for)
{
	struct driver_buffer b[] = { { GPA(0), 1, false },
		                     { GPA(0), 1, false },
		                     { GPA(0), 1, true } };

	driver_add(&q, b, 3);
	cr_expect_eq(virtqueue_pop(&vq, &chain, iov, 2), -EBADMSG);
	cr_expect_str_eq(vq.why_broken, "a chain of too many buffers");
}

Test(virtqueue, only_sane_queues_are_enabled)
{
	static const struct {
		const char *what;
		int size;
		int64_t desc, avail, used; /* added to a good address; -1 << 40: outside */
	} cases[] = {
		{ "no entries", 0, 0, 0, 0 },
		{ "no power of two", 12, 0, 0, 0 },
		{ "above the device's maximum", 512, 0, 0, 0 },
		{ "above any maximum", 32768, 0, 0, 0 },
		{ "descriptors not aligned", 16, 8, 0, 0 },
		{ "available ring not aligned", 16, 0, 1, 0 },
		{ "used ring not aligned", 16, 0, 0, 2 },
		{ "descriptors outside", 16, 1ll << 40, 0, 0 },
		{ "available ring outside", 16, 0, 1ll << 40, 0 },
		{ "used ring outside", 16, 0, 0, 1ll << 40 },
		{ "descriptors wrap", 16, -(1ll << 40), 0, 0 },
	};

	virtqueue_disable(&vq);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		vq.size = (uint16_t)cases[i].size;
		vq.desc = GPA(q.desc.v + (uint64_t)cases[i].desc);
		vq.avail = GPA(q.avail.v + (uint64_t)cases[i].avail);
		vq.used = GPA(q.used.v + (uint64_t)cases[i].used);
		cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), -EINVAL, "%s", cases[i].what);
		cr_expect_not(vq.enabled);
	}
	/* Areas on top of each other: the last byte of one, and all of it. */
	vq.size = 16;
	vq.desc = q.desc;
	vq.avail = q.avail;
	vq.used = GPA(q.avail.v + 36);
	cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), -EINVAL);
	vq.used = GPA(q.desc.v + 16 * 15);
	cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), -EINVAL);
	vq.used = q.used;
	vq.avail = GPA(q.desc.v + 64);
	cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), -EINVAL);
	/* The last byte of each area counts. */
	vq.avail = q.avail;
	vq.used = GPA(RAM_BYTES - (6 + 16 * 8) + 2);
	cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), -EINVAL);
	vq.used = GPA(RAM_BYTES - (6 + 16 * 8) - 2);
	cr_expect_eq(virtqueue_enable(&vq, &ram.mem, 256), 0);
	cr_expect_eq(pop(), 0);
}

Test(virtqueue, chains_are_given_back)
{
	struct driver_buffer b = { GPA(0), 1, true };
	uint16_t heads[3];

	for (unsigned i = 0; i < 3; i++)
		driver_add(&q, &b, 1);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(pop(), 1);
		heads[i] = chain.head;
	}
	virtqueue_unpop(&vq);
	virtqueue_unpop_head(&vq, heads[1]);
	cr_expect_eq(vq.in_flight, 1u);
	for (unsigned i = 1; i < 3; i++) {
		cr_assert_eq(pop(), 1);
		cr_expect_eq(chain.head, heads[i]);
	}
	cr_expect_eq(pop(), 0);
}

Test(virtqueue, a_head_completed_twice_is_an_assertion, .signal = SIGABRT)
{
	struct driver_buffer b = { GPA(0), 1, true };

	driver_add(&q, &b, 1);
	cr_assert_eq(pop(), 1);
	virtqueue_push(&vq, chain.head, 1);
	virtqueue_push(&vq, chain.head, 1);
}

Test(virtqueue, more_written_than_there_is_room_is_an_assertion, .signal = SIGABRT)
{
	struct driver_buffer b = { GPA(0), 1, true };

	driver_add(&q, &b, 1);
	cr_assert_eq(pop(), 1);
	virtqueue_push(&vq, chain.head, 2);
}

static void serve_one(void)
{
	struct driver_buffer b = { GPA(0), 1, true };

	driver_add(&q, &b, 1);
	cr_assert_eq(pop(), 1);
	virtqueue_push(&vq, chain.head, 0);
	virtqueue_flush(&vq);
}

Test(virtqueue, interrupts_by_flag)
{
	virtqueue_flush(&vq);
	serve_one();
	cr_expect_geq(interrupts, 1u);
	interrupts = 0;
	virtqueue_flush(&vq);
	cr_expect_eq(interrupts, 0u, "nothing was pushed");
	driver_want_interrupts(&q, false);
	serve_one();
	cr_expect_eq(interrupts, 0u);
	driver_want_interrupts(&q, true);
	serve_one();
	cr_expect_eq(interrupts, 1u);
}

Test(virtqueue, interrupts_by_event_index)
{
	uint32_t id, len;

	use_event_idx();
	driver_want_interrupts(&q, true);
	serve_one();
	cr_expect_eq(interrupts, 1u);
	/* The event stays behind: the driver does not want to hear of more. */
	for (unsigned i = 0; i < 200; i++)
		serve_one();
	cr_expect_eq(interrupts, 1u);
	while (driver_take_used(&q, &id, &len))
		;
	q.last_used = driver_used_idx(&q);
	driver_want_interrupts(&q, true);
	serve_one();
	cr_expect_eq(interrupts, 2u);
}

Test(virtqueue, a_whole_turn_between_two_flushes_interrupts)
{
	struct driver_buffer b = { GPA(0), 1, true };

	use_event_idx();
	serve_one();
	driver_want_interrupts(&q, false);
	interrupts = 0;
	for (unsigned i = 0; i < 65536; i++) {
		driver_add(&q, &b, 1);
		cr_assert_eq(pop(), 1);
		virtqueue_push(&vq, chain.head, 0);
	}
	virtqueue_flush(&vq);
	cr_expect_eq(interrupts, 1u);
}

static void check_kicks(void)
{
	struct driver_buffer b = { GPA(0), 1, true };

	virtqueue_disable_kicks(&vq);
	driver_add(&q, &b, 1);
	(void)driver_should_kick(&q); /* with event index the first one is always due */
	driver_add(&q, &b, 1);
	cr_expect_not(driver_should_kick(&q));
	cr_expect(virtqueue_enable_kicks(&vq), "chains came meanwhile");
	while (pop() > 0)
		virtqueue_push(&vq, chain.head, 0);
	cr_expect_not(virtqueue_enable_kicks(&vq));
	driver_add(&q, &b, 1);
	cr_expect(driver_should_kick(&q));
}

Test(virtqueue, kicks_by_flag)
{
	check_kicks();
}

Test(virtqueue, kicks_by_event_index)
{
	use_event_idx();
	check_kicks();
}

Test(virtqueue, saved_and_loaded)
{
	struct state_out o;
	struct state_in in;
	struct state_section s;
	struct virtqueue copy = { .kick_fd = -EBADF };
	uint32_t id, len;

	for (unsigned i = 0; i < 5; i++)
		serve_one();
	state_out_init(&o);
	state_begin(&o, "ring", "", 1);
	virtqueue_save(&vq, &o);
	state_end(&o);
	cr_assert_eq(state_finish(&o), 0);
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_assert_eq(state_take(&in, "ring", "", 1, &s, NULL), 0);
	cr_assert_eq(virtqueue_load(&copy, &s, &ram.mem, 256), 0);
	cr_assert_eq(state_section_done(&s, NULL), 0);
	virtqueue_disable(&vq);
	vq = copy;
	vq.interrupt = on_interrupt;
	interrupts = 0;
	q.last_used = 5;
	serve_one();
	cr_expect_eq(interrupts, 1u);
	cr_expect(driver_take_used(&q, &id, &len) && id == 5);
	state_out_deinit(&o);
}

Test(virtqueue, vectors_are_copied_and_cut)
{
	char a[3] = "abc", b[1] = "d", c[4] = "efgh", buf[16] = "";
	struct iovec v[] = { { a, 3 }, { b, 1 }, { c, 4 } }, *p = v;

	cr_expect_eq(iov_to_buf(v, 3, 0, buf, sizeof(buf)), 8u);
	cr_expect_str_eq(buf, "abcdefgh");
	cr_expect_eq(iov_to_buf(v, 3, 2, buf, 3), 3u);
	cr_expect_arr_eq(buf, "cde", 3);
	cr_expect_eq(iov_to_buf(v, 3, 8, buf, 3), 0u);
	cr_expect_eq(iov_from_buf(v, 3, 3, "XYZ", 3), 3u);
	cr_expect(b[0] == 'X' && c[0] == 'Y' && c[1] == 'Z' && c[2] == 'g');
	cr_expect_eq(iov_from_buf(v, 3, 7, "123", 3), 1u);
	cr_expect_eq(iov_skip(&p, 3, 5), 1u);
	cr_expect(p == &v[2] && p->iov_base == c + 1 && p->iov_len == 3);
	cr_expect_eq(iov_skip(&p, 1, 3), 0u);
}

/*
 * A second vCPU writes anything to all of the ring while the device serves it. What the device
 * resolves must be inside of RAM at every moment (the pages around it kill), and the queue must
 * stay consistent, whether it breaks or not.
 */
static atomic_bool mutate;

static void *mutator(void *arg UNUSED)
{
	uint32_t x = 1;
	uint16_t fixed = 0;

	while (atomic_load_explicit(&mutate, memory_order_relaxed)) {
		uint16_t i;
		_Atomic uint64_t *d;

		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		i = (uint16_t)(x % RING_SIZE);
		d = (_Atomic uint64_t *)(void *)driver_desc(&q, i);
		/* Mostly sensible descriptors, so that walks get somewhere. */
		atomic_store_explicit(&d[0], x % 64 == 0 ? ~0ull : x % (RAM_BYTES - 4096),
		                      memory_order_relaxed);
		atomic_store_explicit(&d[1],
		                      (x >> 8) % 4096 | (uint64_t)(x >> 4 & 3) << 32 |
		                              (uint64_t)((x >> 12) % RING_SIZE) << 48,
		                      memory_order_relaxed);
		atomic_store_explicit((_Atomic uint16_t *)driver_avail_entry(&q, i),
		                      (uint16_t)((x >> 3) % RING_SIZE), memory_order_relaxed);
		driver_set_avail_idx(&q, (uint16_t)(fixed += x % 3));
	}
	return NULL;
}

static void check_resolved(void)
{
	uint64_t in = 0, out = 0;

	for (unsigned i = 0; i < chain.n_out + chain.n_in; i++) {
		const uint8_t *at = chain.iov[i].iov_base;

		cr_assert(at >= ram.host && at + chain.iov[i].iov_len <= ram.host + RAM_BYTES);
		*(i < chain.n_out ? &out : &in) += chain.iov[i].iov_len;
	}
	cr_assert(in == chain.in_bytes && out == chain.out_bytes);
}

Test(virtqueue, a_ring_that_changes_under_the_device)
{
	unsigned popped = 0, broken = 0;
	pthread_t t;

	mutate = true;
	cr_assert_eq(pthread_create(&t, NULL, mutator, NULL), 0);
	/* Both outcomes have to come often enough, however the threads are scheduled. */
	for (unsigned n = 0; n < 20000 || popped < 200 || broken < 200; n++) {
		int r = pop();

		cr_assert_leq(vq.in_flight, (uint32_t)RING_SIZE);
		if (r > 0) {
			popped++;
			check_resolved();
			virtqueue_push(&vq, chain.head, chain.in_bytes);
			virtqueue_flush(&vq);
			(void)virtqueue_enable_kicks(&vq);
		} else if (r < 0) {
			uint16_t index = vq.last_avail;

			broken++;
			vq.enabled = false;
			cr_assert_eq(virtqueue_enable(&vq, &ram.mem, 256), 0);
			vq.indirect = true;
			vq.last_avail = vq.next_used = (uint16_t)(index + 1);
		}
	}
	mutate = false;
	pthread_join(t, NULL);
}

/* Two threads, each waiting for the other by kicks and interrupts as counters: nothing gets lost.
 */
static atomic_uint kicks_sent, interrupts_sent;
static atomic_bool done;

static void count_interrupt(struct virtqueue *v UNUSED)
{
	interrupts_sent++;
}

static void *device_thread(void *arg UNUSED)
{
	unsigned seen = 0;

	while (!done) {
		if (seen == kicks_sent) {
			sched_yield();
			continue;
		}
		seen = kicks_sent;
		do {
			virtqueue_disable_kicks(&vq);
			while (pop() > 0) {
				virtqueue_push(&vq, chain.head, chain.in_bytes);
				virtqueue_flush(&vq);
			}
		} while (virtqueue_enable_kicks(&vq));
	}
	return NULL;
}

static void ping_pong(void)
{
	struct driver_buffer b = { guest_ram_put(&ram, NULL, 4), 4, true };
	unsigned in_ring = 0, returned = 0;
	uint32_t id, len;
	pthread_t t;

	vq.interrupt = count_interrupt;
	cr_assert_eq(pthread_create(&t, NULL, device_thread, NULL), 0);
	for (unsigned sent = 0; returned < 30000;) {
		unsigned seen;

		while (in_ring < RING_SIZE && sent < 30000) {
			driver_add(&q, &b, 1);
			in_ring++;
			sent++;
		}
		if (driver_should_kick(&q))
			kicks_sent++;
		seen = interrupts_sent;
		driver_want_interrupts(&q, true);
		while (driver_take_used(&q, &id, &len)) {
			cr_assert_eq(len, 4u);
			in_ring--;
			returned++;
			seen = UINT32_MAX;
		}
		while (seen == interrupts_sent)
			sched_yield();
		driver_want_interrupts(&q, false);
	}
	done = true;
	pthread_join(t, NULL);
	cr_expect_not(vq.broken);
}

Test(virtqueue, nothing_is_lost_between_threads_by_flag, .timeout = 120)
{
	ping_pong();
}

Test(virtqueue, nothing_is_lost_between_threads_by_event_index, .timeout = 120)
{
	use_event_idx();
	ping_pong();
}
