/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A network device, its driver, and what is at the other end. */
#include "devices/models.h"
#include "devices/net-hdr.h"
#include "tests/lib/vguest.h"

#define MRG (1ull << NET_F_MRG_RXBUF)
#define ALL (~0ull)

extern struct vguest g;
extern int net_peer; /* the other end of the stream; -1: closed */
extern const struct net_hdr net_plain;

/* Init and fini of a suite. */
void net_setup(void);
void net_teardown(void);
/* A device on one end of a socketpair. */
struct virtio_net_config net_stream_config(void);
struct virtio_device *net_new(const struct virtio_net_config *c);
/* n receive buffers of len bytes each, one after the other; where they begin. */
uint64_t net_give_buffers(unsigned q, unsigned n, uint32_t len);
/* Fills with what depends on place and seed. */
void net_frame(uint8_t *at, size_t len, unsigned seed);
/* A frame from the peer, behind its length. */
void net_send_frame(const void *data, uint32_t len);
void net_read_all(int fd, void *data, size_t len);
/* The status field of the config space. */
unsigned net_link_status(void);
/* A frame of the guest behind header h; used by the device when this returns. */
void net_transmit_frame(unsigned q, const struct net_hdr *h, const void *data, uint32_t len);
/* Peer goes away, or sends what is no frame: the cable is pulled, the guest lives on. */
void net_expect_link_down(void);
