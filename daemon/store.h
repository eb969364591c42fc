/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Durable state: objects (kind, id) -> one JSON value, in $STATE/<kind>/<id>/<kind minus s>.json,
 * in front of which stands a write-ahead journal so that one fdatasync makes many changes durable
 * at once (group commit). A transaction is all or nothing over power cuts. Kinds: "guests", "jobs",
 * "snapshots", "disks", "keys". Ids are uuids and never names; they become paths and are refused
 * when they are not [A-Za-z0-9_-][A-Za-z0-9._-]*. All functions belong to the loop's thread but for
 * store_object_dir.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct store;
struct store_txn;

/* Called for every object found at start-up; text is the object's JSON (borrowed). */
typedef void (*store_load_fn)(void *userdata, const char *kind, const char *id, const char *text,
                              size_t len);

/*
 * Locks and opens the state directory (created 0700 when missing), recovers the journal, loads each
 * object through on_load. Torn or rotten objects fall back to their previous generation or are put
 * aside as <file>.bad-<time> and logged; the rest loads. Blocks; call before the loop runs.
 * -EBUSY with err: another daemon owns it, nothing was changed. What a newer vmd wrote is left
 * untouched: an object is not loaded and cannot be written, a journal makes the whole store
 * read-only. A full or read-only disk is no error here: see store_degraded.
 */
int store_open(const char *state_dir, store_load_fn on_load, void *userdata, struct store **ret,
               struct vmd_error *err);
/* Finishes pending commits, checkpoints, closes. */
void store_close(struct store *s);
int store_dir_fd(const struct store *s); /* borrowed */
const char *store_dir(const struct store *s);

/* A transaction: puts, deletes and events that become durable together. Free with store_txn_free
 * unless committed. Out of memory is remembered and told by store_commit. */
struct store_txn *store_txn_new(struct store *s);
void store_txn_free(struct store_txn *t);
void store_put(struct store_txn *t, const char *kind, const char *id, const char *text);
void store_put_json(struct store_txn *t, const char *kind, const char *id, const json_t *value);
/*
 * Deletes the object's file and its whole directory $STATE/<kind>/<id>: out of its place when
 * store_commit returns, removed soon after. Only then may the id be used again.
 */
void store_delete(struct store_txn *t, const char *kind, const char *id);
/* An event line (JSON text with its seq) that is kept in the event ring, see event.h. */
void store_event(struct store_txn *t, uint64_t seq, const char *line);

/*
 * Makes the transaction durable; waits (fiber), never cut short by deadline or cancel; outside of
 * fibers it blocks. Consumes t. Transactions become durable in the order of these calls. 0, or
 * negative errno with err: nothing of it is on disk or will ever be. ERROR_NO_SPACE and
 * ERROR_INTERNAL (the disk failed): the store is degraded until a later commit succeeds;
 * ERROR_UNSUPPORTED: the object or the store is a newer vmd's.
 */
int store_commit(struct store_txn *t, struct vmd_error *err);
/* As store_commit without waiting: for records whose loss in a power cut is harmless. A failure is
 * logged only. */
void store_commit_async(struct store_txn *t);

/* NULL when writes work; else why the store is read-only at the moment (for daemon.info). */
const char *store_degraded(const struct store *s);
/*
 * $STATE/<kind>/<id>, durably created when missing (0700). fd for the caller, or negative errno.
 * Blocks; any thread. A directory without an object goes when the store is opened and it is empty.
 */
int store_object_dir(struct store *s, const char *kind, const char *id);
