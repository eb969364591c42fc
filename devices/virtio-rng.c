/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/bucket.h"
#include "devices/models.h"
#include "devices/stats-json.h"

/*
 * The entropy device (virtio 1.2, 5.4). It may give fewer bytes than there is room for, so what a
 * request costs is bounded, and the rate of all of them too: a guest that reads for ever costs the
 * host next to nothing. System calls in the loop: getrandom, read, timerfd_settime.
 */
#define RNG_QUEUE_SIZE   64
#define REQUEST_BYTES    4096u
#define RATE_BYTES_PER_S (1u << 20)
#define TURN_REQUESTS    16

struct virtio_rng {
	struct virtio_device d;
	struct io_watch timer; /* timerfd, owned */
	struct bucket bucket;
	struct iostats stats;
	struct iovec iov[RNG_QUEUE_SIZE];
};

static struct virtio_rng *rng_of(struct virtio_device *d)
{
	return container_of(d, struct virtio_rng, d);
}

static uint64_t rng_features(struct virtio_device *d UNUSED)
{
	return 0;
}

/* Puts random bytes into a chain; their count. */
static uint32_t answer(const struct virtq_chain *c)
{
	uint8_t bytes[REQUEST_BYTES];
	size_t want = MIN_OF(c->in_bytes, REQUEST_BYTES);
	/* Does not wait: the host's generator was ready long before there was a guest. */
	ssize_t got = getrandom(bytes, want, GRND_NONBLOCK);

	if (got <= 0)
		return 0;
	return (uint32_t)iov_from_buf(c->iov + c->n_out, c->n_in, 0, bytes, (size_t)got);
}

static void arm(struct virtio_rng *r, uint64_t ns)
{
	struct itimerspec at = { .it_value = { (time_t)(ns / 1000000000u),
		                               (long)(ns % 1000000000u) } };

	if (!ns)
		at.it_value.tv_nsec = 1;
	timerfd_settime(r->timer.fd, 0, &at, NULL);
}

/* One request. 1, 0: there is none, -EAGAIN: the rate is used up, -EBADMSG. */
static int serve_one(struct virtio_rng *r)
{
	struct virtqueue *vq = &r->d.queues[0];
	uint64_t start = now_monotonic_ns(), wait = bucket_wait(&r->bucket, start);
	struct virtq_chain c;
	uint32_t n;
	int ret;

	if (wait) {
		arm(r, wait);
		return -EAGAIN;
	}
	ret = virtqueue_pop(vq, &c, r->iov, RNG_QUEUE_SIZE);
	if (ret <= 0)
		return ret;
	n = answer(&c);
	/* A request without room costs as well. */
	bucket_take(&r->bucket, MAX_OF(n, 64u));
	if (n || !c.in_bytes)
		iostats_add(&r->stats, n, now_monotonic_ns() - start);
	else
		iostats_add_error(&r->stats);
	virtqueue_push(vq, c.head, n);
	return 1;
}

static void rng_kick(struct virtio_device *d, unsigned queue UNUSED)
{
	struct virtio_rng *r = rng_of(d);
	struct virtqueue *vq = &d->queues[0];
	int ret = 0;

	if (!vq->enabled)
		return;
	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < TURN_REQUESTS; i++) {
		ret = serve_one(r);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(d, vq->why_broken);
	else if (ret > 0)
		arm(r, 0);
}

static void rng_timer(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_rng *r = container_of(w, struct virtio_rng, timer);
	uint64_t count;

	if (read(w->fd, &count, sizeof(count)) == sizeof(count))
		rng_kick(&r->d, 0);
}

static int rng_start(struct virtio_device *d)
{
	return ioloop_watch(d->loop, &rng_of(d)->timer, EPOLLIN);
}

static void rng_stop(struct virtio_device *d)
{
	ioloop_unwatch(d->loop, &rng_of(d)->timer);
}

static json_t *rng_stats(struct virtio_device *d)
{
	static const char *const names[] = { "read" };

	return iostats_members(&rng_of(d)->stats, names, ARRAY_SIZE(names));
}

static void rng_free(struct virtio_device *d)
{
	struct virtio_rng *r = rng_of(d);

	cleanup_close_p(&r->timer.fd);
	free(r);
}

static const struct virtio_device_ops rng_ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.features = rng_features,
	.start = rng_start,
	.stop = rng_stop,
	.kick = rng_kick,
	.stats = rng_stats,
	.free = rng_free,
	.state_version = 1,
};

int virtio_rng_new(const char *id, const struct guestmem *mem, struct ioloop *loop,
                   struct virtio_device **ret)
{
	struct virtio_rng *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->timer = (struct io_watch){ .fd = timerfd_create(CLOCK_MONOTONIC,
		                                           TFD_CLOEXEC | TFD_NONBLOCK),
		                      .ready = rng_timer };
	if (r->timer.fd < 0) {
		int error = errno;

		free(r);
		return -error;
	}
	bucket_init(&r->bucket, RATE_BYTES_PER_S, now_monotonic_ns());
	virtio_device_init(&r->d, &rng_ops, id, mem, loop, 1, RNG_QUEUE_SIZE, 0);
	*ret = &r->d;
	return 0;
}
