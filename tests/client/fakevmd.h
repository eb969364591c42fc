/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A vmd of a few lines for the tests of vmctl: a child process that answers each method with what
 * the test says, and keeps what it was asked. And a runner for vmctl itself.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "tests/client/expect.h"

struct fake_rule {
	const char *method; /* NULL ends the rules */
	/*
	 * JSON of the result; with a leading '!' of the error; with a leading '~' events (an array
	 * of params) that are sent before the result, which follows on the next line. The n-th
	 * call of a method gets its n-th rule, further ones the last.
	 */
	const char *reply;
	const char
		*stream; /* text that goes over a descriptor with the reply; then echo until EOF */
	bool silent;     /* never answers */
};

struct fake {
	char dir[64], socket[80], log[80];
	pid_t pid;
};

/* Starts it, listening; ends with the test. */
void fake_start(struct fake *f, const struct fake_rule *rules);
void fake_stop(struct fake *f);
/* The requests so far, in order: an array of {"method", "params"} (new reference). */
json_t *fake_requests(struct fake *f);
/* params of the n-th request of a method (borrowed from *all); fails the test if there is none. */
const json_t *fake_params(const json_t *all, const char *method, size_t n);

struct outcome {
	int code; /* exit code, or -signal */
	char *out, *err;
};

/* How long vmctl may take; 10 s unless a test says otherwise. */
extern int vmctl_limit_ms;

/*
 * Runs vmctl with these arguments (ended by NULL), input on stdin (NULL: /dev/null), against f
 * (NULL: VMD_SOCKET not set). Neither output is a terminal.
 */
struct outcome vmctl(struct fake *f, const char *input, ...) __attribute__((sentinel));
void outcome_free(struct outcome *o);

/* Starts vmctl on a pseudo-terminal: *ret_fd is its other side. */
pid_t vmctl_on_tty(struct fake *f, int *ret_fd, ...) __attribute__((sentinel));
/* Reads from the terminal until text has come (in *buf, of len bytes); fails the test after 10 s.
 */
void tty_expect(int fd, const char *text, char *buf, size_t len);
/* The exit code (or -signal); fails the test when it does not end in time. */
int wait_exit(pid_t pid);
