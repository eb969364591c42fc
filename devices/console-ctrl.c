/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <string.h>

#include "common/macros.h"
#include "devices/virtio-console-priv.h"

/*
 * Control messages (virtio 1.2, 5.3.6.2). What is to be sent is never queued: a port's `due` bits
 * say it, and messages are made from them when the guest has given buffers. So a guest that gives
 * none, or asks a thousand times, costs nothing.
 */
enum {
	DEVICE_READY = 0,
	DEVICE_ADD = 1,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

struct message {
	uint32_t id;
	uint16_t event, value;
	char name[CONSOLE_NAME_BYTES]; /* with PORT_NAME only */
};

#define MESSAGE_BYTES offsetof(struct message, name)

static void device_ready(struct virtio_console *c)
{
	for (unsigned i = 0; i < c->n_ports; i++)
		if (!c->ports[i].added)
			c->ports[i].due |= DUE_ADD;
}

static void port_ready(struct console_port *p)
{
	if (p->added)
		p->due |= DUE_OPEN | (p->name[0] ? DUE_NAME : DUE_CONSOLE);
}

static void handle(struct virtio_console *c, const struct message *m)
{
	uint32_t id = le32toh(m->id);
	uint16_t event = le16toh(m->event);
	bool value = le16toh(m->value);

	if (event == DEVICE_READY) {
		if (value)
			device_ready(c);
		return;
	}
	if (id >= c->n_ports)
		return;
	if (event == PORT_READY && value)
		port_ready(&c->ports[id]);
	else if (event == PORT_OPEN)
		c->ports[id].guest_open = value;
}

bool console_ctrl_take(struct virtio_console *c)
{
	struct virtqueue *vq = &c->d.queues[CONSOLE_CTRL_TX];
	int ret = 0;

	if (!vq->enabled)
		return false;
	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < CONSOLE_TURN; i++) {
		struct virtq_chain chain;
		struct message m;

		ret = virtqueue_pop(vq, &chain, c->iov, CONSOLE_QUEUE_SIZE);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
		if (ret == 0)
			continue;
		if (iov_to_buf(chain.iov, chain.n_out, 0, &m, MESSAGE_BYTES) == MESSAGE_BYTES)
			handle(c, &m);
		virtqueue_push(vq, chain.head, 0);
	}
	virtqueue_flush(vq);
	if (vq->broken) {
		virtio_needs_reset(&c->d, vq->why_broken);
		return false;
	}
	console_ctrl_send(c);
	for (unsigned i = 0; i < c->n_ports; i++)
		console_port_update(&c->ports[i]);
	return ret > 0;
}

/* The message of the lowest due bit; its bytes. */
static size_t next_message(struct console_port *p, struct message *m)
{
	uint8_t bit = p->due & (uint8_t)-p->due;
	size_t name = 0;

	*m = (struct message){ .id = htole32(p->index), .value = htole16(1) };
	if (bit == DUE_ADD) {
		m->event = htole16(DEVICE_ADD);
		p->added = true;
	} else if (bit == DUE_CONSOLE) {
		m->event = htole16(CONSOLE_PORT);
	} else if (bit == DUE_NAME) {
		m->event = htole16(PORT_NAME);
		name = strlen(p->name);
		memcpy(m->name, p->name, name);
	} else {
		m->event = htole16(PORT_OPEN);
		m->value = htole16(p->host_open);
	}
	p->due &= (uint8_t)~bit;
	return MESSAGE_BYTES + name;
}

static struct console_port *due_port(struct virtio_console *c)
{
	for (unsigned i = 0; i < c->n_ports; i++)
		if (c->ports[i].due)
			return &c->ports[i];
	return NULL;
}

void console_ctrl_send(struct virtio_console *c)
{
	struct virtqueue *vq = &c->d.queues[CONSOLE_CTRL_RX];
	struct console_port *p;

	if (!vq->enabled || !virtio_has(&c->d, F_MULTIPORT))
		return;
	virtqueue_disable_kicks(vq);
	while ((p = due_port(c))) {
		struct virtq_chain chain;
		struct message m;
		size_t len;
		int ret = virtqueue_pop(vq, &chain, c->iov, CONSOLE_QUEUE_SIZE);

		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
		if (ret == 0)
			continue;
		len = next_message(p, &m);
		len = iov_from_buf(chain.iov + chain.n_out, chain.n_in, 0, &m, len);
		virtqueue_push(vq, chain.head, (uint32_t)len);
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(&c->d, vq->why_broken);
}
