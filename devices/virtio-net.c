/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/cleanup.h"
#include "devices/stats-json.h"
#include "devices/virtio-net-priv.h"

/* virtio 1.2, 5.1.4 and 5.1.6.5 */
struct net_config_space {
	uint8_t mac[6];
	uint16_t status, max_virtqueue_pairs, mtu;
} __attribute__((packed));

enum {
	STATUS_LINK_UP = 1,
	CTRL_MQ = 4,
	CTRL_MQ_PAIRS_SET = 0,
	CTRL_OK = 0,
	CTRL_ERR = 1,
	MAX_CTRL_CHAINS = 64
};

static struct virtio_net *net_of(struct virtio_device *d)
{
	return container_of(d, struct virtio_net, d);
}

static uint64_t net_features(struct virtio_device *d)
{
	struct virtio_net *n = net_of(d);
	uint64_t f = 1u << NET_F_MAC | 1u << NET_F_STATUS | 1u << NET_F_MRG_RXBUF;

	if (n->mtu)
		f |= 1u << NET_F_MTU;
	if (n->max_pairs > 1)
		f |= 1u << NET_F_CTRL_VQ | 1u << NET_F_MQ;
	return f | n->dev->ops->features(n->dev);
}

/* 5.1.3.1: what needs what. */
static bool net_set_features(struct virtio_device *d UNUSED, uint64_t features)
{
	static const uint8_t needs[][2] = {
		{ NET_F_GUEST_TSO4, NET_F_GUEST_CSUM },
		{ NET_F_GUEST_TSO6, NET_F_GUEST_CSUM },
		{ NET_F_HOST_TSO4, NET_F_CSUM },
		{ NET_F_HOST_TSO6, NET_F_CSUM },
		{ NET_F_MQ, NET_F_CTRL_VQ },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (features >> needs[i][0] & 1 && !(features >> needs[i][1] & 1))
			return false;
	/* ECN is about segments (5.1.3.1); without any it says nothing. */
	return true;
}

static void net_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	struct virtio_net *n = net_of(d);
	struct net_config_space c = {
		.status = htole16(atomic_load(&n->link_up) ? STATUS_LINK_UP : 0),
		.max_virtqueue_pairs = htole16((uint16_t)n->max_pairs),
		.mtu = htole16(n->mtu),
	};

	memcpy(c.mac, n->mac, sizeof(c.mac));
	memcpy(buf, (uint8_t *)&c + offset, len);
}

/* The control queue comes after all pairs that the driver knows of. */
static unsigned ctrl_index(const struct virtio_net *n)
{
	return virtio_has(&n->d, NET_F_MQ) ? 2 * n->max_pairs : 2;
}

static int use_pairs(struct virtio_net *n, unsigned n_pairs)
{
	int ret;

	for (unsigned i = n_pairs; i < n->max_pairs; i++)
		net_pair_stop(&n->pairs[i]);
	if (!atomic_load(&n->link_up)) {
		n->n_pairs = n_pairs;
		return 0;
	}
	ret = n->dev->ops->configure(n->dev, n->d.driver_features, n_pairs);
	for (unsigned i = 0; i < n_pairs && ret == 0; i++)
		ret = net_pair_start(&n->pairs[i]);
	if (ret == 0)
		n->n_pairs = n_pairs;
	return ret;
}

static void serve_pairs(struct virtio_net *n)
{
	for (unsigned i = 0; i < n->n_pairs && n->d.started; i++) {
		net_transmit(&n->pairs[i]);
		if (n->d.started)
			net_receive(&n->pairs[i]);
	}
}

static uint8_t ctrl_command(struct virtio_net *n, const struct virtq_chain *c)
{
	uint8_t command[4];
	unsigned pairs;

	if (iov_to_buf(c->iov, c->n_out, 0, command, sizeof(command)) != sizeof(command) ||
	    c->out_bytes != sizeof(command) || command[0] != CTRL_MQ ||
	    command[1] != CTRL_MQ_PAIRS_SET || !virtio_has(&n->d, NET_F_MQ))
		return CTRL_ERR;
	pairs = command[2] | (unsigned)command[3] << 8;
	if (!pairs || pairs > n->max_pairs || use_pairs(n, pairs) < 0)
		return CTRL_ERR;
	return CTRL_OK;
}

static void serve_ctrl(struct virtio_net *n, struct virtqueue *vq)
{
	struct iovec *iov = n->pairs[0].tx_iov; /* of use within one transmission only */
	struct virtq_chain c;
	unsigned budget = MAX_CTRL_CHAINS;
	int ret;

	do {
		virtqueue_disable_kicks(vq);
		while ((ret = virtqueue_pop(vq, &c, iov, NET_MAX_IOV)) > 0 && budget--) {
			uint8_t ack = ctrl_command(n, &c);

			iov_from_buf(c.iov + c.n_out, c.n_in, 0, &ack, sizeof(ack));
			virtqueue_push(vq, c.head, c.in_bytes ? 1 : 0);
		}
	} while (ret == 0 && virtqueue_enable_kicks(vq));
	if (ret > 0) {
		virtqueue_unpop(vq);
		(void)eventfd_write(n->again.fd, 1);
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(&n->d, vq->why_broken);
	else
		serve_pairs(n);
}

static void net_kick(struct virtio_device *d, unsigned queue)
{
	struct virtio_net *n = net_of(d);

	if (virtio_has(d, NET_F_CTRL_VQ) && queue == ctrl_index(n))
		serve_ctrl(n, &d->queues[queue]);
	else if (queue / 2 >= n->n_pairs)
		return;
	else if (queue % 2)
		net_transmit(&n->pairs[queue / 2]);
	else
		net_receive(&n->pairs[queue / 2]);
}

static void net_again(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_net *n = container_of(w, struct virtio_net, again);
	unsigned ctrl = ctrl_index(n);
	eventfd_t count;

	(void)eventfd_read(w->fd, &count);
	serve_pairs(n);
	if (n->d.started && virtio_has(&n->d, NET_F_CTRL_VQ) && n->d.queues[ctrl].enabled)
		serve_ctrl(n, &n->d.queues[ctrl]);
}

static void net_stop(struct virtio_device *d)
{
	struct virtio_net *n = net_of(d);

	for (unsigned i = 0; i < n->max_pairs; i++)
		net_pair_stop(&n->pairs[i]);
	ioloop_unwatch(d->loop, &n->again);
}

static int net_start(struct virtio_device *d)
{
	struct virtio_net *n = net_of(d);
	int ret = ioloop_watch(d->loop, &n->again, EPOLLIN);

	if (ret < 0)
		return ret;
	ret = use_pairs(n, virtio_has(d, NET_F_MQ) ? n->n_pairs : 1);
	if (ret == -ENETDOWN) {
		net_link_down(n);
		ret = 0;
	}
	if (ret < 0)
		net_stop(d);
	return ret;
}

static void net_reset(struct virtio_device *d)
{
	net_of(d)->n_pairs = 1;
}

static void net_save(struct virtio_device *d, struct state_out *o)
{
	struct virtio_net *n = net_of(d);

	state_put_bytes(o, n->mac, sizeof(n->mac));
	state_put_u16(o, n->mtu);
	state_put_u16(o, (uint16_t)n->n_pairs);
}

/* The guest has read MAC and MTU long ago: they must be those. The link is this host's. */
static int net_load(struct virtio_device *d, struct state_section *s)
{
	struct virtio_net *n = net_of(d);
	uint8_t mac[6];
	uint16_t mtu, pairs;

	state_get_bytes(s, mac, sizeof(mac));
	mtu = state_get_u16(s);
	pairs = state_get_u16(s);
	if (s->failed || memcmp(mac, n->mac, sizeof(mac)) || mtu != n->mtu || !pairs ||
	    pairs > n->max_pairs)
		return -EINVAL;
	n->n_pairs = pairs;
	return 0;
}

static json_t *net_stats(struct virtio_device *d)
{
	static const char *const names[_NET_STAT_MAX] = {
		[NET_STAT_RX] = "rx", [NET_STAT_TX] = "tx"
	};

	return iostats_members(net_of(d)->stats, names, _NET_STAT_MAX);
}

static void net_destroy(struct virtio_net *n)
{
	for (unsigned i = 0; n->pairs && i < n->max_pairs; i++)
		free(n->pairs[i].spill);
	free(n->pairs);
	if (n->dev)
		n->dev->ops->free(n->dev);
	cleanup_close_p(&n->again.fd);
	free(n);
}

static void net_free(struct virtio_device *d)
{
	net_destroy(net_of(d));
}

static const struct virtio_device_ops net_ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.features = net_features,
	.set_features = net_set_features,
	.config_read = net_config_read,
	.start = net_start,
	.stop = net_stop,
	.kick = net_kick,
	.reset = net_reset,
	.save = net_save,
	.load = net_load,
	.stats = net_stats,
	.free = net_free,
	.state_version = 1,
};

static int init(struct virtio_net *n, const struct virtio_net_config *c)
{
	n->again = (struct io_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		                      .ready = net_again };
	if (n->again.fd < 0)
		return -errno;
	n->pairs = calloc(n->max_pairs, sizeof(*n->pairs));
	if (!n->pairs)
		return -ENOMEM;
	for (unsigned i = 0; i < n->max_pairs; i++) {
		n->pairs[i].n = n;
		n->pairs[i].index = i;
	}
	memcpy(n->mac, c->mac, sizeof(n->mac));
	n->mtu = c->mtu;
	n->n_pairs = 1;
	atomic_store(&n->link_up, true);
	/* Last: it takes the descriptors. */
	return c->stream_fd >= 0 ? net_stream_new(c->stream_fd, &n->dev)
	                         : net_tap_new(c->tap_fds, c->n_pairs, &n->dev);
}

int virtio_net_new(const struct virtio_net_config *c, const struct guestmem *mem,
                   struct ioloop *loop, struct virtio_device **ret)
{
	unsigned pairs = c->stream_fd >= 0 ? 1 : c->n_pairs;
	struct virtio_net *n;
	int r;

	if (!pairs || pairs > VIRTIO_NET_MAX_PAIRS)
		return -EINVAL;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->max_pairs = pairs;
	r = init(n, c);
	if (r < 0) {
		net_destroy(n);
		return r;
	}
	virtio_device_init(&n->d, &net_ops, c->id, mem, loop, 2 * pairs + (pairs > 1),
	                   NET_QUEUE_SIZE, sizeof(struct net_config_space));
	*ret = &n->d;
	return 0;
}
