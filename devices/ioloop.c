/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/ioloop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"

/*
 * Theory of operation
 *
 * The thread takes up to BATCH events from epoll and calls their handlers. Others reach it through
 * a list of calls, a count of pauses and a flag to quit, all under the lock. Having changed one of
 * them, they raise `attention`, and whoever raised it first writes the eventfd, so that a storm of
 * requests is one wake-up. The thread looks at `attention` after every handler, so a call waits for
 * one handler and not for a batch.
 *
 * A paused thread waits inside serve(), between two handlers ("parked"). Then, and before the
 * thread exists, calls run in the calling thread, one at a time; the thread stays parked until the
 * last of them has returned.
 *
 * Lock order: a thread in ioloop_call() may hold any lock of its own that no handler of the loop
 * and no function called in it takes. The lock here is a leaf.
 */

#define BATCH 32
#ifdef VMD_SANITIZERS
#define STACK_BYTES (1024 * 1024)
#else
#define STACK_BYTES (256 * 1024)
#endif

struct request {
	void (*fn)(void *arg);
	void *arg;
	bool done;
	struct request *next;
};

struct ioloop {
	int epoll_fd, event_fd; /* constant */
	char name[16];
	pthread_t thread;
	struct epoll_event events[BATCH]; /* the thread's, or whoever may unwatch */
	int n_events;
	_Atomic bool attention;

	pthread_mutex_t lock;   /* all below */
	pthread_cond_t changed; /* a request done, parked, resumed, a direct call returned */
	bool started, quit, parked;
	unsigned pauses, direct_calls;
	struct request *first, **last;
	pthread_mutex_t direct; /* held by the one thread whose calls run directly; recursive */
};

static void (*thread_init)(void);
static _Thread_local struct ioloop *own_loop;

void ioloop_set_thread_init(void (*init)(void))
{
	thread_init = init;
}

static int open_fds(struct ioloop *l)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = l };

	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return -errno;
	l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->event_fd < 0)
		return -errno;
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->event_fd, &ev) < 0 ? -errno : 0;
}

int ioloop_new(const char *name, struct ioloop **ret)
{
	struct ioloop *l = calloc(1, sizeof(*l));
	pthread_mutexattr_t recursive;
	int r;

	if (!l)
		return -ENOMEM;
	l->epoll_fd = l->event_fd = -EBADF;
	l->last = &l->first;
	strncpy(l->name, name, sizeof(l->name) - 1);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&l->direct, &recursive);
	pthread_mutexattr_destroy(&recursive);
	r = open_fds(l);
	if (r < 0) {
		ioloop_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* Makes the thread look at what was changed under the lock. */
static void wake(struct ioloop *l)
{
	uint64_t one = 1;

	/* Pairs with the exchange in serve(): what was changed before is seen after. */
	if (!atomic_exchange(&l->attention, true) &&
	    write(l->event_fd, &one, sizeof(one)) != sizeof(one))
		assert(errno == EAGAIN); /* the counter is full: it wakes as well */
}

static void run_requests_locked(struct ioloop *l)
{
	struct request *r;

	while ((r = l->first)) {
		l->first = r->next;
		if (!l->first)
			l->last = &l->first;
		pthread_mutex_unlock(&l->lock);
		r->fn(r->arg);
		pthread_mutex_lock(&l->lock);
		r->done = true;
		pthread_cond_broadcast(&l->changed);
	}
}

/* Does what others ask for; returns true when the thread is to end. In the thread. */
static bool serve(struct ioloop *l)
{
	bool quit;

	/* The plain look keeps the locked exchange off the path of every handler. */
	if (!atomic_load_explicit(&l->attention, memory_order_relaxed) ||
	    !atomic_exchange(&l->attention, false))
		return false;
	pthread_mutex_lock(&l->lock);
	run_requests_locked(l);
	while ((l->pauses && !l->quit) || l->direct_calls) {
		l->parked = true;
		pthread_cond_broadcast(&l->changed);
		pthread_cond_wait(&l->changed, &l->lock);
	}
	l->parked = false;
	quit = l->quit;
	pthread_mutex_unlock(&l->lock);
	return quit;
}

/* Empties the eventfd; what it told of is looked at after. */
static void drain(struct ioloop *l)
{
	uint64_t count;

	if (read(l->event_fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
}

/* One batch of events; returns true when the thread is to end. */
static bool turn(struct ioloop *l)
{
	int n = epoll_wait(l->epoll_fd, l->events, BATCH, -1);

	assert(n >= 0 || errno == EINTR);
	l->n_events = n < 0 ? 0 : n;
	for (int i = 0; i < l->n_events; i++) {
		void *w = l->events[i].data.ptr; /* NULL: unwatched meanwhile */

		if (w == l)
			drain(l);
		else if (w)
			((struct io_watch *)w)->ready(w, l->events[i].events);
		if (serve(l))
			return true;
	}
	l->n_events = 0;
	return false;
}

static void *run(void *arg)
{
	struct ioloop *l = arg;
	bool quit;

	own_loop = l;
	if (thread_init)
		thread_init();
	quit = serve(l);
	while (!quit)
		quit = turn(l);
	return NULL;
}

int ioloop_start(struct ioloop *l)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int r;

	assert(!l->started);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	/* Signals belong to the threads that ask for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&l->lock);
	r = pthread_create(&l->thread, &attr, run, l);
	l->started = r == 0;
	pthread_mutex_unlock(&l->lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (r == 0)
		pthread_setname_np(l->thread, l->name);
	return -r;
}

struct ioloop *ioloop_free(struct ioloop *l)
{
	if (!l)
		return NULL;
	assert(own_loop != l);
	if (l->started) {
		pthread_mutex_lock(&l->lock);
		l->quit = true;
		pthread_cond_broadcast(&l->changed);
		pthread_mutex_unlock(&l->lock);
		wake(l);
		pthread_join(l->thread, NULL);
	}
	cleanup_close_p(&l->event_fd);
	cleanup_close_p(&l->epoll_fd);
	pthread_mutex_destroy(&l->direct);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

static int control(struct ioloop *l, int op, struct io_watch *w, uint32_t epoll_events)
{
	struct epoll_event ev = { .events = epoll_events, .data.ptr = w };

	return epoll_ctl(l->epoll_fd, op, w->fd, &ev) < 0 ? -errno : 0;
}

int ioloop_watch(struct ioloop *l, struct io_watch *w, uint32_t epoll_events)
{
	return control(l, EPOLL_CTL_ADD, w, epoll_events);
}

int ioloop_change(struct ioloop *l, struct io_watch *w, uint32_t epoll_events)
{
	return control(l, EPOLL_CTL_MOD, w, epoll_events);
}

void ioloop_unwatch(struct ioloop *l, struct io_watch *w)
{
	(void)control(l, EPOLL_CTL_DEL, w, 0);
	for (int i = 0; i < l->n_events; i++)
		if (l->events[i].data.ptr == w)
			l->events[i].data.ptr = NULL;
}

/* In the calling thread, because the loop's is parked or not there. */
static void call_directly(struct ioloop *l, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&l->direct);
	fn(arg);
	pthread_mutex_unlock(&l->direct);
	pthread_mutex_lock(&l->lock);
	l->direct_calls--;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

void ioloop_call(struct ioloop *l, void (*fn)(void *arg), void *arg)
{
	struct request r = { .fn = fn, .arg = arg };

	if (own_loop == l) {
		fn(arg);
		return;
	}
	pthread_mutex_lock(&l->lock);
	/* Resumed but not yet awake is neither: the thread takes the call as soon as it is. */
	if (!l->started || (l->pauses && l->parked)) {
		l->direct_calls++;
		pthread_mutex_unlock(&l->lock);
		call_directly(l, fn, arg);
		return;
	}
	*l->last = &r;
	l->last = &r.next;
	pthread_mutex_unlock(&l->lock);
	wake(l);
	pthread_mutex_lock(&l->lock);
	while (!r.done)
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

void ioloop_pause(struct ioloop *l)
{
	assert(own_loop != l);
	pthread_mutex_lock(&l->lock);
	l->pauses++;
	pthread_mutex_unlock(&l->lock);
	wake(l);
	pthread_mutex_lock(&l->lock);
	while (l->started && !l->parked)
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

void ioloop_resume(struct ioloop *l)
{
	pthread_mutex_lock(&l->lock);
	assert(l->pauses);
	l->pauses--;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}
