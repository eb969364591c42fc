/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/net-hdr.h"

#include <endian.h>

enum {
	F_NEEDS_CSUM = 1,
	GSO_NONE = 0,
	GSO_TCPV4 = 1,
	GSO_TCPV6 = 4,
	GSO_ECN = 0x80,
	TCP_HDR = 20,
	TCP_CSUM_OFFSET = 16,
	MIN_MSS = 8, /* what is left of the smallest MSS after all TCP options */
};

static bool has(uint64_t features, unsigned bit)
{
	return features >> bit & 1;
}

/* The checksum field lies in the frame, behind the Ethernet header. */
static bool csum_ok(const struct net_hdr *h, uint64_t features, uint32_t frame_bytes)
{
	uint32_t start = le16toh(h->csum_start), offset = le16toh(h->csum_offset);

	return has(features, NET_F_CSUM) && start >= NET_MIN_FRAME &&
	       start + offset + sizeof(uint16_t) <= frame_bytes;
}

/* Only TCP, as negotiated, with its headers in the frame and something after them. */
static bool gso_ok(const struct net_hdr *h, uint64_t features, uint32_t frame_bytes)
{
	uint32_t start = le16toh(h->csum_start), hdrs = le16toh(h->hdr_len);

	switch (h->gso_type & ~GSO_ECN) {
	case GSO_TCPV4:
		if (!has(features, NET_F_HOST_TSO4))
			return false;
		break;
	case GSO_TCPV6:
		if (!has(features, NET_F_HOST_TSO6))
			return false;
		break;
	default:
		return false;
	}
	if (h->gso_type & GSO_ECN && !has(features, NET_F_HOST_ECN))
		return false;
	return h->flags & F_NEEDS_CSUM && le16toh(h->csum_offset) == TCP_CSUM_OFFSET &&
	       start + TCP_HDR < frame_bytes && start + TCP_HDR <= NET_MAX_GSO_HDRS &&
	       hdrs <= frame_bytes && hdrs <= NET_MAX_GSO_HDRS && le16toh(h->gso_size) >= MIN_MSS;
}

bool net_hdr_check(struct net_hdr *h, uint64_t features, uint32_t frame_bytes)
{
	if (frame_bytes < NET_MIN_FRAME || frame_bytes > NET_MAX_FRAME)
		return false;
	h->flags &= F_NEEDS_CSUM; /* 5.1.6.2.2: ignore the others */
	h->num_buffers = 0;
	if (h->flags && !csum_ok(h, features, frame_bytes))
		return false;
	if (!h->flags)
		h->csum_start = h->csum_offset = 0;
	if (h->gso_type != GSO_NONE)
		return gso_ok(h, features, frame_bytes);
	h->gso_size = h->hdr_len = 0; /* only hints */
	return true;
}
