/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/handlers.h"
#include "client/tasks.h"

static void stop_params(struct ctx *ctx, json_t *params)
{
	uint64_t limit;

	if (args_has(&ctx->args, "force"))
		xset(params, "timeout_ms", json_integer(0));
	else if (args_duration(&ctx->args, "timeout", &limit, NULL) > 0)
		xset(params, "timeout_ms", json_integer((json_int_t)limit));
	if (args_has(&ctx->args, "soft"))
		xset(params, "force", json_false());
}

/* A call that is no job is limited by --timeout itself; jobs are limited while they are waited
 * for. */
static void limit_params(struct ctx *ctx, json_t *params)
{
	uint64_t limit;

	if (args_duration(&ctx->args, "timeout", &limit, NULL) > 0)
		xset(params, "timeout_ms", json_integer((json_int_t)limit));
}

int cmd_start(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.start", .job = true }, { 0 } };
	static const struct action action = { steps, "started", "starting" };
	char **names;
	size_t n;
	bool many;
	int code;

	if (!args_has(&ctx->args, "console"))
		return action_run(ctx, &action);
	if (args_has(&ctx->args, "no-wait") || args_has(&ctx->args, "dry-run"))
		return usage_error(ctx, "--console waits for the start");
	code = console_check_options(ctx);
	if (code == 0)
		code = targets_resolve(ctx, &names, &n, &many);
	if (code)
		return code;
	if (n != 1)
		code = usage_error(ctx, "--console goes with one VM, not with %zu", n);
	else
		code = action_run_names(ctx, &action, names, n, many);
	if (code == 0)
		code = console_attach(ctx, names[0]);
	targets_free(names, n);
	return code;
}

int cmd_stop(struct ctx *ctx)
{
	static const struct step steps[] = {
		{ .method = "vm.stop", .job = true, .params = stop_params },
		{ 0 },
	};
	static const struct action action = { steps, "stopped", "stopping" };

	if (args_has(&ctx->args, "force") && args_has(&ctx->args, "soft"))
		return usage_error(ctx, "--force and --soft exclude each other");
	return action_run(ctx, &action);
}

int cmd_restart(struct ctx *ctx)
{
	/* A VM that does not run has nothing to be stopped: it starts. */
	static const struct step steps[] = {
		{ .method = "vm.stop",
		  .job = true,
		  .params = stop_params,
		  .forgive = ERROR_WRONG_STATE },
		{ .method = "vm.start", .job = true },
		{ 0 },
	};
	static const struct action action = { steps, "restarted", "restarting" };

	return action_run(ctx, &action);
}

int cmd_kill(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.kill", .params = limit_params },
		                             { 0 } };
	static const struct action action = { steps, "killed", "killing" };

	return action_run(ctx, &action);
}

int cmd_reset(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.reset", .params = limit_params },
		                             { 0 } };
	static const struct action action = { steps, "reset", "resetting" };

	return action_run(ctx, &action);
}

int cmd_pause(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.pause", .params = limit_params },
		                             { 0 } };
	static const struct action action = { steps, "paused", "pausing" };

	return action_run(ctx, &action);
}

int cmd_resume(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.resume", .job = true }, { 0 } };
	static const struct action action = { steps, "resumed", "resuming" };

	return action_run(ctx, &action);
}

int cmd_suspend(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.suspend", .job = true }, { 0 } };
	static const struct action action = { steps, "suspended", "suspending" };

	return action_run(ctx, &action);
}

static void wait_params(struct ctx *ctx, json_t *params)
{
	const char *what = args_str(&ctx->args, "for");

	if (what)
		xset(params, "for", xstring(what));
	limit_params(ctx, params);
}

int cmd_wait(struct ctx *ctx)
{
	static const struct step steps[] = { { .method = "vm.wait", .params = wait_params },
		                             { 0 } };
	const char *what = args_str(&ctx->args, "for");
	/* "stopped" comes true in several states, which are told; readiness is none. */
	bool is_state = !what || strcmp(what, "stopped") == 0;
	struct action action = { steps, is_state ? NULL : what, "waiting for" };

	return action_run(ctx, &action);
}
