/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/tasks.h"

#include <signal.h>
#include <string.h>

#include "client/cmd.h"
#include "client/die.h"
#include "client/output.h"
#include "client/progress.h"
#include "client/results.h"
#include "client/term.h"
#include "common/jsonx.h"
#include "common/parse.h"

enum {
	IN_FLIGHT = 16, /* calls on their way at a time */
	TICK_MS = 250,  /* how often progress is redrawn when nothing arrives */
};

struct task {
	const char *vm; /* NULL: the call names no VM */
	json_t *params; /* of a single call; else NULL and built per step */
	const struct step *step;
	int64_t id;          /* request on its way, 0 if none */
	char *job;           /* id of the job being waited for, or NULL */
	const char *watched; /* the same when the call itself waits for it */
	json_t *result;
	json_t *error; /* the API's error object, or NULL when the client made it */
	struct vmd_error err;
	int r;
	bool finished;
	struct progress_state progress;
};

struct run {
	struct ctx *ctx;
	struct task *tasks;
	size_t n, next, in_flight, finished;
	struct progress *progress;
	void (*on_finished)(struct ctx *ctx, struct task *t, const void *userdata);
	const void *userdata;
};

void add_change_params(struct ctx *ctx, json_t *params)
{
	uint64_t generation;

	if (args_has(&ctx->args, "dry-run"))
		xset(params, "dry_run", json_true());
	if (args_number(&ctx->args, "if-generation", &generation, NULL) > 0)
		xset(params, "if_generation", json_integer((json_int_t)generation));
}

static const char *job_of(const struct task *t)
{
	return t->job ? t->job : t->watched;
}

static json_t *step_params(struct run *run, struct task *t)
{
	json_t *p = t->params ? json_incref(t->params) : xpack("{s:s}", "vm", t->vm);

	add_change_params(run->ctx, p);
	if (t->step->params)
		t->step->params(run->ctx, p);
	if (t->step->job)
		xset(p, "wait", json_false());
	return p;
}

static void finish(struct run *run, struct task *t, int r)
{
	t->r = r;
	t->finished = true;
	run->finished++;
	progress_clear(run->progress);
	if (run->on_finished)
		run->on_finished(run->ctx, t, run->userdata);
}

/* Sends the call of the task's step, or job.wait when its job is known. */
static int send_task(struct run *run, struct task *t)
{
	struct ctx *ctx = run->ctx;
	int64_t id;

	if (t->job) {
		json_t *p = xpack("{s:s}", "job", t->job);
		uint64_t limit;

		if (args_duration(&ctx->args, "timeout", &limit, NULL) > 0 &&
		    strcmp(t->step->method, "vm.stop") != 0)
			xset(p, "timeout_ms", json_integer((json_int_t)limit));
		id = rpc_send(ctx->rpc, "job.wait", p, NULL, 0, &ctx->err);
	} else {
		id = rpc_send(ctx->rpc, t->step->method, step_params(run, t), NULL, 0, &ctx->err);
	}
	if (id < 0)
		return (int)id;
	t->id = id;
	return 0;
}

static struct task *find_task(struct run *run, int64_t id)
{
	for (size_t i = 0; i < run->n; i++)
		if (run->tasks[i].id == id)
			return &run->tasks[i];
	return NULL;
}

static void take_error(struct task *t, const json_t *error)
{
	json_decref(t->error);
	t->error = json_incref((json_t *)(uintptr_t)error);
}

/* A step has succeeded (or is forgiven): on to the next one, or done. */
static int step_done(struct run *run, struct task *t, json_t *result)
{
	json_decref(t->result);
	t->result = result;
	free(t->job);
	t->job = NULL;
	t->err = (struct vmd_error)VMD_ERROR_INIT;
	json_decref(t->error);
	t->error = NULL;
	t->id = 0;
	if (t->step[1].method && !t->params) {
		t->step++;
		return send_task(run, t);
	}
	run->in_flight--;
	finish(run, t, 0);
	return 0;
}

static int step_failed(struct run *run, struct task *t, int r)
{
	if (t->step->forgive != ERROR_NONE && t->err.kind == t->step->forgive)
		return step_done(run, t, xpack("{}"));
	t->id = 0;
	run->in_flight--;
	finish(run, t, r);
	return 0;
}

/* The reply of job.wait: the job in its end state. */
static int job_ended(struct run *run, struct task *t, const json_t *job)
{
	const char *state = jsonx_str(job, "state", "");
	const json_t *error = json_object_get(job, "error");
	json_t *result = json_object_get(job, "result");

	if (strcmp(state, "done") == 0)
		return step_done(run, t, result ? json_incref(result) : json_null());
	if (json_is_object(error)) {
		take_error(t, error);
		return step_failed(run, t, rpc_error_read(error, &t->err));
	}
	return step_failed(run, t,
	                   error_set(&t->err, ERROR_CANCELLED, "job %s is %s", t->job,
	                             *state ? state : "lost"));
}

static int handle_reply(struct run *run, struct task *t, json_t *message)
{
	cleanup_json json_t *result = NULL;
	const json_t *job;
	int r;

	t->err = (struct vmd_error)VMD_ERROR_INIT;
	r = rpc_result(run->ctx->rpc, message, &result, &t->err);
	if (r < 0) {
		take_error(t, rpc_error(run->ctx->rpc));
		if (t->job && t->err.kind == ERROR_TIMEOUT)
			error_hint(&t->err, "job %s goes on; `vmctl job wait %s` follows it",
			           t->job, t->job);
		return step_failed(run, t, r);
	}
	if (t->job)
		return job_ended(run, t, result);
	job = t->step->job ? json_object_get(result, "job") : NULL;
	if (!json_is_object(job) || args_has(&run->ctx->args, "no-wait"))
		return step_done(run, t, TAKE_PTR(result));
	t->job = xstrdup(jsonx_str(job, "id", ""));
	return send_task(run, t);
}

/* Tells about jobs that nobody waits for any more, after ^C or when vmd has gone. */
static void tell_left(struct run *run, const char *what)
{
	progress_clear(run->progress);
	for (size_t i = 0; i < run->n; i++) {
		struct task *t = &run->tasks[i];

		if (t->finished || !job_of(t))
			continue;
		fprintf(stderr, "vmctl: job %s%s%s %s\n", job_of(t), t->vm ? " of " : "",
		        t->vm ? t->vm : "", what);
		print_hint("`vmctl job wait %s` follows it, `vmctl job cancel %s` ends it",
		           job_of(t), job_of(t));
	}
}

static void on_notify(void *userdata, const char *method, const json_t *params)
{
	struct run *run = userdata;
	const json_t *data = json_object_get(params, "data");
	const char *job = jsonx_str(data, "job", jsonx_str(data, "id", NULL));

	if (strcmp(method, "event") != 0 || !job)
		return;
	for (size_t i = 0; i < run->n; i++)
		if (job_of(&run->tasks[i]) && strcmp(job_of(&run->tasks[i]), job) == 0)
			progress_read(&run->tasks[i].progress, data);
}

static void draw(struct run *run)
{
	const struct task *shown = NULL;

	for (size_t i = 0; i < run->n && !shown; i++)
		if (run->tasks[i].id && !run->tasks[i].finished)
			shown = &run->tasks[i];
	if (shown)
		progress_draw(run->progress, shown->vm, run->finished, run->n, &shown->progress);
}

static int handle_message(struct run *run, int64_t id, json_t *message)
{
	struct task *t = id ? find_task(run, id) : NULL;
	cleanup_json json_t *ignored = NULL;

	if (t)
		return handle_reply(run, t, message);
	/* Id null: vmd could not read a request. Any other: the subscription. */
	return id ? 0 : rpc_result(run->ctx->rpc, message, &ignored, &run->ctx->err);
}

static int run_loop(struct run *run)
{
	struct ctx *ctx = run->ctx;

	while (run->finished < run->n) {
		cleanup_json json_t *message = NULL;
		struct vmd_error err = VMD_ERROR_INIT;
		int64_t id = 0;
		int r;

		while (run->next < run->n && run->in_flight < IN_FLIGHT) {
			r = send_task(run, &run->tasks[run->next]);
			if (r < 0)
				return r;
			run->next++;
			run->in_flight++;
		}
		r = rpc_receive(ctx->rpc, run->progress ? TICK_MS : -1, &id, &message, &err);
		draw(run);
		if (r == -ETIMEDOUT && run->progress)
			continue;
		if (r < 0) {
			ctx->err = err;
			return r;
		}
		r = handle_message(run, id, message);
		if (r < 0)
			return r;
	}
	return 0;
}

static void on_sigint(int sig UNUSED)
{
	rpc_interrupted = 1;
}

/* Progress is shown when a person can see it and jobs are at work. */
static int begin_progress(struct run *run, const char *doing)
{
	struct ctx *ctx = run->ctx;
	int64_t id;

	if (!ctx->err_tty || ctx->quiet)
		return 0;
	run->progress = progress_new(doing);
	rpc_on_notify(ctx->rpc, on_notify, run);
	id = rpc_send(ctx->rpc, "events.subscribe",
	              xpack("{s:{s:[s]}}", "filter", "types", "job.progress"), NULL, 0, &ctx->err);
	return id < 0 ? (int)id : 0;
}

static int run_tasks(struct run *run, const char *doing)
{
	struct sigaction action = { .sa_handler = on_sigint }, saved;
	sigset_t sigint, mask;
	bool jobs = false;
	int r = ctx_connect(run->ctx);

	if (r < 0)
		return r;
	for (const struct step *s = run->tasks[0].step; s->method; s++)
		jobs |= s->job || run->tasks[0].watched;
	if (jobs)
		r = begin_progress(run, doing);
	rpc_interrupted = term_ended() != 0; /* not of an earlier step of the same command */
	sigemptyset(&sigint);
	sigaddset(&sigint, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &sigint, &mask);
	(void)sigaction(SIGINT, &action, &saved);
	if (!rpc_wait_mask)
		rpc_wait_mask = &mask;
	if (r == 0)
		r = run_loop(run);
	if (rpc_wait_mask == &mask)
		rpc_wait_mask = NULL;
	(void)sigaction(SIGINT, &saved, NULL);
	(void)sigprocmask(SIG_SETMASK, &mask, NULL);
	/* Who catches the end (run --rm) ends the jobs, too. */
	if (r == -ENOTCONN || (r == -EINTR && !term_wait_mask()))
		tell_left(run, r == -EINTR ? "goes on" : "may go on");
	progress_free(run->progress);
	run->progress = NULL;
	rpc_on_notify(run->ctx->rpc, NULL, NULL);
	return r;
}

static void task_deinit(struct task *t)
{
	json_decref(t->params);
	json_decref(t->result);
	json_decref(t->error);
	free(t->job);
}

static int run_one(struct ctx *ctx, struct task *t, const char *doing, json_t **ret_result)
{
	struct run run = { .ctx = ctx, .tasks = t, .n = 1 };
	int r = run_tasks(&run, doing);

	if (r == 0) {
		r = t->r;
		ctx->err = t->err;
		*ret_result = TAKE_PTR(t->result);
	}
	json_decref(ctx->api_error);
	ctx->api_error = TAKE_PTR(t->error);
	task_deinit(t);
	return r;
}

/* "taking the snapshot", for the progress of a method. */
static const char *doing_what(const char *method)
{
	static const char *const words[][2] = {
		{ "snapshot.create", "taking the snapshot" },
		{ "snapshot.restore", "restoring the snapshot" },
		{ "snapshot.delete", "deleting the snapshot" },
		{ "disk.create", "making the disk" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(words[i][0], method) == 0)
			return words[i][1];
	return method;
}

int ctx_call_job(struct ctx *ctx, const char *method, json_t *params, json_t **ret_result)
{
	const struct step steps[] = { { .method = method, .job = true }, { 0 } };
	struct task t = { .params = params, .step = steps };

	return run_one(ctx, &t, doing_what(method), ret_result);
}

int ctx_wait_job(struct ctx *ctx, const char *id, json_t **ret_job)
{
	static const struct step steps[] = { { .method = "job.wait" }, { 0 } };
	json_t *params = xpack("{s:s}", "job", id);
	struct task t = { .params = params, .step = steps, .watched = id };
	uint64_t limit;

	if (args_duration(&ctx->args, "timeout", &limit, NULL) > 0)
		xset(params, "timeout_ms", json_integer((json_int_t)limit));
	return run_one(ctx, &t, "waiting for the job", ret_job);
}

static void report(struct ctx *ctx, struct task *t, const void *userdata)
{
	const struct action *action = userdata;
	const char *would = args_has(&ctx->args, "dry-run") ? "would be " : "";

	if (t->r < 0) {
		cleanup_free char *what = xasprintf("'%s'", t->vm);

		print_error(&t->err, what);
		return;
	}
	if (ctx->quiet || ctx->format != FORMAT_TABLE)
		return;
	if (args_has(&ctx->args, "no-wait") && json_object_get(t->result, "job"))
		printf("%s: job %s\n", t->vm,
		       jsonx_str(json_object_get(t->result, "job"), "id", "?"));
	else
		printf("%s: %s%s\n", t->vm, would,
		       action->done ? action->done : jsonx_str(t->result, "state", "done"));
	fflush(stdout);
}

static int sum_up(const struct run *run, bool many)
{
	cleanup_results struct results rs;

	results_init(&rs, run->ctx, "vm", many);
	for (size_t i = 0; i < run->n; i++) {
		const struct task *t = &run->tasks[i];

		if (t->r < 0)
			results_failed(&rs, t->vm, t->r, &t->err, t->error);
		else
			results_done(&rs, t->vm, t->result);
	}
	return results_end(&rs);
}

int action_run_names(struct ctx *ctx, const struct action *action, char **names, size_t n,
                     bool many)
{
	struct run run = { .ctx = ctx,
		           .tasks = xcalloc(n, sizeof(*run.tasks)),
		           .n = n,
		           .on_finished = report,
		           .userdata = action };
	int code, r;

	for (size_t i = 0; i < n; i++)
		run.tasks[i] = (struct task){ .vm = names[i], .step = action->steps };
	r = run_tasks(&run, action->doing);
	if (r < 0)
		code = r == -EINTR ? EXIT_INTERRUPT : ctx_fail(ctx, r, NULL);
	else
		code = sum_up(&run, many);
	for (size_t i = 0; i < n; i++)
		task_deinit(&run.tasks[i]);
	free(run.tasks);
	return code;
}

int action_run(struct ctx *ctx, const struct action *action)
{
	char **names;
	size_t n;
	bool many;
	int code = targets_resolve(ctx, &names, &n, &many);

	if (code)
		return code;
	code = n ? action_run_names(ctx, action, names, n, many) : EXIT_DONE;
	targets_free(names, n);
	return code;
}
