/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A device that is about to be abused: what it is, how to tell that it still works, and memory
 * around its buffers that nobody may touch. */
#include "lib/virtio.h"

struct victim_kind {
	uint16_t type;
	const char *name;
	uint64_t features; /* beside those of the rings */
	unsigned queue;    /* the one to abuse */
	bool write;        /* the device writes there */
	bool answers;      /* it looks at what is put there at once */
	unsigned n_queues; /* how many of its queues are set up */
};

struct victim {
	struct virtio v;
	const struct victim_kind *kind;
	unsigned nth;
};

#define BUFFER_BYTES 65536u

/* Calls abuse for every device that is there and every queue of it that is worth it. False with a
 * reason at the first one for which it is false. Option dev=NAME: only these. */
bool for_victims(bool (*abuse)(struct victim *v));
/* Reset, features, queues, DRIVER_OK. */
bool victim_start(struct victim *v);
struct virtq *victim_queue(struct victim *v);
/* A buffer for the device between guards; the same one each time, filled with zeroes. */
uint8_t *victim_buffer(void);
/* Resets it, starts it, does one honest request, resets it; then the guards must be whole. */
bool victim_works(struct victim *v);

enum outcome {
	OUTCOME_SILENT,
	OUTCOME_ANSWERED,
	OUTCOME_NEEDS_RESET
};
/* What the device makes of what was just put into the queue. Waits for a moment. */
enum outcome victim_outcome(struct victim *v, uint16_t used_before);
const char *outcome_name(enum outcome o);

/* Where RAM really ends below 4 GiB, tables of the firmware included. */
uint64_t ram_top(void);
/* A cheap generator; the sequence begins with option seed=. */
uint64_t random_next(void);
/* One descriptor as it is. */
void put_desc(struct virtq *q, unsigned i, uint64_t address, uint32_t len, unsigned flags,
              unsigned next);
