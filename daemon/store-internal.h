/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The inside of the store. Threads:
 *   loop           builds transactions, queues them, is woken through ev_async when they are done
 *   committer      alone appends to the active journal (store-commit.c)
 *   checkpointer   brings retired journals into the object files and sweeps trash (checkpoint.c)
 *
 * Life of a journal file: free -> active (journal_start; used) -> retired (active points elsewhere)
 * -> checkpointed (its values are in the object files, its events in the event ring) -> free. The
 * committer retires the active journal when it is half full, when nothing came for a while, and
 * when writing to it failed. A new epoch begins only in a free file, so records that are not in the
 * object files yet are never overwritten.
 */
#include <ev.h>
#include <pthread.h>

#include "common/list.h"
#include "common/strbuf.h"
#include "daemon/journal.h"
#include "daemon/object.h"
#include "daemon/store.h"

#define STORE_JOURNAL_BYTES (4u << 20)
#define STORE_IDLE_MS       2000u
#define STORE_TXN_MAX       (16u << 20)
#define STORE_BUCKETS       256u

struct store_tuning {
	uint64_t journal_bytes; /* of each of the two files */
	unsigned idle_ms;       /* a checkpoint follows the last commit after this time */
};

/* Where committed events go: the event ring. Called from the checkpointer. */
struct store_event_sink {
	/* Makes all events up to seq durable outside the journal. 0; -EAGAIN when the ring does not
	 * have them yet; other negative errno. */
	int (*sync)(void *userdata, uint64_t seq);
	void *userdata;
};

/* A deletion since the active journal began: an older journal must not bring the object back. */
struct store_deleted {
	struct list link;
	uint64_t seq; /* of the deletion */
	char *kind, *id;
};

struct store_txn {
	struct list link; /* in queue, then in finished */
	struct store *store;
	struct strbuf payload;
	struct list deletes;
	uint64_t seq; /* given by the committer */
	int error;    /* of building it: -ENOMEM, -EINVAL, -EOPNOTSUPP */
	char bad[160];
	bool async, finished;
	struct fiber *fiber; /* that waits; NULL: a thread does */
	int result;
	struct vmd_error result_error;
};

struct store {
	char *dir;
	int dir_fd, lock_fd;
	struct store_tuning tuning;
	char *frozen;   /* never writes, because of this; NULL normally. Set by open only. */
	char **refused; /* "kind/id" of object files that are not ours to write; set by open only */
	size_t n_refused;
	json_t *events; /* [[seq, line]...] found in the journals, until the hub takes them */

	/* loop */
	ev_async async;
	bool async_started;
	char degraded_copy[256];

	/* lock guards what follows */
	pthread_mutex_t lock;
	pthread_cond_t work;      /* committer: the queue has something, or stop */
	pthread_cond_t ckpt_work; /* checkpointer: wanted has moved, sweep, or stop */
	pthread_cond_t done;      /* transactions for threads finished; a checkpoint ended */
	struct list queue, finished;
	bool stop_committer, stop_checkpointer;
	bool sweep, sweeping;             /* there is trash to remove; it is being removed */
	uint64_t ckpt_wanted, ckpt_ended; /* numbers of requests */
	int ckpt_result;
	bool events_may_go; /* the next checkpoint does not wait for the event ring */
	char degraded[256];
	struct store_event_sink sink;
	struct journal journals[2]; /* fields of the active one belong to the committer */
	struct journal *active;

	/* committer */
	uint64_t next_seq, next_epoch;
	uint64_t retry_ckpt_us; /* monotonic: not before */

	/* Held while an object's directory is changed; guards deleted. Taken after nothing. */
	pthread_mutex_t object_lock;
	struct list deleted[STORE_BUCKETS];

	pthread_t committer, checkpointer;
	bool committer_runs, checkpointer_runs;
};

/* store.c: as store_open with other sizes; for tests. */
int store_open_tuned(const char *state_dir, const struct store_tuning *tuning,
                     store_load_fn on_load, void *userdata, struct store **ret,
                     struct vmd_error *err);
/* As store_commit for a thread without a loop: blocks. */
int store_commit_sync(struct store_txn *t, struct vmd_error *err);
/* Events found in the journals at open: [[seq, line]...] in order, for the caller; may be NULL. */
json_t *store_take_events(struct store *s);
void store_set_event_sink(struct store *s, const struct store_event_sink *sink);

/* store-txn.c */
enum store_verb {
	STORE_PUT,
	STORE_DELETE,
	STORE_EVENT
};
struct store_op {
	enum store_verb verb;
	const char *kind, *id; /* put, delete */
	uint64_t event_seq;
	const char *text; /* put: value; event: line; not NUL-terminated */
	size_t len;
};
/* Takes the next operation off a payload (changed on the way). 1; 0 at its end; -EBADMSG. */
int store_op_next(char **p, char *end, struct store_op *ret);
void store_deleted_free(struct store_deleted *d);

/* store-commit.c */
void *store_committer_main(void *arg);

/* checkpoint.c */
struct store_entry; /* what the journals say about one object */
struct store_table {
	struct store_entry *entries;
	size_t n, cap;
	uint32_t *slots;
	size_t n_slots;
	char *buffers[2];
	size_t n_buffers;
	uint64_t last_event;
};
struct store_entry {
	const char *kind, *id;
	const char *text; /* NULL: deleted */
	size_t len;
	uint64_t seq;
	uint64_t deleted_seq; /* last deletion among its operations, 0 for none */
	bool write;           /* a temporary was written and awaits its place */
	uint64_t old_generation;
};
void store_table_deinit(struct store_table *t);
/* Adds what a journal holds; journals in the order of their epochs. Takes data. */
int store_table_add(struct store_table *t, const struct journal *j, char *data, json_t *events);
const struct store_entry *store_table_find(const struct store_table *t, const char *kind,
                                           const char *id);
/* Brings the object files to what the table says, durably. Idempotent. 0 or negative errno. */
int store_table_apply(struct store *s, struct store_table *t, bool recovering);
/* Removes what deletions have put into the trash, and old temporaries. */
void store_sweep(struct store *s);
/* Asks for a checkpoint of the retired journals; lock held. Returns the request's number. */
uint64_t store_checkpoint_kick(struct store *s);
/* Asks for one and waits for its end; lock held (released meanwhile). 0 or negative errno. */
int store_checkpoint_wait(struct store *s);
/* Waits until all trash is removed; lock held (released meanwhile). Was there any? */
bool store_sweep_wait(struct store *s);
void *store_checkpointer_main(void *arg);

/* store-trash.c */
/* Moves an object's directory out of the way; 0 also when there is none. object_lock held. */
int store_trash(struct store *s, const char *kind, const char *id, uint64_t seq);
unsigned store_bucket(const char *kind, const char *id);

/* store-load.c */
int store_load(struct store *s, const struct store_table *overlay, store_load_fn on_load,
               void *userdata);
