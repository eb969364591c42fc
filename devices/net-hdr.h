/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The header in front of each frame (virtio 1.2, 5.1.6), and what of it may reach the host. */
#include <stdbool.h>
#include <stdint.h>

/* 5.1.3 */
enum net_feature {
	NET_F_CSUM = 0,
	NET_F_GUEST_CSUM = 1,
	NET_F_MTU = 3,
	NET_F_MAC = 5,
	NET_F_GUEST_TSO4 = 7,
	NET_F_GUEST_TSO6 = 8,
	NET_F_GUEST_ECN = 9,
	NET_F_HOST_TSO4 = 11,
	NET_F_HOST_TSO6 = 12,
	NET_F_HOST_ECN = 13,
	NET_F_MRG_RXBUF = 15,
	NET_F_STATUS = 16,
	NET_F_CTRL_VQ = 17,
	NET_F_MQ = 22,
};

struct net_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

#define NET_HDR_BYTES    12u
#define NET_MIN_FRAME    14u    /* an Ethernet header */
#define NET_MAX_FRAME    65589u /* with segmentation offload, 5.1.6.3.1 */
#define NET_MAX_GSO_HDRS 512u   /* more headers than any TCP segment has */

/*
 * Checks the header of a frame of frame_bytes that the guest sends, h being a copy of our own, in
 * guest (little-endian) order; clears in it what means nothing. False: not to be passed on.
 */
bool net_hdr_check(struct net_hdr *h, uint64_t features, uint32_t frame_bytes);
