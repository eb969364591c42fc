/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "common/parse.h"

TestSuite(parse, .timeout = 10);

Test(parse, sizes)
{
	uint64_t v;

	cr_assert_eq(parse_size("512", &v), 0);
	cr_assert_eq(v, 512);
	cr_assert_eq(parse_size("2G", &v), 0);
	cr_assert_eq(v, 2147483648u);
	cr_assert_eq(parse_size("1.5GiB", &v), 0);
	cr_assert_eq(v, 1610612736u);
	cr_assert_eq(parse_size("64k", &v), 0);
	cr_assert_eq(v, 65536);
	cr_assert_eq(parse_size("", &v), -EINVAL);
	cr_assert_eq(parse_size("-1", &v), -EINVAL);
	cr_assert_eq(parse_size("1X", &v), -EINVAL);
	cr_assert_eq(parse_size("1.5", &v), -EINVAL);
	cr_assert_eq(parse_size("99999999999P", &v), -ERANGE);
	cr_assert_eq(parse_size("18446744073709551616", &v), -ERANGE);
}

Test(parse, durations)
{
	uint64_t v;

	cr_assert_eq(parse_duration_ms("90", &v), 0);
	cr_assert_eq(v, 90000);
	cr_assert_eq(parse_duration_ms("500ms", &v), 0);
	cr_assert_eq(v, 500);
	cr_assert_eq(parse_duration_ms("1.5h", &v), 0);
	cr_assert_eq(v, 5400000);
	cr_assert_eq(parse_duration_ms("1w", &v), -EINVAL);
}

Test(parse, names)
{
	char long_name[65];

	memset(long_name, 'a', 64);
	long_name[64] = '\0';
	cr_assert(is_object_name("web-1.example_a"));
	cr_assert_not(is_object_name(""));
	cr_assert_not(is_object_name("../x"));
	cr_assert_not(is_object_name("-web"));
	cr_assert_not(is_object_name("a\nb"));
	cr_assert_not(is_object_name("Web"));
	cr_assert_not(is_object_name(long_name));
	cr_assert(is_object_name(long_name + 1));
}

Test(parse, macs)
{
	uint8_t mac[6];

	cr_assert_eq(parse_mac("52:54:00:12:34:5f", mac), 0);
	cr_assert_eq(mac[5], 0x5f);
	cr_assert_eq(parse_mac("53:54:00:12:34:5f", mac), -EINVAL);
	cr_assert_eq(parse_mac("52:54:00:12:34", mac), -EINVAL);
}

Test(parse, distances)
{
	cr_assert_eq(word_distance("memory", "memory", 3), 0);
	cr_assert_eq(word_distance("memroy", "memory", 3), 1);
	cr_assert_eq(word_distance("mem", "memory", 2), 3);
	cr_assert_eq(word_distance("", "abcdef", 3), 4);
}
