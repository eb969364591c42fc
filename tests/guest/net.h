/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* virtio-net with one queue pair and no offloads. */
#include "lib/virtio.h"

#define FRAME_BYTES 1514u
#define NET_HEADER  12u

#define NET_F_MTU    3
#define NET_F_MAC    5
#define NET_F_STATUS 16

struct nic {
	struct virtio v;
	uint8_t mac[6];
	uint8_t *rx, *tx; /* buffers of 2 KiB; the frame comes after NET_HEADER */
};

/* NIC n with all its receive buffers offered. */
bool nic_start(struct nic *nic, unsigned n, uint64_t ring_features);
/* The frame is copied. Waits until the device has taken it. */
bool nic_send(struct nic *nic, const void *frame, uint32_t len);
/* The next frame; 0 bytes when none is there. *ret_frame is valid until nic_done(). */
bool nic_receive(struct nic *nic, const uint8_t **ret_frame, uint32_t *ret_len);
void nic_done(struct nic *nic);
