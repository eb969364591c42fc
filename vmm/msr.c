/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/msr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "common/macros.h"

enum {
	MSR_TSC = 0x10,
	MSR_MISC_ENABLE = 0x1A0,
	MSR_MTRR_DEFAULT = 0x2FF,
	MSR_TSC_DEADLINE = 0x6E0,
	MISC_FAST_STRING = 1,
	MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6
};

static void swap(uint32_t *a, uint32_t *b)
{
	uint32_t t = *a;

	*a = *b;
	*b = t;
}

int msr_list_init(struct msr_list *l, int kvm_fd)
{
	cleanup_free struct kvm_msr_list *list =
		calloc(1, sizeof(*list) + MSR_MAX * sizeof(list->indices[0]));

	if (!list)
		return -ENOMEM;
	list->nmsrs = MSR_MAX;
	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return -errno;
	l->n = list->nmsrs;
	l->index = malloc(MAX_OF(l->n, 1u) * sizeof(l->index[0]));
	if (!l->index)
		return -ENOMEM;
	memcpy(l->index, list->indices, l->n * sizeof(l->index[0]));
	for (uint32_t i = 0; i < l->n; i++)
		if (l->index[i] == MSR_TSC)
			swap(&l->index[i], &l->index[0]);
	for (uint32_t i = 0; i < l->n; i++)
		if (l->index[i] == MSR_TSC_DEADLINE)
			swap(&l->index[i], &l->index[l->n - 1]);
	return 0;
}

void msr_list_deinit(struct msr_list *l)
{
	free(l->index);
	*l = (struct msr_list){ 0 };
}

void msr_values_deinit(struct msr_values *v)
{
	free(v->entries);
	*v = (struct msr_values){ 0 };
}

/* n entries from *at on in one call; how many KVM dealt with, or negative errno. */
static int transfer(int vcpu_fd, unsigned long request, struct kvm_msr_entry *entries, uint32_t n)
{
	cleanup_free struct kvm_msrs *m = calloc(1, sizeof(*m) + n * sizeof(entries[0]));
	int r;

	if (!m)
		return -ENOMEM;
	m->nmsrs = n;
	memcpy(m->entries, entries, n * sizeof(entries[0]));
	/* seccomp main: ioctl KVM_GET_MSRS, KVM_SET_MSRS. */
	r = ioctl(vcpu_fd, request, m);
	if (r < 0)
		return -errno;
	memcpy(entries, m->entries, n * sizeof(entries[0]));
	return r;
}

int msrs_get(const struct msr_list *l, int vcpu_fd, struct msr_values *ret)
{
	uint32_t at = 0;

	ret->n = l->n;
	ret->entries = calloc(MAX_OF(l->n, 1u), sizeof(ret->entries[0]));
	if (!ret->entries)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->n; i++)
		ret->entries[i].index = l->index[i];
	while (at < ret->n) {
		int r = transfer(vcpu_fd, KVM_GET_MSRS, ret->entries + at, ret->n - at);

		if (r < 0)
			return r;
		at += (uint32_t)r;
		if (at == ret->n)
			break;
		/* KVM stops at one that this guest does not have. */
		memmove(ret->entries + at, ret->entries + at + 1,
		        (ret->n - at - 1) * sizeof(ret->entries[0]));
		ret->n--;
	}
	return 0;
}

int msrs_set(int vcpu_fd, const struct msr_values *v, uint32_t *ret_index)
{
	int r = v->n ? transfer(vcpu_fd, KVM_SET_MSRS, v->entries, v->n) : 0;

	if (r < 0)
		return r;
	if ((uint32_t)r == v->n)
		return 0;
	*ret_index = v->entries[r].index;
	return -EINVAL;
}

int msrs_set_boot(int vcpu_fd)
{
	struct kvm_msr_entry entries[] = {
		{ .index = MSR_MTRR_DEFAULT, .data = MTRR_ENABLED_WRITE_BACK },
		{ .index = MSR_MISC_ENABLE, .data = MISC_FAST_STRING },
	};
	int r = transfer(vcpu_fd, KVM_SET_MSRS, entries, ARRAY_SIZE(entries));

	/* A processor without one of them is not worse off. */
	return r < 0 ? r : 0;
}

void msrs_put(const struct msr_values *v, struct state_out *o)
{
	state_put_u32(o, v->n);
	for (uint32_t i = 0; i < v->n; i++) {
		state_put_u32(o, v->entries[i].index);
		state_put_u64(o, v->entries[i].data);
	}
}

int msrs_take(struct state_section *s, const struct msr_list *l, struct msr_values *ret,
              struct vmd_error *err)
{
	ret->n = state_get_u32(s);
	if (ret->n > MSR_MAX)
		return error_set(err, ERROR_INVALID, "vcpu: %u model-specific registers", ret->n);
	ret->entries = calloc(MAX_OF(ret->n, 1u), sizeof(ret->entries[0]));
	if (!ret->entries)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	for (uint32_t i = 0; i < ret->n; i++) {
		uint32_t index = state_get_u32(s), k = 0;

		while (k < l->n && l->index[k] != index)
			k++;
		if (k == l->n && !s->failed)
			return error_set(err, ERROR_INVALID,
			                 "vcpu: this host has no model-specific register 0x%x",
			                 index);
		ret->entries[i].index = index;
		ret->entries[i].data = state_get_u64(s);
	}
	return 0;
}
