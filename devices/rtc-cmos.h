/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The CMOS clock (MC146818) at ports 0x70 and 0x71: the host's UTC time, which the guest may set
 * for itself, and 114 bytes of memory. No alarm and no interrupt. */
#include <pthread.h>

#include "devices/bus.h"
#include "devices/state.h"

#define RTC_CMOS_BYTES 128

struct rtc_cmos {
	struct bus_region region;
	pthread_mutex_t lock;
	uint8_t index, ram[RTC_CMOS_BYTES];
	int64_t offset_s; /* the guest's time minus the host's */
};

int rtc_cmos_init(struct rtc_cmos *d, struct bus *pio);
void rtc_cmos_deinit(struct rtc_cmos *d, struct bus *pio);
/* A reset leaves the clock and its memory alone, as the battery does. */
void rtc_cmos_save(struct rtc_cmos *d, struct state_out *o);
int rtc_cmos_load(struct rtc_cmos *d, struct state_in *in, struct vmd_error *err);
