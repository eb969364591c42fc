/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/macros.h"
#include "devices/virtqueue.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/guest-ram.h"

/*
 * A ring whose memory is the input, served while a second thread writes the input over it again and
 * again, each time at another place. What a chain resolves to must lie in RAM and add up, no more
 * is in flight than the ring has, and the pages around RAM kill whoever leaves it.
 *
 * Input: size exponent, flags, room for buffers, then the first bytes of RAM.
 */

#define RAM_BYTES 65536u
#define AVAIL_AT  0u /* first, so that short inputs reach the heads */
#define DESC_AT   144u
#define USED_AT   2048u
#define POPS      64

static struct guest_ram ram;
static atomic_bool stop;

struct input {
	const uint8_t *data;
	size_t size;
};

static void *mutate(void *arg)
{
	const struct input *in = arg;
	size_t at = 0, from = 0;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		from = (from + 7) % in->size;
		at = (at + 13) % (USED_AT + 512);
		__atomic_store_n(ram.host + at, in->data[from], __ATOMIC_RELAXED);
	}
	return NULL;
}

static void on_interrupt(struct virtqueue *vq)
{
	FUZZ_CHECK(vq->enabled);
}

static void check(const struct virtqueue *vq, const struct virtq_chain *c, unsigned room)
{
	uint64_t in = 0, out = 0;

	FUZZ_CHECK(vq->in_flight <= vq->size && c->head < vq->size);
	FUZZ_CHECK(c->n_out + c->n_in <= room);
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		const uint8_t *at = c->iov[i].iov_base;

		FUZZ_CHECK(at >= ram.host && c->iov[i].iov_len &&
		           c->iov[i].iov_len <= RAM_BYTES - (size_t)(at - ram.host));
		*(i < c->n_out ? &out : &in) += c->iov[i].iov_len;
	}
	FUZZ_CHECK(in == c->in_bytes && out == c->out_bytes);
}

/* Keeps every third chain in flight for a while, gives every fifth back. */
static void serve(struct virtqueue *vq, unsigned room)
{
	struct iovec iov[64];
	struct virtq_chain c;
	uint16_t kept[POPS];
	unsigned n_kept = 0;

	for (unsigned n = 0; n < POPS; n++) {
		int r = virtqueue_pop(vq, &c, iov, room);

		FUZZ_CHECK(r == 1 || r == 0 || (r == -EBADMSG && vq->broken && vq->why_broken));
		if (r <= 0)
			break;
		check(vq, &c, room);
		if (n % 5 == 4) {
			virtqueue_unpop(vq);
		} else if (n % 3 == 2) {
			kept[n_kept++] = c.head;
		} else {
			virtqueue_push(vq, c.head, c.in_bytes);
			virtqueue_flush(vq);
		}
		(void)virtqueue_enable_kicks(vq);
	}
	while (n_kept)
		virtqueue_push(vq, kept[--n_kept], 0);
	virtqueue_flush(vq);
	FUZZ_CHECK(vq->in_flight == 0 && vq->last_avail == vq->next_used);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct virtqueue vq = { .kick_fd = -EBADF, .interrupt = on_interrupt };
	unsigned room;
	pthread_t t;

	if (size < 4)
		return 0;
	if (!ram.host)
		guest_ram_init(&ram, RAM_BYTES);
	memset(ram.host, 0, USED_AT + 1024);
	memcpy(ram.host, data + 3, MIN_OF(size - 3, USED_AT));
	vq.size = (uint16_t)(1u << data[0] % 7);
	vq.desc = GPA(DESC_AT);
	vq.avail = GPA(AVAIL_AT);
	vq.used = GPA(USED_AT);
	room = data[2] % 64 + 1u;
	FUZZ_CHECK(virtqueue_enable(&vq, &ram.mem, 64) == 0);
	vq.event_idx = data[1] & 1;
	vq.indirect = data[1] & 2;
	vq.last_avail = vq.next_used = (uint16_t)((data[1] & 0xf0) << 8);
	if (!(data[1] & 4)) {
		/* As many as fit are offered, wherever the index stands. */
		uint16_t idx = (uint16_t)(vq.last_avail + vq.size);

		memcpy(ram.host + AVAIL_AT + 2, &idx, sizeof(idx));
	}
	stop = !(data[1] & 8);
	if (!stop)
		FUZZ_CHECK(pthread_create(&t, NULL, mutate, &in) == 0);
	serve(&vq, room);
	if (!stop) {
		stop = true;
		pthread_join(t, NULL);
	}
	virtqueue_disable(&vq);
	return 0;
}
