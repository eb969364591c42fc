/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The virtio device models. Each takes over the descriptors of its config when it succeeds, and
 * leaves them alone when it fails (negative errno). The device runs in the given loop; strings of
 * a config are borrowed during the call only.
 */
#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio.h"

/* Token bucket: 0 is no limit. Bursts are one second's worth. */
struct io_limits {
	uint64_t bytes_per_s, read_bytes_per_s, write_bytes_per_s;
	uint64_t ops_per_s, read_ops_per_s, write_ops_per_s;
};

enum blk_cache {
	BLK_CACHE_WRITEBACK,    /* page cache, flush honoured */
	BLK_CACHE_WRITETHROUGH, /* every write is durable when it is answered */
	BLK_CACHE_NONE,         /* O_DIRECT (vmd opens so), flush honoured */
	BLK_CACHE_UNSAFE        /* flush answered, not done */
};

struct virtio_blk_config {
	const char *id;
	int fd; /* raw image or block device, or with remote the connection to who serves it */
	/* By the vhost-user protocol, see blk_remote_config. */
	bool remote;
	int memory_fd;        /* the guest's RAM (borrowed); remote only */
	unsigned patience_ms; /* remote only */
	bool readonly, discard;
	enum blk_cache cache;
	const char *serial; /* up to 20 bytes, or NULL */
	unsigned n_queues;
	struct io_limits limits;
	bool no_io_uring; /* plain calls in the loop's thread, as where the kernel forbids it */
	/* Told of each request that the host failed (ENOSPC, EIO, ...; error is positive), before
	 * the guest gets its IOERR. In the loop. May be NULL. */
	void (*on_error)(void *arg, bool write, int error);
	void *on_error_arg;
};
/*
 * A disk (virtio-blk.c), raw by io_uring (blk-raw.c), or remote (blk-remote.c): then it may wait
 * for the other process, see blk_remote_new() also for what else is told by errno.
 */
int virtio_blk_new(const struct virtio_blk_config *c, const struct guestmem *mem,
                   struct ioloop *loop, struct virtio_device **ret);

#define VIRTIO_NET_MAX_PAIRS 8

struct virtio_net_config {
	const char *id;
	uint8_t mac[6];
	uint16_t mtu;                      /* 0: not told */
	int tap_fds[VIRTIO_NET_MAX_PAIRS]; /* one per queue pair, IFF_VNET_HDR set by vmd, or */
	unsigned n_pairs;
	int stream_fd; /* passt: frames behind 32-bit big-endian lengths; -EBADF when tap */
};
int virtio_net_new(const struct virtio_net_config *c, const struct guestmem *mem,
                   struct ioloop *loop, struct virtio_device **ret);

/* Random numbers of the host by getrandom(2), at a bounded rate. */
int virtio_rng_new(const char *id, const struct guestmem *mem, struct ioloop *loop,
                   struct virtio_device **ret);

#define VIRTIO_CONSOLE_MAX_PORTS 8

struct virtio_console_port {
	const char *name; /* NULL for the console itself, port 0 */
	int fd;           /* both ways; -EBADF: nobody is there */
};
struct virtio_console_config {
	const char *id;
	struct virtio_console_port ports[VIRTIO_CONSOLE_MAX_PORTS];
	unsigned n_ports;
};
int virtio_console_new(const struct virtio_console_config *c, const struct guestmem *mem,
                       struct ioloop *loop, struct virtio_device **ret);

struct virtio_balloon_config {
	const char *id;
	bool deflate_on_oom, free_page_reporting;
};
int virtio_balloon_new(const struct virtio_balloon_config *c, const struct guestmem *mem,
                       struct ioloop *loop, struct virtio_device **ret);
/* Pages (4 KiB) the guest is asked to give up. Any thread. */
void virtio_balloon_set_target(struct virtio_device *d, uint64_t pages);
/* Asks the guest for its figures every so many seconds; 0 (at first): only when they are looked at,
 * so that an idle guest is left alone. Any thread. */
void virtio_balloon_set_poll_interval(struct virtio_device *d, unsigned seconds);
/* Pages it has given up. Any thread. */
uint64_t virtio_balloon_actual(struct virtio_device *d);
