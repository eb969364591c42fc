/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/contractview.h"
#include "client/definition.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/help.h"
#include "client/output.h"
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

/* Fields of a definition: "memory=", and "boot." for what has fields itself. */
static void offer_fields(const char *prefix)
{
	const char *dot = strrchr(prefix, '.');
	cleanup_free char *head = dot ? strndup(prefix, (size_t)(dot - prefix)) : xstrdup("");
	const json_t *schema;
	const char *key;
	json_t *field;

	if (!head)
		die_no_memory();
	schema = contract_resolve(contract_schema_find("VmDefinition", head));
	json_object_foreach(json_object_get(schema, "properties"), key, field) {
		const json_t *target = contract_resolve(field);
		bool object = json_object_get(target, "properties") != NULL;
		cleanup_free char *word =
			xasprintf("%s%s%s%s", head, *head ? "." : "", key, object ? "." : "=");

		offer(word, prefix,
		      jsonx_str(field, "description", jsonx_str(target, "description", "")));
	}
}

static void offer_methods(const char *prefix)
{
	json_t *method;
	size_t i;

	json_array_foreach(json_object_get(contract_document(), "methods"), i, method)
		offer(jsonx_str(method, "name", ""), prefix, jsonx_str(method, "summary", ""));
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
	else if (cmd->run == cmd_set && vm)
		offer_fields(prefix);
	else if (cmd->run == cmd_help && index == 0) {
		offer_commands(commands, prefix);
		offer_methods(prefix);
	} else if (cmd->run == cmd_call && index == 0) {
		offer_methods(prefix);
	}
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

/* Labels that VMs have, each once. */
static void offer_labels(struct ctx *ctx, const char *head, const char *prefix)
{
	cleanup_json json_t *seen = xpack("{}"), *result = NULL;
	const char *key;
	json_t *vm, *value;
	size_t i;

	result = ask(ctx, "vm.list", xpack("{s:[s]}", "fields", "definition"));
	json_array_foreach(json_object_get(result, "vms"), i, vm) {
		json_object_foreach((json_t *)(uintptr_t)json_path(vm, "definition.labels"), key,
		                    value) {
			cleanup_free char *word =
				xasprintf("%s%s=%s", head, key, json_string_value(value));

			if (!json_object_get(seen, word))
				offer(word, prefix, "");
			xset(seen, word, json_true());
		}
	}
}

/* A value of the option is being typed: live names, or those with a fixed set of words. head stands
 * before each: "--output=", or nothing. */
static void offer_values(struct ctx *ctx, const struct command *cmd, const struct option_def *o,
                         const char *head, const char *prefix)
{
	static const struct {
		const char *option, *words[12];
	} sets[] = {
		{ "output", { "table", "json" } },
		{ "engine", { "auto", "kvm", "qemu" } },
		{ "arch", { "x86_64", "aarch64" } },
		{ "firmware", { "bios", "uefi" } },
		{ "display", { "none", "vnc" } },
		{ "console", { "serial", "virtio", "on", "off" } },
		{ "tpm", { "off", "on", "tis", "crb" } },
		{ "nic", { "user", "tap", "none" } },
		{ "rng", { "on", "off" } },
		{ "watchdog", { "on", "off" } },
		{ "test-device", { "on", "off" } },
		{ "balloon", { "on", "off", "deflate_on_oom", "free_page_reporting" } },
		{ "autostart", { "on", "off" } },
		{ "restart", { "no", "on-failure", "always" } },
		{ "protect", { "delete", "stop", "delete,stop" } },
		{ "on-reboot", { "restart", "stop" } },
		{ "on-poweroff", { "stop", "restart" } },
		{ "on-panic", { "stop", "restart", "pause" } },
		{ "on-watchdog", { "restart", "stop", "pause", "none" } },
		{ "on-host-shutdown", { "stop", "suspend", "kill", "leave" } },
		{ "for",
		  { "running", "paused", "stopped", "suspended", "kernel", "init", "login" } },
	};
	static const char *const vm_states[] = { "defined",      "starting",   "running",
		                                 "paused",       "suspending", "suspended",
		                                 "stopping",     "stopped",    "failed",
		                                 "unresponsive", NULL };
	static const char *const job_states[] = { "running", "done", "failed", "cancelled", NULL };
	static const char *const disks[] = { "qcow2", "raw", NULL };
	static const char *const pictures[] = { "png", "ppm", NULL };
	const char *const *words = NULL;

	if (strcmp(o->name, "label") == 0 && cmd && cmd->options != create_options)
		offer_labels(ctx, head, prefix);
	if (strcmp(o->name, "vm") == 0)
		offer_rows(ask(ctx, "vm.list", xpack("{}")), "vms", "name", "state", prefix);
	if (strcmp(o->name, "state") == 0)
		words = cmd && cmd->run == cmd_job_list ? job_states : vm_states;
	if (strcmp(o->name, "format") == 0)
		words = cmd && cmd->run == cmd_screenshot ? pictures : disks;
	for (size_t i = 0; i < ARRAY_SIZE(sets) && !words; i++)
		if (strcmp(sets[i].option, o->name) == 0 && o->arg)
			words = sets[i].words;
	for (; words && *words; words++) {
		cleanup_free char *word = xasprintf("%s%s", head, *words);

		offer(word, prefix, "");
	}
}

/* "--output=j" in one word. */
static void offer_assigned(struct ctx *ctx, const struct command *cmd, const char *word)
{
	size_t len = strcspn(word, "=");
	cleanup_free char *name = strndup(word, len), *head = strndup(word, len + 1);
	const struct option_def *o;

	if (!name || !head)
		die_no_memory();
	o = find_option(cmd, name);
	if (o && o->arg)
		offer_values(ctx, cmd, o, head, word);
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
		if (strcmp(word, "=") == 0) /* bash makes three words of --output=json */
			return;
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
		offer_values(ctx, p.cmd, p.value_of, "", strcmp(prefix, "=") == 0 ? "" : prefix);
	else if (strncmp(prefix, "--", 2) == 0 && strchr(prefix, '='))
		offer_assigned(ctx, p.cmd, prefix);
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
