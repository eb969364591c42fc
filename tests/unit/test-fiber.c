/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "common/timeutil.h"
#include "daemon/fiber.h"

static struct ev_loop *loop;
static char trace[256];

static void note(const char *text)
{
	strncat(trace, text, sizeof(trace) - strlen(trace) - 1);
}

static void setup(void)
{
	loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
	fiber_init(loop);
}

static void teardown(void)
{
	cr_assert_eq(fiber_count(), 0u);
	fiber_deinit();
	ev_loop_destroy(loop);
}

TestSuite(fiber, .timeout = 20, .init = setup, .fini = teardown);

static struct waitq queue;

static void wait_and_note(void *arg)
{
	note("[");
	cr_assert_eq(waitq_wait(&queue, -1), 0);
	note(arg);
}

Test(fiber, runs_at_once_and_resumes_from_the_loop)
{
	waitq_init(&queue);
	cr_assert_eq(fiber_start("a", wait_and_note, (void *)"a"), 0);
	cr_assert_eq(fiber_start("b", wait_and_note, (void *)"b"), 0);
	cr_assert_null(fiber_self());
	cr_assert_str_eq(trace, "[[");
	waitq_wake_one(&queue);
	cr_assert_str_eq(trace, "[[");
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "[[a");
	waitq_wake_one(&queue);
	waitq_wake_one(&queue); /* nobody there: lost */
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "[[ab");
}

static void inner(void *arg)
{
	struct fiber **self = arg;

	*self = fiber_self();
	note("inner ");
	cr_assert_eq(fiber_sleep_ms(1), 0);
	note("inner-end ");
}

static void outer(void *arg)
{
	struct fiber *child = NULL;

	(void)arg;
	note("outer ");
	cr_assert_eq(fiber_start("inner", inner, &child), 0);
	cr_assert_neq(child, fiber_self());
	note("outer-end ");
	cr_assert_eq(fiber_sleep_ms(20), 0);
}

Test(fiber, starts_inside_another)
{
	cr_assert_eq(fiber_start("outer", outer, NULL), 0);
	cr_assert_str_eq(trace, "outer inner outer-end ");
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "outer inner outer-end inner-end ");
}

static void cancelled(void *arg)
{
	*(struct fiber **)arg = fiber_self();
	cr_assert_eq(waitq_wait(&queue, -1), -ECANCELED);
	cr_assert(fiber_is_cancelled());
	cr_assert_eq(fiber_sleep_ms(0), -ECANCELED);
	fiber_shield(true);
	cr_assert_eq(fiber_sleep_ms(2), 0);
	fiber_shield(false);
	cr_assert_eq(waitq_wait(&queue, 10), -ECANCELED);
	note("done");
}

Test(fiber, cancel_is_sticky_and_a_shield_holds_it_off)
{
	struct fiber *f = NULL;

	waitq_init(&queue);
	cr_assert_eq(fiber_start("c", cancelled, &f), 0);
	fiber_cancel(f);
	cr_assert(list_is_empty(&queue.waiters));
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "done");
}

static void woken_then_cancelled(void *arg)
{
	*(struct fiber **)arg = fiber_self();
	cr_assert_eq(waitq_wait(&queue, -1), 0);
	cr_assert_eq(waitq_wait(&queue, -1), -ECANCELED);
	note("done");
}

Test(fiber, a_given_wake_up_survives_a_cancel)
{
	struct fiber *f = NULL;

	waitq_init(&queue);
	cr_assert_eq(fiber_start("w", woken_then_cancelled, &f), 0);
	waitq_wake_one(&queue);
	fiber_cancel(f);
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "done");
}

static void deadline(void *arg)
{
	uint64_t start = now_monotonic_us();

	(void)arg;
	cr_assert_eq(waitq_wait(&queue, 5), -ETIMEDOUT);
	cr_assert_geq(now_monotonic_us() - start, 5000u);
	fiber_set_deadline(now_monotonic_us() + 3000);
	cr_assert_eq(fiber_sleep_ms(10000), -ETIMEDOUT);
	cr_assert_eq(waitq_wait(&queue, -1), -ETIMEDOUT);
	fiber_set_deadline(0);
	cr_assert_eq(fiber_sleep_ms(1), 0);
	note("done");
}

Test(fiber, timeouts_and_deadline)
{
	waitq_init(&queue);
	cr_assert_eq(fiber_start("d", deadline, NULL), 0);
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "done");
}

static struct fiber_mutex mutex;

static void locker(void *arg)
{
	cr_assert_eq(fiber_mutex_lock(&mutex), 0);
	note(arg);
	cr_assert_eq(fiber_sleep_ms(1), 0);
	note(".");
	fiber_mutex_unlock(&mutex);
}

Test(fiber, mutex_is_fifo)
{
	fiber_mutex_init(&mutex);
	cr_assert_eq(fiber_start("1", locker, (void *)"1"), 0);
	cr_assert_eq(fiber_start("2", locker, (void *)"2"), 0);
	cr_assert_eq(fiber_start("3", locker, (void *)"3"), 0);
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "1.2.3.");
	cr_assert_null(mutex.owner);
}

static int block_in_worker(void *arg)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	cr_assert(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGHUP));
	atomic_fetch_add((atomic_int *)arg, 1);
	return 42;
}

static void use_worker(void *arg)
{
	fiber_set_deadline(1); /* long past: a worker's result comes all the same */
	cr_assert_eq(work_run(block_in_worker, arg), 42);
}

Test(fiber, workers)
{
	atomic_int n = 0;

	for (int i = 0; i < 200; i++)
		cr_assert_eq(fiber_start("w", use_worker, &n), 0);
	cr_assert_eq(fiber_count(), 200u);
	ev_run(loop, 0);
	cr_assert_eq(atomic_load(&n), 200);
}

static void wait_fd(void *arg)
{
	int fd = *(int *)arg;

	cr_assert_eq(fiber_wait_fd(fd, EV_READ, 1), -ETIMEDOUT);
	note("timeout ");
	cr_assert_eq(fiber_wait_fd(fd, EV_READ, -1), 0);
	note("readable");
}

static void write_fd(void *arg)
{
	cr_assert_eq(fiber_sleep_ms(5), 0);
	cr_assert_eq(write(*(int *)arg, "x", 1), 1);
}

Test(fiber, wait_fd)
{
	int p[2];

	cr_assert_eq(pipe(p), 0);
	cr_assert_eq(fiber_start("r", wait_fd, &p[0]), 0);
	cr_assert_eq(fiber_start("w", write_fd, &p[1]), 0);
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "timeout readable");
}

static int run_sh(const char *script, size_t max, char **out, struct proc_status *st,
                  struct vmd_error *err)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL };
	struct spawn_spec spec = { .path = "sh", .argv = argv, .null_stdio = true };

	return fiber_run_program(&spec, max, out, st, err);
}

static void programs(void *arg)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct proc_status st;
	char *out = NULL;

	(void)arg;
	cr_assert_eq(run_sh("echo out; echo err >&2; exit 3", 100, &out, &st, &err), 0);
	cr_assert(st.exited && st.code == 3);
	cr_assert_str_eq(out, "out\nerr\n");
	free(out);
	cr_assert_eq(run_sh("head -c 300000 /dev/zero | tr '\\0' x", 10, &out, &st, &err), 0);
	cr_assert_str_eq(out, "xxxxxxxxxx");
	free(out);
	cr_assert_eq(run_sh("kill -9 $$", 0, NULL, &st, &err), 0);
	cr_assert(!st.exited && st.code == SIGKILL);
	/* A child of the child keeps the pipe: its end is not waited for. */
	cr_assert_eq(run_sh("sleep 15 & echo $!", 100, &out, &st, &err), 0);
	kill(atoi(out), SIGKILL);
	free(out);
	fiber_set_deadline(now_monotonic_us() + 20000);
	cr_assert_eq(run_sh("exec sleep 15", 100, &out, &st, &err), -ETIMEDOUT);
	cr_assert_eq(err.kind, ERROR_TIMEOUT);
	note("done");
}

Test(fiber, run_program)
{
	cr_assert_eq(fiber_start("p", programs, NULL), 0);
	ev_run(loop, 0);
	cr_assert_str_eq(trace, "done");
}

static void no_program(void *arg)
{
	char *argv[] = { (char *)"none", NULL };
	struct spawn_spec spec = { .path = "/nonexistent/none", .argv = argv };
	struct vmd_error err = VMD_ERROR_INIT;
	struct proc_status st;

	(void)arg;
	cr_assert_eq(fiber_run_program(&spec, 0, NULL, &st, &err), -ENOENT);
	cr_assert_eq(err.kind, ERROR_NOT_FOUND);
}

Test(fiber, run_program_that_is_missing)
{
	cr_assert_eq(fiber_start("p", no_program, NULL), 0);
	ev_run(loop, 0);
}

#ifndef VMD_SANITIZERS
/* Walks down the stack as a runaway recursion would. */
static void overflow(void *arg)
{
	volatile char *here = __builtin_frame_address(0);

	(void)arg;
	for (size_t i = 0; i < 130u * 1024u; i += 512)
		here -= 512, *here = 1;
	_exit(0);
}

Test(fiber, guard_page_stops_an_overflow, .signal = SIGSEGV)
{
	cr_assert_eq(fiber_start("overflow", overflow, (void *)1), -1);
}
#endif

static void ping(void *arg)
{
	int *n = arg;

	for (int i = 0; i < 1000; i++) {
		cr_assert_eq(fiber_sleep_ms(0), 0);
		(*n)++;
	}
}

Test(fiber, many_switches)
{
	int n = 0;

	for (int i = 0; i < 50; i++)
		cr_assert_eq(fiber_start("ping", ping, &n), 0);
	ev_run(loop, 0);
	cr_assert_eq(n, 50000);
}
