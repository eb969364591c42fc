/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * One file of the write-ahead journal. The store has two of them, see store-internal.h. All
 * integers on disk are little-endian.
 *
 *   offset 0      header {magic, version, epoch, base epoch, first seq, checksum}
 *   offset 4096   records {magic, length, epoch, seq, checksum, payload}, each 8-aligned
 *
 * A record belongs to the file's present life when its epoch is the header's and its seq is one
 * more than the record's before it; the first one that does not ends the journal. So a file is
 * emptied by giving it a header with a new epoch, and what an earlier life left behind is never
 * read again. Space is filled with zeros ahead of use: writing a record then changes no file system
 * metadata and cannot run out of space, and fdatasync is one flush.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOURNAL_VERSION    1
#define JOURNAL_DATA_START 4096u
#define JOURNAL_MAX_RECORD (64u << 20)
#define JOURNAL_MIN_BYTES  (16u << 10)

struct journal_record_header {
	uint32_t magic;
	uint32_t length; /* of the payload; a multiple of 8 */
	uint64_t epoch;
	uint64_t seq;
	uint64_t sum; /* XXH3-64 of the payload, seeded with that of the fields above */
};

struct journal {
	int fd;
	bool readonly;  /* the file could not be opened for writing */
	bool used;      /* holds records that may not be in the object files yet */
	bool recovered; /* from an earlier run, and in the object files already */
	uint64_t size;  /* filled bytes; records stay below */
	uint64_t tail;  /* where the next record goes */
	uint64_t epoch, base_epoch, first_seq;
	uint64_t last_seq;   /* of the last good record, first_seq - 1 when there is none */
	uint64_t last_event; /* of a recovered one: its highest event number, 0 for none */
};

#define JOURNAL_INIT         \
	{                    \
		.fd = -EBADF \
	}

/* One record to be written; the caller fills payload and len (a multiple of 8). */
struct journal_record {
	struct journal_record_header header;
	const void *payload;
	uint32_t len;
};

/*
 * Opens (creates) the file below dir_fd and reads its header: epoch 0 when it has no good one.
 * -EPROTONOSUPPORT: made by a newer vmd; nothing was touched. Other negative errno. Blocks.
 */
int journal_open(struct journal *j, int dir_fd, const char *name);
void journal_close(struct journal *j);
/*
 * Fills the file with zeros up to bytes, fsynced. 0, or negative errno with the file as long as
 * before. Blocks.
 */
int journal_grow(struct journal *j, uint64_t bytes);

/*
 * Reads all records into one buffer for the caller to free and sets tail and last_seq to the end of
 * the good ones. Records from seq_limit on are void (a later epoch has given their numbers again).
 * When trusted_tail is set, tail is known and nothing past it is looked at. 0 or negative errno.
 */
int journal_read(struct journal *j, uint64_t seq_limit, bool trusted_tail, char **ret_data);
/*
 * Walks the buffer: *pos starts at 0. True with the record's seq and payload (in the buffer), false
 * at the end.
 */
bool journal_next(const struct journal *j, const char *data, size_t *pos, uint64_t *ret_seq,
                  const char **ret_payload, size_t *ret_len);

/*
 * Makes the space of a file that holds nothing of worth ready: at least JOURNAL_MIN_BYTES, bytes
 * when the disk can afford it, a grown file is cut back. The header stays as it is. Blocks.
 */
int journal_reserve(struct journal *j, uint64_t bytes);
/*
 * Begins a new life of a reserved file: writes the header and makes it durable. Everything the file
 * held is void after. On failure nobody knows which header the disk has: no record with a seq from
 * first_seq on may be written anywhere but under a later successful journal_start. Blocks.
 */
int journal_start(struct journal *j, uint64_t epoch, uint64_t base_epoch, uint64_t first_seq);
/*
 * Makes a retired journal fit for more records in its present life: everything up to tail is
 * written anew, zeros to the end, fdatasync; so that no trace of a failed or torn record remains
 * and no page is trusted for an earlier sync. Blocks.
 */
int journal_resume(struct journal *j);
/*
 * Writes n records with seq from last_seq + 1 on and makes them durable: one write, one fdatasync.
 * The caller has made room. On failure the file must not be appended to again (the page cache and
 * the disk may differ): call journal_neutralise and go on in the other file.
 */
int journal_append(struct journal *j, struct journal_record *records, size_t n);
/* Bytes that records with these payload bytes take. */
static inline uint64_t journal_record_bytes(size_t len)
{
	return sizeof(struct journal_record_header) + len;
}
/* Overwrites the place of the next record, so that half of a failed one is never read. Best effort:
 * the first_seq of the next epoch in the other file is the real fence. */
void journal_neutralise(struct journal *j);
