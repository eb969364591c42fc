/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The commands of vmctl: one table, from which parsing, help, completion and the test of the manual
 * page come. A handler returns an exit code; errors it has printed itself (ctx_fail and friends).
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "client/args.h"
#include "client/rpcclient.h"
#include "common/error.h"

enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_PARTIAL = 2,     /* some of several VMs failed */
	EXIT_NO_SUCH = 3,     /* no such VM, snapshot, job or disk */
	EXIT_STATE = 4,       /* wrong state for this */
	EXIT_DENIED = 5,      /* no right to do this */
	EXIT_TIMEOUT = 6,     /* a limit passed */
	EXIT_AWAY = 7,        /* vmd does not answer */
	EXIT_USAGE = 64,      /* wrong command line */
	EXIT_INTERRUPT = 130, /* ^C */
};

enum format {
	FORMAT_TABLE,
	FORMAT_JSON,
};

struct ctx;

enum command_flags {
	CMD_VMS = 1 << 0,    /* operands are VM names (completion) */
	CMD_MANY = 1 << 1,   /* several names, globs, --label and --all */
	CMD_HIDDEN = 1 << 2, /* in neither help nor completion */
	CMD_ADVICE = 1 << 3  /* a word of another tool, answered with advice whatever follows */
};

struct command {
	const char *name;
	const char *aliases;              /* words with spaces between, or NULL */
	const char *operands;             /* as shown in the synopsis, or "" */
	const char *summary;              /* one line */
	const char *details;              /* paragraphs for `help VERB`, or NULL */
	const struct option_def *options; /* may be NULL */
	const struct command *sub;        /* noun commands: the verbs, ended by a NULL name */
	signed char min_args, max_args;   /* operands; -1: any number */
	unsigned flags;
	int (*run)(struct ctx *ctx);
};

/* The table, in the order of help, ended by a NULL name; a row with no run and no sub is a heading
 * whose summary is the title. */
extern const struct command commands[];
/* Options that every command takes. */
extern const struct option_def global_options[];
/* Added to commands with CMD_MANY. */
extern const struct option_def many_options[];

struct ctx {
	const struct command *noun; /* the noun of a noun command, else NULL */
	const struct command *cmd;
	struct args args;
	struct rpc *rpc; /* NULL until ctx_connect() */
	const char *socket;
	enum format format;
	bool quiet;
	bool out_tty, err_tty;
	bool prefixes; /* a person types: unique prefixes are accepted */
	struct vmd_error err;
	json_t *api_error; /* the error object of the last job that failed, or NULL */
};

/* Connects (starting a session daemon where that applies); the same connection on every call. */
int ctx_connect(struct ctx *ctx) MUST_CHECK;

/* As ctx_connect, but starts no daemon. */
int ctx_connect_running(struct ctx *ctx) MUST_CHECK;

/*
 * One call: connects if needed, steals params (NULL: none), waits for the reply. *ret_result is a
 * new reference. 0, or negative errno with ctx->err (and rpc_error(ctx->rpc)).
 */
int ctx_call(struct ctx *ctx, const char *method, json_t *params, json_t **ret_result) MUST_CHECK;

/*
 * As ctx_call for a method that is a job: shows progress at a terminal, and ^C leaves the job
 * running and says how to follow it (then -EINTR).
 */
int ctx_call_job(struct ctx *ctx, const char *method, json_t *params,
                 json_t **ret_result) MUST_CHECK;

/* Waits for a job that is there, with progress as above; *ret_job is the job in its end state. */
int ctx_wait_job(struct ctx *ctx, const char *id, json_t **ret_job) MUST_CHECK;

/*
 * Prints ctx->err as "vmctl: <what>: why" with its hint (what may be NULL) and returns the exit
 * code for r and the error's kind. With -o json the API's error goes to stdout too.
 */
int ctx_fail(struct ctx *ctx, int r, const char *what, ...) PRINTF_LIKE(3, 4);
/* The API's error object of the last call that failed (borrowed), or NULL: it was our own finding.
 */
const json_t *ctx_api_error(const struct ctx *ctx);
/* An error of our own as the API would tell it. New reference. */
json_t *error_to_json(const struct vmd_error *err);
/* The exit code alone. */
int exit_code_of(int r, const struct vmd_error *err);
/* "vmctl: text" and where to read more; returns EXIT_USAGE. */
int usage_error(struct ctx *ctx, const char *format, ...) PRINTF_LIKE(2, 3);
/* "hint: text" on stderr. */
void print_hint(const char *format, ...) PRINTF_LIKE(1, 2);
void print_error(const struct vmd_error *err, const char *what);

/* Finds a command by name or alias; with prefixes also by unique prefix. NULL if there is none. */
const struct command *command_find(const struct command *table, const char *word, bool prefixes);
/* The nearest name or alias in the table, or NULL. */
const char *command_nearest(const struct command *table, const char *word);

/* What every handler prints about a change done: "NAME: done" unless -q; -o json the result. */
int ctx_done(struct ctx *ctx, const json_t *result, const char *format, ...) PRINTF_LIKE(3, 4);

/* vmctl but for main(): parses, runs, returns the exit code. Used by tests too. */
int vmctl_main(int argc, char **argv);
