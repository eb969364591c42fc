/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A 16550A UART at ports 0x3f8..0x3ff. What the guest sends goes through a ring to a descriptor in
 * the loop's thread; while the ring is full the transmitter is busy, and bytes of a guest that does
 * not look are dropped and counted.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "devices/bus.h"
#include "devices/ioloop.h"
#include "devices/irq.h"
#include "devices/state.h"

#define SERIAL_PORT       0x3F8
#define SERIAL_GSI        4
#define SERIAL_RING_BYTES 4096 /* power of two */
#define SERIAL_FIFO_BYTES 16

struct serial_stats {
	uint64_t sent_bytes, received_bytes, dropped_bytes;
};

struct serial {
	struct bus_region region;
	struct irqchip *irqchip;
	struct ioloop *loop;
	struct io_watch watch, wake; /* the descriptor, and the eventfd of "there is output" */
	int fd;                      /* owned, or -EBADF */
	bool watching;               /* loop */
	uint32_t watched;            /* loop: events asked for */

	pthread_mutex_t lock; /* all below */
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	bool tx_pending; /* the transmit interrupt waits to be read */
	bool overrun, line, flushing;
	uint8_t fifo[SERIAL_FIFO_BYTES];
	unsigned fifo_at, fifo_len;
	uint8_t ring[SERIAL_RING_BYTES];
	unsigned ring_at, ring_len;
	struct serial_stats stats;
};

/* fd is taken over when it succeeds; -EBADF: output goes nowhere. 0 or negative errno. */
int serial_init(struct serial *s, struct bus *pio, struct irqchip *irqchip, struct ioloop *loop,
                int fd);
/* After the loop has ended. */
void serial_deinit(struct serial *s, struct bus *pio);
/* Sends what waits in the ring, as far as the descriptor takes it. Waits for the loop, not for the
 * other end. */
void serial_drain(struct serial *s);
/* Power-on registers; what waits in the ring is still sent. vCPUs stopped. */
void serial_reset(struct serial *s);
/* vCPUs stopped, loop paused. */
void serial_save(struct serial *s, struct state_out *o);
int serial_load(struct serial *s, struct state_in *in, struct vmd_error *err);
/* A consistent copy. Any thread. */
void serial_get_stats(struct serial *s, struct serial_stats *ret);
