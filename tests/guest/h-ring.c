/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rings that make no sense. Whatever the device makes of them, after a reset it works, it has
 * written nowhere but in its buffers, and this guest goes on. */
#include "hostile.h"
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/smp.h"
#include "victim.h"

#define GOOD_BYTES 64u
#define TABLE_MAX  4096u
#define APIC       0xFEE00000u
#define VGA_HOLE   0xA0000u

struct ring {
	struct victim *v;
	struct virtq *q;
	uint64_t good;  /* address of BUFFER_BYTES */
	unsigned flags; /* DESC_WRITE where the device writes */
	struct virtq_desc *table;
};

struct abuse {
	const char *name;
	bool malformed; /* no device may accept it */
	void (*make)(struct ring *r);
};

static void one(struct ring *r, uint64_t address, uint32_t len, unsigned flags)
{
	put_desc(r->q, 0, address, len, flags, 0);
	virtq_publish(r->q, 0);
}

static void loop_of(struct ring *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put_desc(r->q, i, r->good, 1, r->flags | DESC_NEXT, (i + 1) % n);
	virtq_publish(r->q, 0);
}
static void loop_one(struct ring *r)
{
	loop_of(r, 1);
}
static void loop_two(struct ring *r)
{
	loop_of(r, 2);
}
static void loop_all(struct ring *r)
{
	loop_of(r, r->q->size);
}
static void next_past_end(struct ring *r)
{
	put_desc(r->q, 0, r->good, GOOD_BYTES, r->flags | DESC_NEXT, r->q->size);
	virtq_publish(r->q, 0);
}
static void next_65535(struct ring *r)
{
	put_desc(r->q, 0, r->good, GOOD_BYTES, r->flags | DESC_NEXT, 0xFFFF);
	virtq_publish(r->q, 0);
}
static void head_past_end(struct ring *r)
{
	virtq_publish(r->q, r->q->size);
}
static void head_65535(struct ring *r)
{
	virtq_publish(r->q, 0xFFFF);
}
static void jump(struct ring *r, unsigned by)
{
	put_desc(r->q, 0, r->good, GOOD_BYTES, r->flags, 0);
	r->q->next_avail = (uint16_t)(r->q->next_avail + by - 1);
	virtq_publish(r->q, 0);
}
static void index_jump(struct ring *r)
{
	jump(r, r->q->size + 1u);
}
static void index_jump_far(struct ring *r)
{
	jump(r, 0x8000);
}

/* n entries in the table, in a chain, of which the last leads to last_next when it has a flag. */
static void fill_table(struct ring *r, unsigned n, unsigned last_flags, unsigned last_next)
{
	for (unsigned i = 0; i < n; i++) {
		r->table[i].address = r->good;
		r->table[i].len = 1;
		r->table[i].flags = (uint16_t)(r->flags | (i + 1 < n ? DESC_NEXT : last_flags));
		r->table[i].next = (uint16_t)(i + 1 < n ? i + 1 : last_next);
	}
}
static void table_of(struct ring *r, unsigned n, unsigned last_flags, unsigned last_next,
                     uint32_t bytes)
{
	fill_table(r, n, last_flags, last_next);
	one(r, (uint64_t)r->table, bytes, DESC_INDIRECT);
}
static void too_long(struct ring *r)
{
	table_of(r, TABLE_MAX, 0, 0, TABLE_MAX * 16);
}
static void indirect_loop(struct ring *r)
{
	table_of(r, 4, DESC_NEXT, 0, 4 * 16);
}
static void indirect_past_end(struct ring *r)
{
	table_of(r, 4, DESC_NEXT, 4, 4 * 16);
}
static void indirect_in_indirect(struct ring *r)
{
	fill_table(r, 2, 0, 0);
	r->table[0].flags = DESC_INDIRECT;
	r->table[0].address = (uint64_t)(r->table + 8);
	r->table[0].len = 16;
	one(r, (uint64_t)r->table, 2 * 16, DESC_INDIRECT);
}
static void indirect_itself(struct ring *r)
{
	r->table[0] = (struct virtq_desc){ (uint64_t)r->table, 16, DESC_INDIRECT, 0 };
	one(r, (uint64_t)r->table, 16, DESC_INDIRECT);
}
static void indirect_empty(struct ring *r)
{
	table_of(r, 1, 0, 0, 0);
}
static void indirect_odd(struct ring *r)
{
	table_of(r, 2, 0, 0, 31);
}
static void indirect_huge(struct ring *r)
{
	table_of(r, 2, 0, 0, 0xFFFFFFF0);
}
static void indirect_outside(struct ring *r)
{
	one(r, ram_top(), 32, DESC_INDIRECT);
}
static void indirect_wraps(struct ring *r)
{
	one(r, ~0ull - 15, 64, DESC_INDIRECT);
}
static void outside(struct ring *r)
{
	one(r, ram_top(), GOOD_BYTES, r->flags);
}
static void half_outside(struct ring *r)
{
	one(r, ram_top() - 8, GOOD_BYTES, r->flags);
}
static void vga_hole(struct ring *r)
{
	one(r, VGA_HOLE, GOOD_BYTES, r->flags);
}
/* What an obedient device does to a balloon's guest is its end: frame numbers are read from
 * anywhere. */
static bool would_hurt(const struct ring *r)
{
	return !option("strict") && r->v->kind->type == VIRTIO_BALLOON;
}

/*
 * QEMU 7.2's devices write to other devices and to themselves, which is an interrupt of a random
 * vector or the end of QEMU, and of a buffer that is too long they fill what is RAM. So the device
 * is only asked to write there when it is strictly held to refuse.
 */
static void risky(struct ring *r, uint64_t address, uint32_t len)
{
	if (!would_hurt(r))
		one(r, address, len, option("strict") ? r->flags : 0);
}
static void on_apic(struct ring *r)
{
	risky(r, APIC, GOOD_BYTES);
}
static void on_itself(struct ring *r)
{
	risky(r, r->v->v.common, GOOD_BYTES);
}
static void on_ecam(struct ring *r)
{
	risky(r, pci_ecam() ? pci_ecam() : APIC, GOOD_BYTES);
}
static void wraps(struct ring *r)
{
	one(r, ~0ull - 15, GOOD_BYTES, r->flags);
}
static void sign_bit(struct ring *r)
{
	one(r, 1ull << 63 | r->good, GOOD_BYTES, r->flags);
}
static void bit_52(struct ring *r)
{
	one(r, 1ull << 52 | r->good, GOOD_BYTES, r->flags);
}
static void len_max(struct ring *r)
{
	risky(r, r->good, 0xFFFFFFFF);
}
static void len_2g(struct ring *r)
{
	risky(r, r->good, 0x80000000);
}
static void len_zero(struct ring *r)
{
	one(r, r->good, 0, r->flags);
}
static void len_one(struct ring *r)
{
	one(r, r->good, 1, r->flags);
}
static void zeroes_only(struct ring *r)
{
	for (unsigned i = 0; i < 32; i++)
		put_desc(r->q, i, r->good, 0, r->flags | (i < 31 ? DESC_NEXT : 0), i + 1);
	virtq_publish(r->q, 0);
}
/* Readable memory, so nothing is overwritten; the sum passes 2^32. A balloon that accepts it takes
 * the whole guest away: not asked where that may happen. */
static void sum_over_4g(struct ring *r)
{
	uint64_t bytes = (ram_top() - MIB) & ~(MIB - 1);
	unsigned n = (unsigned)((1ull << 32) / bytes) + 1;

	n = n < r->q->size ? n : r->q->size;
	for (unsigned i = 0; i < n; i++)
		put_desc(r->q, i, MIB, (uint32_t)bytes, i + 1 < n ? DESC_NEXT : 0, i + 1);
	if (!would_hurt(r))
		virtq_publish(r->q, 0);
}
static void wrong_way(struct ring *r)
{
	one(r, r->good, GOOD_BYTES, r->flags ^ DESC_WRITE);
}
static void write_before_read(struct ring *r)
{
	put_desc(r->q, 0, r->good, GOOD_BYTES, DESC_WRITE | DESC_NEXT, 1);
	put_desc(r->q, 1, r->good + GOOD_BYTES, GOOD_BYTES, 0, 0);
	virtq_publish(r->q, 0);
}
static void unknown_flags(struct ring *r)
{
	one(r, r->good, GOOD_BYTES, r->flags | 0xFFF8);
}
static void same_head_often(struct ring *r)
{
	put_desc(r->q, 0, r->good, GOOD_BYTES, r->flags, 0);
	for (unsigned i = 0; i < r->q->size; i++)
		virtq_publish(r->q, 0);
}

static const struct abuse abuses[] = {
	{ "a loop of one", true, loop_one },
	{ "a loop of two", true, loop_two },
	{ "a loop of all", true, loop_all },
	{ "next past the end", true, next_past_end },
	{ "next 65535", true, next_65535 },
	{ "head past the end", true, head_past_end },
	{ "head 65535", true, head_65535 },
	{ "index jumps by size + 1", true, index_jump },
	{ "index jumps by 32768", true, index_jump_far },
	{ "a chain longer than the ring", true, too_long },
	{ "indirect loop", true, indirect_loop },
	{ "indirect next past the end", true, indirect_past_end },
	{ "indirect in indirect", true, indirect_in_indirect },
	{ "indirect table in itself", true, indirect_itself },
	{ "indirect table of 0 bytes", true, indirect_empty },
	{ "indirect table of 31 bytes", true, indirect_odd },
	{ "indirect table of 2^32 - 16 bytes", true, indirect_huge },
	{ "indirect table outside RAM", true, indirect_outside },
	{ "indirect table wraps", true, indirect_wraps },
	{ "outside RAM", true, outside },
	{ "half outside RAM", true, half_outside },
	{ "in the hole below 1 MiB", false, vga_hole },
	{ "on the local APIC", true, on_apic },
	{ "on its own registers", true, on_itself },
	{ "on the configuration space", true, on_ecam },
	{ "address wraps", true, wraps },
	{ "address with bit 63", true, sign_bit },
	{ "address with bit 52", true, bit_52 },
	{ "length 2^32 - 1", true, len_max },
	{ "length 2^31", true, len_2g },
	{ "length 0", false, len_zero },
	{ "length 1", false, len_one },
	{ "32 lengths of 0", false, zeroes_only },
	{ "a sum over 2^32", true, sum_over_4g },
	{ "the wrong direction", false, wrong_way },
	{ "write before read", true, write_before_read },
	{ "unknown flags", false, unknown_flags },
	{ "one head as often as fits", false, same_head_often },
};

static struct virtq_desc *table;

static bool abuse_once(struct victim *v, const struct abuse *a)
{
	struct ring r = { .v = v, .table = table };
	enum outcome o;

	TRY(victim_start(v));
	r.q = victim_queue(v);
	r.good = (uint64_t)victim_buffer();
	r.flags = v->kind->write ? DESC_WRITE : 0;
	a->make(&r);
	o = victim_outcome(v, 0);
	print("ring: %s %u: %s: %s\n", v->kind->name, v->nth, a->name, outcome_name(o));
	if (option("strict") && v->kind->answers && a->malformed && o != OUTCOME_NEEDS_RESET)
		return fail("%s: %s: %s", v->kind->name, a->name, outcome_name(o));
	if (!victim_works(v)) {
		print("ring: %s: does not work after: %s\n", v->kind->name, a->name);
		return false;
	}
	return true;
}

/* QEMU 7.2 ends itself over a frame that is shorter than its header. */
static bool spare(const struct victim *v)
{
	return option("qemu") && strcmp(v->kind->name, "net-tx") == 0;
}

static bool abuse_rings(struct victim *v)
{
	if (spare(v))
		return true;
	if (!table)
		table = pages_alloc(TABLE_MAX * sizeof(*table));
	for (size_t i = 0; i < ARRAY_SIZE(abuses); i++)
		TRY(abuse_once(v, &abuses[i]));
	return true;
}

bool test_ring(void)
{
	return for_victims(abuse_rings);
}

/* The other processors: every field of the ring takes good and bad values, as fast as they can. */
static struct ring racing;
static volatile bool stop_racing;

/* Short, or so long that it cannot fit: in between, an obedient device would overwrite the guest.
 */
static uint32_t racing_len(uint64_t x)
{
	return x & 0x10000 || !option("strict") ? GOOD_BYTES : (uint32_t)(x >> 32) | 0x80000000;
}

static void mutate(void *arg)
{
	static const unsigned flags[] = { DESC_WRITE, 0, DESC_NEXT, DESC_INDIRECT,
		                          DESC_WRITE | DESC_NEXT };
	uint64_t x = (uint64_t)arg * 0x9E3779B97F4A7C15ull + 1;
	struct virtq *q = racing.q;

	while (!__atomic_load_n(&stop_racing, __ATOMIC_ACQUIRE)) {
		unsigned i;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		i = x >> 8 & 7;
		switch (x & 7) {
		case 0:
			q->desc[i].address = x & 0x10000 ? racing.good : ram_top() - (x >> 17 & 63);
			break;
		case 1:
			q->desc[i].len = racing_len(x);
			break;
		case 2:
			q->desc[i].flags = (uint16_t)flags[(x >> 16) % ARRAY_SIZE(flags)];
			break;
		case 3:
			q->desc[i].next = (uint16_t)(x & 0x10000 ? (i + 1) & 7 : x >> 17);
			break;
		case 4:
			q->avail[2 + (x >> 16) % q->size] = (uint16_t)(x >> 24 & 7);
			break;
		case 5:
			racing.table[i].address = racing.good;
			racing.table[i].len = racing_len(x);
			racing.table[i].flags = (uint16_t)flags[(x >> 16) % ARRAY_SIZE(flags)];
			break;
		case 6:
			q->desc[i].address = (uint64_t)racing.table;
			break;
		default:
			q->desc[i].len = 16 * (uint32_t)(x >> 16 & 7);
			break;
		}
	}
}

/* Until the device has had enough, again and again: rounds=N. */
static bool race(struct victim *v)
{
	uint64_t rounds = option_number("rounds", 20), kicks = option_number("kicks", 200),
		 done = 0;
	unsigned n = smp_start(), needs_reset = 0;

	if (spare(v))
		return true;
	if (!table)
		table = pages_alloc(TABLE_MAX * sizeof(*table));
	for (uint64_t round = 0; round < rounds; round++) {
		TRY(victim_start(v));
		racing = (struct ring){ .v = v,
			                .q = victim_queue(v),
			                .table = table,
			                .good = (uint64_t)victim_buffer() };
		stop_racing = false;
		for (unsigned i = 1; i < n; i++)
			smp_run(i, mutate, (void *)(uint64_t)(i + round * n));
		for (uint64_t i = 0; i < kicks; i++, done++) {
			virtq_publish(racing.q, (uint16_t)(random_next() & 7));
			if (i % 16 == 0 && (virtio_status(&v->v) & VIRTIO_NEEDS_RESET))
				break;
		}
		__atomic_store_n(&stop_racing, true, __ATOMIC_RELEASE);
		for (unsigned i = 1; i < n; i++)
			if (!smp_wait(i))
				return fail("cpu %u does not come back", i);
		needs_reset += (virtio_status(&v->v) & VIRTIO_NEEDS_RESET) != 0;
		TRY(victim_works(v));
	}
	print("race: %s %u: %lu kicks, %u of %lu rounds end in needs reset\n", v->kind->name,
	      v->nth, done, needs_reset, rounds);
	return true;
}

bool test_race(void)
{
	if (smp_start() < 2)
		return fail("there is only one processor");
	return for_victims(race);
}
