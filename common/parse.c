/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int parse_u64(const char *text, uint64_t *ret)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	}
	*ret = v;
	return 0;
}

static int size_unit(const char *suffix, unsigned *ret_shift)
{
	static const char letters[] = "KMGTP";
	const char *l;

	if (!*suffix || strcmp(suffix, "B") == 0) {
		*ret_shift = 0;
		return 0;
	}
	l = strchr(letters, *suffix >= 'a' ? *suffix - 32 : *suffix);
	if (!l || (suffix[1] && strcmp(suffix + 1, "iB") != 0 && strcmp(suffix + 1, "B") != 0))
		return -EINVAL;
	*ret_shift = 10u * (unsigned)(l - letters + 1);
	return 0;
}

/* Splits "12.75suffix" into whole part, thousandths and suffix. */
static int split_number(const char *text, uint64_t *ret_whole, unsigned *ret_milli,
                        const char **ret_suffix)
{
	char digits[21];
	size_t n = strspn(text, "0123456789");
	unsigned scale = 100;

	if (n == 0 || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, n);
	digits[n] = '\0';
	text += n;
	*ret_milli = 0;
	if (*text == '.') {
		text++;
		if (*text < '0' || *text > '9')
			return -EINVAL;
		for (; *text >= '0' && *text <= '9'; text++, scale /= 10)
			*ret_milli += scale * (unsigned)(*text - '0');
	}
	*ret_suffix = text;
	return parse_u64(digits, ret_whole);
}

int parse_size(const char *text, uint64_t *ret_bytes)
{
	uint64_t whole, fraction;
	const char *suffix;
	unsigned milli, shift;
	int r = split_number(text, &whole, &milli, &suffix);

	if (r < 0)
		return r;
	r = size_unit(suffix, &shift);
	if (r < 0)
		return r;
	if (milli && !shift)
		return -EINVAL;
	if (whole > UINT64_MAX >> shift)
		return -ERANGE;
	fraction = ((uint64_t)1 << shift) / 1000 * milli +
	           ((uint64_t)1 << shift) % 1000 * milli / 1000;
	if (__builtin_add_overflow(whole << shift, milli ? fraction : 0, ret_bytes))
		return -ERANGE;
	return 0;
}

int parse_duration_ms(const char *text, uint64_t *ret_ms)
{
	static const struct {
		const char *suffix;
		uint64_t ms;
	} units[] = { { "", 1000 },   { "ms", 1 },      { "s", 1000 },
		      { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };
	uint64_t whole;
	const char *suffix;
	unsigned milli;
	int r = split_number(text, &whole, &milli, &suffix);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (strcmp(units[i].suffix, suffix) != 0)
			continue;
		if (__builtin_mul_overflow(whole, units[i].ms, ret_ms))
			return -ERANGE;
		*ret_ms += units[i].ms * milli / 1000;
		return 0;
	}
	return -EINVAL;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int parse_mac(const char *text, uint8_t ret_mac[6])
{
	uint8_t mac[6];

	if (strlen(text) != 17)
		return -EINVAL;
	for (int i = 0; i < 6; i++) {
		int hi = hex_digit(text[i * 3]), lo = hex_digit(text[i * 3 + 1]);

		if (hi < 0 || lo < 0 || (i < 5 && text[i * 3 + 2] != ':'))
			return -EINVAL;
		mac[i] = (uint8_t)(hi << 4 | lo);
	}
	if (mac[0] & 1)
		return -EINVAL;
	memcpy(ret_mac, mac, sizeof(mac));
	return 0;
}

bool is_uuid(const char *text)
{
	if (strlen(text) != 36)
		return false;
	for (int i = 0; i < 36; i++) {
		if (i == 8 || i == 13 || i == 18 || i == 23) {
			if (text[i] != '-')
				return false;
		} else if (hex_digit(text[i]) < 0 || (text[i] >= 'A' && text[i] <= 'F')) {
			return false;
		}
	}
	return true;
}

bool is_object_name(const char *text)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(text);

	return n >= 1 && n <= 63 && strchr(first, text[0]) && strspn(text, rest) == n;
}

const char *format_size(char *buf, size_t len, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	if (u == 0 || v == (double)(uint64_t)v)
		snprintf(buf, len, "%.0f %s", v, units[u]);
	else
		snprintf(buf, len, "%.1f %s", v, units[u]);
	return buf;
}

unsigned word_distance(const char *a, const char *b, unsigned limit)
{
	enum {
		MAX_WORD = 64
	};
	unsigned rows[3][MAX_WORD + 1];
	size_t la = strlen(a), lb = strlen(b);

	if (la > MAX_WORD || lb > MAX_WORD)
		return limit + 1;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned *cur = rows[i % 3], *prev = rows[(i + 2) % 3], *prev2 = rows[(i + 1) % 3];

		cur[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned cost = a[i - 1] != b[j - 1];

			cur[j] = MIN_OF(prev[j], cur[j - 1]) + 1;
			cur[j] = MIN_OF(cur[j], prev[j - 1] + cost);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				cur[j] = MIN_OF(cur[j], prev2[j - 2] + 1);
		}
	}
	return MIN_OF(rows[la % 3][lb], limit + 1);
}
