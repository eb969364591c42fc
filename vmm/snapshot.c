/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/snapshot.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/vmgenid.h"
#include "vmm/control.h"
#include "vmm/machine.h"

enum {
	STATE_VERSION = 1,
	STATE_AT = 16, /* behind the magic and the length of the state */
	PAGE_BYTES = 4096,
	CHUNK_BYTES = 1 << 20,
	STEP_US = 10000
};

#define FARTHEST_S (100ull * 366 * 86400) /* no clock is that far off */

static const char file_magic[8] = "vmd-ram\1";

static const char *const names[_SNAPSHOT_STATUS_MAX] = {
	[SNAPSHOT_NONE] = "none",           [SNAPSHOT_ACTIVE] = "active",
	[SNAPSHOT_COMPLETED] = "completed", [SNAPSHOT_FAILED] = "failed",
	[SNAPSHOT_CANCELLED] = "cancelled",
};

const char *snapshot_status_name(enum snapshot_status s)
{
	return names[s];
}

void snapshot_init(struct snapshot *s)
{
	*s = (struct snapshot){ .fd = -EBADF };
}

void snapshot_deinit(struct snapshot *s)
{
	cleanup_close_p(&s->fd);
}

static void set_status(struct snapshot *s, struct machine *m, enum snapshot_status status)
{
	s->status = status;
	if (status != SNAPSHOT_ACTIVE)
		cleanup_close_p(&s->fd);
	control_event(m->control, "MIGRATION", json_pack("{s:s}", "status", names[status]));
}

static int check_file(int fd, uint64_t *ret_bytes, struct vmd_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "cannot look at the snapshot's file");
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_UNSUPPORTED,
		                 "the snapshot's descriptor is not a regular file");
	*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

/* "machine": what it is, so that it is not loaded into another one, and what its clock says. */
static int save_machine(struct machine *m, struct state_out *o)
{
	struct kvm_clock_data clock = { 0 };

	/* seccomp main: ioctl KVM_GET_CLOCK, KVM_SET_CLOCK. */
	if (ioctl(m->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return -errno;
	state_begin(o, "machine", "", STATE_VERSION);
	state_put_u64(o, m->memory.bytes);
	state_put_u64(o, m->pci.high);
	state_put_u64(o, clock.clock);
	state_put_u64(o, now_wall_us());
	state_end(o);
	return 0;
}

static int write_all(int fd, const void *data, size_t len, uint64_t at)
{
	size_t done = 0;

	while (done < len) {
		/* seccomp main: pwrite64, ftruncate. */
		ssize_t n =
			pwrite(fd, (const uint8_t *)data + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

static int write_state(int fd, const struct state_out *o)
{
	uint64_t len = o->len;
	int r = write_all(fd, o->data, o->len, STATE_AT);

	if (r == 0)
		r = write_all(fd, &len, sizeof(len), sizeof(file_magic));
	/* The magic last: what is cut off before has none. */
	return r < 0 ? r : write_all(fd, file_magic, sizeof(file_magic), 0);
}

static int save_state(struct snapshot *s, struct machine *m, struct vmd_error *err)
{
	struct state_out o;
	int r;

	state_out_init(&o);
	r = save_machine(m, &o);
	if (r == 0)
		r = vcpus_save(&m->vcpus, &o);
	if (r == 0)
		r = machine_save_devices(m, &o);
	if (r == 0)
		r = state_finish(&o);
	/* The old contents go first: a file that is cut off here has no valid state. */
	if (r == 0 && (ftruncate(s->fd, 0) < 0 ||
	               ftruncate(s->fd, (off_t)(SNAPSHOT_RAM_OFFSET + s->total)) < 0))
		r = -errno;
	if (r == 0)
		r = write_state(s->fd, &o);
	state_out_deinit(&o);
	return r < 0 ? error_set_errno(err, -r, "cannot save the guest's state") : 0;
}

/* The disks are copied together with the memory, so they have to hold what the guest wrote. */
static int check_disks(const struct machine *m, struct vmd_error *err)
{
	for (unsigned i = 0; i < m->n_devices; i++)
		if (atomic_load(&m->devices[i].device->unsaved))
			return error_set(err, ERROR_ENGINE_FAILED,
			                 "what the guest wrote to '%s' could not be brought to its "
			                 "file",
			                 m->devices[i].device->id);
	return 0;
}

int snapshot_save(struct snapshot *s, struct machine *m, int fd, struct vmd_error *err)
{
	uint64_t bytes_per_s = s->bytes_per_s, bytes;
	cleanup_close int owned = fd;
	int r = check_file(fd, &bytes, err);

	if (r < 0)
		return r;
	if (snapshot_is_active(s) || m->status == MACHINE_INMIGRATE)
		return error_set(err, ERROR_WRONG_STATE, "there is a migration already");
	if (m->config->cpus.nested)
		return error_set(err, ERROR_UNSUPPORTED,
		                 "a guest with nested virtualization cannot be saved");
	r = machine_settle(m, err);
	if (r < 0)
		return r;
	machine_stop(m, MACHINE_FINISH_MIGRATE);
	if (m->status == MACHINE_INTERNAL_ERROR)
		return error_set(err, ERROR_WRONG_STATE, "a processor of the guest has failed");
	if (m->status != MACHINE_FINISH_MIGRATE)
		return error_set(err, ERROR_WRONG_STATE, "the guest has ended");
	r = check_disks(m, err);
	if (r < 0)
		return r;
	*s = (struct snapshot){ .fd = TAKE_FD(owned),
		                .total = m->memory.bytes,
		                .started_us = now_monotonic_us(),
		                .bytes_per_s = bytes_per_s };
	set_status(s, m, SNAPSHOT_ACTIVE);
	r = save_state(s, m, &s->error);
	if (r < 0) {
		set_status(s, m, SNAPSHOT_FAILED);
		m->status = MACHINE_PAUSED;
	}
	/* As in QEMU, what goes wrong from here on is told by query-migrate. */
	return 0;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return !p[0] && memcmp(p, p + 1, len - 1) == 0;
}

/* Writes what is not zero of [at, at + len), in runs of pages. */
static int write_range(struct snapshot *s, const struct machine *m, uint64_t at, uint64_t len)
{
	const uint8_t *base = m->memory.base;
	uint64_t end = at + len;

	while (at < end) {
		uint64_t run = at;
		ssize_t n;

		if (is_zero(base + at, PAGE_BYTES)) {
			at += PAGE_BYTES;
			continue;
		}
		while (run < end && !is_zero(base + run, PAGE_BYTES))
			run += PAGE_BYTES;
		while (at < run) {
			n = pwrite(s->fd, base + at, run - at, (off_t)(SNAPSHOT_RAM_OFFSET + at));
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return -errno;
			at += (uint64_t)n;
			s->written += (uint64_t)n;
		}
	}
	return 0;
}

/* The user's limit: whether it is ahead of its time. */
static bool is_too_fast(const struct snapshot *s, uint64_t now)
{
	return s->bytes_per_s &&
	       s->written / s->bytes_per_s * 1000000u +
	                       s->written % s->bytes_per_s * 1000000u / s->bytes_per_s >
	               now - s->started_us;
}

/* Goes to the next part of RAM that has data, in whole pages; 0 when there is none. It is asked for
 * once and not for each chunk of it: the answer takes a look at all of its pages. */
static int next_run(struct snapshot *s, const struct machine *m)
{
	uint64_t start = 0, stop = 0;
	int r = memory_next_data(&m->memory, s->done, &start, &stop);

	if (r == 0)
		s->done = s->total;
	if (r <= 0)
		return r;
	s->done = start & ~(uint64_t)(PAGE_BYTES - 1);
	s->run_end = MIN_OF((stop + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1), s->total);
	return 1;
}

static int write_chunk(struct snapshot *s, const struct machine *m)
{
	uint64_t len = MIN_OF(s->run_end - s->done, (uint64_t)CHUNK_BYTES);
	int r = write_range(s, m, s->done, len);

	if (r == 0)
		s->done += len;
	return r;
}

/* 1 when all is written. */
static int write_some(struct snapshot *s, struct machine *m)
{
	uint64_t end = now_monotonic_us() + STEP_US, now;

	while ((now = now_monotonic_us()) < end && !is_too_fast(s, now)) {
		int r = s->done < s->run_end ? 1 : next_run(s, m);

		if (r > 0)
			r = write_chunk(s, m);
		else if (r == 0)
			return 1;
		if (r < 0)
			return r;
	}
	if (is_too_fast(s, now))
		(void)usleep(1000);
	return 0;
}

void snapshot_step(struct snapshot *s, struct machine *m)
{
	int r = write_some(s, m);

	if (r < 0) {
		(void)error_set_errno(&s->error, -r, "cannot write the guest's memory");
		set_status(s, m, SNAPSHOT_FAILED);
		m->status = MACHINE_PAUSED;
	} else if (r > 0) {
		set_status(s, m, SNAPSHOT_COMPLETED);
		m->status = MACHINE_POSTMIGRATE;
	}
}

void snapshot_cancel(struct snapshot *s, struct machine *m)
{
	if (!snapshot_is_active(s))
		return;
	set_status(s, m, SNAPSHOT_CANCELLED);
	m->status = MACHINE_PAUSED;
}

/* The guest's own clock goes on as if it had slept: its wall clock is right at once. */
static int set_clock(struct machine *m, uint64_t clock, uint64_t saved_us)
{
	uint64_t now = now_wall_us(), away = now > saved_us ? now - saved_us : 0;
	struct kvm_clock_data data = { .clock = clock + away * 1000u };

	return ioctl(m->vm_fd, KVM_SET_CLOCK, &data) < 0 ? -errno : 0;
}

struct saved_machine {
	uint64_t clock, saved_us;
	struct vcpus_saved *vcpus;
};

static int check_machine(struct machine *m, struct state_in *in, struct saved_machine *ret,
                         struct vmd_error *err)
{
	struct state_section s;
	uint64_t bytes, high;
	int r = state_take(in, "machine", "", STATE_VERSION, &s, err);

	if (r < 0)
		return r;
	bytes = state_get_u64(&s);
	high = state_get_u64(&s);
	ret->clock = state_get_u64(&s);
	ret->saved_us = state_get_u64(&s);
	r = state_section_done(&s, err);
	if (r < 0)
		return r;
	if (bytes != m->memory.bytes)
		return error_set(err, ERROR_INVALID,
		                 "the guest was saved with %llu bytes of memory, not %llu",
		                 (unsigned long long)bytes, (unsigned long long)m->memory.bytes);
	if (high != m->pci.high)
		return error_set(err, ERROR_INVALID,
		                 "the guest was saved on a host that places PCI otherwise");
	if (ret->clock / 1000000000u > FARTHEST_S || ret->saved_us > INT64_MAX)
		return error_set(err, ERROR_INVALID, "the saved clock makes no sense");
	return 0;
}

/* In this order: all that can be checked without a processor, then the processors. */
static int load(struct machine *m, int fd, const uint8_t *data, size_t len, struct vmd_error *err)
{
	struct saved_machine saved = { 0 };
	struct state_in in;
	int r = state_open(&in, data, len, err);

	if (r == 0)
		r = check_machine(m, &in, &saved, err);
	if (r == 0)
		r = vcpus_load_parse(&m->vcpus, &in, &saved.vcpus, err);
	/* Rings are checked against RAM, which is to be there first. */
	if (r == 0)
		r = memory_restore(&m->memory, fd, SNAPSHOT_RAM_OFFSET, machine_shares_memory(m),
		                   err);
	if (r == 0)
		r = machine_load_devices(m, &in, err);
	if (r == 0)
		r = state_close(&in, err);
	if (r == 0)
		r = vcpus_create(&m->vcpus, err);
	if (r == 0)
		r = vcpus_load_apply(&m->vcpus, saved.vcpus, err);
	(void)vcpus_saved_free(saved.vcpus);
	if (r < 0)
		return r;
	r = set_clock(m, saved.clock, saved.saved_us);
	if (r == 0)
		r = vmgenid_renew(&m->memory.mem, &m->power);
	return r < 0 ? error_set_errno(err, -r, "cannot set the guest's clock") : 0;
}

/* Exactly what the head of the file says; its checks are state_open()'s. */
static int read_state(int fd, uint8_t **ret, size_t *ret_len, struct vmd_error *err)
{
	struct {
		char magic[8];
		uint64_t len;
	} head;
	cleanup_free uint8_t *data = NULL;
	size_t done = 0;

	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	    memcmp(head.magic, file_magic, sizeof(file_magic)) != 0)
		return error_set(err, ERROR_INVALID, "the file is not a saved guest");
	if (!head.len || head.len > STATE_MAX_BYTES)
		return error_set(err, ERROR_INVALID, "the saved state has %llu bytes",
		                 (unsigned long long)head.len);
	data = malloc(head.len);
	if (!data)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	while (done < head.len) {
		ssize_t n = pread(fd, data + done, head.len - done, (off_t)(STATE_AT + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "cannot read the saved state");
		if (n == 0)
			return error_set(err, ERROR_INVALID, "the saved state is cut short");
		done += (size_t)n;
	}
	*ret_len = head.len;
	*ret = TAKE_PTR(data);
	return 0;
}

int snapshot_load(struct snapshot *s, struct machine *m, int fd, struct vmd_error *err)
{
	cleanup_close int owned = fd;
	cleanup_free uint8_t *data = NULL;
	uint64_t bytes = 0;
	size_t len = 0;
	int r = check_file(fd, &bytes, err);

	if (r == 0)
		r = read_state(fd, &data, &len, err);
	if (r == 0 && bytes != SNAPSHOT_RAM_OFFSET + m->memory.bytes)
		r = error_set(err, ERROR_INVALID,
		              "the snapshot has %llu bytes where a guest of this size has %llu",
		              (unsigned long long)bytes,
		              (unsigned long long)(SNAPSHOT_RAM_OFFSET + m->memory.bytes));
	machine_pause_devices(m);
	if (r == 0)
		r = load(m, fd, data, len, err);
	s->total = m->memory.bytes;
	s->done = r == 0 ? s->total : 0;
	if (r < 0 && err->kind == ERROR_NONE)
		(void)error_set_errno(err, -r, "cannot load the saved state");
	if (r < 0)
		s->error = *err;
	set_status(s, m, r < 0 ? SNAPSHOT_FAILED : SNAPSHOT_COMPLETED);
	if (r == 0)
		m->status = m->config->paused ? MACHINE_PRELAUNCH : MACHINE_PAUSED;
	return r;
}
