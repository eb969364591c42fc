/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A blocking JSON-RPC 2.0 client: one object per line over a Unix socket, calls may overlap,
 * notifications in between, descriptors by SCM_RIGHTS. Every wait ends with -EINTR once
 * rpc_interrupted is set.
 */
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "common/error.h"

struct rpc;

/* Set by the SIGINT handler of commands that catch it. */
extern volatile sig_atomic_t rpc_interrupted;
/* Signals blocked during waits, NULL: those that are anyway. Who catches a signal blocks it and
 * leaves it out here, so that one just before a wait is not missed. */
extern const sigset_t *rpc_wait_mask;
/* Waits end with -EPIPE when nobody can read stdout any more: for streams that may be silent. */
extern bool rpc_watch_stdout;

/* Connects to a socket path. -ENOENT or -ECONNREFUSED with err: nobody listens there. */
int rpc_connect(const char *path, struct rpc **ret, struct vmd_error *err) MUST_CHECK;
/* Takes a connected socket. */
struct rpc *rpc_new(int fd);
void rpc_free(struct rpc *rpc);
int rpc_fd(const struct rpc *rpc);
/* A whole message is already buffered: poll would wait in vain. */
bool rpc_pending(struct rpc *rpc);

/* Called for every notification that arrives during a wait; params are borrowed. */
typedef void (*rpc_notify_fn)(void *userdata, const char *method, const json_t *params);
void rpc_on_notify(struct rpc *rpc, rpc_notify_fn fn, void *userdata);

/* Sends a request (params stolen, may be NULL) with descriptors attached; its id, or negative errno
 * with err. */
int64_t rpc_send(struct rpc *rpc, const char *method, json_t *params, const int *fds, size_t n_fds,
                 struct vmd_error *err) MUST_CHECK;

/*
 * The next reply, in any order: *ret_id and a new reference to the whole message. Times out with
 * -ETIMEDOUT after timeout_ms (< 0: never). -ENOTCONN with err: vmd has closed the connection.
 */
int rpc_receive(struct rpc *rpc, int64_t timeout_ms, int64_t *ret_id, json_t **ret_message,
                struct vmd_error *err) MUST_CHECK;

/* Waits for one message of any kind and hands it to the notify function if it is a notification;
 * replies are dropped. 0 or as rpc_receive. */
int rpc_next(struct rpc *rpc, struct vmd_error *err) MUST_CHECK;

/*
 * Splits a reply: 0 with *ret_result (new reference), or negative errno with err filled from the
 * error object, which rpc_error() then returns until the next call.
 */
int rpc_result(struct rpc *rpc, json_t *message, json_t **ret_result,
               struct vmd_error *err) MUST_CHECK;
const json_t *rpc_error(const struct rpc *rpc);

/* Send and wait for this reply; others are dropped. */
int rpc_call(struct rpc *rpc, const char *method, json_t *params, int64_t timeout_ms,
             json_t **ret_result, struct vmd_error *err) MUST_CHECK;

/* Descriptor number index of those that came with replies; the caller's. -EBADF: none. */
int rpc_take_fd(struct rpc *rpc, size_t index);

/* Fills err from a JSON-RPC error object; negative errno of its kind. */
int rpc_error_read(const json_t *error, struct vmd_error *err);

DEFINE_CLEANUP(struct rpc *, rpc_free);
#define cleanup_rpc cleanup_with(rpc_free)
