/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/timeutil.h"
#include "devices/models.h"
#include "tests/lib/vguest.h"

#define AGENT "org.qemu.guest_agent.0"
#define ALL   (~0ull)

enum {
	RX,
	TX,
	CTRL_RX,
	CTRL_TX,
	AGENT_RX,
	AGENT_TX,
	QUEUES
};
enum {
	DEVICE_READY,
	DEVICE_ADD,
	PORT_READY = 3,
	CONSOLE_PORT,
	PORT_OPEN = 6,
	PORT_NAME
};

static struct vguest g;
static int console_peer = -1, agent_peer = -1;

struct message {
	uint32_t id;
	uint16_t event, value;
	char name[56];
};

static int pair(int *peer)
{
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	*peer = sv[1];
	return sv[0];
}

static struct virtio_device *new_console(bool with_agent)
{
	struct virtio_console_config c = { .id = "console0",
		                           .ports = { { NULL, pair(&console_peer) },
		                                      { AGENT, -EBADF } },
		                           .n_ports = 2 };
	struct virtio_device *d;

	if (with_agent)
		c.ports[1].fd = pair(&agent_peer);
	cr_assert_eq(virtio_console_new(&c, &g.mem, g.loop, &d), 0);
	return d;
}

static void setup(void)
{
	vguest_init(&g);
}

static void teardown(void)
{
	vguest_deinit(&g);
	if (console_peer >= 0)
		close(console_peer);
	if (agent_peer >= 0)
		close(agent_peer);
}

TestSuite(virtio_console, .init = setup, .fini = teardown, .timeout = 60);

static void give(unsigned q, uint64_t gpa, uint32_t len)
{
	struct vguest_buf b = { gpa, len, true };

	vguest_add(&g, q, &b, 1);
	vguest_kick(&g, q);
}

static void put(unsigned q, const void *data, uint32_t len)
{
	struct vguest_buf b = { vguest_alloc(&g, len), len, false };

	memcpy(vguest_at(&g, b.gpa), data, len);
	vguest_add(&g, q, &b, 1);
	vguest_kick(&g, q);
}

static void send_ctrl(uint32_t id, uint16_t event, uint16_t value)
{
	struct message m = { id, event, value, "" };

	put(CTRL_TX, &m, 8);
	vguest_wait(&g, CTRL_TX, NULL);
}

/* The next control message, and a buffer for one more. */
static struct message *next_ctrl(uint32_t *len)
{
	struct message *m;
	uint16_t head = vguest_wait(&g, CTRL_RX, len);
	struct vring_desc *table = vguest_at(&g, g.rings[CTRL_RX].desc_gpa);
	uint64_t gpa = table[head].addr;

	m = malloc(sizeof(*m));
	memcpy(m, vguest_at(&g, gpa), sizeof(*m));
	give(CTRL_RX, gpa, sizeof(*m));
	return m;
}

static void expect_ctrl(uint32_t id, uint16_t event, int value, const char *name)
{
	uint32_t len;
	struct message *m = next_ctrl(&len);

	cr_assert_eq(m->id, id);
	cr_assert_eq(m->event, event, "event %u", m->event);
	if (value >= 0)
		cr_assert_eq(m->value, value);
	cr_assert_eq(len, 8 + (name ? strlen(name) : 0));
	if (name)
		cr_assert_arr_eq(m->name, name, strlen(name));
	free(m);
}

static void give_ctrl(void)
{
	for (unsigned i = 0; i < 4; i++)
		give(CTRL_RX, vguest_alloc(&g, sizeof(struct message)), sizeof(struct message));
}

static void start(bool with_agent)
{
	vguest_start(&g, new_console(with_agent), ALL, QUEUES, 0);
	give_ctrl();
}

/* The whole of a driver's beginning, message by message. */
static void bring_up(void)
{
	start(true);
	send_ctrl(0, DEVICE_READY, 1);
	expect_ctrl(0, DEVICE_ADD, -1, NULL);
	expect_ctrl(1, DEVICE_ADD, -1, NULL);
	send_ctrl(0, PORT_READY, 1);
	expect_ctrl(0, CONSOLE_PORT, -1, NULL);
	expect_ctrl(0, PORT_OPEN, 1, NULL);
	send_ctrl(1, PORT_READY, 1);
	expect_ctrl(1, PORT_NAME, -1, AGENT);
	expect_ctrl(1, PORT_OPEN, 1, NULL);
	send_ctrl(1, PORT_OPEN, 1);
}

static void expect_read(int fd, const void *data, size_t len)
{
	uint8_t *got = malloc(len);

	for (size_t done = 0; done < len;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		cr_assert_eq(poll(&p, 1, 20000), 1);
		n = read(fd, got + done, len - done);
		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
	cr_assert_arr_eq(got, data, len);
	free(got);
}

static void expect_input(unsigned q, uint64_t gpa, const char *text)
{
	uint32_t len;

	vguest_wait(&g, q, &len);
	cr_assert_eq(len, strlen(text));
	cr_assert_arr_eq(vguest_at(&g, gpa), text, len);
}

Test(virtio_console, both_ways)
{
	uint64_t in = vguest_alloc(&g, 4096);
	uint32_t max_ports;

	bring_up();
	virtio_config_read(g.d, 4, &max_ports, 4);
	cr_assert_eq(max_ports, 2);
	put(TX, "login: ", 7);
	expect_read(console_peer, "login: ", 7);
	put(AGENT_TX, "{\"return\": {}}\n", 15);
	expect_read(agent_peer, "{\"return\": {}}\n", 15);
	give(RX, in, 64);
	give(AGENT_RX, in + 100, 64);
	cr_assert_eq(write(console_peer, "root\n", 5), 5);
	expect_input(RX, in, "root\n");
	cr_assert_eq(write(agent_peer, "{}", 2), 2);
	expect_input(AGENT_RX, in + 100, "{}");
	cr_assert_eq(vguest_stat(&g, "tx", "bytes"), 22);
	cr_assert_eq(vguest_stat(&g, "rx", "bytes"), 7);
}

/* A driver that knows nothing of ports has the console. */
Test(virtio_console, without_ports)
{
	uint64_t in = vguest_alloc(&g, 4096);

	vguest_start(&g, new_console(false), ~2ull, 2, 0);
	put(TX, "x", 1);
	expect_read(console_peer, "x", 1);
	give(RX, in, 4);
	cr_assert_eq(write(console_peer, "abcdef", 6), 6);
	expect_input(RX, in, "abcd");
	give(RX, in, 4);
	expect_input(RX, in, "ef");
}

/* Input waits for room, and for somebody who has the port open. */
Test(virtio_console, input_waits)
{
	uint64_t in = vguest_alloc(&g, 4096);
	uint16_t head;

	bring_up();
	cr_assert_eq(write(console_peer, "early", 5), 5);
	vguest_settle(&g);
	give(RX, in, 64);
	expect_input(RX, in, "early");

	send_ctrl(1, PORT_OPEN, 0);
	cr_assert_eq(write(agent_peer, "later", 5), 5);
	give(AGENT_RX, in + 100, 64);
	vguest_settle(&g);
	cr_assert_not(vguest_poll(&g, AGENT_RX, &head, NULL));
	send_ctrl(1, PORT_OPEN, 1);
	expect_input(AGENT_RX, in + 100, "later");
}

/* Host's side closes: the guest is told, and what it writes then goes nowhere. */
Test(virtio_console, host_closes)
{
	uint64_t in = vguest_alloc(&g, 4096);

	bring_up();
	give(AGENT_RX, in, 64);
	close(agent_peer);
	agent_peer = -1;
	expect_ctrl(1, PORT_OPEN, 0, NULL);
	put(AGENT_TX, "hello", 5);
	vguest_wait(&g, AGENT_TX, NULL);
	put(TX, "still here", 10);
	expect_read(console_peer, "still here", 10);
	/* The same of the console, which has no buffers to read into. */
	close(console_peer);
	console_peer = -1;
	expect_ctrl(0, PORT_OPEN, 0, NULL);
	put(TX, "nobody", 6);
	vguest_wait(&g, TX, NULL);
	cr_assert_not(vguest_needs_reset(&g));
}

Test(virtio_console, nobody_there)
{
	start(false);
	send_ctrl(0, DEVICE_READY, 1);
	expect_ctrl(0, DEVICE_ADD, -1, NULL);
	expect_ctrl(1, DEVICE_ADD, -1, NULL);
	send_ctrl(1, PORT_READY, 1);
	expect_ctrl(1, PORT_NAME, -1, AGENT);
	expect_ctrl(1, PORT_OPEN, 0, NULL);
	put(AGENT_TX, "hello", 5);
	vguest_wait(&g, AGENT_TX, NULL);
}

/* A port whose reader is slow: nothing is lost, the writer waits. */
Test(virtio_console, port_back_pressure)
{
	const uint32_t len = 100000;
	uint64_t out = vguest_alloc(&g, len);
	uint16_t head;
	unsigned done = 0;

	bring_up();
	for (uint32_t i = 0; i < len; i++)
		((uint8_t *)vguest_at(&g, out))[i] = (uint8_t)(i * 31 + i / 255);
	for (unsigned i = 0; i < 20; i++) {
		struct vguest_buf b[] = { { out, 7, false }, { out + 7, len - 7, false } };

		vguest_add(&g, AGENT_TX, b, 2);
	}
	vguest_kick(&g, AGENT_TX);
	vguest_settle(&g);
	while (vguest_poll(&g, AGENT_TX, &head, NULL))
		done++;
	cr_assert_lt(done, 20);
	/* A pause in the middle of a buffer does not repeat or lose a byte. */
	virtio_device_pause(g.d);
	virtio_device_resume(g.d);
	for (unsigned i = 0; i < 20; i++)
		expect_read(agent_peer, vguest_at(&g, out), len);
	for (; done < 20; done++)
		vguest_wait(&g, AGENT_TX, NULL);
	cr_assert_eq(vguest_stat(&g, "tx", "errors"), 0);
}

/* A console flood with nobody reading: bounded, answered after a while, and counted; what comes
 * when somebody reads again arrives. */
Test(virtio_console, console_flood)
{
	const uint32_t len = 65536;
	uint64_t out = vguest_alloc(&g, len), begin = now_monotonic_us();
	char *got = malloc(1u << 20);
	size_t total = 0;
	bool seen = false;

	bring_up();
	for (unsigned i = 0; i < 40; i++) {
		struct vguest_buf b = { out, len, false };

		memset(vguest_at(&g, out), 'x', len);
		vguest_add(&g, TX, &b, 1);
	}
	vguest_kick(&g, TX);
	for (unsigned i = 0; i < 40; i++)
		vguest_wait(&g, TX, NULL);
	cr_assert_geq(now_monotonic_us() - begin, 900000); /* it was patient first */
	cr_assert_gt(vguest_stat(&g, "tx", "errors"), 20);
	while (!seen) {
		struct pollfd p = { .fd = console_peer, .events = POLLIN };

		if (poll(&p, 1, 0) == 1) {
			ssize_t n = read(console_peer, got, 1u << 20);

			cr_assert_gt(n, 0);
			seen = memchr(got, '!', (size_t)n);
			total += (size_t)n;
			continue;
		}
		put(TX, "!", 1);
		vguest_wait(&g, TX, NULL);
	}
	cr_assert_lt(total, 40 * len);
	free(got);
}

/* Control messages that make no sense, and thousands of them. */
Test(virtio_console, hostile_control)
{
	uint32_t len;

	start(true);
	send_ctrl(0, PORT_READY, 1); /* before it was added */
	send_ctrl(9, PORT_READY, 1);
	send_ctrl(0xffffffff, PORT_OPEN, 1);
	send_ctrl(1, 77, 1);
	put(CTRL_TX, "abc", 3);
	vguest_wait(&g, CTRL_TX, NULL);
	for (unsigned i = 0; i < 1000; i++)
		send_ctrl(0, DEVICE_READY, 1);
	expect_ctrl(0, DEVICE_ADD, -1, NULL);
	expect_ctrl(1, DEVICE_ADD, -1, NULL);
	send_ctrl(1, PORT_READY, 1);
	expect_ctrl(1, PORT_NAME, -1, AGENT); /* and no port was added twice */
	expect_ctrl(1, PORT_OPEN, 1, NULL);
	for (unsigned i = 0; i < 1000; i++) {
		send_ctrl(1, PORT_READY, 1);
		send_ctrl(1, PORT_OPEN, i % 2);
	}
	/* Messages are cut to buffers that are too small. */
	for (unsigned i = 0; i < 20; i++)
		give(CTRL_RX, vguest_alloc(&g, 8), i % 9);
	send_ctrl(1, PORT_READY, 1);
	vguest_settle(&g);
	cr_assert_not(vguest_needs_reset(&g));
	vguest_wait(&g, CTRL_RX, &len);
	vguest_desc(&g, CTRL_TX, 5, 0x10, 8, 0, 0); /* not RAM */
	vguest_offer(&g, CTRL_TX, 5);
	vguest_kick(&g, CTRL_TX);
	vguest_expect_needs_reset(&g);
	vguest_reset(&g);
}

/* A reset begins anew: ports are announced again. */
Test(virtio_console, reset)
{
	bring_up();
	vguest_reset(&g);
	vguest_start(&g, g.d, ALL, QUEUES, 0);
	give_ctrl();
	send_ctrl(0, DEVICE_READY, 1);
	expect_ctrl(0, DEVICE_ADD, -1, NULL);
	expect_ctrl(1, DEVICE_ADD, -1, NULL);
}

Test(virtio_console, saved_and_loaded)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct virtio_device *before, *after;
	struct state_out o;
	struct state_in in;

	bring_up();
	before = g.d;
	state_out_init(&o);
	virtio_device_pause(before);
	virtio_device_save(before, &o);
	cr_assert_eq(state_finish(&o), 0);
	close(console_peer);
	close(agent_peer);
	after = new_console(false);
	cr_assert_eq(state_open(&in, o.data, o.len, &err), 0);
	cr_assert_eq(virtio_device_load(after, &in, &err), 0, "%s", err.message);
	virtio_device_free(before);
	g.d = after;
	after->owner = &g;
	for (unsigned q = 0; q < QUEUES; q++)
		vguest_connect(&g, q);
	virtio_device_resume(after);
	/* The agent's side is not open here: the guest hears of it. */
	expect_ctrl(1, PORT_OPEN, 0, NULL);
	put(TX, "on", 2);
	expect_read(console_peer, "on", 2);
	state_out_deinit(&o);
}

Test(virtio_console, bad_config)
{
	struct virtio_console_config c = { .id = "c", .n_ports = 0 };
	struct virtio_device *d;

	cr_assert_eq(virtio_console_new(&c, &g.mem, g.loop, &d), -EINVAL);
	c.n_ports = VIRTIO_CONSOLE_MAX_PORTS + 1;
	cr_assert_eq(virtio_console_new(&c, &g.mem, g.loop, &d), -EINVAL);
	c.n_ports = 1;
	c.ports[0] = (struct virtio_console_port){ "", -EBADF };
	cr_assert_eq(virtio_console_new(&c, &g.mem, g.loop, &d), -EINVAL);
	c.ports[0].name = "a-name-of-more-than-sixty-three-bytes-is-not-a-name-of-a-port-here";
	cr_assert_eq(virtio_console_new(&c, &g.mem, g.loop, &d), -EINVAL);
}
