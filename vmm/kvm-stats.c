/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/kvm-stats.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/macros.h"

enum {
	MAX_DESCRIPTORS = 512,
	NAME_BYTES = 64 /* KVM_STATS_NAME_SIZE is 48 */
};

static const char *const names[_KVM_STAT_MAX] = {
	[KVM_STAT_HALT_NS] = "halt_wait_ns",  [KVM_STAT_EXITS] = "exits",
	[KVM_STAT_HALT_EXITS] = "halt_exits", [KVM_STAT_IRQ_EXITS] = "irq_exits",
	[KVM_STAT_HYPERCALLS] = "hypercalls",
};

int kvm_stats_open(int vcpu_fd)
{
	/* seccomp main: ioctl KVM_GET_STATS_FD (a snapshot is loaded). */
	int fd = ioctl(vcpu_fd, KVM_GET_STATS_FD, NULL);

	return fd < 0 ? -errno : fd;
}

static int read_exactly(int fd, void *to, size_t bytes, uint64_t offset)
{
	/* seccomp main: pread64. */
	ssize_t n = pread(fd, to, bytes, (off_t)offset);

	if (n < 0)
		return -errno;
	return (size_t)n == bytes ? 0 : -EBADMSG;
}

static void note(struct kvm_stats_layout *l, const struct kvm_stats_desc *d, const char *name,
                 uint64_t data_offset)
{
	/* A plain counter: one number of 64 bits. */
	if (d->size != 1)
		return;
	for (int i = 0; i < _KVM_STAT_MAX; i++)
		if (strcmp(name, names[i]) == 0)
			l->offset[i] = data_offset + d->offset;
}

static int read_descriptors(int fd, struct kvm_stats_layout *ret)
{
	struct kvm_stats_header h;
	struct {
		struct kvm_stats_desc d;
		char name[NAME_BYTES];
	} one;
	int r = read_exactly(fd, &h, sizeof(h), 0);
	size_t bytes;

	if (r < 0)
		return r;
	if (!h.name_size || h.name_size > NAME_BYTES || h.num_desc > MAX_DESCRIPTORS)
		return -EBADMSG;
	bytes = sizeof(one.d) + h.name_size;
	for (uint32_t i = 0; i < h.num_desc; i++) {
		r = read_exactly(fd, &one, bytes, h.desc_offset + i * bytes);
		if (r < 0)
			return r;
		one.name[h.name_size - 1] = '\0';
		note(ret, &one.d, one.name, h.data_offset);
	}
	return 0;
}

int kvm_stats_layout_read(int fd, struct kvm_stats_layout *ret)
{
	int r;

	*ret = (struct kvm_stats_layout){ 0 };
	r = read_descriptors(fd, ret);
	if (r < 0)
		*ret = (struct kvm_stats_layout){ 0 };
	return r;
}

int kvm_stats_read(int fd, const struct kvm_stats_layout *layout, enum kvm_stat which,
                   uint64_t *ret)
{
	if (fd < 0 || !layout->offset[which])
		return -ENODATA;
	return read_exactly(fd, ret, sizeof(*ret), layout->offset[which]);
}
