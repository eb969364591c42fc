/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Between rpc.c, rpc-call.c, rpc-reply.c, rpc-key.c, rpc-event.c and peer.c. */
#include "api/contract.h"
#include "common/list.h"
#include "common/strbuf.h"
#include "daemon/fiber.h"
#include "daemon/peer.h"
#include "daemon/rpc.h"

struct key;
struct key_table;

#define RPC_MAX_DEPTH  32
#define RPC_MAX_ID     256  /* bytes of a string id */
#define RPC_MAX_FIBERS 4000 /* calls in flight of all connections */

/* A method with its contract. */
struct rpc_method {
	const struct method *method;
	const struct contract_method *contract;
};

struct rpc {
	struct vmd *vmd;
	struct contract *contract;
	struct rpc_method *methods; /* sorted by name */
	size_t n_methods;
	rpc_guest_fn find_guest;
	struct peers *peers;
	struct list calls; /* struct rpc_call in flight, in order of arrival */
	unsigned n_calls, n_changes;
	struct strbuf id, text; /* scratch of the message at hand */
};

/*
 * One message received, while not all of its calls are answered. A batch gathers its replies, its
 * descriptors are shared by its calls.
 */
struct exchange {
	unsigned refs;     /* calls not answered yet, and the reader of the message */
	struct peer *peer; /* NULL once gone */
	bool batch;
	struct strbuf replies; /* of a batch */
	int fds[PEER_MAX_FDS];
	size_t n_fds;
};

/* A call that runs in a fiber. */
struct rpc_call {
	struct call call;
	struct list link; /* in rpc->calls */
	struct rpc *rpc;
	const struct rpc_method *method;
	struct exchange *exchange;
	char *id;             /* JSON text; NULL: a notification */
	bool answered;        /* the reply is out (wait: false), or given up ($/cancelRequest) */
	struct key *key;      /* of client_key, or NULL */
	uint64_t peer_serial; /* changes of one connection keep their order */
	const char *guest[2]; /* names or uuid of the guest that it changes, borrowed from params */
	struct waitq turn;
	struct fiber *fiber;
	uint64_t deadline; /* monotonic us, 0: none */
};

/* rpc.c */
/* One message of a connection. Descriptors that are taken are removed from fds (*n_fds = 0). */
void rpc_message(struct peer *p, const char *text, size_t len, int *fds, size_t *n_fds);
/* Gives a method a guest's identity; false when there is none or nobody knows. */
bool rpc_find_guest(struct rpc *rpc, const char *reference, struct rpc_guest *ret);

/* rpc-call.c */
/* Runs a call in a fiber. params is borrowed, id too (NULL: notification). */
void rpc_call_start(struct rpc *rpc, struct peer *p, struct exchange *ex,
                    const struct rpc_method *m, json_t *params, const char *id);
/* $/cancelRequest. */
void rpc_call_cancel(struct rpc *rpc, struct peer *p, const char *id);
void rpc_call_release(struct call *call);
int rpc_call_json(struct call *call, json_t **ret);

/* rpc-reply.c */
struct exchange *exchange_new(struct peer *p, bool batch, int *fds, size_t *n_fds);
/* Drops one reference; the last one sends the replies of a batch. */
void exchange_unref(struct exchange *ex);
/*
 * A reply goes to the exchange's batch, or right to p when ex is NULL or no batch. p may be NULL
 * (gone). id is JSON text.
 */
void rpc_reply_result(struct peer *p, struct exchange *ex, const char *id, struct call *call);
void rpc_reply_json(struct peer *p, struct exchange *ex, const char *id, const json_t *result);
void rpc_reply_error(struct peer *p, struct exchange *ex, const char *id,
                     const struct vmd_error *err, const char *vm);
/* The error object as JSON text: {"code","message","data"}. */
void rpc_format_error(struct strbuf *out, const struct vmd_error *err, const char *vm);
/* An error that belongs to no call, with the HTTP status given. */
void rpc_send_error(struct peer *p, const struct vmd_error *err, int http_status);
int rpc_http_status(enum error_kind kind);

/* rpc-key.c: see there. */
int key_begin(struct rpc_call *c, struct vmd_error *err);
void key_end(struct rpc_call *c, bool done);
void key_put(struct rpc_call *c, struct store_txn *txn, const json_t *result);
bool key_job(struct rpc_call *c, struct store_txn *txn);
void key_table_free(struct key_table *t);

/* rpc-event.c */
void rpc_resume_events(struct peer *p);
void rpc_end_events(struct peer *p);

/* peer.c calls this when a connection ends. */
void rpc_peer_gone(struct peer *p);
