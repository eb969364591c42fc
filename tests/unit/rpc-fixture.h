/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The API server over a socketpair, without guests, with a store and an event hub that live in
 * memory. One thread: the client's side is driven by turning the loop.
 */
#include <ev.h>
#include <jansson.h>

#include "daemon/auth.h"
#include "daemon/vmd.h"

extern struct vmd vmd;
extern json_t *stored;          /* "kind/id" -> value of what was committed */
extern unsigned commits;        /* transactions made durable */
extern bool store_is_full;      /* commits fail */
extern unsigned delivered;      /* events taken by subscribers */
extern unsigned refused;        /* events that a subscriber had no room for */
extern int calls_of_create;     /* times the handler of vm.create ran */
extern char handler_trace[512]; /* what handlers did, in order */

void rpc_setup(void);
void rpc_teardown(void);
/* A new connection with a role; the client's end. */
int connect_as(enum role role);
void send_text(int fd, const char *text);
void send_fds(int fd, const char *text, const int *fds, size_t n);
/* Turns the loop once without sleeping. */
void turn(void);
/* Turns the loop until a line came, and returns it parsed; NULL: the connection ended. */
json_t *next_reply(int fd);
/* Turns the loop until the connection ended; all that came before, NUL-terminated, to be freed. */
char *read_to_end(int fd);
/* Turns the loop until text came; all that came so far, to be freed. */
char *read_until(int fd, const char *text);
/* Sends one line and returns its reply. */
json_t *ask(int fd, const char *line);
/* Asserts that the reply has this error kind. */
void expect_kind(json_t *reply, const char *kind);
/* Asserts that no reply is there after some turns. */
void expect_silence(int fd);
unsigned open_fds(void);
/* Publishes an event to all subscriptions. */
void publish(const char *text);
