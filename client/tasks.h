/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Calls for one or many VMs at once over one connection: each VM goes through the steps of an
 * action; job methods are sent with "wait": false and then waited for, so that their progress can
 * be shown and ^C can leave them running.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct ctx;

struct step {
	const char *method; /* NULL ends the steps of an action */
	bool job;           /* x-job in the contract */
	/* Adds parameters beside "vm"; may be NULL. */
	void (*params)(struct ctx *ctx, json_t *params);
	enum error_kind forgive; /* an error of this kind counts as done */
};

struct action {
	const struct step *steps;
	const char *done;  /* "started", printed after the VM's name; NULL: the state it has then */
	const char *doing; /* "starting", for progress */
};

/*
 * Runs the action on the VMs that the command line names (several, globs, --label, --all) and
 * prints a line for each. Returns the exit code: all done, the one VM's failure, or partial.
 */
int action_run(struct ctx *ctx, const struct action *action);
/* As action_run for VM names given. */
int action_run_names(struct ctx *ctx, const struct action *action, char **names, size_t n,
                     bool many);

/*
 * The VMs that the command line names, in order and each once: *ret and its strings are the
 * caller's (targets_free). *ret_many: the answer is a set even if it holds one VM. 0, or an exit
 * code after printing why.
 */
int targets_resolve(struct ctx *ctx, char ***ret, size_t *ret_n, bool *ret_many);
void targets_free(char **names, size_t n);

/* Adds dry_run and if_generation from the command line. */
void add_change_params(struct ctx *ctx, json_t *params);

/* {"key": "value", ...} of all --label options, NULL if there is none. 0, or an exit code. */
int labels_read(struct ctx *ctx, json_t **ret);
