/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A disk in a temporary directory, its device, and a driver that sends requests to it. */
#include "devices/models.h"
#include "tests/lib/vguest.h"

#define DISK_BYTES (8u << 20)
#define SECTORS    (DISK_BYTES / 512)
#define FAST       (1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC)

enum {
	T_IN,
	T_OUT,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_ZEROES = 13
};
enum {
	F_RO = 5,
	F_FLUSH = 9,
	F_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_ZEROES = 14
};
enum {
	S_OK,
	S_IOERR,
	S_UNSUPP,
	S_NONE = 0xee
};

/* The guest, and where its driver has header, data (1 MiB) and status of a request. */
extern struct vguest g;
extern uint64_t header_gpa, data_gpa, status_gpa;
extern char blk_dir[64]; /* of the disks */

/* Init and fini of a suite. */
void blk_setup(void);
void blk_teardown(void);
/* A file in blk_dir, of DISK_BYTES when it can be written. Names: "disk", "big". */
int blk_disk_file(const char *name, int flags);
/* The device of a configuration. */
struct virtio_device *blk_new(struct virtio_blk_config *c);
/* The device, going, with all features but some; those that were agreed on. */
uint64_t blk_start_without(struct virtio_blk_config *c, uint64_t features);
uint64_t blk_start(struct virtio_blk_config *c);
void blk_header(uint64_t gpa, uint32_t type, uint64_t sector);
/* One request by the book; its status. */
unsigned blk_request(uint32_t type, uint64_t sector, uint32_t bytes);
uint8_t blk_config_byte(unsigned offset);
/* Fills with what depends on place and seed. */
void blk_pattern(void *at, size_t len, unsigned seed);
