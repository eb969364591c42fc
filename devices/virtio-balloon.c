/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/models.h"
#include "devices/stats-json.h"

/*
 * The memory balloon (virtio 1.2, 5.5). Pages that the guest gives up, or reports as free, leave
 * the host's memory; when the guest touches them again they come back as zeroes. So neither
 * deflating nor a guest that lies needs any book-keeping: it can only lose its own contents.
 *
 * System calls in the loop: madvise, read, timerfd_settime.
 */

enum {
	F_STATS_VQ = 1,
	F_DEFLATE_ON_OOM = 2,
	F_PAGE_REPORTING = 5,
	PAGE_BYTES = 4096, /* of the protocol, whatever the guest's */
	BALLOON_QUEUES = 5,
	BALLOON_QUEUE_SIZE = 128,
	TURN_CHAINS = 16,
	PFNS = 512, /* looked at in one go */
};

enum {
	Q_INFLATE,
	Q_DEFLATE,
	Q_STATS
};

/* 5.5.6.4: what a guest may tell, under the names that the API has for it. */
static const char *const stat_names[] = {
	"swap_in", "swap_out",  "major_faults", "minor_faults",        "free",
	"total",   "available", "caches",       "hugetlb_allocations", "hugetlb_failures",
};

#define N_STATS ARRAY_SIZE(stat_names)

struct guest_stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

/* 5.5.4 */
struct balloon_config_space {
	uint32_t num_pages, actual, free_page_hint_cmd_id, poison_val;
} __attribute__((packed));

enum balloon_stat {
	STAT_INFLATE,
	STAT_DEFLATE,
	STAT_REPORT,
	_STAT_MAX
};

struct virtio_balloon {
	struct virtio_device d;
	bool deflate_on_oom, reporting; /* constant */
	uint64_t ram_pages;             /* constant */
	_Atomic uint32_t target, actual;
	_Atomic uint32_t poll_s;
	struct io_watch timer; /* timerfd, owned: ask the guest for statistics */

	/* What the guest said last; written in the loop, read by any. */
	_Atomic uint64_t guest[N_STATS];
	_Atomic uint32_t guest_known; /* bit per statistic */
	_Atomic uint64_t guest_at_us;

	/* The loop's own. */
	bool stats_held; /* one chain of the statistics queue is with us */
	uint16_t stats_head;
	struct iovec iov[BALLOON_QUEUE_SIZE];
	uint32_t pfns[PFNS];
	struct iostats stats[_STAT_MAX];
};

static struct virtio_balloon *balloon_of(struct virtio_device *d)
{
	return container_of(d, struct virtio_balloon, d);
}

/* Takes [at, at + len), page aligned, out of the host's memory. */
static bool give_back(uint8_t *at, size_t len)
{
	if (!len || madvise(at, len, MADV_REMOVE) == 0)
		return true;
	/* A restored guest's memory is a private mapping of its snapshot: what it wrote goes. */
	return (errno == EACCES || errno == EINVAL || errno == EOPNOTSUPP) &&
	       madvise(at, len, MADV_DONTNEED) == 0;
}

/* Runs of pages that follow each other go in one call. */
static bool inflate(struct virtio_balloon *b, const uint32_t *pfns, size_t n)
{
	bool ok = true;

	for (size_t i = 0, run; i < n; i += run) {
		uint64_t pfn = le32toh(pfns[i]);
		uint8_t *at = guestmem_at(b->d.mem, GPA(pfn * PAGE_BYTES), PAGE_BYTES);

		run = 1;
		if (!at) {
			ok = false;
			continue;
		}
		while (i + run < n && le32toh(pfns[i + run]) == pfn + run &&
		       guestmem_at(b->d.mem, GPA(pfn * PAGE_BYTES), (run + 1) * PAGE_BYTES))
			run++;
		ok = give_back(at, run * PAGE_BYTES) && ok;
	}
	return ok;
}

/* A chain of page numbers; deflating asks for nothing. False: some were wrong. */
static bool take_pages(struct virtio_balloon *b, const struct virtq_chain *c, bool deflates)
{
	bool ok = c->out_bytes % sizeof(b->pfns[0]) == 0;

	for (size_t at = 0, got; !deflates; at += got) {
		got = iov_to_buf(c->iov, c->n_out, at, b->pfns, sizeof(b->pfns));
		if (got < sizeof(b->pfns[0]))
			break;
		ok = inflate(b, b->pfns, got / sizeof(b->pfns[0])) && ok;
	}
	return ok;
}

/* Free page reporting: the chain's writable buffers are the free memory itself. */
static bool take_report(const struct virtq_chain *c)
{
	bool ok = true;

	for (unsigned i = c->n_out; i < c->n_out + c->n_in; i++) {
		uintptr_t start = (uintptr_t)c->iov[i].iov_base, end = start + c->iov[i].iov_len;

		/* Only whole pages. */
		start = (start + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
		end &= ~(uintptr_t)(PAGE_BYTES - 1);
		if (start < end)
			ok = give_back((uint8_t *)start, end - start) && ok;
	}
	return ok;
}

static void arm_ns(struct virtio_balloon *b, time_t s, long ns)
{
	struct itimerspec at = { .it_value = { s, ns } };

	timerfd_settime(b->timer.fd, 0, &at, NULL);
}

static bool take_chain(struct virtio_balloon *b, const struct virtq_chain *c,
                       enum balloon_stat stat)
{
	uint64_t start = now_monotonic_ns();
	bool ok = stat == STAT_REPORT ? take_report(c) : take_pages(b, c, stat == STAT_DEFLATE);
	uint64_t bytes = stat == STAT_REPORT
	                         ? c->in_bytes
	                         : (uint64_t)c->out_bytes / sizeof(uint32_t) * PAGE_BYTES;

	if (ok)
		iostats_add(&b->stats[stat], bytes, now_monotonic_ns() - start);
	else
		iostats_add_error(&b->stats[stat]);
	return ok;
}

/* Inflate, deflate and reporting queues. */
static void serve(struct virtio_balloon *b, struct virtqueue *vq, enum balloon_stat stat)
{
	struct virtq_chain c;
	int ret = 0;

	virtqueue_disable_kicks(vq);
	for (unsigned i = 0; i < TURN_CHAINS; i++) {
		ret = virtqueue_pop(vq, &c, b->iov, BALLOON_QUEUE_SIZE);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
		if (ret == 0)
			continue;
		(void)take_chain(b, &c, stat);
		/* Nothing of it was written, but the contents are gone: 0 is the truth. */
		virtqueue_push(vq, c.head, 0);
	}
	virtqueue_flush(vq);
	if (vq->broken)
		virtio_needs_reset(&b->d, vq->why_broken);
	else if (ret > 0)
		arm_ns(b, 0, 1); /* the rest in the next turn */
}

static void read_stats(struct virtio_balloon *b, const struct virtq_chain *c)
{
	struct guest_stat s;

	/* As many as there are kinds, twice: what else there is is noise. */
	for (size_t i = 0; i < 2 * N_STATS; i++) {
		uint16_t tag;

		if (iov_to_buf(c->iov, c->n_out, i * sizeof(s), &s, sizeof(s)) != sizeof(s))
			break;
		tag = le16toh(s.tag);
		if (tag >= N_STATS)
			continue;
		atomic_store(&b->guest[tag], le64toh(s.value));
		atomic_fetch_or(&b->guest_known, 1u << tag);
	}
	atomic_store(&b->guest_at_us, now_wall_us());
}

/* 5.5.6.3: the guest's buffer stays here until we want the next one. */
static void serve_stats(struct virtio_balloon *b)
{
	struct virtqueue *vq = &b->d.queues[Q_STATS];
	struct virtq_chain c;
	int ret = 0;

	/* A second buffer waits until the first is given back: one kick, one look. */
	while (!b->stats_held) {
		ret = virtqueue_pop(vq, &c, b->iov, BALLOON_QUEUE_SIZE);
		if (ret < 0 || (ret == 0 && !virtqueue_enable_kicks(vq)))
			break;
		if (ret == 0)
			continue;
		read_stats(b, &c);
		b->stats_held = true;
		b->stats_head = c.head;
	}
	if (vq->broken)
		virtio_needs_reset(&b->d, vq->why_broken);
	else if (atomic_load(&b->poll_s))
		arm_ns(b, (time_t)atomic_load(&b->poll_s), 0);
}

/* Gives the buffer back, which asks the guest for new figures. */
static void ask_stats(struct virtio_balloon *b)
{
	struct virtqueue *vq = &b->d.queues[Q_STATS];

	if (!virtio_has(&b->d, F_STATS_VQ) || !vq->enabled || !b->stats_held)
		return;
	b->stats_held = false;
	virtqueue_push(vq, b->stats_head, 0);
	virtqueue_flush(vq);
	serve_stats(b);
}

/*
 * 5.5.2 numbers all queues whether they exist or not; Linux has counted only those that do. Here
 * the two are no contradiction: without a free page hint queue, 3 and 4 can only mean reporting,
 * and without a statistics queue neither can 2.
 */
static void balloon_kick(struct virtio_device *d, unsigned queue)
{
	struct virtio_balloon *b = balloon_of(d);
	struct virtqueue *vq = &d->queues[queue];

	if (!vq->enabled)
		return;
	if (queue == Q_STATS && virtio_has(d, F_STATS_VQ))
		serve_stats(b);
	else if (queue < Q_STATS)
		serve(b, vq, queue == Q_INFLATE ? STAT_INFLATE : STAT_DEFLATE);
	else if (virtio_has(d, F_PAGE_REPORTING))
		serve(b, vq, STAT_REPORT);
}

static void balloon_timer(struct io_watch *w, uint32_t events UNUSED)
{
	struct virtio_balloon *b = container_of(w, struct virtio_balloon, timer);
	uint64_t count;

	if (read(w->fd, &count, sizeof(count)) != sizeof(count))
		return;
	ask_stats(b);
	for (unsigned i = 0; i < BALLOON_QUEUES && b->d.started; i++)
		if (i != Q_STATS || !virtio_has(&b->d, F_STATS_VQ))
			balloon_kick(&b->d, i);
}

static uint64_t balloon_features(struct virtio_device *d)
{
	struct virtio_balloon *b = balloon_of(d);

	return 1u << F_STATS_VQ | (b->deflate_on_oom ? 1u << F_DEFLATE_ON_OOM : 0) |
	       (b->reporting ? 1u << F_PAGE_REPORTING : 0);
}

static void balloon_config_read(struct virtio_device *d, uint32_t offset, void *buf, uint32_t len)
{
	struct virtio_balloon *b = balloon_of(d);
	struct balloon_config_space c = { .num_pages = htole32(atomic_load(&b->target)),
		                          .actual = htole32(atomic_load(&b->actual)) };

	memcpy(buf, (uint8_t *)&c + offset, len);
}

/* Only `actual` is the driver's to write. */
static void balloon_config_write(struct virtio_device *d, uint32_t offset, const void *buf,
                                 uint32_t len)
{
	struct virtio_balloon *b = balloon_of(d);
	struct balloon_config_space c = { .actual = htole32(atomic_load(&b->actual)) };

	memcpy((uint8_t *)&c + offset, buf, len);
	atomic_store(&b->actual, le32toh(c.actual));
}

static int balloon_start(struct virtio_device *d)
{
	return ioloop_watch(d->loop, &balloon_of(d)->timer, EPOLLIN);
}

static void balloon_stop(struct virtio_device *d)
{
	struct virtio_balloon *b = balloon_of(d);

	ioloop_unwatch(d->loop, &b->timer);
	if (b->stats_held)
		virtqueue_unpop_head(&d->queues[Q_STATS], b->stats_head);
	b->stats_held = false;
}

static void balloon_reset(struct virtio_device *d)
{
	struct virtio_balloon *b = balloon_of(d);

	atomic_store(&b->actual, 0);
	atomic_store(&b->guest_known, 0);
}

static void balloon_save(struct virtio_device *d, struct state_out *o)
{
	state_put_u32(o, atomic_load(&balloon_of(d)->target));
	state_put_u32(o, atomic_load(&balloon_of(d)->actual));
}

static int balloon_load(struct virtio_device *d, struct state_section *s)
{
	struct virtio_balloon *b = balloon_of(d);
	uint32_t target = state_get_u32(s), actual = state_get_u32(s);

	if (s->failed || target > b->ram_pages)
		return -EINVAL;
	atomic_store(&b->target, target);
	atomic_store(&b->actual, actual);
	return 0;
}

/* The figures of the guest are its own word. Asking for them makes the next answer a fresh one. */
static json_t *guest_stats(struct virtio_balloon *b)
{
	json_t *o = json_object();

	for (unsigned i = 0; o && i < N_STATS; i++)
		if (atomic_load(&b->guest_known) >> i & 1)
			json_object_set_new(
				o, stat_names[i],
				json_integer((json_int_t)(atomic_load(&b->guest[i]) & INT64_MAX)));
	if (o && atomic_load(&b->guest_known))
		json_object_set_new(o, "time_us",
		                    json_integer((json_int_t)atomic_load(&b->guest_at_us)));
	arm_ns(b, 0, 1);
	return o;
}

static json_t *balloon_stats(struct virtio_device *d)
{
	static const char *const names[_STAT_MAX] = {
		[STAT_INFLATE] = "inflate",
		[STAT_DEFLATE] = "deflate",
		[STAT_REPORT] = "report",
	};
	struct virtio_balloon *b = balloon_of(d);
	json_t *o = iostats_members(b->stats, names, _STAT_MAX);

	if (!o)
		return NULL;
	json_object_set_new(o, "target_pages", json_integer(atomic_load(&b->target)));
	json_object_set_new(o, "actual_pages", json_integer((json_int_t)virtio_balloon_actual(d)));
	json_object_set_new(o, "guest", guest_stats(b));
	return o;
}

static void balloon_free(struct virtio_device *d)
{
	struct virtio_balloon *b = balloon_of(d);

	cleanup_close_p(&b->timer.fd);
	free(b);
}

static const struct virtio_device_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.features = balloon_features,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.start = balloon_start,
	.stop = balloon_stop,
	.kick = balloon_kick,
	.reset = balloon_reset,
	.save = balloon_save,
	.load = balloon_load,
	.stats = balloon_stats,
	.free = balloon_free,
	.state_version = 1,
};

void virtio_balloon_set_target(struct virtio_device *d, uint64_t pages)
{
	struct virtio_balloon *b = balloon_of(d);

	atomic_store(&b->target, (uint32_t)MIN_OF(pages, b->ram_pages));
	virtio_config_changed(d);
}

/* What the guest says, as far as it can be true. */
uint64_t virtio_balloon_actual(struct virtio_device *d)
{
	struct virtio_balloon *b = balloon_of(d);

	return MIN_OF(atomic_load(&b->actual), b->ram_pages);
}

void virtio_balloon_set_poll_interval(struct virtio_device *d, unsigned seconds)
{
	struct virtio_balloon *b = balloon_of(d);

	atomic_store(&b->poll_s, seconds);
	arm_ns(b, 0, 1);
}

int virtio_balloon_new(const struct virtio_balloon_config *c, const struct guestmem *mem,
                       struct ioloop *loop, struct virtio_device **ret)
{
	struct virtio_balloon *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->timer = (struct io_watch){ .fd = timerfd_create(CLOCK_MONOTONIC,
		                                           TFD_CLOEXEC | TFD_NONBLOCK),
		                      .ready = balloon_timer };
	if (b->timer.fd < 0) {
		int error = errno;

		free(b);
		return -error;
	}
	b->deflate_on_oom = c->deflate_on_oom;
	b->reporting = c->free_page_reporting;
	for (size_t i = 0; i < mem->n; i++)
		b->ram_pages += mem->regions[i].bytes / PAGE_BYTES;
	b->ram_pages = MIN_OF(b->ram_pages, UINT32_MAX);
	virtio_device_init(&b->d, &balloon_ops, c->id, mem, loop, BALLOON_QUEUES,
	                   BALLOON_QUEUE_SIZE, sizeof(struct balloon_config_space));
	*ret = &b->d;
	return 0;
}
