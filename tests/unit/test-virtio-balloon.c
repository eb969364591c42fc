/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/models.h"
#include "tests/lib/vguest.h"

enum {
	INFLATE,
	DEFLATE,
	STATS,
	REPORTING = 4
};
enum {
	F_STATS = 1,
	F_OOM = 2,
	F_REPORTING = 5
};

#define PAGE      4096u
#define RAM_PAGES (VGUEST_RAM / PAGE)

static struct vguest g;

static struct virtio_device *new_balloon(void)
{
	struct virtio_balloon_config c = { .id = "balloon0",
		                           .deflate_on_oom = true,
		                           .free_page_reporting = true };
	struct virtio_device *d;

	cr_assert_eq(virtio_balloon_new(&c, &g.mem, g.loop, &d), 0);
	return d;
}

static void setup(void)
{
	vguest_init(&g);
}

static void teardown(void)
{
	vguest_deinit(&g);
}

TestSuite(virtio_balloon, .init = setup, .fini = teardown, .timeout = 60);

static blkcnt_t ram_blocks(void)
{
	struct stat st;

	cr_assert_eq(fstat(g.memfd, &st), 0);
	return st.st_blocks * 512 / PAGE;
}

static void give_pfns(unsigned q, const uint32_t *pfns, unsigned n)
{
	struct vguest_buf b = { vguest_alloc(&g, 4 * n), 4 * n, false };

	memcpy(vguest_at(&g, b.gpa), pfns, 4 * n);
	cr_assert_eq(vguest_do(&g, q, &b, 1), 0);
}

/* Pages given up leave the host's memory, come back as zeroes, and no other page is touched. */
Test(virtio_balloon, inflate)
{
	uint64_t gpa = vguest_alloc(&g, 300 * PAGE);
	uint32_t pfns[300];
	uint8_t *at = vguest_at(&g, gpa);
	blkcnt_t before;

	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	memset(at, 0xa5, 300 * PAGE);
	/* Every page of the first 100, every second one of the others, from the end on. */
	unsigned n = 0;
	for (unsigned i = 0; i < 100; i++)
		pfns[n++] = (uint32_t)(gpa / PAGE + i);
	for (unsigned i = 298; i > 100; i -= 2)
		pfns[n++] = (uint32_t)(gpa / PAGE + i);
	vguest_alloc(&g, 4 * n); /* so that the list itself is in memory before we count */
	g.next -= 4096;
	before = ram_blocks();
	give_pfns(INFLATE, pfns, n);
	cr_assert_leq(ram_blocks(), before - (blkcnt_t)n + 1);
	for (unsigned i = 0; i < 300; i++)
		cr_assert_eq(at[i * PAGE + 77], i < 100 || (i > 100 && i % 2 == 0) ? 0 : 0xa5,
		             "page %u", i);
	give_pfns(DEFLATE, pfns, n);
	cr_assert_eq(vguest_stat(&g, "inflate", "bytes"), n * PAGE);
	cr_assert_eq(vguest_stat(&g, "deflate", "bytes"), n * PAGE);
}

/* Page numbers that are none, lists that are odd. */
Test(virtio_balloon, lies)
{
	uint64_t gpa = vguest_alloc(&g, 2 * PAGE);
	uint32_t pfns[] = { 0,
		            0xffffffff,
		            0x000fffff,
		            (uint32_t)(gpa / PAGE),
		            VGUEST_GPA / PAGE - 1,
		            VGUEST_GPA / PAGE + RAM_PAGES,
		            0xfee00 };
	struct vguest_buf b;

	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	memset(vguest_at(&g, gpa), 0xa5, 2 * PAGE);
	give_pfns(INFLATE, pfns, sizeof(pfns) / sizeof(pfns[0]));
	cr_assert_eq(*(uint8_t *)vguest_at(&g, gpa), 0);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, gpa + PAGE), 0xa5);
	cr_assert_eq(vguest_stat(&g, "inflate", "errors"), 1);
	b = (struct vguest_buf){ gpa + PAGE, 7, false };
	cr_assert_eq(vguest_do(&g, INFLATE, &b, 1), 0);
	b = (struct vguest_buf){ gpa, 16, true };
	cr_assert_eq(vguest_do(&g, INFLATE, &b, 1), 0);
	cr_assert_not(vguest_needs_reset(&g));
}

/* The last page of RAM, and a run that ends there. */
Test(virtio_balloon, end_of_ram)
{
	uint32_t last = VGUEST_GPA / PAGE + RAM_PAGES - 1;
	uint32_t pfns[] = { last - 1, last, last + 1 };

	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	g.ram[VGUEST_RAM - 1] = 1;
	give_pfns(INFLATE, pfns, 3);
	cr_assert_eq(g.ram[VGUEST_RAM - 1], 0);
	cr_assert_eq(vguest_stat(&g, "inflate", "errors"), 1);
}

/* Target and actual, each the other side's to read. */
Test(virtio_balloon, target)
{
	uint32_t v;

	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	virtio_balloon_set_target(g.d, 1000);
	vguest_wait_config(&g);
	virtio_config_read(g.d, 0, &v, 4);
	cr_assert_eq(v, 1000);
	v = 900;
	virtio_config_write(g.d, 4, &v, 4);
	cr_assert_eq(virtio_balloon_actual(g.d), 900);
	((uint8_t *)&v)[0] = 7;
	virtio_config_write(g.d, 4, &v, 1); /* a byte of it */
	cr_assert_eq(virtio_balloon_actual(g.d), (900 & ~0xffu) | 7);
	v = 1;
	virtio_config_write(g.d, 0, &v, 4); /* the target is not the guest's */
	virtio_config_read(g.d, 0, &v, 4);
	cr_assert_eq(v, 1000);
	v = UINT32_MAX; /* more than there is */
	virtio_config_write(g.d, 4, &v, 4);
	cr_assert_eq(virtio_balloon_actual(g.d), RAM_PAGES);
	virtio_balloon_set_target(g.d, UINT64_MAX);
	virtio_config_read(g.d, 0, &v, 4);
	cr_assert_eq(v, RAM_PAGES);
}

struct stat_entry {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static long long guest_figure(const char *name)
{
	json_t *stats = virtio_device_stats(g.d);
	json_t *v = json_object_get(json_object_get(stats, "guest"), name);
	long long n = v ? json_integer_value(v) : -1;

	json_decref(stats);
	return n;
}

/* The guest's figures: asked for when somebody looks, or every second. */
Test(virtio_balloon, statistics)
{
	struct stat_entry *e;
	struct vguest_buf b = { vguest_alloc(&g, 4096), 3 * sizeof(*e), false };

	e = vguest_at(&g, b.gpa);
	e[0] = (struct stat_entry){ 4, 123456 };
	e[1] = (struct stat_entry){ 999, 1 }; /* no such tag */
	e[2] = (struct stat_entry){ 5, UINT64_MAX };
	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	vguest_add(&g, STATS, &b, 1);
	vguest_kick(&g, STATS);
	vguest_settle(&g);
	cr_assert_eq(guest_figure("free"), 123456); /* and this asks for the next */
	cr_assert_eq(guest_figure("total"), INT64_MAX);
	cr_assert_eq(guest_figure("swap_in"), -1);
	for (unsigned i = 0; i < 3; i++) {
		vguest_wait(&g, STATS, NULL);
		e[0].value = i;
		vguest_add(&g, STATS, &b, 1);
		vguest_kick(&g, STATS);
		vguest_settle(&g);
		cr_assert_eq(guest_figure("free"), i);
	}
	virtio_balloon_set_poll_interval(g.d, 1);
	for (unsigned i = 0; i < 2; i++) {
		vguest_wait(&g, STATS, NULL);
		vguest_add(&g, STATS, &b, 1);
		vguest_kick(&g, STATS);
	}
	/* A pause gives the buffer back, and it is read again after it. */
	vguest_settle(&g);
	virtio_device_pause(g.d);
	virtio_device_resume(g.d);
	vguest_wait(&g, STATS, NULL);
}

/* Free page reporting, whichever number the driver gives the queue. */
static void report(uint64_t without, unsigned queue)
{
	uint64_t gpa = vguest_alloc(&g, 8 * PAGE);
	struct vguest_buf bufs[] = { { gpa, 2 * PAGE, true },
		                     { gpa + 2 * PAGE + 100, 3 * PAGE, true },
		                     { gpa + 7 * PAGE, 100, true } };
	uint8_t *at = vguest_at(&g, gpa);

	vguest_start(&g, new_balloon(), ~without, 5, 0);
	memset(at, 0xa5, 8 * PAGE);
	cr_assert_eq(vguest_do(&g, queue, bufs, 3), 0);
	/* Whole pages only: 0 and 1, then 3 and 4. */
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(at[i * PAGE], i < 2 || i == 3 || i == 4 ? 0 : 0xa5, "page %u", i);
}

Test(virtio_balloon, reporting)
{
	report(0, REPORTING);
}

Test(virtio_balloon, reporting_as_linux_counts)
{
	report(0, 3);
}

Test(virtio_balloon, reporting_without_statistics)
{
	report(1u << F_STATS, 2);
}

/* A restored guest's RAM is a private mapping: what the guest wrote is given back there too. */
Test(virtio_balloon, private_memory)
{
	uint64_t gpa = vguest_alloc(&g, PAGE);
	uint32_t pfn = (uint32_t)(gpa / PAGE);

	cr_assert_eq(mmap(g.ram, VGUEST_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
	                  g.memfd, 0),
	             g.ram);
	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	memset(vguest_at(&g, gpa), 0xa5, PAGE);
	give_pfns(INFLATE, &pfn, 1);
	cr_assert_eq(*(uint8_t *)vguest_at(&g, gpa), 0);
	cr_assert_eq(vguest_stat(&g, "inflate", "errors"), 0);
}

Test(virtio_balloon, broken_ring)
{
	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	vguest_desc(&g, REPORTING, 0, VGUEST_GPA + VGUEST_RAM - 8, 16, 2, 0);
	vguest_offer(&g, REPORTING, 0);
	vguest_kick(&g, REPORTING);
	vguest_expect_needs_reset(&g);
	vguest_reset(&g);
	vguest_start(&g, g.d, ~0ull, 5, 0);
	cr_assert_not(vguest_needs_reset(&g));
}

Test(virtio_balloon, saved_and_loaded)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct virtio_device *after;
	struct state_out o;
	struct state_in in;
	uint32_t v = 70;

	vguest_start(&g, new_balloon(), ~0ull, 5, 0);
	virtio_balloon_set_target(g.d, 77);
	virtio_config_write(g.d, 4, &v, 4);
	state_out_init(&o);
	virtio_device_pause(g.d);
	virtio_device_save(g.d, &o);
	cr_assert_eq(state_finish(&o), 0);
	after = new_balloon();
	cr_assert_eq(state_open(&in, o.data, o.len, &err), 0);
	cr_assert_eq(virtio_device_load(after, &in, &err), 0, "%s", err.message);
	cr_assert_eq(virtio_balloon_actual(after), 70);
	virtio_config_read(after, 0, &v, 4);
	cr_assert_eq(v, 77);
	virtio_device_free(after);
	state_out_deinit(&o);
}
