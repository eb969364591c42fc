/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/macros.h"
#include "devices/ioloop.h"

/* A watch of an eventfd that counts, and does something in its handler. */
struct counter {
	struct io_watch watch;
	struct ioloop *loop;
	struct counter *other; /* unwatched in the handler, when set */
	sem_t seen, go;        /* posted by each handler; waited for when `stall` */
	atomic_bool stall;
	atomic_uint n;
	pthread_t thread;
};

static struct ioloop *loop;

static void on_ready(struct io_watch *w, uint32_t events UNUSED)
{
	struct counter *c = container_of(w, struct counter, watch);
	eventfd_t value;

	(void)eventfd_read(w->fd, &value);
	c->n++;
	c->thread = pthread_self();
	if (c->other)
		ioloop_unwatch(c->loop, &c->other->watch);
	sem_post(&c->seen);
	if (c->stall)
		sem_wait(&c->go);
}

static void counter_init(struct counter *c)
{
	*c = (struct counter){ .loop = loop };
	c->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->watch.ready = on_ready;
	sem_init(&c->seen, 0, 0);
	sem_init(&c->go, 0, 0);
}

static void counter_deinit(struct counter *c)
{
	close(c->watch.fd);
	sem_destroy(&c->seen);
	sem_destroy(&c->go);
}

static void set_up(void)
{
	cr_assert_eq(ioloop_new("test-loop", &loop), 0);
}

static void tear_down(void)
{
	loop = ioloop_free(loop);
}

TestSuite(ioloop, .init = set_up, .fini = tear_down, .timeout = 60);

Test(ioloop, a_handler_runs_in_the_loops_thread)
{
	struct counter c;
	char name[16];

	counter_init(&c);
	cr_assert_eq(ioloop_watch(loop, &c.watch, EPOLLIN), 0);
	cr_expect_eq(ioloop_watch(loop, &c.watch, EPOLLIN), -EEXIST);
	cr_assert_eq(ioloop_start(loop), 0);
	eventfd_write(c.watch.fd, 1);
	sem_wait(&c.seen);
	cr_expect_not(pthread_equal(c.thread, pthread_self()));
	cr_assert_eq(pthread_getname_np(c.thread, name, sizeof(name)), 0);
	cr_expect_str_eq(name, "test-loop");
	tear_down();
	counter_deinit(&c);
}

static void note_thread(void *arg)
{
	*(pthread_t *)arg = pthread_self();
}

static void note_signals(void *arg)
{
	pthread_sigmask(SIG_BLOCK, NULL, arg);
}

Test(ioloop, a_call_runs_there_too_and_directly_when_it_stands)
{
	pthread_t where[4];
	sigset_t signals;

	ioloop_call(loop, note_thread, &where[0]);
	cr_assert_eq(ioloop_start(loop), 0);
	ioloop_call(loop, note_thread, &where[1]);
	ioloop_call(loop, note_signals, &signals);
	ioloop_pause(loop);
	ioloop_call(loop, note_thread, &where[2]);
	ioloop_resume(loop);
	ioloop_call(loop, note_thread, &where[3]);
	cr_expect(pthread_equal(where[0], pthread_self()));
	cr_expect_not(pthread_equal(where[1], pthread_self()));
	cr_expect(pthread_equal(where[2], pthread_self()));
	cr_expect(pthread_equal(where[1], where[3]));
	cr_expect(sigismember(&signals, SIGTERM) && sigismember(&signals, SIGUSR1));
}

static void call_again(void *arg)
{
	ioloop_call(loop, note_thread, arg);
}

Test(ioloop, a_call_in_the_loop_and_in_a_direct_call)
{
	pthread_t where;

	ioloop_call(loop, call_again, &where);
	cr_expect(pthread_equal(where, pthread_self()));
	cr_assert_eq(ioloop_start(loop), 0);
	ioloop_call(loop, call_again, &where);
	cr_expect_not(pthread_equal(where, pthread_self()));
	ioloop_pause(loop);
	ioloop_call(loop, call_again, &where);
	cr_expect(pthread_equal(where, pthread_self()));
	ioloop_resume(loop);
}

static atomic_uint inits;

static void count_init(void)
{
	inits++;
}

Test(ioloop, each_thread_is_initialised)
{
	pthread_t ignored;

	ioloop_set_thread_init(count_init);
	cr_assert_eq(ioloop_start(loop), 0);
	ioloop_call(loop, note_thread, &ignored);
	cr_expect_eq(inits, 1u);
}

Test(ioloop, an_event_already_fetched_is_not_delivered_after_unwatch)
{
	struct counter a, b;

	/* Both are ready before the loop runs, so it fetches both; the first to run takes the other
	 * away. */
	counter_init(&a);
	counter_init(&b);
	a.other = &b;
	b.other = &a;
	ioloop_watch(loop, &a.watch, EPOLLIN);
	ioloop_watch(loop, &b.watch, EPOLLIN);
	eventfd_write(a.watch.fd, 1);
	eventfd_write(b.watch.fd, 1);
	cr_assert_eq(ioloop_start(loop), 0);
	while (a.n + b.n == 0)
		sched_yield();
	ioloop_pause(loop);
	cr_expect_eq(a.n + b.n, 1u);
	ioloop_resume(loop);
	tear_down();
	cr_expect_eq(a.n + b.n, 1u);
	counter_deinit(&a);
	counter_deinit(&b);
}

/* A thread that waits for the loop; told apart from one that is only about to, by its state. */
struct waiter {
	pthread_t thread;
	atomic_int tid;
	atomic_bool returned;
	pthread_t where; /* the call ran there */
};

static void *call_in_thread(void *arg)
{
	struct waiter *w = arg;

	w->tid = (int)syscall(SYS_gettid);
	ioloop_call(loop, note_thread, &w->where);
	w->returned = true;
	return NULL;
}

static void *pause_in_thread(void *arg)
{
	struct waiter *w = arg;

	w->tid = (int)syscall(SYS_gettid);
	ioloop_pause(loop);
	w->returned = true;
	return NULL;
}

static char state_of(int tid)
{
	char path[64], line[128] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (f) {
		(void)!fgets(line, sizeof(line), f);
		fclose(f);
	}
	return strrchr(line, ')') ? strrchr(line, ')')[2] : '?';
}

/* Starts it, and returns when it sleeps: nothing on its way makes it do so but waiting. */
static void start_waiter(struct waiter *w, void *(*run)(void *))
{
	pthread_create(&w->thread, NULL, run, w);
	while (!w->tid || state_of(w->tid) != 'S')
		sched_yield();
}

Test(ioloop, pause_waits_for_the_running_handler_and_unwatch_reaches_its_batch)
{
	struct counter a, b, *first, *second;
	struct waiter w = { 0 };

	counter_init(&a);
	counter_init(&b);
	a.stall = b.stall = true;
	ioloop_watch(loop, &a.watch, EPOLLIN);
	ioloop_watch(loop, &b.watch, EPOLLIN);
	eventfd_write(a.watch.fd, 1);
	eventfd_write(b.watch.fd, 1);
	cr_assert_eq(ioloop_start(loop), 0);
	while (a.n + b.n == 0)
		sched_yield();
	first = a.n ? &a : &b;
	second = a.n ? &b : &a;
	start_waiter(&w, pause_in_thread);
	cr_expect_not(w.returned, "a handler is running");
	sem_post(&first->go);
	pthread_join(w.thread, NULL);
	/* Parked between the two handlers of one batch. */
	cr_expect_eq(second->n, 0u);
	ioloop_unwatch(loop, &second->watch);
	ioloop_resume(loop);
	tear_down();
	cr_expect_eq(second->n, 0u);
	counter_deinit(&a);
	counter_deinit(&b);
}

Test(ioloop, nothing_runs_while_it_is_paused)
{
	struct counter c;
	pthread_t where;

	counter_init(&c);
	ioloop_watch(loop, &c.watch, EPOLLIN);
	cr_assert_eq(ioloop_start(loop), 0);
	ioloop_pause(loop);
	ioloop_pause(loop);
	eventfd_write(c.watch.fd, 1);
	ioloop_resume(loop);
	ioloop_call(loop, note_thread, &where);
	cr_expect(pthread_equal(where, pthread_self()));
	cr_expect_eq(c.n, 0u);
	ioloop_resume(loop);
	sem_wait(&c.seen);
	cr_expect_eq(c.n, 1u);
	tear_down();
	counter_deinit(&c);
}

Test(ioloop, paused_before_it_starts)
{
	struct counter c;

	counter_init(&c);
	ioloop_watch(loop, &c.watch, EPOLLIN);
	eventfd_write(c.watch.fd, 1);
	ioloop_pause(loop);
	cr_assert_eq(ioloop_start(loop), 0);
	ioloop_pause(loop);
	cr_expect_eq(c.n, 0u);
	ioloop_resume(loop);
	ioloop_resume(loop);
	sem_wait(&c.seen);
	tear_down();
	counter_deinit(&c);
}

static void add_one(void *arg)
{
	++*(unsigned *)arg; /* not atomic: calls must exclude each other, which TSan sees */
}

static unsigned total;

static void *many_calls(void *arg UNUSED)
{
	for (unsigned i = 0; i < 2000; i++)
		ioloop_call(loop, add_one, &total);
	return NULL;
}

Test(ioloop, calls_from_many_threads_while_it_is_paused_and_resumed)
{
	pthread_t t[4];

	cr_assert_eq(ioloop_start(loop), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_create(&t[i], NULL, many_calls, NULL);
	for (unsigned i = 0; i < 300; i++) {
		ioloop_pause(loop);
		ioloop_call(loop, add_one, &total);
		ioloop_resume(loop);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	ioloop_call(loop, add_one, &total);
	cr_expect_eq(total, 4u * 2000 + 300 + 1);
}

Test(ioloop, a_call_waits_for_one_handler_and_not_for_a_batch)
{
	struct counter a, b, *first;
	struct waiter w = { 0 };

	counter_init(&a);
	counter_init(&b);
	a.stall = b.stall = true;
	ioloop_watch(loop, &a.watch, EPOLLIN);
	ioloop_watch(loop, &b.watch, EPOLLIN);
	eventfd_write(a.watch.fd, 1);
	eventfd_write(b.watch.fd, 1);
	cr_assert_eq(ioloop_start(loop), 0);
	while (a.n + b.n == 0)
		sched_yield();
	first = a.n ? &a : &b;
	start_waiter(&w, call_in_thread);
	/* It returns although the second handler does not. */
	sem_post(&first->go);
	pthread_join(w.thread, NULL);
	cr_expect_not(pthread_equal(w.where, pthread_self()));
	sem_post(&a.go);
	sem_post(&b.go);
	tear_down();
	counter_deinit(&a);
	counter_deinit(&b);
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(ioloop, a_freed_loop_leaves_no_descriptor)
{
	unsigned before;

	tear_down();
	before = open_descriptors();
	set_up();
	cr_assert_eq(ioloop_start(loop), 0);
	cr_expect_eq(open_descriptors(), before + 2);
	tear_down();
	cr_expect_eq(open_descriptors(), before);
}
