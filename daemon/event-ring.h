/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The ring of events on disk: segment files $STATE/events/<first seq, 20 digits>.jsonl, at most
 * EVENT_SEGMENTS of them; the oldest goes when a new one begins. A line is the event with a
 * checksum as its last member, which readers do not see:
 *
 *   {"seq":7,"time_us":...,"type":"vm.state",...,"sum":"0123abcd"}
 *
 * Lines are written with write(2) before anyone is told, so a killed daemon loses none; a power cut
 * may take those that were not synced yet. Lines that cannot be written (a full disk) wait in a
 * bounded piece of memory and are still read from there. All functions belong to one thread (the
 * loop) but for event_ring_sync.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define EVENT_SEGMENTS 4u

struct event_ring;

/*
 * Opens $STATE/events below state_fd, for about bytes on disk. A torn last line is cut off. A
 * directory that cannot be made or written is no error: the ring then lives in memory only. Blocks.
 */
int event_ring_open(int state_fd, uint64_t bytes, struct event_ring **ret, struct vmd_error *err);
void event_ring_free(struct event_ring *r);

/* The oldest and newest numbers held; 0 when there are none. */
uint64_t event_ring_first(const struct event_ring *r);
uint64_t event_ring_last(const struct event_ring *r);

/* Adds an event: a JSON object on one line that begins with {"seq":<seq>, where seq is higher than
 * all before. */
void event_ring_append(struct event_ring *r, uint64_t seq, const char *text, size_t len);

/* The text of a gap event: numbers from..to are lost. Its own number is to. Returns its length. */
#define EVENT_GAP_MAX 192
size_t event_gap_text(char buf[EVENT_GAP_MAX], uint64_t from, uint64_t to);

/* Where a reader stands. Set next and zero the rest. */
struct event_cursor {
	uint64_t next;    /* lowest number wanted */
	uint64_t segment; /* first number of the segment that offset is in; 0: unknown */
	uint64_t offset;
	bool damaged; /* lines before next could not be read; a gap is to be told */
};

/* An event, NUL-terminated. False: not taken, stop here. text may be changed, and is gone after. */
typedef bool (*event_line_fn)(void *userdata, uint64_t seq, char *text, size_t len);
/* Numbers from..to are lost; false: not taken, stop here. */
typedef bool (*event_gap_fn)(void *userdata, uint64_t from, uint64_t to);

struct event_reader {
	event_line_fn on_line;
	event_gap_fn on_gap;
	void *userdata;
};

/*
 * Reads on from the cursor and moves it, through about budget bytes of disk. 1: there is more; 0:
 * at the end; -ECANCELED: a callback said stop; other negative errno.
 */
int event_ring_read(struct event_ring *r, struct event_cursor *c, const struct event_reader *reader,
                    size_t budget);

/*
 * Makes all events up to seq durable. Any thread; blocks. -EAGAIN: they have not been written yet;
 * other negative errno.
 */
int event_ring_sync(struct event_ring *r, uint64_t seq);
