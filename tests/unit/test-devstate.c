/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "devices/state.h"

static void make(struct state_out *o)
{
	state_out_init(o);
	state_begin(o, "cpu", "0", 1);
	state_put_u8(o, 0x12);
	state_put_u16(o, 0x3456);
	state_put_u32(o, 0x789abcde);
	state_put_u64(o, 0x0123456789abcdefull);
	state_put_bytes(o, "hello", 5);
	state_end(o);
	state_begin(o, "virtio-blk", "disk0", 3);
	state_end(o);
	state_begin(o, "virtio-blk", "disk1", 3);
	state_put_u8(o, 1);
	state_end(o);
	cr_assert_eq(state_finish(o), 0);
}

Test(devstate, what_is_put_comes_out)
{
	struct state_out o;
	struct state_in in;
	struct state_section s;
	char text[5];

	make(&o);
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_expect_eq(in.n_sections, 3u);
	cr_assert_eq(state_take(&in, "cpu", "0", 1, &s, NULL), 0);
	cr_expect_eq(state_get_u8(&s), 0x12);
	cr_expect_eq(state_get_u16(&s), 0x3456);
	cr_expect_eq(state_get_u32(&s), 0x789abcdeu);
	cr_expect_eq(state_get_u64(&s), 0x0123456789abcdefull);
	state_get_bytes(&s, text, sizeof(text));
	cr_expect_arr_eq(text, "hello", 5);
	cr_expect_eq(state_section_done(&s, NULL), 0);
	cr_assert_eq(state_take(&in, "virtio-blk", "disk0", 3, &s, NULL), 0);
	cr_expect_eq(state_section_done(&s, NULL), 0);
	state_out_deinit(&o);
}

Test(devstate, the_bytes_are_little_endian_and_never_change)
{
	/* The format is a promise to snapshots that were taken by an older program. */
	static const uint8_t section[] = { 0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 0xef,
		                           0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01 };
	struct state_out o;

	make(&o);
	cr_expect_arr_eq(o.data, "vmdstate\1\0\0\0\3\0\0\0", 16);
	cr_expect(o.data[16] == (o.len & 0xff) && o.data[17] == o.len >> 8);
	cr_expect_str_eq((char *)o.data + 32, "cpu");
	cr_expect_str_eq((char *)o.data + 64, "0");
	cr_expect_arr_eq(o.data + 96, "\1\0\0\0\24\0\0\0", 8);
	cr_expect_arr_eq(o.data + 104, section, sizeof(section));
	state_out_deinit(&o);
}

Test(devstate, what_is_left_over_or_missing_is_an_error)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_out o;
	struct state_in in;
	struct state_section s;

	make(&o);
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_expect_eq(state_take(&in, "virtio-net", "nic0", 1, &s, &err), -ENOENT);
	cr_expect_str_eq(err.message, "the state has no section 'virtio-net' 'nic0'");
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_expect_eq(state_take(&in, "virtio-blk", "disk1", 2, &s, &err), -EINVAL);
	cr_expect_str_eq(err.message, "section 'virtio-blk' 'disk1' has version 3, this program "
	                              "knows up to 2");
	cr_expect_eq(state_take(&in, "virtio-blk", "disk1", 0, &s, NULL), -EINVAL);
	cr_assert_eq(state_take(&in, "virtio-blk", "disk1", 3, &s, NULL), 0);
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_expect_eq(state_section_done(&s, &err), -EINVAL);
	cr_expect_str_eq(err.message, "section 'virtio-blk' 'disk1' is too long");
	cr_expect_eq(state_get_u8(&s), 1);
	cr_expect_eq(state_section_done(&s, NULL), 0);
	cr_expect_eq(state_get_u32(&s), 0u);
	cr_expect(s.failed);
	cr_expect_eq(state_section_done(&s, NULL), -EINVAL);
	cr_assert_eq(state_take(&in, "cpu", "0", 1, &s, NULL), 0);
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_expect_eq(state_close(&in, &err), -EINVAL);
	cr_expect_str_eq(err.message, "the state has 'virtio-blk' 'disk0', this machine does not");
	cr_assert_eq(state_take(&in, "virtio-blk", "disk0", 3, &s, NULL), 0);
	cr_expect_eq(state_close(&in, NULL), 0);
	state_out_deinit(&o);
}

Test(devstate, every_changed_bit_and_every_cut_is_refused)
{
	struct state_out o;
	struct state_in in;

	make(&o);
	for (size_t i = 0; i < o.len * 8; i++) {
		struct vmd_error err = VMD_ERROR_INIT;

		o.data[i / 8] ^= (uint8_t)(1u << i % 8);
		cr_expect_eq(state_open(&in, o.data, o.len, &err), -EINVAL, "bit %zu", i);
		cr_expect(*err.message);
		o.data[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	for (size_t len = 0; len < o.len; len++) {
		/* A copy of just that length, so that a read past it is seen. */
		cleanup_free uint8_t *cut = malloc(len ? len : 1);

		memcpy(cut, o.data, len);
		cr_expect_eq(state_open(&in, cut, len, NULL), -EINVAL, "length %zu", len);
	}
	cr_expect_eq(state_open(&in, o.data, o.len, NULL), 0);
	state_out_deinit(&o);
}

/* Makes the checksum right again, as an attacker would. */
static void reseal(struct state_out *o)
{
	uint64_t len = o->len, sum;

	memcpy(o->data + 16, &len, 8);
	sum = XXH3_64bits_withSeed(o->data + 32, o->len - 32, XXH3_64bits(o->data, 24));
	memcpy(o->data + 24, &sum, 8);
}

static void expect_refused(struct state_out *o, const char *why)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_in in;

	reseal(o);
	cr_expect_eq(state_open(&in, o->data, o->len, &err), -EINVAL);
	cr_expect_str_eq(err.message, why);
	state_out_deinit(o);
}

Test(devstate, a_frame_that_lies_with_a_right_checksum_is_refused)
{
	struct state_out o;

	make(&o);
	o.data[8] = 2;
	expect_refused(&o, "the state has format 2, this program knows format 1");
	make(&o);
	o.data[12] = 4;
	expect_refused(&o, "section 3 is cut short");
	make(&o);
	o.data[12] = 2;
	expect_refused(&o, "73 bytes are left after the last section");
	make(&o);
	o.data[13] = 3;
	expect_refused(&o, "the state has too many sections");
	make(&o);
	memset(o.data + 32, 'x', 32);
	expect_refused(&o, "section 0 has a bad name");
	make(&o);
	o.data[32 + 30] = 'x'; /* behind the NUL */
	expect_refused(&o, "section 0 has a bad name");
	make(&o);
	o.data[64] = 0x1b;
	expect_refused(&o, "section 0 has a bad name");
	make(&o);
	o.data[103] = 0xff; /* length of the first: 4 GiB - something */
	expect_refused(&o, "section 'cpu' is cut short");
	make(&o);
	memcpy(o.data + 124 + 32, "disk1", 6);
	expect_refused(&o, "section 'virtio-blk' 'disk1' is there twice");
}

Test(devstate, no_more_is_written_than_is_read)
{
	struct state_out o;
	cleanup_free uint8_t *big = calloc(1, STATE_MAX_BYTES);

	state_out_init(&o);
	state_begin(&o, "big", "", 1);
	state_put_bytes(&o, big, STATE_MAX_BYTES - 1000);
	cr_expect_eq(o.error, 0);
	state_put_bytes(&o, big, 1000);
	state_put_u64(&o, 1);
	state_end(&o);
	cr_expect_eq(state_finish(&o), -E2BIG);
	state_out_deinit(&o);
}

Test(devstate, no_more_sections_are_written_than_are_read)
{
	struct state_out o;
	struct state_in in;
	char name[16];

	state_out_init(&o);
	for (unsigned i = 0; i < 512; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		state_begin(&o, "s", name, 1);
		state_end(&o);
	}
	cr_assert_eq(state_finish(&o), 0);
	cr_expect_eq(state_open(&in, o.data, o.len, NULL), 0);
	state_begin(&o, "s", "one more", 1);
	state_end(&o);
	cr_expect_eq(state_finish(&o), -E2BIG);
	state_out_deinit(&o);
}

Test(devstate, there_is_no_version_0)
{
	struct state_out o;
	struct state_in in;
	struct state_section s;

	make(&o);
	o.data[32 + 64] = 0;
	reseal(&o);
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_expect_eq(state_take(&in, "cpu", "0", 1, &s, NULL), -EINVAL);
	state_out_deinit(&o);
}

Test(devstate, sections_do_not_nest, .signal = SIGABRT)
{
	struct state_out o;

	state_out_init(&o);
	state_begin(&o, "a", "", 1);
	state_begin(&o, "b", "", 1);
}
