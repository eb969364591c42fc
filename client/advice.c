/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/handlers.h"

/*
 * Words that mean one thing in one tool and another in the next are never guessed: "destroy" pulls
 * the plug in virsh and deletes elsewhere.
 */
int cmd_destroy(struct ctx *ctx)
{
	const char *name = ctx->args.n_names == 1 ? ctx->args.names[0] : "NAME";

	fputs("vmctl: 'destroy' means two things; say which:\n", stderr);
	fprintf(stderr, "  vmctl kill %s      end it at once, as if the plug were pulled\n", name);
	fprintf(stderr, "  vmctl delete %s    remove it for good; disks stay\n", name);
	return EXIT_USAGE;
}

int cmd_load(struct ctx *ctx)
{
	(void)ctx;
	fputs("vmctl: there is no 'load'\n", stderr);
	print_hint("`vmctl apply -f FILE` creates and changes VMs, `vmctl daemon reload` reads "
	           "vmd.conf again");
	return EXIT_USAGE;
}

int cmd_elsewhere(struct ctx *ctx)
{
	static const char *const words[][2] = {
		{ "define", "vmctl create NAME -f FILE" },
		{ "undefine", "vmctl delete NAME" },
		{ "save", "vmctl suspend NAME, or vmctl snapshot create NAME SNAPSHOT" },
		{ "restore", "vmctl snapshot restore NAME SNAPSHOT" },
		{ "reload", "vmctl daemon reload" },
		{ "monitor", "vmctl events, or vmctl qmp NAME COMMAND for the engine's monitor" },
		{ "doctor", "vmctl host doctor" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(ctx->cmd->name, words[i][0]) == 0)
			fprintf(stderr, "vmctl: '%s' is called: %s\n", words[i][0], words[i][1]);
	return EXIT_USAGE;
}
