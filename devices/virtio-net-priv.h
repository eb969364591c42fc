/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What virtio-net.c (the device) and net-queue.c (its frames) share. */
#include "devices/models.h"
#include "devices/net-hdr.h"
#include "devices/netdev.h"

#define NET_QUEUE_SIZE 256
/* A chain is never longer than its queue. */
#define NET_MAX_IOV  NET_QUEUE_SIZE
#define NET_MAX_HELD 64 /* receive buffers kept ready */
#define NET_RX_IOV   (2 * NET_MAX_IOV)

struct net_held {
	uint16_t head, n_iov;
	uint32_t bytes;
};

/* A pair of queues. All of it is the loop's. */
struct net_pair {
	struct virtio_net *n;
	unsigned index;
	struct io_watch watch; /* of the netdev's descriptor */
	uint32_t events;
	bool watched, tx_blocked;
	/*
	 * Receive buffers taken from the queue, oldest first, so that a frame is read straight into
	 * them. What does not fit goes into spill, and waits there as `waiting` bytes of a frame
	 * until the guest gives more.
	 */
	struct net_held held[NET_MAX_HELD];
	unsigned n_held, n_iov;
	uint32_t held_bytes;
	uint32_t goal;                       /* bytes of buffers a frame is read into */
	unsigned n_small;                    /* small frames since the last large one */
	struct iovec rx_iov[NET_RX_IOV + 1]; /* + 1: spill */
	uint32_t waiting, direct;            /* bytes of that frame; of those, in buffers already */
	uint8_t *spill;
	struct iovec tx_iov[NET_MAX_IOV + 1];
};

enum net_stat {
	NET_STAT_RX,
	NET_STAT_TX,
	_NET_STAT_MAX
};

struct virtio_net {
	struct virtio_device d;
	/* Constant. */
	uint8_t mac[6];
	uint16_t mtu;
	unsigned max_pairs;
	struct netdev *dev; /* owned */

	_Atomic bool link_up;
	/* The loop's own. */
	unsigned n_pairs;       /* in use */
	struct io_watch again;  /* eventfd, owned: there is more than one turn's work */
	struct net_pair *pairs; /* max_pairs of them */
	struct iostats stats[_NET_STAT_MAX];
};

/* In the loop: a pair's descriptor is ready; serve its receive or transmit queue. */
void net_ready(struct io_watch *w, uint32_t events);
void net_receive(struct net_pair *p);
void net_transmit(struct net_pair *p);
/* Begins and ends to serve a pair. After the end nothing of the guest's is held. */
int net_pair_start(struct net_pair *p);
void net_pair_stop(struct net_pair *p);
/* The peer is gone: the guest sees its cable pulled. */
void net_link_down(struct virtio_net *n);
