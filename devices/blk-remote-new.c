/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A disk of another process: what it can do, and what it is given. */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/macros.h"
#include "devices/blk-remote-priv.h"
#include "devices/guestmem.h"

#define MAX_SECTORS  (1u << 21) /* of one request without data */
#define CONFIG_BYTES 60         /* up to the fields of secure erase */

/* virtio 1.2, 5.2.3 */
enum {
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};

#define NEEDED (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << F_FLUSH)
#define WANTED                                                                                 \
	(NEEDED | 1ull << F_RO | 1ull << F_BLK_SIZE | 1ull << F_TOPOLOGY | 1ull << F_DISCARD | \
	 1ull << F_WRITE_ZEROES)

/* Pages of slots that were never used take up no memory. */
static int make_area(struct blk_remote *r)
{
	void *at;

	r->area_fd = memfd_create("disk-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	r->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->call.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->area_fd < 0 || r->kick_fd < 0 || r->call.fd < 0)
		return -errno;
	/* The other process must not take the memory from under us. */
	if (ftruncate(r->area_fd, sizeof(*r->area)) < 0 ||
	    fcntl(r->area_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	at = mmap(NULL, sizeof(*r->area), PROT_READ | PROT_WRITE, MAP_SHARED, r->area_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	r->area = at;
	for (unsigned i = 0; i < r->depth; i++)
		r->free[r->n_free++] = (uint16_t)(r->depth - 1 - i);
	return 0;
}

static uint32_t config_u32(const uint8_t *config, unsigned at)
{
	return (uint32_t)config[at] | (uint32_t)config[at + 1] << 8 |
	       (uint32_t)config[at + 2] << 16 | (uint32_t)config[at + 3] << 24;
}

/* Whole blocks, or it would be no use at all. */
static uint32_t sectors_at_most(const struct blk_remote *r, unsigned feature, uint32_t told)
{
	uint32_t block = r->b.block_bytes / SECTOR;

	if (!(r->peer.features >> feature & 1))
		return 0;
	return MIN_OF(told, MAX_SECTORS) / block * block;
}

static int learn(struct blk_remote *r)
{
	uint8_t c[CONFIG_BYTES];
	uint64_t sectors;
	int ret;

	if ((r->peer.features & NEEDED) != NEEDED)
		return -ENOTSUP;
	ret = vhost_user_get_config(&r->peer, c, sizeof(c));
	if (ret < 0)
		return ret;
	sectors = config_u32(c, 0) | (uint64_t)config_u32(c, 4) << 32;
	r->b.block_bytes = r->peer.features >> F_BLK_SIZE & 1 ? config_u32(c, 20) : SECTOR;
	if (sectors > INT64_MAX / SECTOR || r->b.block_bytes < SECTOR || r->b.block_bytes > 65536 ||
	    r->b.block_bytes & (r->b.block_bytes - 1))
		return -EIO;
	r->b.bytes = sectors * SECTOR;
	r->b.physical_bytes = r->b.block_bytes;
	if (r->peer.features >> F_TOPOLOGY & 1)
		r->b.physical_bytes <<= MIN_OF(c[24], 8);
	r->most_discard = sectors_at_most(r, F_DISCARD, config_u32(c, 36));
	r->most_zeroes = sectors_at_most(r, F_WRITE_ZEROES, config_u32(c, 48));
	return 0;
}

static int share(struct blk_remote *r, const struct guestmem *mem, int memory_fd)
{
	struct vhost_user_region regions[GUESTMEM_MAX_REGIONS + 1];
	struct vhost_user_queue queue = { .desc = r->area->desc,
		                          .avail = &r->area->avail,
		                          .used = &r->area->used,
		                          .size = (uint16_t)r->depth,
		                          .call_fd = r->call.fd,
		                          .kick_fd = r->kick_fd };
	uint64_t offset = 0;
	unsigned n = 0;
	int ret;

	for (; n < mem->n; n++) {
		regions[n] = (struct vhost_user_region){ mem->regions[n].host,
			                                 mem->regions[n].bytes, memory_fd, offset };
		offset += mem->regions[n].bytes;
	}
	regions[n++] = (struct vhost_user_region){ r->area, sizeof(*r->area), r->area_fd, 0 };
	ret = vhost_user_set_features(&r->peer, WANTED);
	if (ret == 0)
		ret = vhost_user_set_memory(&r->peer, regions, n);
	return ret == 0 ? vhost_user_start_queue(&r->peer, &queue) : ret;
}

int blk_remote_new(const struct blk_remote_config *c, struct blk_backend **ret)
{
	struct blk_remote *r = calloc(1, sizeof(*r));
	int result;

	assert(c->depth && c->depth <= MAX_DEPTH / 2 && !(c->depth & (c->depth - 1)));
	assert(c->most_iov <= MAX_PARTS);
	if (!r)
		return -ENOMEM;
	r->b.ops = &blk_remote_ops;
	r->peer.fd = r->area_fd = r->kick_fd = r->connection.fd = -EBADF;
	r->call = (struct io_watch){ .fd = -EBADF, .ready = blk_remote_on_call };
	r->connection.ready = blk_remote_on_connection;
	r->depth = c->depth * 2; /* room for a flush of our own, and still a power of two */
	r->most_iov = c->most_iov;
	r->patience_ms = c->patience_ms;
	result = make_area(r);
	if (result == 0)
		result = vhost_user_init(&r->peer, c->fd);
	if (result == 0)
		result = learn(r);
	if (result == 0)
		result = share(r, c->mem, c->memory_fd);
	if (result < 0) {
		r->peer.fd = -EBADF; /* the caller's still */
		(void)blk_backend_free(&r->b);
		return result;
	}
	*ret = &r->b;
	return 0;
}
