/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "devices/models.h"
#include "devices/net-hdr.h"
#include "devices/netdev.h"

/*
 * A tap device, one descriptor per queue pair. The kernel reads and writes the virtio header itself
 * and does the offloads. System calls in the loop: readv, writev, ioctl (TUNSETOFFLOAD,
 * TUNSETQUEUE).
 */
struct net_tap {
	struct netdev n;
	unsigned n_fds;
	int fds[VIRTIO_NET_MAX_PAIRS];
	bool attached[VIRTIO_NET_MAX_PAIRS];
	bool multi_queue;
};

static struct net_tap *tap_of(struct netdev *n)
{
	return container_of(n, struct net_tap, n);
}

static uint64_t tap_features(const struct netdev *n UNUSED)
{
	return 1u << NET_F_CSUM | 1u << NET_F_GUEST_CSUM | 1u << NET_F_GUEST_TSO4 |
	       1u << NET_F_GUEST_TSO6 | 1u << NET_F_GUEST_ECN | 1u << NET_F_HOST_TSO4 |
	       1u << NET_F_HOST_TSO6 | 1u << NET_F_HOST_ECN;
}

/* A queue nobody serves must not be given flows by the host. */
static int attach(struct net_tap *t, unsigned pair, bool on)
{
	struct ifreq ifr = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (t->attached[pair] == on || !t->multi_queue)
		return 0;
	if (ioctl(t->fds[pair], TUNSETQUEUE, &ifr) < 0)
		return -errno;
	t->attached[pair] = on;
	return 0;
}

static int tap_configure(struct netdev *n, uint64_t features, unsigned n_pairs)
{
	static const struct {
		unsigned feature, flag;
	} offloads[] = {
		{ NET_F_GUEST_CSUM, TUN_F_CSUM },
		{ NET_F_GUEST_TSO4, TUN_F_TSO4 },
		{ NET_F_GUEST_TSO6, TUN_F_TSO6 },
		{ NET_F_GUEST_ECN, TUN_F_TSO_ECN },
	};
	struct net_tap *t = tap_of(n);
	unsigned flags = 0;
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++)
		if (features >> offloads[i].feature & 1)
			flags |= offloads[i].flag;
	for (unsigned i = 0; i < t->n_fds && ret == 0; i++)
		ret = attach(t, i, i < n_pairs);
	if (ret == 0 && ioctl(t->fds[0], TUNSETOFFLOAD, flags) < 0)
		ret = -errno;
	return ret;
}

static int tap_fd(const struct netdev *n, unsigned pair)
{
	return container_of(n, const struct net_tap, n)->fds[pair];
}

static int tap_error(int error)
{
	if (error == EBADFD) /* the interface is gone */
		return -ENETDOWN;
	return error == EWOULDBLOCK || error == EINTR ? -EAGAIN : -error;
}

static ssize_t tap_receive(struct netdev *n, unsigned pair, const struct iovec *iov, unsigned n_iov)
{
	ssize_t got = readv(tap_of(n)->fds[pair], iov, (int)n_iov);

	return got < 0 ? tap_error(errno) : got;
}

static int tap_send(struct netdev *n, unsigned pair, struct iovec *iov, unsigned n_iov)
{
	return writev(tap_of(n)->fds[pair], iov, (int)n_iov) < 0 ? tap_error(errno) : 0;
}

static bool tap_no(const struct netdev *n UNUSED, unsigned pair UNUSED)
{
	return false;
}

static int tap_writable(struct netdev *n UNUSED, unsigned pair UNUSED)
{
	return 0;
}

static void tap_free(struct netdev *n)
{
	struct net_tap *t = tap_of(n);

	for (unsigned i = 0; i < t->n_fds; i++)
		close(t->fds[i]);
	free(t);
}

static const struct netdev_ops tap_ops = {
	.features = tap_features,
	.configure = tap_configure,
	.fd = tap_fd,
	.receive = tap_receive,
	.send = tap_send,
	.wants_out = tap_no,
	.writable = tap_writable,
	.has_frame = tap_no,
	.free = tap_free,
};

static int prepare(int fd)
{
	int bytes = NET_HDR_BYTES, little = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0)
		return -errno;
	return fd_set_nonblock(fd, 1);
}

int net_tap_new(const int *fds, unsigned n_fds, struct netdev **ret)
{
	cleanup_free struct net_tap *t = calloc(1, sizeof(*t));
	struct ifreq ifr = { 0 };

	if (!t)
		return -ENOMEM;
	if (!n_fds || n_fds > VIRTIO_NET_MAX_PAIRS)
		return -EINVAL;
	if (ioctl(fds[0], TUNGETIFF, &ifr) < 0)
		return -errno;
	if (!(ifr.ifr_flags & IFF_VNET_HDR) || !(ifr.ifr_flags & IFF_TAP) ||
	    (n_fds > 1 && !(ifr.ifr_flags & IFF_MULTI_QUEUE)))
		return -EINVAL;
	for (unsigned i = 0; i < n_fds; i++) {
		int r = prepare(fds[i]);

		if (r < 0)
			return r;
		t->fds[i] = fds[i];
		t->attached[i] = true;
	}
	t->n_fds = n_fds;
	t->multi_queue = n_fds > 1;
	t->n.ops = &tap_ops;
	*ret = &TAKE_PTR(t)->n;
	return 0;
}
