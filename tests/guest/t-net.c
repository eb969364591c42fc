/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames: there and back, and answers to ARP, ICMP echo, UDP and plain frames. */
#include "lib/guest.h"
#include "lib/irq.h"
#include "net.h"
#include "tests.h"

#define RING_FEATURES (1ull << VIRTIO_F_INDIRECT | 1ull << VIRTIO_F_EVENT_IDX)
#define TYPE_IP       0x0800
#define TYPE_ARP      0x0806
#define TYPE_ECHO     0x88B5 /* IEEE 802: for local experiments */
#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP  17
#define ETHERNET      14u
#define IP_HEADER     20u
#define WAIT_US       10000000
#define REPEAT_US     500000

static struct nic nics[2];
static uint8_t frame[FRAME_BYTES];
static uint8_t our_ip[4], peer_ip[4], peer_mac[6];

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static unsigned checksum(const uint8_t *p, uint32_t n)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i + 1 < n; i += 2)
		sum += get16(p + i);
	if (n & 1)
		sum += (uint32_t)p[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return ~sum & 0xFFFF;
}

static bool parse_ip(const char *name, const char *otherwise, uint8_t *to)
{
	const char *s = option(name);

	s = s && *s ? s : otherwise;
	for (int i = 0; i < 4; i++) {
		to[i] = (uint8_t)parse_number(s);
		while (*s >= '0' && *s <= '9')
			s++;
		if (*s++ != (i < 3 ? '.' : '\0'))
			return fail("%s is no address", name);
	}
	return true;
}

static void ethernet(uint8_t *f, const uint8_t *to, const uint8_t *from, unsigned type)
{
	memcpy(f, to, 6);
	memcpy(f + 6, from, 6);
	put16(f + 12, type);
}

static void arp(uint8_t *f, unsigned operation, const uint8_t *to_mac, const uint8_t *to_ip)
{
	static const uint8_t all[6] = { 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF };
	static const uint8_t head[6] = { 0, 1, 8, 0, 6, 4 };

	ethernet(f, operation == 1 ? all : to_mac, nics[0].mac, TYPE_ARP);
	memcpy(f + 14, head, 6);
	put16(f + 20, operation);
	memcpy(f + 22, nics[0].mac, 6);
	memcpy(f + 28, our_ip, 4);
	memcpy(f + 32, to_mac, 6);
	memcpy(f + 38, to_ip, 4);
}

/* Answers a request for our address. True when it was one. */
static bool answer_arp(struct nic *nic, const uint8_t *f, uint32_t len)
{
	uint8_t mac[6], ip[4], reply[60] = { 0 };

	if (len < 42 || get16(f + 12) != TYPE_ARP || get16(f + 20) != 1 ||
	    memcmp(f + 38, our_ip, 4) != 0)
		return false;
	memcpy(mac, f + 22, 6);
	memcpy(ip, f + 28, 4);
	arp(reply, 2, mac, ip);
	return nic_send(nic, reply, sizeof(reply));
}

struct pong {
	const uint8_t *f;
	uint32_t len;
	bool (*wanted)(const uint8_t *f, uint32_t len);
	bool failed;
};

static bool comes(void *arg)
{
	struct pong *p = arg;

	for (;;) {
		if (!nic_receive(&nics[0], &p->f, &p->len)) {
			p->failed = true;
			return true;
		}
		if (p->len == 0 || p->wanted(p->f, p->len))
			return p->len > 0;
		(void)answer_arp(&nics[0], p->f, p->len);
		nic_done(&nics[0]);
	}
}

/* Sends frame[] until an answer comes; it is in p->f until nic_done(). */
static bool ask(uint32_t len, struct pong *p, const char *what)
{
	for (int i = 0; i < WAIT_US / REPEAT_US; i++) {
		TRY(nic_send(&nics[0], frame, len));
		if (wait_for(comes, p, REPEAT_US))
			return !p->failed;
	}
	return fail("no answer to %s", what);
}

static bool is_arp_reply(const uint8_t *f, uint32_t len)
{
	return len >= 42 && get16(f + 12) == TYPE_ARP && get16(f + 20) == 2 &&
	       memcmp(f + 28, peer_ip, 4) == 0;
}

static bool is_echo_reply(const uint8_t *f, uint32_t len)
{
	return len >= ETHERNET + IP_HEADER + 8 && get16(f + 12) == TYPE_IP &&
	       f[23] == PROTOCOL_ICMP && f[34] == 0 && memcmp(f + 26, peer_ip, 4) == 0;
}

static uint32_t echo_request(uint32_t payload)
{
	uint8_t *ip = frame + ETHERNET, *icmp = ip + IP_HEADER;

	memset(frame, 0, sizeof(frame));
	ethernet(frame, peer_mac, nics[0].mac, TYPE_IP);
	ip[0] = 0x45;
	put16(ip + 2, IP_HEADER + 8 + payload);
	ip[8] = 64;
	ip[9] = PROTOCOL_ICMP;
	memcpy(ip + 12, our_ip, 4);
	memcpy(ip + 16, peer_ip, 4);
	put16(ip + 10, checksum(ip, IP_HEADER));
	icmp[0] = 8;
	put16(icmp + 4, 0x766D);
	put16(icmp + 6, payload);
	for (uint32_t i = 0; i < payload; i++)
		icmp[8 + i] = (uint8_t)(i * 7 + payload);
	put16(icmp + 2, checksum(icmp, 8 + payload));
	return ETHERNET + IP_HEADER + 8 + payload;
}

/* ip=A and peer=B (those of user-mode networks are the default): asks who B is, then pings it. With
 * "end-peer", tells a net-echo guest there to end. */
bool test_net_ping(void)
{
	static const uint32_t payloads[] = { 32, 1000, 1472, 56 };
	static const uint8_t nobody[6];
	struct pong p = { .wanted = is_arp_reply };

	TRY(parse_ip("ip", "10.0.2.15", our_ip));
	TRY(parse_ip("peer", "10.0.2.2", peer_ip));
	TRY(nic_start(&nics[0], 0, RING_FEATURES));
	arp(frame, 1, nobody, peer_ip);
	TRY(ask(60, &p, "ARP"));
	memcpy(peer_mac, p.f + 22, 6);
	nic_done(&nics[0]);
	p.wanted = is_echo_reply;
	for (size_t i = 0; i < ARRAY_SIZE(payloads); i++) {
		uint32_t len = echo_request(payloads[i]);

		TRY(ask(len, &p, "a ping"));
		if (p.len < len || memcmp(p.f + 38, frame + 38, payloads[i] + 4) != 0)
			return fail("the answer to a ping of %u bytes has %u bytes or others", len,
			            p.len);
		nic_done(&nics[0]);
		print("net: ping of %u bytes answered\n", len);
	}
	if (option("end-peer")) {
		ethernet(frame, peer_mac, nics[0].mac, TYPE_ECHO);
		memcpy(frame + ETHERNET, "end", 3);
		TRY(nic_send(&nics[0], frame, 60));
	}
	return virtio_reset(&nics[0].v);
}

static struct nic *receiver;
static const uint8_t *received;
static uint32_t received_len;

static bool frame_arrives(void *arg)
{
	bool *failed = arg;

	for (;;) {
		if (!nic_receive(receiver, &received, &received_len)) {
			*failed = true;
			return true;
		}
		if (received_len == 0)
			return false;
		if (get16(received + 12) == TYPE_ECHO)
			return true;
		nic_done(receiver);
	}
}

static bool cross(struct nic *from, struct nic *to, uint32_t len)
{
	bool failed = false;

	ethernet(frame, to->mac, from->mac, TYPE_ECHO);
	for (uint32_t i = ETHERNET; i < len; i++)
		frame[i] = (uint8_t)(i * 13 + len);
	receiver = to;
	TRY(nic_send(from, frame, len));
	if (!wait_for(frame_arrives, &failed, WAIT_US))
		return fail("a frame of %u bytes does not arrive", len);
	TRY(!failed);
	if (received_len != len || memcmp(received, frame, len) != 0)
		return fail("a frame of %u bytes arrives as one of %u or changed", len,
		            received_len);
	nic_done(to);
	return true;
}

/* Two NICs on one network: frames of many sizes, both ways, more than the rings have entries. */
bool test_net_loop(void)
{
	TRY(nic_start(&nics[0], 0, RING_FEATURES));
	TRY(nic_start(&nics[1], 1, 0));
	for (uint32_t len = 60; len <= FRAME_BYTES; len += 31) {
		TRY(cross(&nics[0], &nics[1], len));
		TRY(cross(&nics[1], &nics[0], len));
	}
	TRY(cross(&nics[0], &nics[1], FRAME_BYTES));
	TRY(virtio_reset(&nics[1].v));
	return virtio_reset(&nics[0].v);
}

static void swap(uint8_t *a, uint8_t *b, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint8_t t = a[i];

		a[i] = b[i];
		b[i] = t;
	}
}

/* Turns frame[] into its answer. False when there is none. */
static bool make_answer(uint32_t len)
{
	uint8_t *ip = frame + ETHERNET, *body = ip + IP_HEADER;
	unsigned type = get16(frame + 12);

	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, nics[0].mac, 6);
	if (type == TYPE_ECHO)
		return true;
	if (type != TYPE_IP || len < ETHERNET + IP_HEADER + 8 || ip[0] != 0x45 ||
	    memcmp(ip + 16, our_ip, 4) != 0)
		return false;
	swap(ip + 12, ip + 16, 4);
	if (ip[9] == PROTOCOL_ICMP && body[0] == 8) {
		uint32_t n = get16(ip + 2) - IP_HEADER;

		if (n > len - ETHERNET - IP_HEADER)
			return false;
		body[0] = 0;
		put16(body + 2, 0);
		put16(body + 2, checksum(body, n));
		return true;
	}
	if (ip[9] != PROTOCOL_UDP)
		return false;
	swap(body, body + 2, 2);
	put16(body + 6, 0); /* no checksum */
	return true;
}

static bool says_end(const uint8_t *f, uint32_t len)
{
	uint32_t at = get16(f + 12) == TYPE_ECHO                          ? ETHERNET
	              : get16(f + 12) == TYPE_IP && f[23] == PROTOCOL_UDP ? 42
	                                                                  : len;

	return at + 3 <= len && memcmp(f + at, "end", 3) == 0;
}

static bool any_frame(void *arg)
{
	bool *failed = arg;

	if (!nic_receive(&nics[0], &received, &received_len)) {
		*failed = true;
		return true;
	}
	return received_len > 0;
}

/* Answers ARP for ip=A, pings and UDP to it, and frames of type 0x88B5, until one of the last two
 * begins with "end", which is answered too. */
bool test_net_echo(void)
{
	uint64_t answered = 0, seconds = option_number("seconds", 60);
	bool failed = false, last = false;

	TRY(parse_ip("ip", "10.0.2.15", our_ip));
	TRY(nic_start(&nics[0], 0, RING_FEATURES));
	print("net: ready\n");
	while (!last) {
		if (!wait_for(any_frame, &failed, seconds * 1000000))
			return fail("nobody said 'end'");
		TRY(!failed);
		memcpy(frame, received, received_len < FRAME_BYTES ? received_len : FRAME_BYTES);
		last = says_end(frame, received_len);
		nic_done(&nics[0]);
		if (answer_arp(&nics[0], frame, received_len)) {
			answered++;
		} else if (received_len <= FRAME_BYTES && make_answer(received_len)) {
			TRY(nic_send(&nics[0], frame, received_len));
			answered++;
		}
	}
	print("net: %lu frames answered\n", answered);
	return virtio_reset(&nics[0].v);
}
