/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/virtio-net-priv.h"

#define TURN_FRAMES 256 /* then others in the loop have their turn */
#define SPILL_BYTES (NET_HDR_BYTES + NET_MAX_FRAME)
/* Reading into room for the largest frame means a long list of buffers for the kernel to look at.
 * So that is done while there are large frames, and not for small ones; a surprise goes by way of
 * spill.
 */
#define SMALL_BYTES 4096u
#define SMALL_RUN   64

static struct virtqueue *rx_queue(struct net_pair *p)
{
	return &p->n->d.queues[2 * p->index];
}

static struct virtqueue *tx_queue(struct net_pair *p)
{
	return &p->n->d.queues[2 * p->index + 1];
}

static bool link_up(const struct net_pair *p)
{
	return atomic_load_explicit(&p->n->link_up, memory_order_relaxed);
}

/* Makes epoll tell what is of use now. */
static void want(struct net_pair *p, uint32_t events)
{
	if (p->watched && p->events != events &&
	    ioloop_change(p->n->d.loop, &p->watch, events) == 0)
		p->events = events;
}

static void want_in(struct net_pair *p, bool on)
{
	want(p, on ? p->events | EPOLLIN : p->events & ~(uint32_t)EPOLLIN);
}

static void want_out(struct net_pair *p)
{
	bool on = p->tx_blocked || p->n->dev->ops->wants_out(p->n->dev, p->index);

	want(p, on ? p->events | EPOLLOUT : p->events & ~(uint32_t)EPOLLOUT);
}

static void again(struct virtio_net *n)
{
	(void)eventfd_write(n->again.fd, 1);
}

static void unwatch(struct net_pair *p)
{
	if (p->watched)
		ioloop_unwatch(p->n->d.loop, &p->watch);
	p->watched = false;
}

void net_link_down(struct virtio_net *n)
{
	if (!atomic_exchange(&n->link_up, false))
		return;
	for (unsigned i = 0; i < n->max_pairs; i++) {
		unwatch(&n->pairs[i]);
		n->pairs[i].tx_blocked = false;
	}
	virtio_config_changed(&n->d);
	again(n); /* what the guest has sent meanwhile goes nowhere, but is answered */
}

/* Bytes of buffers to have ready before a frame is read. */
static uint32_t rx_goal(const struct net_pair *p)
{
	return virtio_has(&p->n->d, NET_F_MRG_RXBUF) ? p->goal : 1;
}

static void learn_goal(struct net_pair *p, uint32_t len)
{
	if (len > SMALL_BYTES) {
		p->goal = SPILL_BYTES;
		p->n_small = 0;
	} else if (++p->n_small >= SMALL_RUN) {
		p->goal = SMALL_BYTES;
		p->n_small = 0;
	}
}

/* Is there room to remember one more buffer? */
static bool can_hold(const struct net_pair *p)
{
	return p->n_held < NET_MAX_HELD && p->n_iov + NET_MAX_IOV <= NET_RX_IOV;
}

/* Takes buffers until `goal` bytes are held. True when they are. */
static bool hold_buffers(struct net_pair *p, uint32_t goal)
{
	struct virtqueue *vq = rx_queue(p);

	while (p->held_bytes < goal && can_hold(p)) {
		struct virtq_chain c;
		struct iovec *iov = p->rx_iov + p->n_iov;

		if (virtqueue_pop(vq, &c, iov, NET_MAX_IOV) <= 0)
			break;
		/* Only the writable part is of use. */
		for (unsigned i = 0; i < c.n_in; i++)
			iov[i] = iov[c.n_out + i];
		p->held[p->n_held++] = (struct net_held){ c.head, c.n_in, c.in_bytes };
		p->n_iov += c.n_in;
		p->held_bytes += c.in_bytes;
	}
	return p->held_bytes >= goal;
}

/* The oldest n buffers go to the guest, filled with the frame of `len` bytes. */
static void release_buffers(struct net_pair *p, unsigned n, uint32_t len)
{
	struct virtq_used used[NET_MAX_HELD];
	uint16_t count = htole16((uint16_t)n);
	unsigned n_iov = 0;

	iov_from_buf(p->rx_iov, p->n_iov, offsetof(struct net_hdr, num_buffers), &count,
	             sizeof(count));
	for (unsigned i = 0; i < n; i++) {
		uint32_t part = MIN_OF(len, p->held[i].bytes);

		used[i] = (struct virtq_used){ p->held[i].head, part };
		len -= part;
		n_iov += p->held[i].n_iov;
		p->held_bytes -= p->held[i].bytes;
	}
	virtqueue_push_many(rx_queue(p), used, n);
	p->n_held -= n;
	p->n_iov -= n_iov;
	memmove(p->held, p->held + n, p->n_held * sizeof(p->held[0]));
	memmove(p->rx_iov, p->rx_iov + n_iov, p->n_iov * sizeof(p->rx_iov[0]));
}

/* How many of the held buffers a frame takes; 0: there are too few. */
static unsigned buffers_for(const struct net_pair *p, uint32_t len)
{
	for (unsigned i = 0; i < p->n_held; i++) {
		if (p->held[i].bytes >= len)
			return i + 1;
		len -= p->held[i].bytes;
	}
	return 0;
}

static void drop_waiting(struct net_pair *p)
{
	if (p->waiting)
		iostats_add_error(&p->n->stats[NET_STAT_RX]);
	p->waiting = 0;
}

/* A frame of len bytes lies in the first `direct` bytes of the held buffers, its rest in spill. */
static void deliver(struct net_pair *p, uint32_t len, uint64_t start_ns)
{
	unsigned n = buffers_for(p, len);

	p->waiting = 0;
	if (!virtio_has(&p->n->d, NET_F_MRG_RXBUF) && n != 1) {
		iostats_add_error(&p->n->stats[NET_STAT_RX]); /* larger than a buffer */
		return;
	}
	if (!n) {
		p->waiting = len;
		return;
	}
	if (len > p->direct)
		iov_from_buf(p->rx_iov, p->n_iov, p->direct, p->spill, len - p->direct);
	iostats_add(&p->n->stats[NET_STAT_RX], len - NET_HDR_BYTES, now_monotonic_ns() - start_ns);
	release_buffers(p, n, len);
}

/* The rest of a frame, when the guest has given room for it. False: still too little. */
static bool deliver_waiting(struct net_pair *p)
{
	uint32_t len = p->waiting;

	if (!len)
		return true;
	if (!hold_buffers(p, len)) {
		if (can_hold(p))
			return false;
		drop_waiting(p); /* buffers so small that no number of them will do */
		return true;
	}
	deliver(p, len, now_monotonic_ns());
	return true;
}

/* Reads a frame into buffers for `goal` bytes and spill behind them. */
static ssize_t read_frame(struct net_pair *p, uint32_t goal)
{
	struct netdev *dev = p->n->dev;
	unsigned n = 0;
	struct iovec next;
	ssize_t len;

	p->direct = 0;
	for (unsigned i = 0; i < p->n_held && p->direct < goal; i++) {
		n += p->held[i].n_iov;
		p->direct += p->held[i].bytes;
	}
	next = p->rx_iov[n]; /* of a held buffer, or the spare one */
	p->rx_iov[n] = (struct iovec){ p->spill, SPILL_BYTES };
	len = dev->ops->receive(dev, p->index, p->rx_iov, n + 1);
	p->rx_iov[n] = next;
	return len;
}

/* Reads one frame. 1, 0: there is none, or no room for it, negative errno. */
static int receive_one(struct net_pair *p, uint64_t start_ns)
{
	uint32_t goal = rx_goal(p);
	ssize_t len;

	if (!deliver_waiting(p))
		return 0;
	hold_buffers(p, goal);
	if (!p->n_held)
		return 0;
	if (!p->held[0].bytes) {
		release_buffers(p, 1, 0); /* a buffer without room */
		return 1;
	}
	len = read_frame(p, goal);
	if (len == -EAGAIN || len == -ENETDOWN)
		return (int)len;
	if (len < (ssize_t)(NET_HDR_BYTES + NET_MIN_FRAME) || len > SPILL_BYTES) {
		iostats_add_error(&p->n->stats[NET_STAT_RX]);
		return 1;
	}
	learn_goal(p, (uint32_t)len);
	deliver(p, (uint32_t)len, start_ns);
	return 1;
}

/* Frames until there are none or no room. True: the turn is used up, there may be more. */
static bool receive_frames(struct net_pair *p)
{
	struct virtqueue *vq = rx_queue(p);
	uint64_t start_ns = now_monotonic_ns();
	int ret = 0;

	for (unsigned i = 0; i < TURN_FRAMES; i++) {
		ret = receive_one(p, start_ns);
		if (ret > 0)
			continue;
		if (ret == 0 && virtqueue_enable_kicks(vq))
			continue; /* buffers came just now */
		break;
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(&p->n->d, vq->why_broken);
	else if (ret == -ENETDOWN)
		net_link_down(p->n);
	else
		want_in(p, ret != 0); /* no room: do not wake up for frames */
	return ret > 0;
}

void net_receive(struct net_pair *p)
{
	if (!rx_queue(p)->enabled || !link_up(p))
		return;
	virtqueue_disable_kicks(rx_queue(p));
	/* epoll tells of what is in the descriptor, not of what the back-end has read already. */
	if (receive_frames(p) && p->n->d.started)
		again(p->n);
}

/* Sends what the chain holds. False: give it back and wait. */
static bool send_chain(struct net_pair *p, const struct virtq_chain *c, uint64_t start_ns)
{
	struct virtio_net *n = p->n;
	struct iovec *iov = p->tx_iov + 1;
	uint32_t bytes = c->out_bytes - NET_HDR_BYTES;
	struct net_hdr hdr;
	unsigned n_iov;
	int ret;

	if (!link_up(p) || c->out_bytes < NET_HDR_BYTES ||
	    iov_to_buf(iov, c->n_out, 0, &hdr, NET_HDR_BYTES) != NET_HDR_BYTES ||
	    !net_hdr_check(&hdr, n->d.driver_features, bytes)) {
		iostats_add_error(&n->stats[NET_STAT_TX]);
		return true;
	}
	n_iov = iov_skip(&iov, c->n_out, NET_HDR_BYTES);
	/* The entry before is free: it held the header, or is the spare one. */
	*--iov = (struct iovec){ &hdr, NET_HDR_BYTES };
	ret = n->dev->ops->send(n->dev, p->index, iov, n_iov + 1);
	if (ret == -EAGAIN)
		return false;
	if (ret < 0)
		iostats_add_error(&n->stats[NET_STAT_TX]);
	else
		iostats_add(&n->stats[NET_STAT_TX], bytes, now_monotonic_ns() - start_ns);
	if (ret == -ENETDOWN)
		net_link_down(n);
	return true;
}

/* One chain. 1, 0: there is none, -EAGAIN: the host does not take it now, -EBADMSG. */
static int transmit_one(struct net_pair *p, uint64_t start_ns)
{
	struct virtqueue *vq = tx_queue(p);
	struct virtq_chain c;
	int ret = virtqueue_pop(vq, &c, p->tx_iov + 1, NET_MAX_IOV);

	if (ret <= 0)
		return ret;
	if (!send_chain(p, &c, start_ns)) {
		virtqueue_unpop(vq);
		return -EAGAIN;
	}
	virtqueue_push(vq, c.head, 0);
	return 1;
}

void net_transmit(struct net_pair *p)
{
	struct virtqueue *vq = tx_queue(p);
	uint64_t start_ns = now_monotonic_ns();
	int ret = 0;

	if (!vq->enabled || p->tx_blocked)
		return;
	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < TURN_FRAMES; i++) {
		ret = transmit_one(p, start_ns);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
	}
	virtqueue_flush(vq);
	if (vq->broken) {
		virtio_needs_reset(&p->n->d, vq->why_broken);
		return;
	}
	p->tx_blocked = ret == -EAGAIN;
	if (ret > 0)
		again(p->n);
	want_out(p);
}

static void writable(struct net_pair *p)
{
	struct netdev *dev = p->n->dev;

	if (dev->ops->writable(dev, p->index) < 0) {
		net_link_down(p->n);
		return;
	}
	p->tx_blocked = false;
	net_transmit(p);
}

void net_ready(struct io_watch *w, uint32_t events)
{
	struct net_pair *p = container_of(w, struct net_pair, watch);

	if (events & EPOLLOUT)
		writable(p);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && p->watched)
		net_receive(p);
	/* Still watched, no room for frames, and the other end is gone: it will not come back. */
	if (events & (EPOLLHUP | EPOLLERR) && p->watched && !(p->events & EPOLLIN))
		net_link_down(p->n);
}

int net_pair_start(struct net_pair *p)
{
	struct virtio_net *n = p->n;
	int ret;

	if (!p->spill) {
		p->spill = malloc(SPILL_BYTES);
		if (!p->spill)
			return -ENOMEM;
	}
	if (p->watched || !link_up(p))
		return 0;
	p->goal = SMALL_BYTES;
	p->events = EPOLLIN;
	p->watch = (struct io_watch){ .fd = n->dev->ops->fd(n->dev, p->index), .ready = net_ready };
	ret = ioloop_watch(n->d.loop, &p->watch, p->events);
	p->watched = ret == 0;
	return ret;
}

void net_pair_stop(struct net_pair *p)
{
	struct virtqueue *vq = rx_queue(p);

	unwatch(p);
	drop_waiting(p);
	while (p->n_held)
		virtqueue_unpop_head(vq, p->held[--p->n_held].head);
	p->n_iov = p->held_bytes = 0;
	p->tx_blocked = false;
}
