/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/blk-backend.h"
#include "devices/guestmem.h"
#include "devices/vhost-user.h"
#include "devices/virtqueue.h"

/*
 * Why a ring of our own, and not the guest's: what the guest sees is the same device as of a raw
 * disk, with its serial number, limits and statistics; requests reach the other process checked,
 * and only well-formed; and when that process is gone, each request gets its error, while a ring
 * that nobody serves any more would leave the guest waiting for ever. It costs one more wake-up of
 * a thread for each batch.
 *
 * Every operation has a slot of the shared area, with the same number as its descriptor in the
 * ring: there lie the request's header, its status byte, and the table of its parts. The parts
 * themselves are in the guest's memory. All that the other process can write to is in the shared
 * area and in the guest's memory, so nothing is taken from there but the used ring and the status
 * byte, each read once and checked.
 */

#define MAX_DEPTH   512u
#define MAX_PARTS   128u
#define MAX_PIECE   (1u << 30) /* bytes of one request */
#define MAX_SECTORS (1u << 21) /* of one request without data */
#define SECTOR      512u
#define PATIENCE_MS 30000u
#define LOST        (-ENOTCONN) /* the error of all operations then */

/* virtio 1.2, 5.2.3 to 5.2.6 */
enum {
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};
enum {
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
	S_NONE = 0xff,
};
#define RANGE_UNMAP  1u
#define CONFIG_BYTES 60 /* up to the fields of secure erase */

#define NEEDED (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << F_FLUSH)
#define WANTED                                                                                 \
	(NEEDED | 1ull << F_RO | 1ull << F_BLK_SIZE | 1ull << F_TOPOLOGY | 1ull << F_DISCARD | \
	 1ull << F_WRITE_ZEROES)

enum {
	METHOD_ALL, /* as asked */
	METHOD_SYNC /* done, but for the flush */
};

struct slot {
	struct vring_desc table[MAX_PARTS + 2];
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range;
	uint8_t status;
} __attribute__((aligned(64)));

/* What is shared with the other process. */
struct area {
	struct vring_desc desc[MAX_DEPTH];
	struct {
		uint16_t flags;
		_Atomic uint16_t idx;
		uint16_t ring[MAX_DEPTH], used_event;
	} avail;
	struct {
		_Atomic uint16_t flags, idx;
		struct vring_used_elem ring[MAX_DEPTH];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
	struct slot slots[MAX_DEPTH];
};

struct blk_remote {
	struct blk_backend b;
	struct vhost_user peer;
	struct area *area;
	int area_fd, kick_fd;
	struct ioloop *loop; /* while started */
	struct io_watch call, connection;
	uint32_t most_discard, most_zeroes; /* sectors of one request; 0: cannot */
	unsigned depth, most_iov, patience_ms;
	uint16_t avail, published, used; /* our indexes */
	unsigned in_ring, n_free;
	uint16_t free[MAX_DEPTH];      /* slots: the last is the next */
	struct blk_op *ops[MAX_DEPTH]; /* by slot, while it is in the ring */
	/* Writes that are done, and how many of them the last flush made durable. */
	uint32_t writes, flushed;
	struct blk_op settle; /* a flush of our own */
	bool settling, settle_failed;
};

static struct blk_remote *of(struct blk_backend *b)
{
	return container_of(b, struct blk_remote, b);
}

static void finish(struct blk_remote *r, struct blk_op *op, int error)
{
	if (op != &r->settle) {
		r->b.done(r->b.arg, op, error);
		return;
	}
	r->settling = false;
	r->settle_failed = error != 0;
}

/* ---- a request ---- */

static void put_part(struct slot *s, unsigned *n, const void *at, uint32_t len, bool write)
{
	if (*n)
		s->table[*n - 1].flags |= VRING_DESC_F_NEXT;
	s->table[*n] = (struct vring_desc){ .addr = (uintptr_t)at,
		                            .len = len,
		                            .flags = write ? VRING_DESC_F_WRITE : 0,
		                            .next = (uint16_t)(*n + 1) };
	++*n;
}

/* As much of the data as one request takes; its bytes. */
static uint32_t put_data(struct slot *s, unsigned *n, const struct blk_op *op)
{
	uint32_t left = (uint32_t)MIN_OF(op->len, (uint64_t)MAX_PIECE), total = left;

	for (unsigned i = 0; i < op->n_iov && left; i++) {
		uint32_t len = (uint32_t)MIN_OF(op->iov[i].iov_len, (size_t)left);

		if (len)
			put_part(s, n, op->iov[i].iov_base, len, op->kind == BLK_OP_READ);
		left -= len;
	}
	return total - left;
}

static uint32_t put_range(struct blk_remote *r, struct slot *s, unsigned *n,
                          const struct blk_op *op)
{
	uint32_t most = op->kind == BLK_OP_ZERO ? r->most_zeroes : r->most_discard;
	uint32_t sectors = (uint32_t)MIN_OF(op->len / SECTOR, (uint64_t)most);

	s->range.sector = op->offset / SECTOR;
	s->range.sectors = sectors;
	s->range.flags = op->kind == BLK_OP_ZERO && op->unmap ? RANGE_UNMAP : 0;
	put_part(s, n, &s->range, sizeof(s->range), false);
	return sectors * SECTOR;
}

static uint32_t request_type(const struct blk_op *op)
{
	static const uint32_t types[] = { [BLK_OP_READ] = T_IN,
		                          [BLK_OP_WRITE] = T_OUT,
		                          [BLK_OP_FLUSH] = T_FLUSH,
		                          [BLK_OP_DISCARD] = T_DISCARD,
		                          [BLK_OP_ZERO] = T_WRITE_ZEROES };

	return op->method == METHOD_SYNC ? T_FLUSH : types[op->kind];
}

/* Puts the next request of an operation into the ring; run shows it to the other process. */
static void step(struct blk_remote *r, struct blk_op *op)
{
	uint32_t type = request_type(op);
	uint16_t id = r->free[--r->n_free];
	struct slot *s = &r->area->slots[id];
	unsigned n = 0;

	s->header.type = type;
	s->header.reserved = 0;
	s->header.sector = type == T_IN || type == T_OUT ? op->offset / SECTOR : 0;
	s->status = S_NONE;
	put_part(s, &n, &s->header, sizeof(s->header), false);
	if (type == T_FLUSH)
		op->piece = r->writes;
	else if (type == T_IN || type == T_OUT)
		op->piece = put_data(s, &n, op);
	else
		op->piece = put_range(r, s, &n, op);
	put_part(s, &n, &s->status, 1, true);
	r->area->desc[id] = (struct vring_desc){ .addr = (uintptr_t)s->table,
		                                 .len = n * (uint32_t)sizeof(s->table[0]),
		                                 .flags = VRING_DESC_F_INDIRECT };
	r->area->avail.ring[r->avail++ % r->depth] = id;
	r->ops[id] = op;
	r->in_ring++;
}

static void step_or_fail(struct blk_remote *r, struct blk_op *op)
{
	if (r->peer.dead)
		finish(r, op, LOST);
	else
		step(r, op);
}

/* A request is done; the operation perhaps not. */
static void go_on(struct blk_remote *r, struct blk_op *op)
{
	bool flush = op->kind == BLK_OP_FLUSH || op->method == METHOD_SYNC;

	if (flush) {
		r->flushed = op->piece;
		finish(r, op, 0);
		return;
	}
	op->offset += op->piece;
	op->len -= op->piece;
	if (op->kind == BLK_OP_READ || op->kind == BLK_OP_WRITE)
		op->n_iov = iov_skip(&op->iov, op->n_iov, op->piece);
	if (op->kind != BLK_OP_READ)
		r->writes++;
	if (!op->len && op->durable)
		op->method = METHOD_SYNC;
	if (op->len || op->durable)
		step_or_fail(r, op);
	else
		finish(r, op, 0);
}

static void remote_submit(struct blk_backend *b, struct blk_op *op)
{
	struct blk_remote *r = of(b);

	assert(op->offset <= b->bytes && op->len <= b->bytes - op->offset);
	assert(op->n_iov <= r->most_iov || op->kind > BLK_OP_WRITE);
	op->method = METHOD_ALL;
	if (op->kind != BLK_OP_FLUSH && !op->len)
		finish(r, op, 0);
	else if ((op->kind == BLK_OP_DISCARD && !r->most_discard) ||
	         (op->kind == BLK_OP_ZERO && !r->most_zeroes))
		finish(r, op, -EOPNOTSUPP);
	else
		step_or_fail(r, op);
}

/* ---- the ring ---- */

/* The disk is lost. Whatever comes back from the other process now is not looked at. */
static void give_up(struct blk_remote *r)
{
	vhost_user_kill(&r->peer);
	for (unsigned id = 0; id < r->depth; id++) {
		struct blk_op *op = r->ops[id];

		if (!op)
			continue;
		r->ops[id] = NULL;
		r->in_ring--;
		finish(r, op, LOST);
	}
}

static void take_back(struct blk_remote *r, uint32_t id)
{
	struct blk_op *op = r->ops[id];
	uint8_t status = *(volatile uint8_t *)&r->area->slots[id].status;

	r->ops[id] = NULL;
	r->in_ring--;
	r->free[r->n_free++] = (uint16_t)id;
	if (status == S_OK)
		go_on(r, op);
	else
		finish(r, op, status == S_UNSUPP ? -EOPNOTSUPP : -EIO);
}

static void reap(struct blk_remote *r)
{
	/* Pairs with the other process's release: data and status are written. */
	uint16_t idx = atomic_load_explicit(&r->area->used.idx, memory_order_acquire);

	if (r->peer.dead)
		return;
	if ((uint16_t)(idx - r->used) > r->in_ring) {
		give_up(r);
		return;
	}
	while (r->used != idx) {
		uint32_t id = *(volatile uint32_t *)&r->area->used.ring[r->used++ % r->depth].id;

		if (id >= r->depth || !r->ops[id]) {
			give_up(r);
			return;
		}
		take_back(r, id);
	}
}

static void publish(struct blk_remote *r)
{
	if (r->published == r->avail)
		return;
	r->published = r->avail;
	atomic_store_explicit(&r->area->avail.idx, r->avail, memory_order_release);
	/* The index before the look at the flags, as the other side has it (2.7.13.4.1). */
	atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load_explicit(&r->area->used.flags, memory_order_relaxed) &
	      VRING_USED_F_NO_NOTIFY))
		(void)eventfd_write(r->kick_fd, 1);
}

static bool remote_run(struct blk_backend *b)
{
	struct blk_remote *r = of(b);

	do {
		publish(r);
		reap(r);
	} while (!r->peer.dead && r->published != r->avail);
	return true;
}

static bool remote_is_idle(const struct blk_backend *b)
{
	const struct blk_remote *r = container_of(b, struct blk_remote, b);

	return r->peer.dead || r->published == r->avail;
}

/* ---- the loop ---- */

static void on_call(struct io_watch *w, uint32_t events UNUSED)
{
	struct blk_remote *r = container_of(w, struct blk_remote, call);
	eventfd_t count;

	(void)eventfd_read(w->fd, &count);
	r->b.wake(r->b.arg);
}

static void unwatch_connection(struct blk_remote *r)
{
	if (r->connection.fd >= 0)
		ioloop_unwatch(r->loop, &r->connection);
	r->connection.fd = -EBADF;
}

/* Nothing is asked any more, so what comes is its end, or no answer to anything. What it completed
 * before it ended is taken first. */
static void on_connection(struct io_watch *w, uint32_t events UNUSED)
{
	struct blk_remote *r = container_of(w, struct blk_remote, connection);

	unwatch_connection(r);
	reap(r);
	give_up(r);
	r->b.wake(r->b.arg);
}

static int remote_start(struct blk_backend *b, struct ioloop *loop)
{
	struct blk_remote *r = of(b);
	int ret = ioloop_watch(loop, &r->call, EPOLLIN);

	if (ret < 0)
		return ret;
	r->loop = loop;
	if (r->peer.dead)
		return 0;
	r->connection.fd = r->peer.fd;
	ret = ioloop_watch(loop, &r->connection, EPOLLIN | EPOLLRDHUP);
	if (ret < 0) {
		r->connection.fd = -EBADF;
		ioloop_unwatch(loop, &r->call);
		r->loop = NULL;
	}
	return ret;
}

/* Until something happened, or patience is at its end: then the disk is lost. */
static void wait_for(struct blk_remote *r, uint64_t deadline)
{
	struct pollfd p[2] = { { .fd = r->call.fd, .events = POLLIN },
		               { .fd = r->peer.fd, .events = POLLIN | POLLRDHUP } };
	uint64_t now = now_monotonic_us();
	eventfd_t count;
	int n = 0;

	if (now < deadline)
		n = poll(p, 2, (int)((deadline - now) / 1000) + 1);
	if (n < 0 && errno == EINTR)
		return;
	(void)eventfd_read(r->call.fd, &count);
	reap(r);
	if (n <= 0 || p[1].revents)
		give_up(r);
}

/* As long as requests are answered, it goes on. */
static void drain(struct blk_remote *r)
{
	uint64_t patience = (r->patience_ms ? r->patience_ms : PATIENCE_MS) * (uint64_t)1000;
	uint64_t deadline = now_monotonic_us() + patience;

	while (r->in_ring) {
		uint16_t used = r->used;

		(void)remote_run(&r->b);
		if (r->in_ring && r->used == used)
			wait_for(r, deadline);
		if (r->used != used)
			deadline = now_monotonic_us() + patience;
	}
}

/*
 * The other process keeps tables of the image in its memory. A flush brings them to the file, so
 * that the file can be copied now, and nothing is lost should that process end; as QEMU does when
 * it stops its guest.
 */
static void begin_settling(struct blk_remote *r)
{
	r->settle = (struct blk_op){ .kind = BLK_OP_FLUSH };
	r->settling = true;
	step_or_fail(r, &r->settle);
}

static bool remote_settle(struct blk_backend *b, uint32_t *ret_progress)
{
	struct blk_remote *r = of(b);

	*ret_progress = r->used;
	if (r->peer.dead)
		return true;
	if (r->in_ring)
		return false;
	/* What failed is told by the stop, which tries once more. */
	if (r->writes == r->flushed || r->settle_failed) {
		r->settle_failed = false;
		return true;
	}
	begin_settling(r);
	(void)remote_run(b);
	return false;
}

static int remote_stop(struct blk_backend *b)
{
	struct blk_remote *r = of(b);
	int ret;

	drain(r);
	if (r->writes != r->flushed) {
		begin_settling(r);
		drain(r);
		assert(!r->settling);
	}
	ret = r->writes == r->flushed ? 0 : -EIO;
	r->settle_failed = false;
	if (r->loop) {
		unwatch_connection(r);
		ioloop_unwatch(r->loop, &r->call);
	}
	r->loop = NULL;
	return ret;
}

/* ---- making ---- */

static void remote_free(struct blk_backend *b)
{
	struct blk_remote *r = of(b);

	vhost_user_deinit(&r->peer);
	if (r->area)
		(void)munmap(r->area, sizeof(*r->area));
	cleanup_close_p(&r->area_fd);
	cleanup_close_p(&r->kick_fd);
	cleanup_close_p(&r->call.fd);
	free(r);
}

static const struct blk_backend_ops remote_ops = {
	.start = remote_start,
	.stop = remote_stop,
	.settle = remote_settle,
	.submit = remote_submit,
	.run = remote_run,
	.is_idle = remote_is_idle,
	.free = remote_free,
};

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
	r->b.ops = &remote_ops;
	r->peer.fd = r->area_fd = r->kick_fd = r->connection.fd = -EBADF;
	r->call = (struct io_watch){ .fd = -EBADF, .ready = on_call };
	r->connection.ready = on_connection;
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
		remote_free(&r->b);
		return result;
	}
	*ret = &r->b;
	return 0;
}
