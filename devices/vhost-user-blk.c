/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/models.h"
#include "devices/vhost-user.h"

/*
 * A disk whose queues another process serves. The guest's doorbells go to it without us; its
 * interrupts come by an eventfd per queue to the loop, which sends the vector. What is ours are the
 * registers, start and stop, and to notice when the back-end is gone: NEEDS_RESET, and every start
 * fails from then on.
 *
 * Stopping first waits until all that the driver has offered is answered, then takes the queue
 * back: QEMU's storage daemon (seen with 7.2) gives up the whole connection when a request
 * completes after that. Only then is the memory the guest's again. There is no event for it, so the
 * used index is looked at each millisecond; this is the path of resets and snapshots, not of I/O. A
 * driver that goes on offering meanwhile, or writes to the used ring, loses its disk (NEEDS_RESET),
 * not its host.
 */

/* Feature bits and config offsets of virtio 1.2, 5.2; the kernel's header has names that are ours.
 */
enum {
	F_SIZE_MAX = 1,
	F_SEG_MAX = 2,
	F_GEOMETRY = 4,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_CONFIG_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
	WCE_AT = 32,
	NUM_QUEUES_AT = 34,
	CONFIG_BYTES = 60 /* up to the fields of secure erase, which are not offered */
};

#define RING_FEATURES                                                   \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | \
	 1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define DISK_FEATURES                                                                       \
	(1ull << F_SIZE_MAX | 1ull << F_SEG_MAX | 1ull << F_GEOMETRY | 1ull << F_RO |       \
	 1ull << F_BLK_SIZE | 1ull << F_FLUSH | 1ull << F_TOPOLOGY | 1ull << F_CONFIG_WCE | \
	 1ull << F_DISCARD | 1ull << F_WRITE_ZEROES)
#define GONE              "the disk's back-end is gone"
#define QUEUE_SIZE        256
#define DRAIN_DEADLINE_US 30000000u

struct call {
	struct io_watch watch;
	struct virtqueue *queue;
};

struct vhost_user_blk {
	struct virtio_device virtio;
	struct vhost_user back_end; /* the loop's */
	struct io_watch connection;
	struct call calls[VIRTIO_MAX_QUEUES];
	int memory_fd; /* a duplicate */
	bool readonly;
	uint8_t config[CONFIG_BYTES], first_wce; /* the lock's; first_wce: as the back-end had it */
};

static struct vhost_user_blk *of(struct virtio_device *d)
{
	return container_of(d, struct vhost_user_blk, virtio);
}

static uint64_t features(struct virtio_device *d)
{
	struct vhost_user_blk *b = of(d);
	uint64_t f = b->back_end.features & DISK_FEATURES;

	if (b->readonly)
		f |= 1ull << F_RO;
	if (d->n_queues > 1)
		f |= 1ull << F_MQ;
	return f;
}

static void config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	memcpy(buf, of(d)->config + offset, len);
}

static void set_wce(void *arg)
{
	struct vhost_user_blk *b = arg;
	uint32_t at = WCE_AT;

	(void)vhost_user_set_config(&b->back_end, at, b->config + at, 1);
}

/* The cache mode is the one field that a driver may write. */
static void config_write(struct virtio_device *d, uint32_t offset, const void *buf, uint32_t len)
{
	struct vhost_user_blk *b = of(d);

	if (offset != WCE_AT || len != 1 || !virtio_has(d, F_CONFIG_WCE))
		return;
	b->config[offset] = *(const uint8_t *)buf & 1;
	ioloop_call(d->loop, set_wce, b);
}

static void on_call(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtqueue *vq = container_of(w, struct call, watch)->queue;
	eventfd_t count;

	if (eventfd_read(w->fd, &count) == 0 && vq->interrupt)
		vq->interrupt(vq);
}

/* Nothing comes on the connection but replies, and those are read by who asked. */
static void on_connection(struct io_watch *w, uint32_t events UNUSED)
{
	struct vhost_user_blk *b = container_of(w, struct vhost_user_blk, connection);

	ioloop_unwatch(b->virtio.loop, w);
	w->fd = -EBADF;
	vhost_user_kill(&b->back_end);
	virtio_needs_reset(&b->virtio, GONE);
}

static void close_calls(struct vhost_user_blk *b)
{
	for (unsigned i = 0; i < b->virtio.n_queues; i++) {
		if (b->calls[i].watch.fd < 0)
			continue;
		ioloop_unwatch(b->virtio.loop, &b->calls[i].watch);
		cleanup_close_p(&b->calls[i].watch.fd);
	}
}

static int open_call(struct vhost_user_blk *b, struct call *c)
{
	int r;

	c->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->watch.fd < 0)
		return -errno;
	r = ioloop_watch(b->virtio.loop, &c->watch, EPOLLIN);
	if (r < 0)
		cleanup_close_p(&c->watch.fd);
	return r;
}

static int start_queues(struct vhost_user_blk *b)
{
	int r = vhost_user_set_features(&b->back_end, b->virtio.driver_features);

	if (r == 0)
		r = vhost_user_set_memory(&b->back_end, b->virtio.mem, b->memory_fd);
	for (unsigned i = 0; r == 0 && i < b->virtio.n_queues; i++) {
		if (!b->virtio.queues[i].enabled)
			continue;
		r = open_call(b, &b->calls[i]);
		if (r == 0)
			r = vhost_user_start_queue(&b->back_end, &b->virtio.queues[i],
			                           b->calls[i].watch.fd);
	}
	return r;
}

static int start(struct virtio_device *d)
{
	struct vhost_user_blk *b = of(d);
	int r = start_queues(b);

	/* Half started cannot be told from started by the back-end: it is not used again. */
	if (r < 0) {
		vhost_user_kill(&b->back_end);
		close_calls(b);
	}
	return r;
}

/* Waits a moment; false when there is nothing to wait for any more. */
static bool wait_more(const struct vhost_user_blk *b, uint64_t deadline)
{
	struct pollfd p = { .fd = b->back_end.fd, .events = POLLIN | POLLRDHUP };

	return now_monotonic_us() < deadline && poll(&p, 1, 1) == 0;
}

/* Takes a queue back with nothing in flight. */
static int stop_queue(struct vhost_user_blk *b, struct virtqueue *vq, uint64_t deadline)
{
	uint16_t index;

	/* What was offered without a kick is served as well. */
	virtio_queue_notify(&b->virtio, vq->index);
	while (virtqueue_used_index(vq) != virtqueue_avail_index(vq))
		if (!wait_more(b, deadline))
			return -EIO;
	if (vhost_user_stop_queue(&b->back_end, vq, &index) < 0)
		return -EIO;
	/* More than a ring's worth cannot be in flight; nobody waits for that. */
	if ((uint16_t)(index - virtqueue_used_index(vq)) > vq->size)
		return -EIO;
	while (virtqueue_used_index(vq) != index)
		if (!wait_more(b, deadline))
			return -EIO;
	vq->last_avail = vq->next_used = index;
	/* What completed since the last interrupt; one too many does no harm. */
	if (vq->interrupt)
		vq->interrupt(vq);
	return 0;
}

static void stop(struct virtio_device *d)
{
	struct vhost_user_blk *b = of(d);
	uint64_t deadline = now_monotonic_us() + DRAIN_DEADLINE_US;

	for (unsigned i = 0; !b->back_end.dead && i < d->n_queues; i++)
		if (b->calls[i].watch.fd >= 0 && stop_queue(b, &d->queues[i], deadline) < 0)
			vhost_user_kill(&b->back_end);
	close_calls(b);
	/* At once: what is saved after a pause must not look as if all were well. */
	if (b->back_end.dead)
		virtio_needs_reset(d, GONE);
}

static void reset(struct virtio_device *d)
{
	struct vhost_user_blk *b = of(d);
	uint8_t *wce = b->config + WCE_AT;

	if (*wce == b->first_wce)
		return;
	*wce = b->first_wce;
	set_wce(b);
}

static void save(struct virtio_device *d, struct state_out *o)
{
	state_put_u8(o, of(d)->config[WCE_AT]);
}

static int load(struct virtio_device *d, struct state_section *s)
{
	struct vhost_user_blk *b = of(d);
	uint8_t *wce = b->config + WCE_AT, value = state_get_u8(s);

	if (value > 1 || (value != *wce && !virtio_has(d, F_CONFIG_WCE)))
		return -EINVAL;
	*wce = value;
	ioloop_call(d->loop, set_wce, b);
	return 0;
}

static void unwatch_connection(void *arg)
{
	struct vhost_user_blk *b = arg;

	if (b->connection.fd >= 0)
		ioloop_unwatch(b->virtio.loop, &b->connection);
	b->connection.fd = -EBADF;
}

static void free_blk(struct virtio_device *d)
{
	struct vhost_user_blk *b = of(d);

	ioloop_call(d->loop, unwatch_connection, b);
	vhost_user_deinit(&b->back_end);
	cleanup_close_p(&b->memory_fd);
	free(b);
}

static const struct virtio_device_ops ops = {
	.name = "vhost-user-blk",
	.id = VIRTIO_ID_BLOCK,
	.features = features,
	.config_read = config_read,
	.config_write = config_write,
	.start = start,
	.stop = stop,
	.reset = reset,
	.save = save,
	.load = load,
	.free = free_blk,
	.state_version = 1,
};

/* What the back-end told of itself, with what we answer for. */
static int read_config(struct vhost_user_blk *b, unsigned n_queues)
{
	int r = vhost_user_get_config(&b->back_end, b->config, CONFIG_BYTES);
	uint8_t *queues = b->config + NUM_QUEUES_AT;

	queues[0] = (uint8_t)n_queues;
	queues[1] = 0;
	b->first_wce = b->config[WCE_AT] & 1;
	b->config[WCE_AT] = b->first_wce;
	return r;
}

static int connect_back_end(struct vhost_user_blk *b, const struct vhost_user_blk_config *c,
                            unsigned *n_queues)
{
	int r = vhost_user_init(&b->back_end, c->fd);

	if (r == 0 && (b->back_end.features & RING_FEATURES) != RING_FEATURES)
		r = -ENOTSUP;
	if (r < 0)
		return r;
	*n_queues = MIN_OF(c->n_queues, b->back_end.max_queues);
	b->memory_fd = fcntl(c->memory_fd, F_DUPFD_CLOEXEC, 0);
	return b->memory_fd < 0 ? -errno : read_config(b, *n_queues);
}

static void watch_connection(void *arg)
{
	struct vhost_user_blk *b = arg;

	b->connection.fd = b->back_end.fd;
	if (ioloop_watch(b->virtio.loop, &b->connection, EPOLLIN | EPOLLRDHUP) < 0)
		b->connection.fd = -EBADF;
}

int vhost_user_blk_new(const struct vhost_user_blk_config *c, const struct guestmem *mem,
                       struct ioloop *loop, struct virtio_device **ret)
{
	struct vhost_user_blk *b;
	unsigned n_queues = 0;
	int r;

	/* The back-end answers the driver's question for it, and has no way to be told. */
	if (c->serial && *c->serial)
		return -ENOTSUP;
	assert(c->n_queues && c->n_queues <= VIRTIO_MAX_QUEUES);
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->memory_fd = b->connection.fd = -EBADF;
	b->connection.ready = on_connection;
	b->readonly = c->readonly;
	r = connect_back_end(b, c, &n_queues);
	if (r == 0) {
		virtio_device_init(&b->virtio, &ops, c->id, mem, loop, n_queues, QUEUE_SIZE,
		                   CONFIG_BYTES);
		for (unsigned i = 0; i < n_queues; i++)
			b->calls[i] = (struct call){ .watch = { .fd = -EBADF, .ready = on_call },
				                     .queue = &b->virtio.queues[i] };
		ioloop_call(loop, watch_connection, b);
		r = b->connection.fd < 0 ? -EIO : 0;
	}
	if (r < 0) {
		cleanup_close_p(&b->memory_fd);
		free(b);
		return r;
	}
	*ret = &b->virtio;
	return 0;
}
