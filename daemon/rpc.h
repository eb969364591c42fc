/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * JSON-RPC dispatch: the contract's methods bound to handlers, parameters checked against the
 * contract before a handler runs, results and errors turned into replies. Connections are peer.c's
 * business.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct vmd;
struct rpc;
struct peer;
struct peers;
struct job;
struct shared_text;
struct schema;
struct store_txn;

enum role {
	ROLE_VIEWER,
	ROLE_OPERATOR,
	ROLE_ADMIN
};

enum method_flags {
	METHOD_READ = 0,       /* runs at once on the loop, must not wait */
	METHOD_FIBER = 1 << 0, /* runs in a fiber and may wait */
	METHOD_JOB = 1 << 1, /* METHOD_FIBER and kept as a job; "wait": false returns it at once */
	METHOD_CHANGE = 1 << 2, /* takes dry_run, if_generation, client_key; runs in a fiber */
	METHOD_URGENT = 1 << 3, /* a change that waits for no other change of the same guest */
};

/* One call being handled. Fields are read-only to handlers but for the reply_* functions. */
struct call {
	struct vmd *vmd;
	const char *method;
	json_t *params; /* checked against the contract; an object, never NULL */
	enum role role;
	uid_t uid;
	char actor[32]; /* "uid:1000" */
	const int *fds; /* descriptors that came with the message; {"fd": n} means fds[n] */
	size_t n_fds;
	bool dry_run;
	struct job *job;   /* METHOD_JOB: the job of this call, else NULL */
	struct peer *peer; /* NULL once the connection is gone */
	/* reply */
	json_t *result;    /* set by call_reply */
	char *result_text; /* set by call_reply_text */
	size_t result_len;
	struct shared_text *result_shared; /* set by call_reply_shared */
	int reply_fds[4];
	size_t n_reply_fds;
};

typedef int (*method_fn)(struct call *call, struct vmd_error *err);

struct method {
	const char *name;
	enum role role; /* least role that may call it */
	unsigned flags;
	method_fn handler;
};

/* The result (stolen). A handler that returns 0 without one replies {}. */
void call_reply(struct call *call, json_t *result);
/* The result as ready JSON text (stolen, malloc'd), for hot paths. */
void call_reply_text(struct call *call, char *text, size_t len);
/* The same for text that many replies share (daemon/outq.h); takes a reference of its own. */
void call_reply_shared(struct call *call, struct shared_text *text);
/*
 * Optional, for changes: adds the record of the call's client_key with its result (borrowed) to the
 * change's own transaction, so that both become durable at once. Without it the record follows the
 * change, and a power cut between the two makes a repeat run again. Nothing without a client_key.
 */
void call_record_key(struct call *call, struct store_txn *txn, const json_t *result);
/* The error of a list whose cursor stands for nothing (any more): what follows is not known. */
int call_cursor_gone(struct vmd_error *err);
/* Sends fd (owned by the call from now on) with the reply; returns its index for {"fd": n}, or
 * -E2BIG. */
int call_reply_fd(struct call *call, int fd);
/*
 * Resolves a path-like parameter value: a string is returned as it is in *ret_path; {"fd": n} gives
 * a dup of the descriptor in *ret_fd (the caller's) and *ret_path NULL.
 */
int call_path(struct call *call, const json_t *value, const char *field, const char **ret_path,
              int *ret_fd, struct vmd_error *err);

/* What rpc.c has to know of guests, so that it needs no more of them. */
struct rpc_guest {
	const char *uuid, *name; /* borrowed, good until the next wait */
};
/* By name or uuid; false when there is none. */
typedef bool (*rpc_guest_fn)(struct vmd *vmd, const char *reference, struct rpc_guest *ret);

/*
 * Opens the contract, binds the methods of n tables (each ended by a NULL name) to it and makes the
 * place for connections; sets vmd->rpc. With strict, a contract method without a handler is an
 * error; a handler without a contract method, or with another role or kind, always is one.
 * find_guest may be NULL. -EINVAL or -ENOMEM with err.
 */
int rpc_new(struct vmd *vmd, const struct method *const *tables, size_t n, bool strict,
            rpc_guest_fn find_guest, struct vmd_error *err) MUST_CHECK;
/* Closes all connections; calls in flight go on without them. */
void rpc_free(struct rpc *rpc);
struct peers *rpc_peers(struct rpc *rpc);
/* A schema of the contract ("VmDefinition"), or NULL: for values that are no parameter as they are.
 */
const struct schema *rpc_schema(const struct rpc *rpc, const char *name);
/* Changes in flight, for an orderly end. */
unsigned rpc_changes_in_flight(const struct rpc *rpc);
/* From store_open: an object of kind "keys". */
void rpc_key_load(struct vmd *vmd, const char *id, const char *text, size_t len);

/* Every method table, registered once; a contract method without a handler (or the other way round)
 * is a start-up error. */
extern const struct method daemon_methods[], host_methods[], vm_methods[], vm_power_methods[],
	vm_io_methods[], snapshot_methods[], job_methods[], event_methods[], disk_methods[];
