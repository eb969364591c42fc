/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* virtio-blk requests. */
#include "lib/virtio.h"

#define SECTOR 512u

#define BLK_IN           0u
#define BLK_OUT          1u
#define BLK_FLUSH        4u
#define BLK_GET_ID       8u
#define BLK_DISCARD      11u
#define BLK_WRITE_ZEROES 13u

#define BLK_OK      0
#define BLK_IOERR   1
#define BLK_UNSUPP  2
#define BLK_NOTHING 0xEE /* what the status byte is before the device has written it */

#define BLK_F_RO           5
#define BLK_F_BLK_SIZE     6
#define BLK_F_FLUSH        9
#define BLK_F_CONFIG_WCE   11
#define BLK_F_MQ           12
#define BLK_F_DISCARD      13
#define BLK_F_WRITE_ZEROES 14

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct blk_range {
	uint64_t sector;
	uint32_t sectors, flags;
};

struct blk {
	struct virtio v;
	uint64_t sectors;
	unsigned n_queues;
};

/* Disk n ready for requests, with the features of the mask and these queue entries at most. */
bool blk_start(struct blk *b, unsigned n, uint64_t features, uint16_t queue_max);
/* One request, and what its status byte then is. */
bool blk_request(struct blk *b, unsigned queue, uint32_t type, uint64_t sector, void *data,
                 uint32_t len, uint8_t *ret_status);
/* As blk_request(), with a reason when the status is not the expected one. */
bool blk_expect(struct blk *b, unsigned queue, uint32_t type, uint64_t sector, void *data,
                uint32_t len, uint8_t status);
/* Pattern of a sector: no two sectors and no two seeds have the same. */
void blk_fill(void *data, uint64_t sector, uint32_t sectors, uint64_t seed);
bool blk_check(const void *data, uint64_t sector, uint32_t sectors, uint64_t seed);
