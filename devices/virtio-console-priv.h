/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What virtio-console.c (the device, its ports) and console-ctrl.c (control messages) share. */
#include "devices/models.h"

#define CONSOLE_QUEUE_SIZE 64
#define CONSOLE_NAME_BYTES 64
#define CONSOLE_TURN       64 /* chains of a queue in one turn */
#define F_MULTIPORT        1  /* virtio 1.2, 5.3.3 */

enum {
	CONSOLE_CTRL_RX = 2,
	CONSOLE_CTRL_TX = 3
};

/* What the guest is still to be told of a port; sent in this order. */
enum console_due {
	DUE_ADD = 1,
	DUE_CONSOLE = 2,
	DUE_NAME = 4,
	DUE_OPEN = 8, /* whether the host's side is open; as it is when it is sent */
	DUE_ALL = 15
};

struct console_port {
	struct virtio_console *c;
	unsigned index;
	char name[CONSOLE_NAME_BYTES]; /* "": the console */
	struct io_watch watch;         /* its descriptor is owned */
	uint32_t events;
	bool watched, host_open;
	/* The guest's. */
	bool added, guest_open;
	uint8_t due;
	/* Of the oldest chain of the transmit queue, the host has this much already. */
	uint32_t sent;
	bool tx_blocked;
	bool lossy; /* the console: its host's side does not read */
};

enum console_stat {
	CONSOLE_STAT_RX,
	CONSOLE_STAT_TX,
	_CONSOLE_STAT_MAX
};

struct virtio_console {
	struct virtio_device d;
	unsigned n_ports;
	struct io_watch again;    /* eventfd, owned */
	struct io_watch patience; /* timerfd, owned: the console waits no longer */
	/* All of it is the loop's. */
	struct console_port ports[VIRTIO_CONSOLE_MAX_PORTS];
	struct iovec iov[CONSOLE_QUEUE_SIZE];
	struct iostats stats[_CONSOLE_STAT_MAX];
};

/* The guest has sent control messages, or given room for ours. In the loop. True: more than one
 * turn's work. */
bool console_ctrl_take(struct virtio_console *c);
void console_ctrl_send(struct virtio_console *c);
/* Begins or ends to read from the host, as the port's state asks for; takes what waits. */
void console_port_update(struct console_port *p);
