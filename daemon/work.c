/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Worker threads for what may block: up to WORKERS_MAX, started when work is there and none is
 * free. A job lives on its fiber's stack: the loop puts it on todo, a worker moves it to done and
 * signals the loop, which wakes the fiber. Workers run with all signals blocked.
 */
#include "config.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "common/list.h"
#include "daemon/fiber-private.h"
#include "daemon/fiber.h"

#define WORKERS_MAX  4
#define WORKER_STACK (1024u * 1024u)

struct work {
	struct list link;
	struct fiber *fiber;
	int (*fn)(void *arg);
	void *arg;
	int result;
};

static struct {
	struct ev_loop *loop;
	ev_async async;
	pthread_mutex_t mutex; /* guards todo, done, idle, stop */
	pthread_cond_t more;
	struct list todo, done;
	unsigned idle;
	bool stop;
	/* Loop thread only. */
	pthread_t threads[WORKERS_MAX];
	unsigned n_threads;
	unsigned pending; /* keeps the loop alive while not 0 */
} pool = { .mutex = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void *worker_main(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&pool.mutex);
	for (;;) {
		struct work *w;

		while (list_is_empty(&pool.todo) && !pool.stop) {
			pool.idle++;
			pthread_cond_wait(&pool.more, &pool.mutex);
			pool.idle--;
		}
		if (list_is_empty(&pool.todo))
			break;
		w = list_entry(pool.todo.next, struct work, link);
		list_del(&w->link);
		pthread_mutex_unlock(&pool.mutex);
		w->result = w->fn(w->arg);
		pthread_mutex_lock(&pool.mutex);
		list_add_tail(&pool.done, &w->link);
		ev_async_send(pool.loop, &pool.async);
	}
	pthread_mutex_unlock(&pool.mutex);
	return NULL;
}

/* -errno when no thread could be started. */
static int start_worker(void)
{
	sigset_t all, saved;
	pthread_attr_t attr;
	int r;

	r = pthread_attr_init(&attr);
	if (r)
		return -r;
	pthread_attr_setstacksize(&attr, WORKER_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	r = pthread_create(&pool.threads[pool.n_threads], &attr, worker_main, NULL);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	pthread_attr_destroy(&attr);
	if (!r)
		pool.n_threads++;
	return -r;
}

static void on_done(struct ev_loop *loop, ev_async *a, int revents)
{
	struct list done;

	(void)a;
	(void)revents;
	list_init(&done);
	pthread_mutex_lock(&pool.mutex);
	while (!list_is_empty(&pool.done)) {
		struct list *first = pool.done.next;

		list_del(first);
		list_add_tail(&done, first);
	}
	pthread_mutex_unlock(&pool.mutex);
	while (!list_is_empty(&done)) {
		struct work *w = list_entry(done.next, struct work, link);

		list_del(&w->link);
		if (--pool.pending == 0)
			ev_unref(loop);
		fiber_unpark(w->fiber);
	}
}

int work_run(int (*fn)(void *arg), void *arg)
{
	struct work w = { .fiber = fiber_self(), .fn = fn, .arg = arg };
	bool start;

	assert(w.fiber);
	pthread_mutex_lock(&pool.mutex);
	list_add_tail(&pool.todo, &w.link);
	start = pool.idle == 0 && pool.n_threads < WORKERS_MAX;
	pthread_cond_signal(&pool.more);
	pthread_mutex_unlock(&pool.mutex);
	if (start && start_worker() < 0 && pool.n_threads == 0) {
		/* Not one thread to be had: better slow than never. */
		pthread_mutex_lock(&pool.mutex);
		list_del(&w.link);
		pthread_mutex_unlock(&pool.mutex);
		return fn(arg);
	}
	if (pool.pending++ == 0)
		ev_ref(pool.loop);
	fiber_park();
	return w.result;
}

void work_init(struct ev_loop *loop)
{
	pool.loop = loop;
	pool.stop = false;
	pool.n_threads = pool.idle = pool.pending = 0;
	list_init(&pool.todo);
	list_init(&pool.done);
	ev_async_init(&pool.async, on_done);
	ev_async_start(loop, &pool.async);
	ev_unref(loop);
}

void work_deinit(void)
{
	pthread_mutex_lock(&pool.mutex);
	pool.stop = true;
	pthread_cond_broadcast(&pool.more);
	pthread_mutex_unlock(&pool.mutex);
	for (unsigned i = 0; i < pool.n_threads; i++)
		pthread_join(pool.threads[i], NULL);
	pool.n_threads = 0;
	if (pool.pending == 0)
		ev_ref(pool.loop);
	ev_async_stop(pool.loop, &pool.async);
}
