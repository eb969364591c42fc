/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-console with several ports. */
#include "lib/guest.h"
#include "lib/irq.h"
#include "lib/virtio.h"
#include "tests.h"

#define F_MULTIPORT   1
#define PORTS_MAX     8
#define DEVICE_READY  0
#define PORT_ADD      1
#define PORT_REMOVE   2
#define PORT_READY    3
#define CONSOLE_PORT  4
#define PORT_RESIZE   5
#define PORT_OPEN     6
#define PORT_NAME     7
#define CONTROL_IN    2
#define CONTROL_OUT   3
#define MESSAGE_BYTES 128
#define LINE_BYTES    256
#define WAIT_US       20000000

struct control {
	uint32_t port;
	uint16_t event, value;
};

static struct virtio console;
static struct port {
	bool there, host_open;
	char name[64];
	uint8_t *in, *out; /* buffers of LINE_BYTES */
	char line[LINE_BYTES];
	size_t n;
} ports[PORTS_MAX];
static uint8_t *control_buffers;
static bool ended;

static struct virtq *queue_in(unsigned port)
{
	return &console.queues[port == 0 ? 0 : 2 + 2 * port];
}

static struct virtq *queue_out(unsigned port)
{
	return queue_in(port) + 1;
}

static void offer(struct virtq *q, void *data, uint32_t len)
{
	struct vbuf buf = { data, len };

	(void)virtq_add(&console, q, &buf, 0, 1);
	virtq_kick(&console, q);
}

static bool tell(uint32_t port, uint16_t event, uint16_t value)
{
	static struct control c;
	struct vbuf buf = { &c, sizeof(c) };
	uint32_t written;

	c = (struct control){ port, event, value };
	return virtq_request(&console, &console.queues[CONTROL_OUT], &buf, 1, 0, &written);
}

static bool send(unsigned port, const char *text, size_t n)
{
	struct vbuf buf = { ports[port].out, (uint32_t)n };
	uint32_t written;

	memcpy(ports[port].out, text, n);
	return virtq_request(&console, queue_out(port), &buf, 1, 0, &written);
}

static bool add_port(uint32_t id)
{
	struct port *p = &ports[id];

	if (p->there)
		return true;
	p->there = true;
	p->in = pages_alloc(2 * LINE_BYTES);
	p->out = p->in + LINE_BYTES;
	offer(queue_in(id), p->in, LINE_BYTES);
	TRY(tell(id, PORT_READY, 1));
	return tell(id, PORT_OPEN, 1);
}

static bool on_control(const struct control *c, uint32_t len)
{
	struct port *p;

	if (len < sizeof(*c))
		return fail("a control message of %u bytes", len);
	if (c->port >= PORTS_MAX)
		return fail("a control message for port %u", c->port);
	p = &ports[c->port];
	switch (c->event) {
	case PORT_ADD:
		return add_port(c->port);
	case PORT_NAME:
		len -= (uint32_t)sizeof(*c);
		len = len < sizeof(p->name) - 1 ? len : (uint32_t)sizeof(p->name) - 1;
		memcpy(p->name, c + 1, len);
		p->name[len] = '\0';
		print("console: port %u is '%s'\n", c->port, p->name);
		return true;
	case PORT_OPEN:
		p->host_open = c->value;
		print("console: port %u is %s\n", c->port, c->value ? "open" : "closed");
		return true;
	case CONSOLE_PORT:
	case PORT_RESIZE:
	case PORT_REMOVE:
		print("console: port %u event %u value %u\n", c->port, c->event, c->value);
		return true;
	default:
		return fail("control event %u", c->event);
	}
}

/* Sends each whole line back with "echo: " before it, until "end". */
static bool on_input(unsigned id, uint32_t len)
{
	struct port *p = &ports[id];

	for (uint32_t i = 0; i < len; i++) {
		if (p->in[i] != '\n') {
			if (p->n + 1 < sizeof(p->line))
				p->line[p->n++] = (char)p->in[i];
			continue;
		}
		p->line[p->n] = '\0';
		p->n = 0;
		if (strcmp(p->line, "end") == 0) {
			ended = true;
			return send(id, "bye\n", 4);
		}
		TRY(send(id, "echo: ", 6));
		TRY(send(id, p->line, strlen(p->line)));
		TRY(send(id, "\n", 1));
	}
	offer(queue_in(id), p->in, LINE_BYTES);
	return true;
}

static bool serve_once(void)
{
	struct virtq *q = &console.queues[CONTROL_IN];
	uint16_t head;
	uint32_t len;

	if (virtio_has(&console, F_MULTIPORT) && virtq_take(&console, q, &head, &len)) {
		uint8_t *message = (uint8_t *)q->desc[head].address;

		TRY(on_control((const void *)message, len));
		offer(q, message, MESSAGE_BYTES);
	}
	for (unsigned i = 0; i < PORTS_MAX; i++)
		if (ports[i].there && virtq_take(&console, queue_in(i), &head, &len))
			TRY(on_input(i, len));
	return true;
}

static bool open_ports(void)
{
	unsigned n = console.n_queues < VIRTIO_QUEUES ? console.n_queues : VIRTIO_QUEUES;

	n = n < 2 * PORTS_MAX + 2 ? n : 2 * PORTS_MAX + 2;
	for (unsigned i = 0; i < n; i++)
		TRY(virtio_queue(&console, i, 32));
	virtio_go(&console);
	if (!virtio_has(&console, F_MULTIPORT)) {
		ports[0].there = true;
		ports[0].in = pages_alloc(2 * LINE_BYTES);
		ports[0].out = ports[0].in + LINE_BYTES;
		offer(queue_in(0), ports[0].in, LINE_BYTES);
		return true;
	}
	control_buffers = pages_alloc(8 * MESSAGE_BYTES);
	for (unsigned i = 0; i < 8; i++)
		offer(&console.queues[CONTROL_IN], control_buffers + i * MESSAGE_BYTES,
		      MESSAGE_BYTES);
	return tell(0, DEVICE_READY, 1);
}

/* Says hello on every port that comes up and repeats lines, until one of them is "end". */
bool test_console(void)
{
	uint64_t end = now_ns() + option_number("seconds", 60) * 1000000000;

	TRY(virtio_find(VIRTIO_CONSOLE, 0, &console));
	TRY(virtio_begin(&console, 1ull << F_MULTIPORT | 1ull << VIRTIO_F_EVENT_IDX));
	print("console: features 0x%lx, %u queues\n", console.features, console.n_queues);
	TRY(open_ports());
	while (!ended) {
		if (now_ns() > end)
			return fail("nobody said 'end'");
		TRY(serve_once());
		sleep_us(1000);
	}
	return virtio_reset(&console);
}
