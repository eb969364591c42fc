/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/vhost-user.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "common/timeutil.h"

#define DEADLINE_US 5000000u

enum request {
	REQUEST_GET_FEATURES = 1,
	REQUEST_SET_FEATURES = 2,
	REQUEST_SET_OWNER = 3,
	REQUEST_SET_MEM_TABLE = 5,
	REQUEST_SET_VRING_NUM = 8,
	REQUEST_SET_VRING_ADDR = 9,
	REQUEST_SET_VRING_BASE = 10,
	REQUEST_SET_VRING_KICK = 12,
	REQUEST_SET_VRING_CALL = 13,
	REQUEST_GET_PROTOCOL_FEATURES = 15,
	REQUEST_SET_PROTOCOL_FEATURES = 16,
	REQUEST_GET_QUEUE_NUM = 17,
	REQUEST_SET_VRING_ENABLE = 18,
	REQUEST_GET_CONFIG = 24
};

#define FLAG_VERSION    1u
#define FLAG_REPLY      4u
#define FLAG_NEED_REPLY 8u

#define FEATURE_PROTOCOL (1ull << 30)

#define PROTOCOL_MQ        (1ull << 0)
#define PROTOCOL_REPLY_ACK (1ull << 3)
#define PROTOCOL_CONFIG    (1ull << 9)

struct header {
	uint32_t request, flags, size;
};

struct vring_state {
	uint32_t index, num;
};

struct vring_addresses {
	uint32_t index, flags;
	uint64_t desc, used, avail, log; /* in our address space, as in the memory table */
};

struct memory_region {
	uint64_t gpa, bytes, host, offset;
};

struct memory_table {
	uint32_t n, padding;
	struct memory_region regions[VHOST_USER_MAX_REGIONS];
};

struct config_payload {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_USER_MAX_CONFIG];
};
#define CONFIG_HEADER_BYTES offsetof(struct config_payload, bytes)

void vhost_user_kill(struct vhost_user *v)
{
	if (!v->dead && v->fd >= 0)
		(void)shutdown(v->fd, SHUT_RDWR);
	v->dead = true;
}

static int die(struct vhost_user *v)
{
	vhost_user_kill(v);
	return -EIO;
}

/* Waits until fd is ready for events, or the deadline. */
static int wait_for(const struct vhost_user *v, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = v->fd, .events = events };

	for (;;) {
		uint64_t now = now_monotonic_us();
		int r = now < deadline ? poll(&p, 1, (int)((deadline - now) / 1000 + 1)) : 0;

		if (r > 0)
			return 0;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int send_all(struct vhost_user *v, const uint8_t *data, size_t len, const int *fds,
                    size_t n_fds, uint64_t deadline)
{
	while (len) {
		ssize_t n = fd_send(v->fd, data, len, fds, n_fds);

		if (n == -EAGAIN || n == -EINTR) {
			if (wait_for(v, POLLOUT, deadline) < 0)
				return -EIO;
			continue;
		}
		if (n <= 0)
			return -EIO;
		data += n;
		len -= (size_t)n;
		n_fds = 0;
	}
	return 0;
}

static int receive_all(struct vhost_user *v, void *data, size_t len, uint64_t deadline)
{
	uint8_t *at = data;

	while (len) {
		size_t n_fds;
		int fds[1];
		ssize_t n;

		if (wait_for(v, POLLIN, deadline) < 0)
			return -EIO;
		/* No reply brings descriptors: those that come are closed. */
		n = fd_recv(v->fd, at, len, fds, 0, &n_fds);
		if (n == -EAGAIN || n == -EINTR)
			continue;
		if (n <= 0)
			return -EIO;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Sends a request of len bytes and receives its reply of exactly reply_len bytes, 0: none. */
static int exchange(struct vhost_user *v, enum request request, const void *payload, size_t len,
                    const int *fds, size_t n_fds, void *reply, size_t reply_len)
{
	uint8_t message[sizeof(struct header) + sizeof(struct config_payload)];
	struct header h = { .request = request, .flags = FLAG_VERSION, .size = (uint32_t)len };
	uint64_t deadline = now_monotonic_us() + DEADLINE_US;
	uint64_t ack = 0;
	bool wants_ack = !reply && v->max_queues;

	assert(sizeof(h) + len <= sizeof(message));
	if (v->dead)
		return -EIO;
	if (wants_ack) {
		h.flags |= FLAG_NEED_REPLY;
		reply = &ack;
		reply_len = sizeof(ack);
	}
	memcpy(message, &h, sizeof(h));
	if (len)
		memcpy(message + sizeof(h), payload, len);
	if (send_all(v, message, sizeof(h) + len, fds, n_fds, deadline) < 0)
		return die(v);
	if (!reply)
		return 0;
	if (receive_all(v, &h, sizeof(h), deadline) < 0 || h.request != (uint32_t)request ||
	    (h.flags & ~FLAG_NEED_REPLY) != (FLAG_VERSION | FLAG_REPLY) || h.size != reply_len ||
	    receive_all(v, reply, reply_len, deadline) < 0)
		return die(v);
	return ack ? die(v) : 0;
}

static int get_u64(struct vhost_user *v, enum request request, uint64_t *ret)
{
	return exchange(v, request, NULL, 0, NULL, 0, ret, sizeof(*ret));
}

static int set_u64(struct vhost_user *v, enum request request, uint64_t value, const int *fd)
{
	return exchange(v, request, &value, sizeof(value), fd, fd ? 1 : 0, NULL, 0);
}

/* Nothing is acknowledged until that was agreed upon; max_queues stands for it. */
static int agree(struct vhost_user *v)
{
	const uint64_t needed = PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG;
	uint64_t protocol, queues = 1;
	int r = get_u64(v, REQUEST_GET_FEATURES, &v->features);

	if (r == 0 && !(v->features & FEATURE_PROTOCOL))
		return -ENOTSUP;
	if (r == 0)
		r = get_u64(v, REQUEST_GET_PROTOCOL_FEATURES, &protocol);
	if (r < 0)
		return r;
	if ((protocol & needed) != needed)
		return -ENOTSUP;
	v->features &= ~FEATURE_PROTOCOL;
	protocol &= needed | PROTOCOL_MQ;
	r = set_u64(v, REQUEST_SET_PROTOCOL_FEATURES, protocol, NULL);
	if (r == 0 && protocol & PROTOCOL_MQ)
		r = get_u64(v, REQUEST_GET_QUEUE_NUM, &queues);
	if (r < 0)
		return r;
	if (!queues)
		return die(v);
	v->max_queues = (unsigned)MIN_OF(queues, 256);
	return exchange(v, REQUEST_SET_OWNER, NULL, 0, NULL, 0, NULL, 0);
}

int vhost_user_init(struct vhost_user *v, int fd)
{
	int r;

	*v = (struct vhost_user){ .fd = fd };
	r = fd_set_nonblock(fd, 1);
	if (r == 0)
		r = agree(v);
	if (r < 0)
		v->fd = -EBADF;
	return r;
}

void vhost_user_deinit(struct vhost_user *v)
{
	cleanup_close_p(&v->fd);
	v->dead = true;
}

int vhost_user_get_config(struct vhost_user *v, void *buf, uint32_t len)
{
	struct config_payload c = { .size = len }, reply;
	size_t bytes = CONFIG_HEADER_BYTES + len;
	int r;

	assert(len <= VHOST_USER_MAX_CONFIG);
	r = exchange(v, REQUEST_GET_CONFIG, &c, bytes, NULL, 0, &reply, bytes);
	if (r == 0 && (reply.offset != 0 || reply.size != len))
		r = die(v);
	if (r == 0)
		memcpy(buf, reply.bytes, len);
	return r;
}

int vhost_user_set_memory(struct vhost_user *v, const struct vhost_user_region *regions, unsigned n)
{
	struct memory_table t = { .n = n };
	int fds[VHOST_USER_MAX_REGIONS];

	assert(n <= VHOST_USER_MAX_REGIONS);
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = (uintptr_t)regions[i].host;

		t.regions[i] = (struct memory_region){ .gpa = at,
			                               .bytes = regions[i].bytes,
			                               .host = at,
			                               .offset = regions[i].offset };
		fds[i] = regions[i].fd;
	}
	return exchange(v, REQUEST_SET_MEM_TABLE, &t,
	                offsetof(struct memory_table, regions) + n * sizeof(struct memory_region),
	                fds, n, NULL, 0);
}

int vhost_user_set_features(struct vhost_user *v, uint64_t features)
{
	return set_u64(v, REQUEST_SET_FEATURES, (features & v->features) | FEATURE_PROTOCOL, NULL);
}

static int set_state(struct vhost_user *v, enum request request, uint32_t index, uint32_t num)
{
	struct vring_state s = { .index = index, .num = num };

	return exchange(v, request, &s, sizeof(s), NULL, 0, NULL, 0);
}

int vhost_user_start_queue(struct vhost_user *v, const struct vhost_user_queue *q)
{
	struct vring_addresses a = { .desc = (uintptr_t)q->desc,
		                     .used = (uintptr_t)q->used,
		                     .avail = (uintptr_t)q->avail };
	int r = set_state(v, REQUEST_SET_VRING_NUM, 0, q->size);

	if (r == 0)
		r = set_state(v, REQUEST_SET_VRING_BASE, 0, 0);
	if (r == 0)
		r = exchange(v, REQUEST_SET_VRING_ADDR, &a, sizeof(a), NULL, 0, NULL, 0);
	if (r == 0)
		r = set_u64(v, REQUEST_SET_VRING_CALL, 0, &q->call_fd);
	if (r == 0)
		r = set_u64(v, REQUEST_SET_VRING_KICK, 0, &q->kick_fd);
	if (r == 0)
		r = set_state(v, REQUEST_SET_VRING_ENABLE, 0, 1);
	return r;
}
