/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/rtc-cmos.h"

#include <string.h>
#include <time.h>

#include "common/macros.h"

enum {
	PORT = 0x70,
	SECONDS = 0,
	MINUTES = 2,
	HOURS = 4,
	WEEKDAY = 6,
	DAY = 7,
	MONTH = 8,
	YEAR = 9,
	STATUS_A = 10,
	STATUS_B = 11,
	STATUS_C = 12,
	STATUS_D = 13,
	CENTURY = 0x32,
	A_DIVIDER_32KHZ = 0x26,
	B_24_HOURS = 0x02,
	B_BINARY = 0x04,
	B_HALTED = 0x80,
	D_VALID = 0x80,
	FARTHEST_YEARS = 10000, /* all that the registers can tell */
	DAY_SECONDS = 86400,
	DAYS_TO_1970 = 719468, /* from 0000-03-01 */
	DAYS_PER_400_YEARS = 146097,
	STATE_VERSION = 1
};

static uint8_t encode(const struct rtc_cmos *d, int n)
{
	return (uint8_t)(d->ram[STATUS_B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}

static int decode(const struct rtc_cmos *d, uint8_t n)
{
	return d->ram[STATUS_B] & B_BINARY ? n : (n >> 4) * 10 + (n & 15);
}

static uint8_t encode_hour(const struct rtc_cmos *d, int hour)
{
	if (d->ram[STATUS_B] & B_24_HOURS)
		return encode(d, hour);
	return (uint8_t)(encode(d, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static int decode_hour(const struct rtc_cmos *d, uint8_t n)
{
	if (d->ram[STATUS_B] & B_24_HOURS)
		return decode(d, n);
	return decode(d, n & 0x7F) % 12 + (n & 0x80 ? 12 : 0);
}

/* Days since 1970-01-01 and back, in the Gregorian calendar. The C library's functions look for a
 * time zone's file first, which a monitor cannot open. Years begin in March here: the leap day is
 * the last of a year, and months follow one formula. */
static int64_t days_of(int64_t year, int month, int day)
{
	int64_t y = month > 2 ? year : year - 1, m = month > 2 ? month - 3 : month + 9;

	return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - DAYS_TO_1970;
}

struct date {
	int year, month, day;
};

static struct date date_of(int64_t days)
{
	int64_t d = days + DAYS_TO_1970, era = d / DAYS_PER_400_YEARS,
		rest = d % DAYS_PER_400_YEARS;
	int64_t year = (rest - rest / 1460 + rest / 36524 - rest / 146096) / 365;
	int64_t of_year = rest - (year * 365 + year / 4 - year / 100), m = (of_year * 5 + 2) / 153;

	return (struct date){ .year = (int)(era * 400 + year + (m >= 10)),
		              .month = (int)(m < 10 ? m + 3 : m - 9),
		              .day = (int)(of_year - (m * 153 + 2) / 5 + 1) };
}

/* The time registers show the present moment, unless the guest holds the clock to set it. */
static void fill_time(struct rtc_cmos *d)
{
	int64_t now = (int64_t)time(NULL) + d->offset_s, days = now / DAY_SECONDS;
	int second = (int)(now % DAY_SECONDS);
	struct date date;

	if ((d->ram[STATUS_B] & B_HALTED) || now < 0)
		return;
	date = date_of(days);
	d->ram[SECONDS] = encode(d, second % 60);
	d->ram[MINUTES] = encode(d, second / 60 % 60);
	d->ram[HOURS] = encode_hour(d, second / 3600);
	d->ram[WEEKDAY] = encode(d, (int)((days + 4) % 7) + 1); /* 1970-01-01 was a Thursday */
	d->ram[DAY] = encode(d, date.day);
	d->ram[MONTH] = encode(d, date.month);
	d->ram[YEAR] = encode(d, date.year % 100);
	d->ram[CENTURY] = encode(d, date.year / 100 % 100);
}

/* From the registers, whatever the guest put there: a month or a year of nonsense is refused, and
 * with it what would be refused when the guest is saved and loaded. */
static void take_time(struct rtc_cmos *d)
{
	int month = decode(d, d->ram[MONTH]);
	int64_t year = decode(d, d->ram[CENTURY]) * 100 + decode(d, d->ram[YEAR]);
	int64_t days;

	if (month < 1 || month > 12 || year >= FARTHEST_YEARS)
		return;
	days = days_of(year, month, decode(d, d->ram[DAY]));
	d->offset_s = days * DAY_SECONDS + decode_hour(d, d->ram[HOURS]) * 3600 +
	              decode(d, d->ram[MINUTES]) * 60 + decode(d, d->ram[SECONDS]) -
	              (int64_t)time(NULL);
}

static bool is_time(uint8_t index)
{
	return index <= YEAR || index == CENTURY;
}

static uint64_t read_port(struct bus_region *r, uint64_t offset, unsigned size UNUSED)
{
	struct rtc_cmos *d = container_of(r, struct rtc_cmos, region);
	uint8_t value;

	if (offset == 0)
		return 0xFF; /* the index is write-only */
	pthread_mutex_lock(&d->lock);
	if (is_time(d->index))
		fill_time(d);
	value = d->ram[d->index];
	pthread_mutex_unlock(&d->lock);
	return value;
}

static void write_ram(struct rtc_cmos *d, uint8_t value)
{
	uint8_t before = d->ram[STATUS_B];

	if (d->index == STATUS_C || d->index == STATUS_D)
		return; /* read-only */
	if (is_time(d->index) || d->index == STATUS_B)
		fill_time(d);
	d->ram[d->index] = value;
	if (d->index == STATUS_B ? (before & ~value & B_HALTED) != 0
	                         : is_time(d->index) && !(before & B_HALTED))
		take_time(d);
}

static void write_port(struct bus_region *r, uint64_t offset, unsigned size UNUSED, uint64_t value)
{
	struct rtc_cmos *d = container_of(r, struct rtc_cmos, region);

	pthread_mutex_lock(&d->lock);
	if (offset == 0)
		d->index = (uint8_t)(value & (RTC_CMOS_BYTES - 1));
	else
		write_ram(d, (uint8_t)value);
	pthread_mutex_unlock(&d->lock);
}

static const struct bus_region_ops ops = { "rtc-cmos", read_port, write_port };

int rtc_cmos_init(struct rtc_cmos *d, struct bus *pio)
{
	memset(d, 0, sizeof(*d));
	pthread_mutex_init(&d->lock, NULL);
	d->ram[STATUS_A] = A_DIVIDER_32KHZ;
	d->ram[STATUS_B] = B_24_HOURS;
	d->ram[STATUS_D] = D_VALID;
	d->region = (struct bus_region){ .ops = &ops, .base = PORT, .bytes = 2 };
	return bus_add(pio, &d->region);
}

void rtc_cmos_deinit(struct rtc_cmos *d, struct bus *pio)
{
	bus_remove(pio, &d->region);
	pthread_mutex_destroy(&d->lock);
}

void rtc_cmos_save(struct rtc_cmos *d, struct state_out *o)
{
	state_begin(o, "rtc-cmos", "", STATE_VERSION);
	state_put_u8(o, d->index);
	state_put_u64(o, (uint64_t)d->offset_s);
	state_put_bytes(o, d->ram, sizeof(d->ram));
	state_end(o);
}

int rtc_cmos_load(struct rtc_cmos *d, struct state_in *in, struct vmd_error *err)
{
	const int64_t farthest = FARTHEST_YEARS * 366ll * 86400;
	uint8_t index, ram[RTC_CMOS_BYTES];
	struct state_section s;
	int64_t offset_s;
	int r = state_take(in, "rtc-cmos", "", STATE_VERSION, &s, err);

	if (r < 0)
		return r;
	index = state_get_u8(&s);
	offset_s = (int64_t)state_get_u64(&s);
	state_get_bytes(&s, ram, sizeof(ram));
	if (offset_s > farthest || offset_s < -farthest)
		return error_set(err, ERROR_INVALID, "rtc-cmos: the clock is %lld s off",
		                 (long long)offset_s);
	if (index >= RTC_CMOS_BYTES)
		return error_set(err, ERROR_INVALID, "rtc-cmos: register %u is chosen", index);
	r = state_section_done(&s, err);
	if (r < 0)
		return r;
	d->index = index;
	d->offset_s = offset_s;
	memcpy(d->ram, ram, sizeof(ram));
	return 0;
}
