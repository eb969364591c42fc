/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "devices/net-hdr.h"
#include "devices/netdev.h"
#include "devices/virtqueue.h"

/*
 * A stream socket to passt: each frame behind its length, 32 bits big-endian. The peer is another
 * process, so whatever it sends that is no frame ends the link, and nothing else. Reads are large
 * and may end anywhere; a write that the socket takes only a part of is completed from tail[]
 * before another frame is taken. System calls in the loop: recvfrom, sendmsg.
 */
#define LENGTH_BYTES 4u
#define MAX_RECEIVED 65562u /* the longest frame passt sends */
#define BUFFER_BYTES (2 * (LENGTH_BYTES + MAX_RECEIVED))

struct net_stream {
	struct netdev n;
	int fd;
	bool down;
	size_t start, end; /* what was read and not yet handed on: in[start..end) */
	size_t tail_start, tail_end;
	uint8_t in[BUFFER_BYTES];
	uint8_t tail[LENGTH_BYTES + NET_MAX_FRAME];
};

static struct net_stream *stream_of(struct netdev *n)
{
	return container_of(n, struct net_stream, n);
}

static uint64_t stream_features(const struct netdev *n UNUSED)
{
	return 0;
}

static int stream_configure(struct netdev *n, uint64_t features UNUSED, unsigned n_pairs UNUSED)
{
	return stream_of(n)->down ? -ENETDOWN : 0;
}

static int stream_fd(const struct netdev *n, unsigned pair UNUSED)
{
	return container_of(n, const struct net_stream, n)->fd;
}

static int hang_up(struct net_stream *s)
{
	s->down = true;
	s->start = s->end = s->tail_start = s->tail_end = 0;
	return -ENETDOWN;
}

/* The length of the frame at start; 0: not all of its length is there. */
static uint32_t frame_length(const struct net_stream *s)
{
	uint32_t be;

	if (s->end - s->start < LENGTH_BYTES)
		return 0;
	memcpy(&be, s->in + s->start, sizeof(be));
	return ntohl(be);
}

static bool is_frame(uint32_t length)
{
	return length >= NET_MIN_FRAME && length <= MAX_RECEIVED;
}

static bool stream_has_frame(const struct netdev *n, unsigned pair UNUSED)
{
	const struct net_stream *s = container_of(n, const struct net_stream, n);
	uint32_t length = frame_length(s);

	return s->end - s->start >= LENGTH_BYTES && s->end - s->start - LENGTH_BYTES >= length;
}

/* As much as there is room for. Bytes, -EAGAIN, -ENETDOWN. */
static ssize_t read_more(struct net_stream *s)
{
	ssize_t got;

	memmove(s->in, s->in + s->start, s->end - s->start);
	s->end -= s->start;
	s->start = 0;
	got = recv(s->fd, s->in + s->end, sizeof(s->in) - s->end, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (got <= 0)
		return hang_up(s);
	s->end += (size_t)got;
	return got;
}

static ssize_t stream_receive(struct netdev *n, unsigned pair, const struct iovec *iov,
                              unsigned n_iov)
{
	static const struct net_hdr none;
	struct net_stream *s = stream_of(n);
	uint32_t length;

	if (s->down)
		return -ENETDOWN;
	while (!stream_has_frame(n, pair)) {
		ssize_t got;

		if (s->end - s->start >= LENGTH_BYTES && !is_frame(frame_length(s)))
			return hang_up(s);
		got = read_more(s);
		if (got < 0)
			return got;
	}
	length = frame_length(s);
	if (!is_frame(length))
		return hang_up(s);
	iov_from_buf(iov, n_iov, 0, &none, NET_HDR_BYTES);
	iov_from_buf(iov, n_iov, NET_HDR_BYTES, s->in + s->start + LENGTH_BYTES, length);
	s->start += LENGTH_BYTES + length;
	return NET_HDR_BYTES + (ssize_t)length;
}

static int stream_writable(struct netdev *n, unsigned pair UNUSED)
{
	struct net_stream *s = stream_of(n);

	while (s->tail_start < s->tail_end) {
		ssize_t sent = send(s->fd, s->tail + s->tail_start, s->tail_end - s->tail_start,
		                    MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : hang_up(s);
		s->tail_start += (size_t)sent;
	}
	s->tail_start = s->tail_end = 0;
	return 0;
}

static bool stream_wants_out(const struct netdev *n, unsigned pair UNUSED)
{
	return container_of(n, const struct net_stream, n)->tail_end;
}

static int stream_send(struct netdev *n, unsigned pair, struct iovec *iov, unsigned n_iov)
{
	struct net_stream *s = stream_of(n);
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n_iov };
	size_t length = 0;
	uint32_t be;
	ssize_t sent;

	if (s->down || stream_writable(n, pair) < 0)
		return -ENETDOWN;
	if (s->tail_end)
		return -EAGAIN;
	for (unsigned i = 1; i < n_iov; i++)
		length += iov[i].iov_len;
	if (length > NET_MAX_FRAME)
		return -EMSGSIZE;
	be = htonl((uint32_t)length);
	iov[0] = (struct iovec){ &be, sizeof(be) };
	length += LENGTH_BYTES;
	sent = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : hang_up(s);
	if ((size_t)sent < length)
		s->tail_end = iov_to_buf(iov, n_iov, (size_t)sent, s->tail, length - (size_t)sent);
	return 0;
}

static void stream_free(struct netdev *n)
{
	struct net_stream *s = stream_of(n);

	close(s->fd);
	free(s);
}

static const struct netdev_ops stream_ops = {
	.features = stream_features,
	.configure = stream_configure,
	.fd = stream_fd,
	.receive = stream_receive,
	.send = stream_send,
	.wants_out = stream_wants_out,
	.writable = stream_writable,
	.has_frame = stream_has_frame,
	.free = stream_free,
};

int net_stream_new(int fd, struct netdev **ret)
{
	struct net_stream *s;
	int type;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	if (type != SOCK_STREAM)
		return -EINVAL;
	s = calloc(1, sizeof(*s)); /* large: untouched pages cost nothing */
	if (!s)
		return -ENOMEM;
	s->fd = fd;
	s->n.ops = &stream_ops;
	*ret = &s->n;
	return 0;
}
