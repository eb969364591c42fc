/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Help and version texts, all from the command table and the contract. */
#include "client/cmd.h"

/* Help of a command, of a noun (cmd NULL) or of vmctl (both NULL), on stdout. Exit code. */
int help_print(struct ctx *ctx, const struct command *noun, const struct command *cmd);
/* A noun without its verb: lists the verbs on stderr, returns EXIT_USAGE. */
int help_missing_verb(struct ctx *ctx);
/* Help of an API method from the contract; false if there is none of that name. */
bool help_method(struct ctx *ctx, const char *method);
int help_version(struct ctx *ctx);

int cmd_help(struct ctx *ctx);
int cmd_version(struct ctx *ctx);
int cmd_completion(struct ctx *ctx);
int cmd_complete(struct ctx *ctx);
