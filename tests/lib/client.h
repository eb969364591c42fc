/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A JSON-RPC client for tests: blocking, one JSON text per line, every wait with a deadline. What a
 * test asked for and did not get fails the test with the whole reply in the message. Parameters are
 * given as jansson's json_pack formats ("{s:s, s:i}"); a NULL format means no parameters.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define CALL_TIMEOUT_MS 180000 /* emulated guests on a busy machine, sanitizers */

struct client {
	int fd;
	char *buffer; /* received, not yet taken */
	size_t len, cap;
	unsigned next_id;
	json_t *events; /* array of the params of "event" notifications, oldest first */
	int fds[8];     /* descriptors that came with the last reply, owned until the next call */
	size_t n_fds;
};

/* The error of a refused call. */
struct refusal {
	int code;
	char kind[32], message[512], field[128], hint[256];
};

/* Connects; -1 in c->fd and false when nobody listens. */
bool client_open(struct client *c, const char *socket_path);
/* Takes fd, which is connected already. */
void client_of_fd(struct client *c, int fd);
void client_close(struct client *c);

/* Calls and returns the result (new reference); an error reply fails the test. */
json_t *call(struct client *c, const char *method, const char *params, ...);
/* The same, and drops the result. */
void call_ok(struct client *c, const char *method, const char *params, ...);
/* Calls and fails the test unless the reply is an error of this kind. */
struct refusal call_refused(struct client *c, const char *kind, const char *method,
                            const char *params, ...);
/* Calls with params (stolen) and descriptors; the whole reply, whichever it is. */
json_t *call_raw(struct client *c, const char *method, json_t *params, const int *fds, size_t n);
/* The error in a whole reply; fails the test when it is a result. */
struct refusal refusal_of(const json_t *reply);

/* A member of a result by a path such as "engine.accel" or "disks.0.path", or NULL. */
json_t *member(const json_t *value, const char *path);
const char *member_str(const json_t *value, const char *path); /* fails the test when not there */
json_int_t member_int(const json_t *value, const char *path);

/* Sends bytes as they are. False when the peer has closed. */
bool client_send(struct client *c, const void *data, size_t len);
/*
 * The next message; events are put into c->events and skipped. NULL when the peer closed or nothing
 * came in time (*ret_closed tells which, may be NULL).
 */
json_t *client_read(struct client *c, int timeout_ms, bool *ret_closed);

/*
 * Takes events, in order, until one has this type and (when not NULL) this guest name and member
 * key == value in its data; returns it (new reference). Fails the test at the deadline.
 */
json_t *event_wait(struct client *c, const char *type, const char *vm, const char *key,
                   const char *value, int timeout_ms);
