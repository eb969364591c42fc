/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "common/cleanup.h"
#include "common/timeutil.h"
#include "devices/stats-json.h"
#include "devices/virtio-blk-priv.h"

/* virtio 1.2, 5.2.4 */
struct blk_config_space {
	uint64_t capacity;
	uint32_t size_max, seg_max;
	uint8_t geometry[4];
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

static struct virtio_blk *blk_of(struct virtio_device *d)
{
	return container_of(d, struct virtio_blk, d);
}

static uint64_t blk_features(struct virtio_device *d)
{
	struct virtio_blk *b = blk_of(d);
	uint64_t f = 1u << BLK_F_SEG_MAX | 1u << BLK_F_BLK_SIZE | 1u << BLK_F_TOPOLOGY |
	             1u << BLK_F_FLUSH | 1u << BLK_F_CONFIG_WCE;

	if (d->n_queues > 1)
		f |= 1u << BLK_F_MQ;
	if (b->readonly)
		return f | 1u << BLK_F_RO;
	if (b->discard)
		f |= 1u << BLK_F_DISCARD;
	return f | 1u << BLK_F_WRITE_ZEROES;
}

/* 5.2.5.2: without FLUSH the guest has no way to make data durable, so every write is. */
static bool blk_set_features(struct virtio_device *d, uint64_t features)
{
	struct virtio_blk *b = blk_of(d);

	atomic_store(&b->writeback,
	             b->cache != BLK_CACHE_WRITETHROUGH && features >> BLK_F_FLUSH & 1);
	return true;
}

static void blk_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	struct virtio_blk *b = blk_of(d);
	uint32_t block = b->backend->block_bytes, exponent = 0;
	struct blk_config_space c = {
		.capacity = htole64(b->sectors),
		.seg_max = htole32(BLK_SEG_MAX),
		.blk_size = htole32(block),
		.min_io_size = htole16(1),
		.writeback = atomic_load(&b->writeback),
		.num_queues = htole16((uint16_t)d->n_queues),
	};

	while (block << exponent < b->backend->physical_bytes && exponent < 8)
		exponent++;
	c.physical_block_exp = (uint8_t)exponent;
	if (b->discard && !b->readonly) {
		c.max_discard_sectors = htole32(BLK_MAX_RANGE_SECTORS);
		c.max_discard_seg = htole32(BLK_MAX_RANGES);
		c.discard_sector_alignment = htole32((block << exponent) / BLK_SECTOR_BYTES);
		c.write_zeroes_may_unmap = 1;
	}
	if (!b->readonly) {
		c.max_write_zeroes_sectors = htole32(BLK_MAX_ZEROES_SECTORS);
		c.max_write_zeroes_seg = htole32(BLK_MAX_RANGES);
	}
	memcpy(buf, (uint8_t *)&c + offset, len);
}

/* Only writeback can be written, and a disk that is to be write-through stays so. */
static void blk_config_write(struct virtio_device *d, uint32_t offset, const void *buf,
                             uint32_t len)
{
	struct virtio_blk *b = blk_of(d);
	const uint32_t at = offsetof(struct blk_config_space, writeback);

	if (!virtio_has(d, BLK_F_CONFIG_WCE) || b->cache == BLK_CACHE_WRITETHROUGH)
		return;
	if (offset <= at && at - offset < len)
		atomic_store(&b->writeback, ((const uint8_t *)buf)[at - offset] & 1);
}

static int blk_start(struct virtio_device *d)
{
	struct virtio_blk *b = blk_of(d);
	int ret = blk_backend_start(b->backend, d->loop);

	if (ret < 0)
		return ret;
	ret = ioloop_watch(d->loop, &b->timer, EPOLLIN);
	if (ret < 0)
		(void)blk_backend_stop(b->backend);
	return ret;
}

static void blk_stop(struct virtio_device *d)
{
	struct virtio_blk *b = blk_of(d);

	d->unsaved = blk_drain(b) < 0;
	ioloop_unwatch(d->loop, &b->timer);
}

static bool blk_settle(struct virtio_device *d, uint32_t *ret_progress)
{
	return blk_backend_settle(blk_of(d)->backend, ret_progress);
}

static void blk_reset(struct virtio_device *d)
{
	struct virtio_blk *b = blk_of(d);

	atomic_store(&b->writeback, b->cache != BLK_CACHE_WRITETHROUGH);
}

static void blk_save(struct virtio_device *d, struct state_out *o)
{
	struct virtio_blk *b = blk_of(d);

	state_put_u64(o, b->sectors);
	state_put_u32(o, b->backend->block_bytes);
	state_put_u8(o, atomic_load(&b->writeback));
}

/* The guest knows size and block size of its disk, so the disk has to be like that here. */
static int blk_load(struct virtio_device *d, struct state_section *s)
{
	struct virtio_blk *b = blk_of(d);
	uint64_t sectors = state_get_u64(s);
	uint32_t block = state_get_u32(s);
	uint8_t writeback = state_get_u8(s);

	if (s->failed || sectors != b->sectors || block != b->backend->block_bytes || writeback > 1)
		return -EINVAL;
	atomic_store(&b->writeback, writeback && b->cache != BLK_CACHE_WRITETHROUGH);
	return 0;
}

static json_t *blk_stats(struct virtio_device *d)
{
	static const char *const names[_BLK_STAT_MAX] = {
		[BLK_STAT_READ] = "read",
		[BLK_STAT_WRITE] = "write",
		[BLK_STAT_FLUSH] = "flush",
		[BLK_STAT_DISCARD] = "discard",
	};
	struct virtio_blk *b = blk_of(d);

	return iostats_members(b->stats, names, _BLK_STAT_MAX);
}

static void blk_free(struct virtio_device *d)
{
	struct virtio_blk *b = blk_of(d);

	b->backend = blk_backend_free(b->backend);
	cleanup_close_p(&b->timer.fd);
	free(b->requests);
	free(b);
}

static const struct virtio_device_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.features = blk_features,
	.set_features = blk_set_features,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.start = blk_start,
	.stop = blk_stop,
	.kick = blk_kick,
	.reset = blk_reset,
	.settle = blk_settle,
	.save = blk_save,
	.load = blk_load,
	.stats = blk_stats,
	.free = blk_free,
	.state_version = 1,
};

static int init_requests(struct virtio_blk *b, unsigned n_queues)
{
	b->n_requests = MIN_OF(n_queues * BLK_QUEUE_SIZE, BLK_MAX_REQUESTS);
	/* Untouched pages of it cost nothing, and the list is last in, first out. */
	b->requests = calloc(b->n_requests, sizeof(*b->requests));
	if (!b->requests)
		return -ENOMEM;
	for (unsigned i = b->n_requests; i > 0; i--) {
		b->requests[i - 1].next = b->free;
		b->free = &b->requests[i - 1];
	}
	return 0;
}

static void set_constants(struct virtio_blk *b, const struct virtio_blk_config *c)
{
	b->readonly = c->readonly;
	b->discard = c->discard;
	b->cache = c->cache;
	b->on_error = c->on_error;
	b->on_error_arg = c->on_error_arg;
	if (c->serial)
		memcpy(b->serial, c->serial, strnlen(c->serial, BLK_SERIAL_BYTES));
	atomic_store(&b->writeback, c->cache != BLK_CACHE_WRITETHROUGH);
	blk_limiter_init(&b->limiter, &c->limits, now_monotonic_ns());
}

static int make_backend(struct virtio_blk *b, const struct virtio_blk_config *c,
                        const struct guestmem *mem)
{
	struct blk_remote_config remote = { .fd = c->fd,
		                            .mem = mem,
		                            .memory_fd = c->memory_fd,
		                            .depth = b->n_requests,
		                            .most_iov = BLK_MAX_IOV,
		                            .patience_ms = c->patience_ms };

	return c->remote ? blk_remote_new(&remote, &b->backend)
	                 : blk_raw_new(c->fd, b->n_requests, !c->no_io_uring, &b->backend);
}

int virtio_blk_new(const struct virtio_blk_config *c, const struct guestmem *mem,
                   struct ioloop *loop, struct virtio_device **ret)
{
	cleanup_free struct virtio_blk *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	if (!c->n_queues || c->n_queues > VIRTIO_MAX_QUEUES)
		return -EINVAL;
	b->timer = (struct io_watch){ .fd = timerfd_create(CLOCK_MONOTONIC,
		                                           TFD_CLOEXEC | TFD_NONBLOCK),
		                      .ready = blk_timer };
	if (b->timer.fd < 0)
		return -errno;
	r = init_requests(b, c->n_queues);
	if (r == 0)
		r = make_backend(b, c, mem);
	if (r < 0) {
		cleanup_close_p(&b->timer.fd);
		free(b->requests);
		return r;
	}
	b->backend->done = blk_done;
	b->backend->wake = blk_wake;
	b->backend->arg = b;
	b->sectors = b->backend->bytes / BLK_SECTOR_BYTES;
	set_constants(b, c);
	virtio_device_init(&b->d, &blk_ops, c->id, mem, loop, c->n_queues, BLK_QUEUE_SIZE,
	                   sizeof(struct blk_config_space));
	*ret = &TAKE_PTR(b)->d;
	return 0;
}
