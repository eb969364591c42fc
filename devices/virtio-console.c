/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/stats-json.h"
#include "devices/virtio-console-priv.h"

/*
 * Console and ports (virtio 1.2, 5.3). Nothing is buffered here: bytes go straight between the
 * guest's buffers and the descriptor. When the host's side is full, a port waits, and its writer in
 * the guest with it. The console waits for PATIENCE_S only, since a guest's kernel spins until its
 * console has taken what it prints; then it drops, until the host reads again. When nobody is on
 * the host's side, what the guest writes goes nowhere. Nothing is read from the host before the
 * guest has room for it and, but for the console, has the port open.
 */

#define READ_BYTES 65536u /* most bytes for one of the guest's buffers */
#define PATIENCE_S 1

/* 5.3.4 */
struct console_config_space {
	uint16_t cols, rows;
	uint32_t max_nr_ports, emerg_wr;
} __attribute__((packed));

static struct virtio_console *console_of(struct virtio_device *d)
{
	return container_of(d, struct virtio_console, d);
}

static bool is_console(const struct console_port *p)
{
	return !p->name[0];
}

/* 5.3.2: the control queues come after those of port 0. */
static struct virtqueue *port_queue(struct console_port *p, bool transmit)
{
	unsigned base = p->index ? 2 * p->index + 2 : 0;

	return &p->c->d.queues[base + transmit];
}

static void look_again(struct virtio_console *c)
{
	(void)eventfd_write(c->again.fd, 1);
}

static void want(struct console_port *p, uint32_t event, bool on)
{
	uint32_t events = on ? p->events | event : p->events & ~event;

	if (p->watched && events != p->events &&
	    ioloop_change(p->c->d.loop, &p->watch, events) == 0)
		p->events = events;
}

static void host_closed(struct console_port *p)
{
	if (p->watched)
		ioloop_unwatch(p->c->d.loop, &p->watch);
	p->watched = p->host_open = p->tx_blocked = p->lossy = false;
	p->sent = 0;
	if (p->added)
		p->due |= DUE_OPEN;
	look_again(p->c); /* tells the guest, and answers what it has sent */
}

/* Fills one of the guest's buffers. 1, 0: no buffer, -EAGAIN: nothing to read, -EPIPE, -EBADMSG */
static int receive_one(struct console_port *p, uint64_t start)
{
	struct virtio_console *c = p->c;
	struct virtqueue *vq = port_queue(p, false);
	struct virtq_chain chain;
	ssize_t got;
	int ret = virtqueue_pop(vq, &chain, c->iov, CONSOLE_QUEUE_SIZE);

	if (ret <= 0)
		return ret;
	if (!chain.in_bytes) {
		virtqueue_push(vq, chain.head, 0);
		return 1;
	}
	for (unsigned i = 0; i < chain.n_in; i++)
		chain.iov[chain.n_out + i].iov_len =
			MIN_OF(chain.iov[chain.n_out + i].iov_len, READ_BYTES);
	got = readv(p->watch.fd, chain.iov + chain.n_out, chain.n_in);
	if (got <= 0) {
		virtqueue_unpop(vq);
		return got < 0 && (errno == EAGAIN || errno == EINTR) ? -EAGAIN : -EPIPE;
	}
	virtqueue_push(vq, chain.head, (uint32_t)got);
	iostats_add(&c->stats[CONSOLE_STAT_RX], (uint64_t)got, now_monotonic_ns() - start);
	return 1;
}

static bool listens(const struct console_port *p)
{
	return p->host_open && (is_console(p) || p->guest_open);
}

static void receive(struct console_port *p)
{
	struct virtqueue *vq = port_queue(p, false);
	uint64_t start = now_monotonic_ns();
	int ret = 0;

	if (!vq->enabled)
		return;
	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < CONSOLE_TURN && listens(p); i++) {
		ret = receive_one(p, start);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(&p->c->d, vq->why_broken);
	else if (ret == -EPIPE)
		host_closed(p);
	else
		want(p, EPOLLIN, listens(p) && ret != 0);
}

/* Writes a chain from p->sent on. 1: it is done with, -EAGAIN: the rest has to wait, -EPIPE */
static int write_chain(struct console_port *p, const struct virtq_chain *chain, uint64_t start)
{
	struct iostats *s = &p->c->stats[CONSOLE_STAT_TX];
	struct iovec *iov = chain->iov;
	unsigned n = chain->n_out;
	uint32_t bytes = chain->out_bytes;
	ssize_t put;

	/* What was given back may have become shorter meanwhile. */
	p->sent = MIN_OF(p->sent, bytes);
	n = iov_skip(&iov, n, p->sent);
	put = p->sent < bytes && p->host_open ? writev(p->watch.fd, iov, (int)n) : 0;
	if (put < 0 && errno != EAGAIN && errno != EINTR)
		return -EPIPE;
	if (put > 0)
		p->sent += (uint32_t)put;
	if (p->sent < bytes && p->host_open && !p->lossy)
		return -EAGAIN;
	if (p->sent < bytes)
		iostats_add_error(s); /* dropped, in part at least */
	else
		iostats_add(s, bytes, now_monotonic_ns() - start);
	p->sent = 0;
	return 1;
}

static int transmit_one(struct console_port *p, uint64_t start)
{
	struct virtqueue *vq = port_queue(p, true);
	struct virtq_chain chain;
	int ret = virtqueue_pop(vq, &chain, p->c->iov, CONSOLE_QUEUE_SIZE);

	if (ret <= 0)
		return ret;
	ret = write_chain(p, &chain, start);
	if (ret < 0)
		virtqueue_unpop(vq);
	else
		virtqueue_push(vq, chain.head, 0);
	return ret;
}

static void arm_patience(struct virtio_console *c)
{
	struct itimerspec at = { .it_value = { .tv_sec = PATIENCE_S } };

	timerfd_settime(c->patience.fd, 0, &at, NULL);
}

static void transmit(struct console_port *p)
{
	struct virtqueue *vq = port_queue(p, true);
	uint64_t start = now_monotonic_ns();
	int ret = 0;

	if (!vq->enabled || p->tx_blocked)
		return;
	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < CONSOLE_TURN; i++) {
		ret = transmit_one(p, start);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
	}
	virtqueue_flush(vq);
	p->tx_blocked = ret == -EAGAIN;
	if (vq->broken)
		virtio_needs_reset(&p->c->d, vq->why_broken);
	else if (ret == -EPIPE)
		host_closed(p);
	else if (ret > 0)
		look_again(p->c);
	if (p->tx_blocked && is_console(p))
		arm_patience(p->c);
	want(p, EPOLLOUT, p->tx_blocked || p->lossy);
}

static void console_patience(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_console *c = container_of(w, struct virtio_console, patience);
	uint64_t count;

	if (read(w->fd, &count, sizeof(count)) != sizeof(count))
		return;
	for (unsigned i = 0; i < c->n_ports && c->d.started; i++) {
		struct console_port *p = &c->ports[i];

		if (!p->tx_blocked || !is_console(p))
			continue;
		p->lossy = true;
		p->tx_blocked = false;
		transmit(p);
	}
}

void console_port_update(struct console_port *p)
{
	if (p->c->d.started)
		receive(p);
}

static void port_ready(struct io_watch *w, uint32_t events)
{
	struct console_port *p = container_of(w, struct console_port, watch);

	if (events & EPOLLOUT) {
		p->tx_blocked = p->lossy = false;
		transmit(p);
	}
	if (events & EPOLLIN && p->watched)
		receive(p);
	/* What nobody can read any more is lost when the other end is gone. */
	if (events & (EPOLLHUP | EPOLLERR) && p->watched && !(p->events & EPOLLIN))
		host_closed(p);
}

static void console_kick(struct virtio_device *d, unsigned queue)
{
	struct virtio_console *c = console_of(d);

	if (queue == CONSOLE_CTRL_RX) {
		console_ctrl_send(c);
	} else if (queue == CONSOLE_CTRL_TX) {
		if (console_ctrl_take(c))
			look_again(c);
	} else {
		struct console_port *p = &c->ports[queue < 2 ? 0 : queue / 2 - 1];

		if (queue % 2)
			transmit(p);
		else
			receive(p);
	}
}

static void console_again(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_console *c = container_of(w, struct virtio_console, again);
	eventfd_t count;

	(void)eventfd_read(w->fd, &count);
	for (unsigned i = 0; i < c->n_ports && c->d.started; i++)
		transmit(&c->ports[i]);
	if (c->d.started && console_ctrl_take(c))
		look_again(c);
}

static uint64_t console_features(struct virtio_device *d UNUSED)
{
	return 1u << F_MULTIPORT;
}

static void console_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	struct console_config_space c = { .max_nr_ports = htole32(console_of(d)->n_ports) };

	memcpy(buf, (uint8_t *)&c + offset, len);
}

static void console_stop(struct virtio_device *d)
{
	struct virtio_console *c = console_of(d);

	for (unsigned i = 0; i < c->n_ports; i++) {
		if (c->ports[i].watched)
			ioloop_unwatch(d->loop, &c->ports[i].watch);
		c->ports[i].watched = c->ports[i].tx_blocked = c->ports[i].lossy = false;
	}
	ioloop_unwatch(d->loop, &c->again);
	ioloop_unwatch(d->loop, &c->patience);
}

static int console_start(struct virtio_device *d)
{
	struct virtio_console *c = console_of(d);
	int ret = ioloop_watch(d->loop, &c->again, EPOLLIN);

	if (ret == 0)
		ret = ioloop_watch(d->loop, &c->patience, EPOLLIN);
	for (unsigned i = 0; i < c->n_ports && ret == 0; i++) {
		struct console_port *p = &c->ports[i];

		if (!p->host_open)
			continue;
		p->events = listens(p) ? EPOLLIN : 0;
		ret = ioloop_watch(d->loop, &p->watch, p->events);
		p->watched = ret == 0;
	}
	if (ret < 0)
		console_stop(d);
	return ret;
}

static void console_reset(struct virtio_device *d)
{
	struct virtio_console *c = console_of(d);

	for (unsigned i = 0; i < c->n_ports; i++) {
		c->ports[i].added = c->ports[i].guest_open = false;
		c->ports[i].due = 0;
		c->ports[i].sent = 0;
	}
}

static void console_save(struct virtio_device *d, struct state_out *o)
{
	struct virtio_console *c = console_of(d);

	state_put_u8(o, (uint8_t)c->n_ports);
	for (unsigned i = 0; i < c->n_ports; i++) {
		struct console_port *p = &c->ports[i];

		state_put_bytes(o, p->name, sizeof(p->name));
		state_put_u8(o, p->added);
		state_put_u8(o, p->guest_open);
		state_put_u8(o, p->host_open);
		state_put_u8(o, p->due);
		state_put_u32(o, p->sent);
	}
}

static bool load_port(struct console_port *p, struct state_section *s)
{
	char name[CONSOLE_NAME_BYTES];
	uint8_t added, guest_open, host_open, due;
	uint32_t sent;

	state_get_bytes(s, name, sizeof(name));
	added = state_get_u8(s);
	guest_open = state_get_u8(s);
	host_open = state_get_u8(s);
	due = state_get_u8(s);
	sent = state_get_u32(s);
	if (s->failed || memcmp(name, p->name, sizeof(name)) || added > 1 || guest_open > 1 ||
	    host_open > 1 || due & ~DUE_ALL)
		return false;
	p->added = added;
	p->guest_open = guest_open;
	p->due = due;
	/* Another host's end may be open where that one's was closed, and the other way round. */
	if (p->added && host_open != p->host_open)
		p->due |= DUE_OPEN;
	p->sent = p->host_open ? sent : 0;
	return true;
}

/* The guest has been told of ports and names: they must be those. */
static int console_load(struct virtio_device *d, struct state_section *s)
{
	struct virtio_console *c = console_of(d);

	if (state_get_u8(s) != c->n_ports)
		return -EINVAL;
	for (unsigned i = 0; i < c->n_ports; i++)
		if (!load_port(&c->ports[i], s))
			return -EINVAL;
	return 0;
}

static json_t *console_stats(struct virtio_device *d)
{
	static const char *const names[_CONSOLE_STAT_MAX] = {
		[CONSOLE_STAT_RX] = "rx", [CONSOLE_STAT_TX] = "tx"
	};

	return iostats_members(console_of(d)->stats, names, _CONSOLE_STAT_MAX);
}

static void console_free(struct virtio_device *d)
{
	struct virtio_console *c = console_of(d);

	for (unsigned i = 0; i < c->n_ports; i++)
		cleanup_close_p(&c->ports[i].watch.fd);
	cleanup_close_p(&c->again.fd);
	cleanup_close_p(&c->patience.fd);
	free(c);
}

static const struct virtio_device_ops console_ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.features = console_features,
	.config_read = console_config_read,
	.start = console_start,
	.stop = console_stop,
	.kick = console_kick,
	.reset = console_reset,
	.save = console_save,
	.load = console_load,
	.stats = console_stats,
	.free = console_free,
	.state_version = 1,
};

static int init_port(struct console_port *p, const struct virtio_console_port *config)
{
	const char *name = config->name ? config->name : "";

	if ((config->name && !*name) || strlen(name) >= sizeof(p->name))
		return -EINVAL;
	strcpy(p->name, name);
	p->host_open = config->fd >= 0;
	p->watch = (struct io_watch){ .fd = config->fd, .ready = port_ready };
	return p->host_open ? fd_set_nonblock(config->fd, 1) : 0;
}

int virtio_console_new(const struct virtio_console_config *config, const struct guestmem *mem,
                       struct ioloop *loop, struct virtio_device **ret)
{
	cleanup_free struct virtio_console *c = calloc(1, sizeof(*c));
	cleanup_close int again = -EBADF, patience = -EBADF;

	if (!c)
		return -ENOMEM;
	if (!config->n_ports || config->n_ports > VIRTIO_CONSOLE_MAX_PORTS)
		return -EINVAL;
	for (unsigned i = 0; i < config->n_ports; i++) {
		int r = init_port(&c->ports[i], &config->ports[i]);

		if (r < 0)
			return r;
		c->ports[i].c = c;
		c->ports[i].index = i;
	}
	again = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	patience = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (again < 0 || patience < 0)
		return -errno;
	c->again = (struct io_watch){ .fd = TAKE_FD(again), .ready = console_again };
	c->patience = (struct io_watch){ .fd = TAKE_FD(patience), .ready = console_patience };
	c->n_ports = config->n_ports;
	virtio_device_init(&c->d, &console_ops, config->id, mem, loop, 2 * c->n_ports + 2,
	                   CONSOLE_QUEUE_SIZE, sizeof(struct console_config_space));
	*ret = &TAKE_PTR(c)->d;
	return 0;
}
