/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What virtio-blk.c (the device) and blk-request.c (its queues) share. */
#include "devices/blk-backend.h"
#include "devices/blk-limits.h"
#include "devices/models.h"

/* virtio 1.2, 5.2.3 */
enum blk_feature {
	BLK_F_SEG_MAX = 2,
	BLK_F_RO = 5,
	BLK_F_BLK_SIZE = 6,
	BLK_F_FLUSH = 9,
	BLK_F_TOPOLOGY = 10,
	BLK_F_CONFIG_WCE = 11,
	BLK_F_MQ = 12,
	BLK_F_DISCARD = 13,
	BLK_F_WRITE_ZEROES = 14,
};

#define BLK_SECTOR_BYTES 512u
#define BLK_SERIAL_BYTES 20
/* A chain is never longer than its queue, so every legal one fits a request. */
#define BLK_QUEUE_SIZE         128
#define BLK_MAX_IOV            BLK_QUEUE_SIZE
#define BLK_SEG_MAX            (BLK_MAX_IOV - 2)
#define BLK_MAX_RANGES         16
#define BLK_MAX_REQUESTS       256 /* of all queues together */
#define BLK_MAX_RANGE_SECTORS  (1u << 21)
#define BLK_MAX_ZEROES_SECTORS (1u << 17)

struct blk_range {
	uint64_t sector;
	uint32_t sectors, flags;
};

/* What a request is counted as. */
enum blk_stat {
	BLK_STAT_READ,
	BLK_STAT_WRITE,
	BLK_STAT_FLUSH,
	BLK_STAT_DISCARD,
	_BLK_STAT_MAX
};

struct blk_request {
	struct blk_op op;
	struct blk_request *next; /* in the list of free or of held requests */
	uint16_t head;
	uint8_t queue;
	enum blk_stat stat;
	uint32_t in_bytes;
	uint8_t *status; /* in guest memory */
	uint64_t bytes, start_ns;
	unsigned n_ranges, at_range;
	struct blk_range ranges[BLK_MAX_RANGES];
	struct iovec iov[BLK_MAX_IOV];
};

struct blk_held {
	struct blk_request *first, *last;
};

struct virtio_blk {
	struct virtio_device d;
	/* Constant. */
	bool readonly, discard;
	enum blk_cache cache;
	char serial[BLK_SERIAL_BYTES]; /* NUL-padded */
	uint64_t sectors;
	void (*on_error)(void *arg, bool write, int error);
	void *on_error_arg;

	_Atomic bool writeback; /* the guest's wish; written by vCPU threads */
	/* The loop's own. */
	struct blk_backend *backend;
	struct blk_limiter limiter;
	struct blk_held held[2]; /* over their limit: reads, writes */
	struct blk_request *requests, *free;
	unsigned n_requests;
	uint32_t dirty, starved; /* bit per queue: interrupt due; chains may wait */
	bool stopping;
	struct io_watch timer; /* timerfd, owned */
	struct iostats stats[_BLK_STAT_MAX];
};

/* Serves a queue and all that follows from it. In the loop. */
void blk_kick(struct virtio_device *d, unsigned queue);
/* Completes everything that was taken from the queues; as blk_backend_stop(). */
int blk_drain(struct virtio_blk *b);
/* Callbacks of back-end and timer; arg is the struct virtio_blk. */
void blk_done(void *arg, struct blk_op *op, int error);
void blk_wake(void *arg);
void blk_timer(struct io_watch *w, uint32_t events);
