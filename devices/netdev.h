/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Where a network device's frames go to and come from. All calls in the device's loop, but new,
 * free and features. Frames have a net_hdr in front, in both directions.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct netdev;

struct netdev_ops {
	/* Of the offload features (5.1.3), those it can do. */
	uint64_t (*features)(const struct netdev *n);
	/* The guest has negotiated features and uses the first n_pairs queue pairs. Negative errno
	 * when the host does not play along. */
	int (*configure)(struct netdev *n, uint64_t features, unsigned n_pairs);
	/* The descriptor of a pair, for epoll. */
	int (*fd)(const struct netdev *n, unsigned pair);
	/*
	 * The next frame into iov (room for NET_HDR_BYTES + NET_MAX_FRAME): its bytes with header.
	 * -EAGAIN: none now; -ENETDOWN: never again; other errors: a frame was lost.
	 */
	ssize_t (*receive)(struct netdev *n, unsigned pair, const struct iovec *iov,
	                   unsigned n_iov);
	/* Sends the frame in iov[1..], its header in iov[0] (which it may overwrite). 0, -EAGAIN:
	 * not taken, wait until writable; -ENETDOWN: never again; other errors: dropped. */
	int (*send)(struct netdev *n, unsigned pair, struct iovec *iov, unsigned n_iov);
	/* Part of what was taken could not be written yet: call writable when it can. */
	bool (*wants_out)(const struct netdev *n, unsigned pair);
	/* 0, or -ENETDOWN. */
	int (*writable)(struct netdev *n, unsigned pair);
	/* A frame is there already, for which epoll will not tell. */
	bool (*has_frame)(const struct netdev *n, unsigned pair);
	void (*free)(struct netdev *n);
};

struct netdev {
	const struct netdev_ops *ops;
};

/* Each takes the descriptors when it succeeds; negative errno. */
int net_tap_new(const int *fds, unsigned n_fds, struct netdev **ret);
int net_stream_new(int fd, struct netdev **ret);
