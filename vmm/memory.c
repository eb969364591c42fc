/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/memory.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	PAGE_BYTES = 4096,
	PAGEMAP_ENTRIES = 512
};

#define HUGE_BYTES (2ull << 20)

/* Address space of that alignment, nothing in it yet. */
static uint8_t *reserve(uint64_t bytes, uint64_t alignment)
{
	uint8_t *at = mmap(NULL, bytes + alignment, PROT_NONE,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (at == MAP_FAILED)
		return NULL;
	skip = -(uintptr_t)at & (alignment - 1);
	if (skip)
		(void)munmap(at, skip);
	if (skip != alignment)
		(void)munmap(at + skip + bytes, alignment - skip);
	return at + skip;
}

static int make_file(struct vm_memory *m, unsigned pages, struct vmd_error *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (pages == VMM_PAGES_2M)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	if (pages == VMM_PAGES_1G)
		flags |= MFD_HUGETLB | MFD_HUGE_1GB;
	m->fd = memfd_create("guest-ram", flags);
	if (m->fd < 0)
		return error_set_errno(err, errno, "cannot make the guest's memory");
	if (ftruncate(m->fd, (off_t)m->bytes) < 0)
		return error_set_errno(err, errno, "cannot size the guest's memory");
	if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_set_errno(err, errno, "cannot seal the guest's memory");
	return 0;
}

/*
 * Not in core dumps: it is the guest's, and large. Where huge pages are welcome, the first of them
 * is not: a guest that only looks around there should not take up 2 MiB.
 */
static void advise(const struct vm_memory *m)
{
	(void)madvise(m->base, m->bytes, MADV_DONTDUMP);
	if (m->hugetlb)
		return;
	(void)madvise(m->base, m->transparent ? HUGE_BYTES : m->bytes, MADV_NOHUGEPAGE);
	if (m->transparent)
		(void)madvise(m->base + HUGE_BYTES, m->bytes - HUGE_BYTES, MADV_HUGEPAGE);
}

static int map_file(struct vm_memory *m, struct vmd_error *err)
{
	int flags = MAP_SHARED | MAP_FIXED | (m->hugetlb ? 0 : MAP_NORESERVE);

	if (mmap(m->base, m->bytes, PROT_READ | PROT_WRITE, flags, m->fd, 0) == MAP_FAILED) {
		int e = errno;

		if (m->hugetlb && e == ENOMEM)
			return error_set(err, ERROR_NO_SPACE,
			                 "the host has not enough free huge pages for the guest");
		return error_set_errno(err, e, "cannot map the guest's memory");
	}
	advise(m);
	return 0;
}

/* Fresh memory in the place of whatever is there. seccomp main: mmap without PROT_EXEC, madvise. */
static int map_private(struct vm_memory *m)
{
	if (mmap(m->base, m->bytes, PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	advise(m);
	return 0;
}

/* Whether another process is to have it mapped, too. */
static bool is_shared(const struct vmm_config *c)
{
	for (unsigned i = 0; i < c->n_disks; i++)
		if (c->disks[i].vhost_user_fd >= 0)
			return true;
	return false;
}

static int make_memory(struct vm_memory *m, const struct vmm_config *c, struct vmd_error *err)
{
	int r;

	if (m->hugetlb || is_shared(c)) {
		r = make_file(m, c->hugepages, err);
		if (r == 0)
			r = map_file(m, err);
	} else {
		r = map_private(m);
		if (r < 0)
			(void)error_set_errno(err, -r, "cannot map the guest's memory");
	}
	if (r == 0 && m->prealloc && madvise(m->base, m->bytes, MADV_POPULATE_WRITE) < 0)
		r = error_set_errno(err, errno, "cannot allocate the guest's memory");
	return r;
}

static void add_region(struct vm_memory *m, uint64_t gpa, uint64_t bytes, uint64_t offset)
{
	m->mem.regions[m->mem.n++] =
		(struct guestmem_region){ .gpa = gpa, .bytes = bytes, .host = m->base + offset };
}

int memory_init(struct vm_memory *m, const struct vmm_config *c, struct vmd_error *err)
{
	uint64_t low = MIN_OF(c->memory_bytes, LAYOUT_LOW_RAM_END);
	int r;

	*m = (struct vm_memory){ .bytes = c->memory_bytes,
		                 .fd = -EBADF,
		                 .backing = -EBADF,
		                 .pagemap = -EBADF,
		                 .prealloc = c->prealloc,
		                 .transparent = c->hugepages == VMM_PAGES_TRANSPARENT,
		                 .hugetlb = c->hugepages == VMM_PAGES_2M ||
		                            c->hugepages == VMM_PAGES_1G };
	m->base = reserve(m->bytes, c->hugepages == VMM_PAGES_1G ? 1ull << 30 : HUGE_BYTES);
	if (!m->base)
		return error_set_errno(err, ENOMEM, "no address space for the guest's memory");
	r = make_memory(m, c, err);
	if (r < 0)
		return r;
	add_region(m, 0, low, 0);
	if (m->bytes > low)
		add_region(m, LAYOUT_HIGH_RAM, m->bytes - low, low);
	if (m->fd < 0 || c->incoming)
		m->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return 0;
}

void memory_deinit(struct vm_memory *m)
{
	if (m->base)
		(void)munmap(m->base, m->bytes);
	m->base = NULL;
	m->mem.n = 0;
	cleanup_close_p(&m->fd);
	cleanup_close_p(&m->backing);
	cleanup_close_p(&m->pagemap);
}

int memory_add_slots(const struct vm_memory *m, int vm_fd)
{
	for (size_t i = 0; i < m->mem.n; i++) {
		struct kvm_userspace_memory_region slot = {
			.slot = (uint32_t)i,
			.guest_phys_addr = m->mem.regions[i].gpa,
			.memory_size = m->mem.regions[i].bytes,
			.userspace_addr = (uintptr_t)m->mem.regions[i].host
		};

		/* seccomp: not needed once vCPUs run. */
		if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return -errno;
	}
	return 0;
}

int memory_clear(struct vm_memory *m)
{
	int r;

	if (m->prealloc) {
		memset(m->base, 0, m->bytes);
		return 0;
	}
	if (m->fd >= 0)
		/* seccomp main: fallocate. */
		return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		                 (off_t)m->bytes) < 0
		               ? -errno
		               : 0;
	/* A snapshot that was mapped has done its work. */
	r = map_private(m);
	if (r < 0)
		return r;
	cleanup_close_p(&m->backing);
	return 0;
}

static int copy_in(struct vm_memory *m, int fd, uint64_t offset, struct vmd_error *err)
{
	uint64_t at = offset, end = offset + m->bytes;

	while (at < end) {
		/* seccomp main: lseek, pread64. */
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (data < 0 || hole < 0)
			return error_set_errno(err, errno, "cannot find the saved memory");
		at = (uint64_t)data;
		while (at < MIN_OF((uint64_t)hole, end)) {
			ssize_t n = pread(fd, m->base + (at - offset),
			                  MIN_OF((uint64_t)hole, end) - at, (off_t)at);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return error_set_errno(err, n ? errno : EIO,
				                       "cannot read the saved memory");
			at += (uint64_t)n;
		}
		at = (uint64_t)hole;
	}
	return 0;
}

int memory_restore(struct vm_memory *m, int fd, uint64_t offset, bool shared, struct vmd_error *err)
{
	if (shared || m->hugetlb || m->prealloc)
		return copy_in(m, fd, offset, err);
	if (mmap(m->base, m->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
	         fd, (off_t)offset) == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map the saved memory");
	advise(m);
	m->backing = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (m->backing < 0)
		return error_set_errno(err, errno, "cannot keep the saved memory");
	m->backing_offset = offset;
	cleanup_close_p(&m->fd);
	return 0;
}

/* The data range of a file that begins at or after from; offsets in the file. */
static int next_in_file(int fd, uint64_t from, uint64_t limit, uint64_t *ret_start,
                        uint64_t *ret_end)
{
	off_t data = lseek(fd, (off_t)from, SEEK_DATA), hole;

	if (data < 0)
		return errno == ENXIO ? 0 : -errno;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*ret_start = (uint64_t)data;
	*ret_end = MIN_OF((uint64_t)hole, limit);
	return *ret_start < limit;
}

/* pagemap: present or swapped, and not a page of the file: the guest's own copy. */
static bool is_private(uint64_t entry)
{
	return (entry >> 62) != 0 && !(entry >> 61 & 1);
}

/* The next run of pages in [from, to) that this process has copies of. */
static int next_private(const struct vm_memory *m, uint64_t from, uint64_t to, uint64_t *ret_start,
                        uint64_t *ret_end)
{
	uint64_t entries[PAGEMAP_ENTRIES], page = from / PAGE_BYTES, pages = to / PAGE_BYTES;
	bool found = false;

	while (page < pages) {
		uint64_t first = (uintptr_t)m->base / PAGE_BYTES + page;
		size_t want = MIN_OF(pages - page, (uint64_t)PAGEMAP_ENTRIES);
		ssize_t n = pread(m->pagemap, entries, want * 8, (off_t)(first * 8));

		if (n <= 0)
			return n ? -errno : -EIO;
		for (size_t i = 0; i < (size_t)n / 8; i++, page++) {
			if (is_private(entries[i]) && !found)
				*ret_start = page * PAGE_BYTES;
			if (found && !is_private(entries[i]))
				goto out;
			found = found || is_private(entries[i]);
		}
	}
out:
	*ret_end = page * PAGE_BYTES;
	return found;
}

/* Of private memory: what a snapshot mapped there holds, or this process has pages of. */
static int next_in_private(const struct vm_memory *m, uint64_t from, uint64_t *ret_start,
                           uint64_t *ret_end)
{
	uint64_t start = m->bytes, end = m->bytes;
	int in_file = 0, r;

	if (m->pagemap < 0) { /* unknown: every page is looked at */
		*ret_start = from;
		*ret_end = m->bytes;
		return from < m->bytes;
	}
	if (m->backing >= 0) {
		in_file = next_in_file(m->backing, m->backing_offset + from,
		                       m->backing_offset + m->bytes, &start, &end);
		if (in_file < 0)
			return in_file;
		if (in_file) {
			start -= m->backing_offset;
			end -= m->backing_offset;
		}
	}
	/* Pages of one's own in the file's run are in the answer anyway: each is looked at once. */
	r = next_private(m, from, start, ret_start, ret_end);
	if (r != 0 || !in_file)
		return r;
	*ret_start = start;
	*ret_end = end;
	return 1;
}

int memory_next_data(const struct vm_memory *m, uint64_t from, uint64_t *ret_start,
                     uint64_t *ret_end)
{
	if (from >= m->bytes)
		return 0;
	if (m->hugetlb) { /* hugetlbfs does not tell its holes */
		*ret_start = from;
		*ret_end = m->bytes;
		return 1;
	}
	if (m->fd < 0)
		return next_in_private(m, from, ret_start, ret_end);
	return next_in_file(m->fd, from, m->bytes, ret_start, ret_end);
}
