/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A fiber is in one of three places: running (it, or a fiber it started, has the CPU), waiting
 * (waiting is set; somebody will call make_ready), or ready (in ready_list, resumed from the
 * prepare watcher before the loop sleeps). make_ready decides the wait's result once; later wakers
 * find waiting cleared, so a wake-up is never given twice and never lost to a cancellation that
 * comes after it.
 */
#include "config.h"

#include "daemon/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "common/timeutil.h"
#include "daemon/fiber-private.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#define FIBER_ASAN 1
#define STACK_SIZE (512u * 1024u)
#else
#define FIBER_ASAN 0
#define STACK_SIZE (128u * 1024u)
#endif

#define POOL_MAX 32 /* stacks kept for reuse; each keeps the pages it once touched */

struct fiber {
	const char *name;
	void (*fn)(void *arg);
	void *arg;
	ucontext_t context;
	char *mapping; /* guard page, then the stack */
	size_t mapping_len;
	struct fiber *resumer; /* who gets the CPU back when this one waits; NULL: the loop */
	struct list waiter;    /* in a waitq */
	struct list ready;     /* in ready_list, or in the pool when ended */
	struct list live;      /* in sched.live until it ends */
	ev_timer timer;
	uint64_t wait_until; /* monotonic us of the timer; 0: none */
	uint64_t deadline;   /* monotonic us; 0: none */
	int result;
	unsigned shield;
	bool waiting, uninterruptible, cancelled, ended;
	/* For the address sanitizer. */
	void *fake_stack;
};

static struct {
	struct ev_loop *loop;
	ucontext_t loop_context;
	struct fiber *self;
	struct list ready, pool;
	unsigned n_pool, n_live;
	struct list live; /* also those that the daemon leaves behind when it ends */
	ev_prepare prepare;
	ev_idle idle; /* active while the ready list is not empty, so that the loop does not sleep
	               */
	void *loop_fake_stack;
	const void *loop_stack;
	size_t loop_stack_len;
} sched;

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* Called just before giving up the current stack for that of `to` (NULL: the loop's). */
static void switch_begin(struct fiber *from, struct fiber *to)
{
#if FIBER_ASAN
	void **save = from ? &from->fake_stack : &sched.loop_fake_stack;
	const void *bottom = to ? to->mapping + page_size() : sched.loop_stack;
	size_t len = to ? STACK_SIZE : sched.loop_stack_len;

	__sanitizer_start_switch_fiber(from && from->ended ? NULL : save, bottom, len);
#else
	(void)from;
	(void)to;
#endif
}

/* Called first on a stack that has just got the CPU; came_from_loop: for learning its bounds. */
static void switch_end(struct fiber *self, bool came_from_loop)
{
#if FIBER_ASAN
	const void *bottom;
	size_t len;

	__sanitizer_finish_switch_fiber(self ? self->fake_stack : sched.loop_fake_stack, &bottom,
	                                &len);
	if (came_from_loop) {
		sched.loop_stack = bottom;
		sched.loop_stack_len = len;
	}
#else
	(void)self;
	(void)came_from_loop;
#endif
}

/* Gives the CPU to `to` and returns when it, or whatever it gave the CPU to, gives it back. */
static void switch_to(struct fiber *to)
{
	struct fiber *from = sched.self;

	switch_begin(from, to);
	sched.self = to;
	swapcontext(from ? &from->context : &sched.loop_context,
	            to ? &to->context : &sched.loop_context);
	sched.self = from;
	switch_end(from, from && !from->resumer);
}

static void fiber_main(void)
{
	struct fiber *f = sched.self;

	switch_end(f, !f->resumer);
	f->fn(f->arg);
	f->ended = true;
	switch_to(f->resumer);
	abort(); /* an ended fiber is never resumed */
}

/* What a live fiber holds on its stack is no leak; the daemon may end while fibers wait. */
static void enlist(struct fiber *f)
{
	sched.n_live++;
	list_add_tail(&sched.live, &f->live);
#if FIBER_ASAN
	__lsan_register_root_region(f->mapping + page_size(), STACK_SIZE);
#endif
}

static void delist(struct fiber *f)
{
#if FIBER_ASAN
	__lsan_unregister_root_region(f->mapping + page_size(), STACK_SIZE);
#endif
	list_del(&f->live);
	sched.n_live--;
}

static void fiber_free(struct fiber *f)
{
	munmap(f->mapping, f->mapping_len);
	free(f);
}

static struct fiber *fiber_get(void)
{
	struct fiber *f;

	if (!list_is_empty(&sched.pool)) {
		f = list_entry(sched.pool.next, struct fiber, ready);
		list_del(&f->ready);
		sched.n_pool--;
		return f;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->mapping_len = STACK_SIZE + page_size();
	f->mapping = mmap(NULL, f->mapping_len, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (f->mapping == MAP_FAILED) {
		free(f);
		return NULL;
	}
	if (mprotect(f->mapping, page_size(), PROT_NONE) < 0) {
		fiber_free(f);
		return NULL;
	}
	return f;
}

static void fiber_put(struct fiber *f)
{
#if FIBER_ASAN
	ASAN_UNPOISON_MEMORY_REGION(f->mapping + page_size(), STACK_SIZE);
#endif
	if (sched.n_pool >= POOL_MAX) {
		fiber_free(f);
		return;
	}
	/* Last in, first out: a warm stack is used again. */
	list_add_tail(sched.pool.next, &f->ready);
	sched.n_pool++;
}

/* Runs f until it waits or ends; an ended fiber goes back to the pool. */
static void fiber_resume(struct fiber *f)
{
	f->resumer = sched.self;
	switch_to(f);
	if (f->ended) {
		delist(f);
		fiber_put(f);
	}
}

static void make_ready(struct fiber *f, int result)
{
	if (!f->waiting)
		return;
	f->waiting = false;
	f->result = result;
	list_del(&f->waiter);
	ev_timer_stop(sched.loop, &f->timer);
	list_add_tail(&sched.ready, &f->ready);
	ev_idle_start(sched.loop, &sched.idle);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct list batch;

	(void)w;
	(void)revents;
	if (list_is_empty(&sched.ready))
		return;
	/* Only those ready now: two fibers that wake each other must not keep I/O out. */
	batch = sched.ready;
	batch.next->prev = batch.prev->next = &batch;
	list_init(&sched.ready);
	while (!list_is_empty(&batch)) {
		struct fiber *f = list_entry(batch.next, struct fiber, ready);

		list_del(&f->ready);
		fiber_resume(f);
	}
	if (list_is_empty(&sched.ready))
		ev_idle_stop(loop, &sched.idle);
}

static void on_idle(struct ev_loop *loop, ev_idle *w, int revents)
{
	(void)loop;
	(void)w;
	(void)revents;
}

static void arm_timer(struct fiber *f)
{
	uint64_t now = now_monotonic_us();
	uint64_t left = f->wait_until > now ? f->wait_until - now : 0;

	ev_now_update(sched.loop);
	ev_timer_set(&f->timer, (double)left / 1e6, 0.);
	ev_timer_start(sched.loop, &f->timer);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct fiber *f = container_of(w, struct fiber, timer);

	(void)loop;
	(void)revents;
	if (now_monotonic_us() < f->wait_until)
		arm_timer(f); /* the loop's clock is coarser than ours */
	else
		make_ready(f, -ETIMEDOUT);
}

void fiber_init(struct ev_loop *loop)
{
	sched.loop = loop;
	sched.self = NULL;
	sched.n_pool = sched.n_live = 0;
	if (!sched.live.next)
		list_init(&sched.live);
	list_init(&sched.ready);
	list_init(&sched.pool);
	ev_idle_init(&sched.idle, on_idle);
	ev_set_priority(&sched.idle, EV_MINPRI);
	ev_prepare_init(&sched.prepare, on_prepare);
	ev_prepare_start(loop, &sched.prepare);
	ev_unref(loop); /* the scheduler itself keeps no loop alive */
	work_init(loop);
}

void fiber_deinit(void)
{
	if (!sched.loop)
		return;
	work_deinit();
	ev_idle_stop(sched.loop, &sched.idle);
	ev_ref(sched.loop);
	ev_prepare_stop(sched.loop, &sched.prepare);
	while (!list_is_empty(&sched.pool)) {
		struct fiber *f = list_entry(sched.pool.next, struct fiber, ready);

		list_del(&f->ready);
		fiber_free(f);
	}
	sched.loop = NULL;
}

struct ev_loop *fiber_loop(void)
{
	return sched.loop;
}

unsigned fiber_count(void)
{
	return sched.n_live;
}

/* Apart, since getcontext() is a function that may return twice. */
static __attribute__((noinline)) void prepare_context(struct fiber *f)
{
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->mapping + page_size();
	f->context.uc_stack.ss_size = STACK_SIZE;
	f->context.uc_link = NULL;
	makecontext(&f->context, fiber_main, 0);
}

int fiber_start(const char *name, void (*fn)(void *arg), void *arg)
{
	struct fiber *f = fiber_get();

	if (!f)
		return -ENOMEM;
	f->name = name;
	f->fn = fn;
	f->arg = arg;
	f->deadline = f->wait_until = 0;
	f->shield = 0;
	f->waiting = f->uninterruptible = f->cancelled = f->ended = false;
	f->fake_stack = NULL;
	list_init(&f->waiter);
	list_init(&f->ready);
	ev_timer_init(&f->timer, on_timer, 0., 0.);
	prepare_context(f);
	enlist(f);
	fiber_resume(f);
	return 0;
}

struct fiber *fiber_self(void)
{
	return sched.self;
}

const char *fiber_name(const struct fiber *f)
{
	return f->name;
}

void fiber_cancel(struct fiber *f)
{
	f->cancelled = true;
	if (f->waiting && !f->uninterruptible && !f->shield)
		make_ready(f, -ECANCELED);
}

bool fiber_is_cancelled(void)
{
	return sched.self && sched.self->cancelled;
}

void fiber_set_deadline(uint64_t monotonic_us)
{
	sched.self->deadline = monotonic_us;
}

uint64_t fiber_deadline(void)
{
	return sched.self ? sched.self->deadline : 0;
}

void fiber_shield(bool on)
{
	struct fiber *f = sched.self;

	assert(on || f->shield);
	f->shield += on ? 1 : -1u;
}

/*
 * Waits until somebody calls make_ready. timeout_ms < 0: none. The caller has put the fiber where
 * the waker will find it; make_ready takes it out of a waitq, anything else is the caller's.
 */
static int fiber_wait(int64_t timeout_ms)
{
	struct fiber *f = sched.self;
	uint64_t until = 0;

	assert(f); /* only fibers may wait */
	if (timeout_ms >= 0)
		until = now_monotonic_us() + (uint64_t)timeout_ms * 1000u;
	if (!f->shield) {
		if (f->cancelled) {
			list_del(&f->waiter);
			return -ECANCELED;
		}
		if (f->deadline && (!until || f->deadline < until))
			until = f->deadline;
	}
	f->wait_until = until;
	f->waiting = true;
	if (until)
		arm_timer(f);
	switch_to(f->resumer);
	return f->result;
}

void fiber_park(void)
{
	struct fiber *f = sched.self;

	assert(f);
	f->waiting = f->uninterruptible = true;
	switch_to(f->resumer);
	f->uninterruptible = false;
}

void fiber_unpark(struct fiber *f)
{
	make_ready(f, 0);
}

void waitq_init(struct waitq *q)
{
	list_init(&q->waiters);
}

int waitq_wait(struct waitq *q, int64_t timeout_ms)
{
	list_add_tail(&q->waiters, &sched.self->waiter);
	return fiber_wait(timeout_ms);
}

void waitq_wake_one(struct waitq *q)
{
	if (!list_is_empty(&q->waiters))
		make_ready(list_entry(q->waiters.next, struct fiber, waiter), 0);
}

void waitq_wake_all(struct waitq *q)
{
	while (!list_is_empty(&q->waiters))
		waitq_wake_one(q);
}

void fiber_mutex_init(struct fiber_mutex *m)
{
	waitq_init(&m->q);
	m->owner = NULL;
}

int fiber_mutex_lock(struct fiber_mutex *m)
{
	assert(m->owner != sched.self);
	if (!m->owner) {
		m->owner = sched.self;
		return 0;
	}
	return waitq_wait(&m->q, -1); /* on 0 the unlocker has made us the owner */
}

void fiber_mutex_unlock(struct fiber_mutex *m)
{
	assert(m->owner == sched.self);
	m->owner = NULL;
	if (list_is_empty(&m->q.waiters))
		return;
	m->owner = list_entry(m->q.waiters.next, struct fiber, waiter);
	make_ready(m->owner, 0);
}

int fiber_sleep_ms(uint64_t ms)
{
	uint64_t until = now_monotonic_us() + ms * 1000u;
	int r = fiber_wait((int64_t)MIN_OF(ms, (uint64_t)INT64_MAX / 1000u));

	return r == -ETIMEDOUT && now_monotonic_us() >= until ? 0 : r;
}

struct fd_wait {
	ev_io io;
	struct fiber *fiber;
	bool *ready;
};

static void on_fd(struct ev_loop *loop, ev_io *w, int revents)
{
	struct fd_wait *wait = container_of(w, struct fd_wait, io);

	(void)revents;
	ev_io_stop(loop, w);
	*wait->ready = true;
	make_ready(wait->fiber, 0);
}

int fiber_wait_fds(struct fiber_fd *fds, size_t n, int64_t timeout_ms)
{
	struct fd_wait waits[FIBER_WAIT_FDS_MAX];
	int r;

	assert(n <= FIBER_WAIT_FDS_MAX);
	for (size_t i = 0; i < n; i++) {
		fds[i].ready = false;
		waits[i].fiber = sched.self;
		waits[i].ready = &fds[i].ready;
		ev_io_init(&waits[i].io, on_fd, fds[i].fd, fds[i].events);
		if (fds[i].fd >= 0)
			ev_io_start(sched.loop, &waits[i].io);
	}
	r = fiber_wait(timeout_ms);
	for (size_t i = 0; i < n; i++)
		ev_io_stop(sched.loop, &waits[i].io);
	return r;
}

int fiber_wait_fd(int fd, int events, int64_t timeout_ms)
{
	struct fiber_fd one = { .fd = fd, .events = events };

	return fiber_wait_fds(&one, 1, timeout_ms);
}
