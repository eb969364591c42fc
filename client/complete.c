/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/help.h"
#include "common/jsonx.h"

/*
 * `vmctl __complete WORD...` prints what may stand in the place of the last word, one candidate
 * and its description per line with a tab between. The scripts of the shells are thin: verbs,
 * options and live VM names all come from here. Nothing is started and nothing waits for long.
 */
enum {
	WAIT_MS = 300
};

extern const char completion_bash[], completion_zsh[], completion_fish[];
extern const char completion_bash_end[], completion_zsh_end[], completion_fish_end[];

static void offer(const char *word, const char *prefix, const char *text)
{
	if (strncmp(word, prefix, strlen(prefix)) == 0)
		printf("%s\t%s\n", word, text);
}

static void offer_commands(const struct command *table, const char *prefix)
{
	for (const struct command *c = table; c->name; c++)
		if ((c->run || c->sub) && !(c->flags & CMD_HIDDEN))
			offer(c->name, prefix, c->summary);
}

static void offer_options(const struct option_def *options, const char *prefix)
{
	for (const struct option_def *o = options; o && o->name; o++) {
		char word[64];

		snprintf(word, sizeof(word), "--%s", o->name);
		offer(word, prefix, o->help);
	}
}

static json_t *ask(struct ctx *ctx, const char *method, json_t *params)
{
	json_t *result = NULL;

	if (ctx_connect_running(ctx) < 0 ||
	    rpc_call(ctx->rpc, method, params, WAIT_MS, &result, &ctx->err) < 0)
		return NULL;
	return result;
}

static void offer_rows(json_t *result, const char *list, const char *key, const char *text_key,
                       const char *prefix)
{
	json_t *row;
	size_t i;

	json_array_foreach(json_object_get(result, list), i, row)
		offer(jsonx_str(row, key, ""), prefix, jsonx_str(row, text_key, ""));
	json_decref(result);
}

static void offer_operand(struct ctx *ctx, const struct command *noun, const struct command *cmd,
                          const char *vm, size_t index, const char *prefix)
{
	const char *n = noun ? noun->name : "";

	if (cmd->flags & CMD_VMS && (index == 0 || cmd->flags & CMD_MANY))
		offer_rows(ask(ctx, "vm.list", xpack("{}")), "vms", "name", "state", prefix);
	else if (strcmp(n, "snapshot") == 0 && vm)
		offer_rows(ask(ctx, "snapshot.list", xpack("{s:s}", "vm", vm)), "snapshots", "name",
		           "description", prefix);
	else if (strcmp(n, "job") == 0)
		offer_rows(ask(ctx, "job.list", xpack("{}")), "jobs", "id", "method", prefix);
	else if (strcmp(n, "disk") == 0 && strcmp(cmd->name, "delete") == 0)
		offer_rows(ask(ctx, "disk.list", xpack("{}")), "disks", "name", "format", prefix);
	else if (cmd->run == cmd_completion)
		for (size_t i = 0; i < 3; i++)
			offer(((const char *const[]){ "bash", "zsh", "fish" })[i], prefix, "");
	else if (cmd->run == cmd_help)
		offer_commands(commands, prefix);
}

static const struct option_def *find_option(const struct command *cmd, const char *word)
{
	const struct option_def *tables[] = { cmd ? cmd->options : NULL,
		                              cmd && cmd->flags & CMD_MANY ? many_options : NULL,
		                              global_options };

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct option_def *o = tables[t]; o && o->name; o++)
			if ((word[1] == '-' && strcmp(o->name, word + 2) == 0) ||
			    (word[1] && !word[2] && o->letter == word[1]))
				return o;
	return NULL;
}

/* A value of the option is being typed: those with a fixed set of words. */
static void offer_values(const struct option_def *o, const char *prefix)
{
	static const struct {
		const char *option, *words[12];
	} sets[] = {
		{ "output", { "table", "json" } },
		{ "engine", { "auto", "kvm", "qemu" } },
		{ "arch", { "x86_64", "aarch64" } },
		{ "firmware", { "bios", "uefi" } },
		{ "display", { "none", "vnc" } },
		{ "state",
		  { "defined", "starting", "running", "paused", "suspending", "suspended",
		    "stopping", "stopped", "failed", "unresponsive" } },
		{ "for",
		  { "running", "paused", "stopped", "suspended", "kernel", "init", "login" } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		if (strcmp(sets[i].option, o->name) == 0)
			for (const char *const *w = sets[i].words; *w; w++)
				offer(*w, prefix, "");
}

/* Where the words before the last one lead. */
struct place {
	const struct command *noun, *cmd;
	const struct option_def *value_of; /* the last word is this option's value */
	const char *vm;                    /* the first operand */
	size_t operands;
};

static void walk_word(struct ctx *ctx, struct place *p, const char *word)
{
	if (p->value_of) {
		if (strcmp(p->value_of->name, "socket") == 0)
			ctx->socket = word;
		p->value_of = NULL;
		return;
	}
	if (word[0] == '-' && word[1]) {
		const struct option_def *o = strchr(word, '=') ? NULL : find_option(p->cmd, word);

		p->value_of = o && o->arg ? o : NULL;
		return;
	}
	if (p->cmd) {
		if (p->operands++ == 0)
			p->vm = word;
		return;
	}
	{
		const struct command *c =
			command_find(p->noun ? p->noun->sub : commands, word, false);

		if (c && c->sub)
			p->noun = c;
		else
			p->cmd = c;
	}
}

static void offer_all_options(const struct place *p, const char *prefix)
{
	if (p->cmd)
		offer_options(p->cmd->options, prefix);
	if (p->cmd && p->cmd->flags & CMD_MANY)
		offer_options(many_options, prefix);
	offer_options(global_options, prefix);
}

int cmd_complete(struct ctx *ctx)
{
	struct place p = { 0 };
	const char *prefix;

	if (ctx->args.n_names == 0)
		return EXIT_USAGE;
	for (size_t i = 0; i + 1 < ctx->args.n_names; i++)
		walk_word(ctx, &p, ctx->args.names[i]);
	prefix = ctx->args.names[ctx->args.n_names - 1];
	if (p.value_of)
		offer_values(p.value_of, prefix);
	else if (prefix[0] == '-')
		offer_all_options(&p, prefix);
	else if (p.cmd)
		offer_operand(ctx, p.noun, p.cmd, p.vm, p.operands, prefix);
	else
		offer_commands(p.noun ? p.noun->sub : commands, prefix);
	return EXIT_DONE;
}

int cmd_completion(struct ctx *ctx)
{
	static const struct {
		const char *shell, *text, *end;
	} scripts[] = {
		{ "bash", completion_bash, completion_bash_end },
		{ "zsh", completion_zsh, completion_zsh_end },
		{ "fish", completion_fish, completion_fish_end },
	};

	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		if (strcmp(scripts[i].shell, ctx->args.names[0]) != 0)
			continue;
		(void)fwrite(scripts[i].text, 1, (size_t)(scripts[i].end - scripts[i].text),
		             stdout);
		return EXIT_DONE;
	}
	return usage_error(ctx, "no completion for '%s'; there is bash, zsh and fish",
	                   ctx->args.names[0]);
}
