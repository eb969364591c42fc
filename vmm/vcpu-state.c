/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of the processors: to a saved machine, back from one, and to power-on. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "vmm/vcpu.h"

enum {
	STATE_VERSION = 1,
	TSC_KHZ_TOLERANCE = 4000, /* 1/4000 is 250 ppm, what a guest's time keeping corrects */
	XSAVE_FCW = 0,
	XSAVE_MXCSR = 24,
	LAPIC_ID = 0x20,
	LAPIC_LVT0 = 0x350
};

struct saved_vcpu {
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs2;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct msr_values msrs;
	uint8_t *xsave; /* owned, xsave_bytes */
};

struct vcpus_saved {
	unsigned n;
	bool has_sregs2;
	uint32_t tsc_khz;
	struct saved_vcpu v[];
};

struct vcpus_saved *vcpus_saved_free(struct vcpus_saved *saved)
{
	for (unsigned i = 0; saved && i < saved->n; i++) {
		msr_values_deinit(&saved->v[i].msrs);
		free(saved->v[i].xsave);
	}
	free(saved);
	return NULL;
}

/* The plain structs, in the order in which they are written. */
struct part {
	unsigned long get, set;
	size_t offset, bytes;
	const char *name;
};

#define PART(what, member)                                                           \
	{                                                                            \
		KVM_GET_##what, KVM_SET_##what, offsetof(struct saved_vcpu, member), \
			sizeof(((struct saved_vcpu *)NULL)->member), #member         \
	}

/* In the order in which KVM wants them: the mode before the registers that depend on it, the local
 * APIC before its deadline register, events last. seccomp main: each of these ioctls. */
static const struct part parts_before_msrs[] = {
	PART(MP_STATE, mp),     PART(REGS, regs),   PART(XCRS, xcrs),
	PART(DEBUGREGS, debug), PART(LAPIC, lapic),
};
static const struct part part_sregs2 = PART(SREGS2, sregs2), part_sregs = PART(SREGS, sregs),
			 part_events = PART(VCPU_EVENTS, events);

static int get_part(int fd, const struct part *p, struct saved_vcpu *s)
{
	return ioctl(fd, p->get, (uint8_t *)s + p->offset) < 0 ? -errno : 0;
}

static int put_part(int fd, const struct part *p, struct saved_vcpu *s, struct state_out *o)
{
	int r = get_part(fd, p, s);

	if (r == 0)
		state_put_bytes(o, (uint8_t *)s + p->offset, p->bytes);
	return r;
}

static void take_part(struct state_section *in, const struct part *p, struct saved_vcpu *s)
{
	state_get_bytes(in, (uint8_t *)s + p->offset, p->bytes);
}

static int set_part(int fd, const struct part *p, struct saved_vcpu *s, struct vmd_error *err)
{
	if (ioctl(fd, p->set, (uint8_t *)s + p->offset) < 0)
		return error_set_errno(err, errno, "KVM refuses a processor's saved '%s'", p->name);
	return 0;
}

/* Mostly zeroes at the end, so those are left out. */
static int put_xsave(struct vcpus *a, int fd, struct state_out *o)
{
	cleanup_free uint8_t *area = calloc(1, a->xsave_bytes);
	uint32_t len = a->xsave_bytes;
	unsigned long request = len > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (!area)
		return -ENOMEM;
	if (ioctl(fd, request, area) < 0)
		return -errno;
	while (len && !area[len - 1])
		len--;
	state_put_u32(o, len);
	state_put_bytes(o, area, len);
	return 0;
}

static int save_one(struct vcpu *v, struct state_out *o)
{
	struct saved_vcpu s = { 0 };
	char instance[16];
	int r = 0;

	snprintf(instance, sizeof(instance), "%u", v->index);
	state_begin(o, "vcpu", instance, STATE_VERSION);
	state_put_u8(o, v->all->has_sregs2);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(parts_before_msrs); i++)
		r = put_part(v->fd, &parts_before_msrs[i], &s, o);
	if (r == 0)
		r = put_part(v->fd, v->all->has_sregs2 ? &part_sregs2 : &part_sregs, &s, o);
	if (r == 0)
		r = put_part(v->fd, &part_events, &s, o);
	if (r == 0)
		r = put_xsave(v->all, v->fd, o);
	if (r == 0)
		r = msrs_get(&v->all->msrs, v->fd, &s.msrs);
	if (r == 0)
		msrs_put(&s.msrs, o);
	msr_values_deinit(&s.msrs);
	state_end(o);
	return r;
}

int vcpus_save(struct vcpus *a, struct state_out *o)
{
	int khz = ioctl(a->v[0].fd, KVM_GET_TSC_KHZ, 0), r = 0;

	state_begin(o, "cpuid", "", STATE_VERSION);
	state_put_u32(o, a->n);
	state_put_u32(o, khz > 0 ? (uint32_t)khz : 0);
	state_put_u32(o, a->cpuid->nent);
	state_put_bytes(o, a->cpuid->entries, a->cpuid->nent * sizeof(a->cpuid->entries[0]));
	state_end(o);
	for (unsigned i = 0; r == 0 && i < a->n; i++)
		r = save_one(&a->v[i], o);
	return r;
}

static int take_cpuid(struct vcpus *a, struct state_in *in, uint32_t *ret_khz,
                      struct vmd_error *err)
{
	cleanup_free struct cpuid_table *t = calloc(1, sizeof(*t));
	struct state_section s;
	uint32_t n;
	int r = state_take(in, "cpuid", "", STATE_VERSION, &s, err);

	if (r < 0)
		return r;
	if (!t)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	n = state_get_u32(&s);
	if (n != a->n)
		return error_set(err, ERROR_INVALID,
		                 "the guest was saved with %u processors, not %u", n, a->n);
	*ret_khz = state_get_u32(&s);
	t->nent = state_get_u32(&s);
	if (t->nent > CPUID_MAX_ENTRIES)
		return error_set(err, ERROR_INVALID, "cpuid: %u entries", t->nent);
	state_get_bytes(&s, t->entries, t->nent * sizeof(t->entries[0]));
	r = state_section_done(&s, err);
	return r < 0 ? r : cpuid_same(t, a->cpuid, err);
}

static int take_xsave(struct vcpus *a, struct state_section *in, struct saved_vcpu *s,
                      struct vmd_error *err)
{
	uint32_t len = state_get_u32(in);

	if (len > a->xsave_bytes)
		return error_set(err, ERROR_INVALID, "vcpu: %u bytes of vector registers", len);
	s->xsave = calloc(1, a->xsave_bytes);
	if (!s->xsave)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	state_get_bytes(in, s->xsave, len);
	return 0;
}

static int take_one(struct vcpus *a, unsigned index, struct state_in *in, bool *has_sregs2,
                    struct saved_vcpu *s, struct vmd_error *err)
{
	struct state_section section;
	char instance[16];
	int r;

	snprintf(instance, sizeof(instance), "%u", index);
	r = state_take(in, "vcpu", instance, STATE_VERSION, &section, err);
	if (r < 0)
		return r;
	*has_sregs2 = state_get_u8(&section);
	if (*has_sregs2 && !a->has_sregs2)
		return error_set(err, ERROR_UNSUPPORTED, "vcpu: this host's KVM is too old");
	for (size_t i = 0; i < ARRAY_SIZE(parts_before_msrs); i++)
		take_part(&section, &parts_before_msrs[i], s);
	take_part(&section, *has_sregs2 ? &part_sregs2 : &part_sregs, s);
	take_part(&section, &part_events, s);
	r = take_xsave(a, &section, s, err);
	if (r == 0)
		r = msrs_take(&section, &a->msrs, &s->msrs, err);
	return r < 0 ? r : state_section_done(&section, err);
}

int vcpus_load_parse(struct vcpus *a, struct state_in *in, struct vcpus_saved **ret,
                     struct vmd_error *err)
{
	struct vcpus_saved *saved = calloc(1, sizeof(*saved) + a->n * sizeof(saved->v[0]));
	int r;

	if (!saved)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	saved->n = a->n;
	r = take_cpuid(a, in, &saved->tsc_khz, err);
	for (unsigned i = 0; r == 0 && i < a->n; i++)
		r = take_one(a, i, in, &saved->has_sregs2, &saved->v[i], err);
	if (r < 0)
		saved = vcpus_saved_free(saved);
	*ret = saved;
	return r;
}

/* The guest reckons with the frequency it had; a host whose KVM cannot scale must have the same. */
static int set_frequency(int fd, uint32_t khz, struct vmd_error *err)
{
	int now = ioctl(fd, KVM_GET_TSC_KHZ, 0);

	if (!khz || now <= 0 || (uint32_t)now == khz)
		return 0;
	/* seccomp main: ioctl KVM_SET_TSC_KHZ. */
	if (ioctl(fd, KVM_SET_TSC_KHZ, (unsigned long)khz) == 0)
		return 0;
	if ((uint32_t)now > khz - khz / TSC_KHZ_TOLERANCE &&
	    (uint32_t)now < khz + khz / TSC_KHZ_TOLERANCE)
		return 0;
	return error_set(err, ERROR_UNSUPPORTED,
	                 "the guest's clock counts %u kHz, this host's %d, and its KVM cannot "
	                 "scale it",
	                 khz, now);
}

static int apply_one(struct vcpus *a, const struct vcpus_saved *saved, unsigned i,
                     struct vmd_error *err)
{
	struct saved_vcpu *s = (struct saved_vcpu *)&saved->v[i];
	uint32_t refused = 0;
	int fd = a->v[i].fd, r = set_frequency(fd, saved->tsc_khz, err);

	if (r == 0)
		r = set_part(fd, saved->has_sregs2 ? &part_sregs2 : &part_sregs, s, err);
	for (size_t p = 0; r == 0 && p < ARRAY_SIZE(parts_before_msrs); p++)
		r = set_part(fd, &parts_before_msrs[p], s, err);
	if (r == 0 && ioctl(fd, KVM_SET_XSAVE, s->xsave) < 0)
		r = error_set_errno(err, errno, "KVM refuses the saved vector registers");
	if (r < 0)
		return r;
	r = msrs_set(fd, &s->msrs, &refused);
	if (r < 0)
		return error_set(err, ERROR_INVALID, "KVM refuses the saved value of register 0x%x",
		                 refused);
	return set_part(fd, &part_events, s, err);
}

int vcpus_load_apply(struct vcpus *a, const struct vcpus_saved *saved, struct vmd_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < a->n; i++) {
		r = apply_one(a, saved, i, err);
		if (r < 0)
			error_prefix(err, "processor %u", i);
	}
	return r;
}

/* What the manuals say of a processor after INIT or power-on (SDM 3A, table 10-1). */
static void power_on(struct vcpu *v, struct saved_vcpu *s)
{
	struct kvm_segment data = { .limit = 0xFFFF, .type = 3, .present = 1, .s = 1 };
	struct kvm_segment code = data;
	uint32_t id = v->apic_id << 24;

	code.type = 11;
	code.selector = 0xF000;
	code.base = 0xFFFF0000;
	s->regs = (struct kvm_regs){ .rip = 0xFFF0, .rflags = 2, .rdx = 0x600 };
	s->sregs.cs = code;
	s->sregs.ds = s->sregs.es = s->sregs.fs = s->sregs.gs = s->sregs.ss = data;
	s->sregs.tr = s->sregs.ldt = (struct kvm_segment){ .limit = 0xFFFF, .present = 1 };
	s->sregs.tr.type = 11;
	s->sregs.ldt.type = 2;
	s->sregs.gdt = s->sregs.idt = (struct kvm_dtable){ .limit = 0xFFFF };
	s->sregs.cr0 = 0x60000010;
	s->sregs.apic_base = 0xFEE00800u | (v->index ? 0 : 0x100u);
	s->debug.dr6 = 0xFFFF0FF0;
	s->debug.dr7 = 0x400;
	s->xcrs.nr_xcrs = 1;
	s->xcrs.xcrs[0].value = 1;
	s->mp.mp_state = v->index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
	s->lapic = v->all->reset_lapic;
	memcpy(s->lapic.regs + LAPIC_ID, &id, sizeof(id));
	if (v->index)
		memcpy(s->lapic.regs + LAPIC_LVT0, &(uint32_t){ 0x10000 }, 4);
}

static int reset_one(struct vcpu *v)
{
	static const uint16_t fcw = 0x37F;
	static const uint32_t mxcsr = 0x1F80;
	cleanup_free uint8_t *xsave = calloc(1, v->all->xsave_bytes);
	struct saved_vcpu s = { 0 };
	uint32_t refused;
	int r = 0;

	if (!xsave)
		return -ENOMEM;
	power_on(v, &s);
	memcpy(xsave + XSAVE_FCW, &fcw, sizeof(fcw));
	memcpy(xsave + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	r = set_part(v->fd, &part_sregs, &s, NULL);
	for (size_t p = 0; r == 0 && p < ARRAY_SIZE(parts_before_msrs); p++)
		r = set_part(v->fd, &parts_before_msrs[p], &s, NULL);
	if (r == 0 && ioctl(v->fd, KVM_SET_XSAVE, xsave) < 0)
		r = -errno;
	if (r == 0)
		r = msrs_set(v->fd, &v->all->reset_msrs, &refused);
	if (r == 0)
		r = set_part(v->fd, &part_events, &s, NULL);
	v->broken = v->in_completion = false;
	return r;
}

int vcpus_reset(struct vcpus *a)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < a->n; i++)
		r = reset_one(&a->v[i]);
	a->failure.valid = false;
	return r;
}
