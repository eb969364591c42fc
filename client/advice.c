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

/* What other tools call it, and how it is done here. */
static const char *const elsewhere[][2] = {
	{ "define", "vmctl create NAME -f FILE" },
	{ "undefine", "vmctl delete NAME" },
	{ "save", "vmctl suspend NAME, or vmctl snapshot create NAME SNAPSHOT" },
	{ "managedsave", "vmctl suspend NAME" },
	{ "restore", "vmctl snapshot restore NAME SNAPSHOT" },
	{ "reload", "vmctl daemon reload" },
	{ "monitor", "vmctl events, or vmctl qmp NAME COMMAND for the engine's monitor" },
	{ "event", "vmctl events" },
	{ "qemu-monitor-command", "vmctl qmp NAME COMMAND" },
	{ "query", "vmctl call METHOD" },
	{ "doctor", "vmctl host doctor" },
	{ "nodeinfo", "vmctl host info" },
	{ "dominfo", "vmctl status NAME" },
	{ "domstate", "vmctl list NAME --fields state" },
	{ "domstats", "vmctl stats NAME" },
	{ "dumpxml", "vmctl info NAME, which is JSON" },
	{ "config", "vmctl info NAME, and vmctl set or edit to change it" },
	{ "setmem", "vmctl set NAME memory=SIZE" },
	{ "setvcpus", "vmctl set NAME cpus=N" },
	{ "autostart", "vmctl set NAME autostart.enabled=true" },
	{ "enable", "vmctl set NAME autostart.enabled=true" },
	{ "disable", "vmctl set NAME autostart.enabled=false" },
	{ "protect", "vmctl set NAME protect.delete=true" },
	{ "unprotect", "vmctl set NAME protect=null" },
	{ "attach-disk", "vmctl set NAME disks.0.path=FILE disks.0.format=raw, then restart" },
	{ "vol-create", "vmctl disk create DISK SIZE" },
	{ "login", "vmctl console NAME" },
	{ "shell", "vmctl console NAME" },
};

int cmd_elsewhere(struct ctx *ctx)
{
	for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
		if (strcmp(ctx->cmd->name, elsewhere[i][0]) == 0)
			fprintf(stderr, "vmctl: '%s' is called: %s\n", elsewhere[i][0],
			        elsewhere[i][1]);
	return EXIT_USAGE;
}

/* What other tools do and this one does not: said so, instead of a guess at a word like it. */
int cmd_absent(struct ctx *ctx)
{
	static const char *const absent[][2] = {
		{ "send", "VMs cannot move to another host" },
		{ "receive", "VMs cannot move to another host" },
		{ "migrate", "VMs cannot move to another host" },
		{ "clone", "VMs cannot be cloned; `vmctl info NAME --fields definition` tells what "
		           "to create another one of" },
		{ "exec", "there is no agent in the guest; `vmctl console NAME` is its terminal" },
		{ "copy", "there is no agent in the guest; --share of create shares a directory" },
		{ "file", "there is no agent in the guest; --share of create shares a directory" },
		{ "image", "there are no images; `vmctl disk` has managed disks" },
		{ "network", "there are no managed networks; --nic of create has user and tap" },
		{ "detach", "devices stay while the VM runs; `vmctl set` changes the next start" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		if (strcmp(ctx->cmd->name, absent[i][0]) == 0)
			fprintf(stderr, "vmctl: there is no '%s': %s\n", absent[i][0],
			        absent[i][1]);
	return EXIT_USAGE;
}
