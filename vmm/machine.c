/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/machine.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/vmgenid.h"
#include "vmm/acpi.h"
#include "vmm/control.h"

enum machine_event {
	EVENT_RESET = 1,
	EVENT_POWEROFF = 2,
	EVENT_PANICKED = 4,
	EVENT_CRASHLOADED = 8,
	EVENT_TEST_EXIT = 16,
	EVENT_FAILED = 32,
	EVENT_IO_ERROR = 64
};

static const char *const status_names[_MACHINE_STATUS_MAX] = {
	[MACHINE_INMIGRATE] = "inmigrate",
	[MACHINE_PRELAUNCH] = "prelaunch",
	[MACHINE_RUNNING] = "running",
	[MACHINE_PAUSED] = "paused",
	[MACHINE_FINISH_MIGRATE] = "finish-migrate",
	[MACHINE_POSTMIGRATE] = "postmigrate",
	[MACHINE_INTERNAL_ERROR] = "internal-error",
	[MACHINE_PANICKED] = "guest-panicked",
	[MACHINE_SHUTDOWN] = "shutdown",
};

const char *machine_status_name(enum machine_status s)
{
	return status_names[s];
}

bool machine_is_running(const struct machine *m)
{
	return m->status == MACHINE_RUNNING;
}

/* Any thread. What does not stop the guest is told while it runs. */
static void post(struct machine *m, enum machine_event event)
{
	bool goes_on = event == EVENT_CRASHLOADED || event == EVENT_IO_ERROR ||
	               (event == EVENT_PANICKED && m->config->on_panic == VMM_PANIC_NONE);
	uint64_t one = 1;
	bool is_new = !(atomic_fetch_or(&m->pending, event) & event);

	if (!goes_on)
		vcpus_ask_park(&m->vcpus);
	/* A storm of the same event is one. */
	if (is_new && write(m->event_fd, &one, sizeof(one)) < 0)
		return; /* its count is at the end: readable anyway */
}

void machine_note_io_error(struct machine *m)
{
	post(m, EVENT_IO_ERROR);
}

static void on_platform_event(struct platform *p, enum platform_event event, unsigned value)
{
	static const enum machine_event events[] = {
		[PLATFORM_RESET] = EVENT_RESET,         [PLATFORM_POWEROFF] = EVENT_POWEROFF,
		[PLATFORM_PANICKED] = EVENT_PANICKED,   [PLATFORM_CRASHLOADED] = EVENT_CRASHLOADED,
		[PLATFORM_TEST_EXIT] = EVENT_TEST_EXIT,
	};
	struct machine *m = container_of(p, struct machine, platform);

	if (event == PLATFORM_TEST_EXIT)
		atomic_store(&m->test_exit, (int)value);
	post(m, events[event]);
}

static void on_vcpu_event(struct vcpus *all, struct vcpu *v UNUSED, enum vcpu_event event)
{
	static const enum machine_event events[] = {
		[VCPU_TRIPLE_FAULT] = EVENT_RESET,
		[VCPU_SHUTDOWN] = EVENT_POWEROFF,
		[VCPU_FAILED] = EVENT_FAILED,
	};

	post(container_of(all, struct machine, vcpus), events[event]);
}

static int create_vm(struct machine *m, struct vmd_error *err)
{
	uint64_t identity = LAYOUT_IDENTITY_MAP;
	int kvm = m->config->kvm_fd;

	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return error_set(err, ERROR_UNSUPPORTED, "kvm_fd is not /dev/kvm");
	do
		m->vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
	while (m->vm_fd < 0 && errno == EINTR);
	if (m->vm_fd < 0)
		return error_set_errno(err, errno, "KVM cannot make a virtual machine");
	/* Both only matter to old Intel processors, and must be out of the way of RAM. */
	if (ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
	    ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_TSS) < 0)
		return error_set_errno(err, errno, "KVM cannot place its own pages");
	return 0;
}

/* The 64-bit window lies above RAM, on a GiB, as far as the processor can address. */
static void place_high_window(struct machine *m)
{
	const uint64_t gib = 1ull << 30, want = 16 * gib;
	const struct guestmem_region *last = &m->memory.mem.regions[m->memory.mem.n - 1];
	struct kvm_cpuid_entry2 *e = cpuid_find(m->vcpus.cpuid, 0x80000008, 0);
	uint64_t limit = 1ull << (e ? MIN_OF(e->eax & 0xFF, 52u) : 36u);
	uint64_t from = MAX_OF(last->gpa + last->bytes, LAYOUT_HIGH_RAM);

	from = (from + gib - 1) & ~(gib - 1);
	if (from + want > limit)
		return;
	m->pci.high = from;
	m->pci.high_end = from + want;
}

int machine_realize(struct machine *m, const struct vmm_config *c, struct vmd_error *err)
{
	int r;

	m->config = c;
	m->vm_fd = -EBADF;
	m->memory = (struct vm_memory){ .fd = -EBADF, .backing = -EBADF, .pagemap = -EBADF };
	m->platform.event = on_platform_event;
	m->vcpus.on_event = on_vcpu_event;
	m->status = c->incoming ? MACHINE_INMIGRATE : MACHINE_PRELAUNCH;
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0)
		return error_set_errno(err, errno, "no eventfd");
	bus_init(&m->pio);
	bus_init(&m->mmio);
	r = create_vm(m, err);
	if (r == 0)
		r = memory_init(&m->memory, c, err);
	if (r < 0)
		return r;
	r = memory_add_slots(&m->memory, m->vm_fd);
	if (r < 0)
		return error_set_errno(err, -r, "KVM refuses the guest's memory");
	r = irqs_init(&m->irqs, m->vm_fd);
	if (r < 0)
		return error_set_errno(err, -r, "KVM has no interrupt controllers");
	r = vcpus_init(&m->vcpus, c->kvm_fd, m->vm_fd, &c->cpus, &m->pio, &m->mmio, err);
	if (r < 0)
		return r;
	r = pci_bus_init(&m->pci, &m->pio, &m->mmio, &m->irqs.chip, LAYOUT_ECAM);
	if (r < 0)
		return error_set_errno(err, -r, "no PCI bus");
	m->realized = true;
	m->pci.low = LAYOUT_PCI_LOW;
	m->pci.low_end = LAYOUT_PCI_LOW_END;
	place_high_window(m);
	r = machine_add_devices(m, err);
	/* Until its first run it stands still like any guest that was stopped: it may be saved. */
	if (r == 0)
		machine_pause_devices(m);
	return r;
}

void machine_free(struct machine *m)
{
	vcpus_deinit(&m->vcpus);
	machine_remove_devices(m);
	if (m->realized) {
		pci_bus_deinit(&m->pci);
		irqs_deinit(&m->irqs);
	}
	bus_deinit(&m->pio);
	bus_deinit(&m->mmio);
	memory_deinit(&m->memory);
	cleanup_close_p(&m->vm_fd);
	cleanup_close_p(&m->event_fd);
}

int machine_start_threads(struct machine *m, struct vmd_error *err)
{
	int r = machine_start_loops(m);

	if (r == 0)
		r = vcpus_start_threads(&m->vcpus);
	return r < 0 ? error_set_errno(err, -r, "cannot start the guest's threads") : 0;
}

static int load_guest(struct machine *m, struct boot_entry *entry, struct vmd_error *err)
{
	const struct vmm_config *c = m->config;
	struct boot_files files = { .kernel_fd = c->kernel_fd,
		                    .initrd_fd = c->initrd_fd,
		                    .cmdline = c->cmdline,
		                    .ram_bytes = c->memory_bytes };
	struct acpi_config acpi = { .n_cpus = c->cpus.count,
		                    .serial = m->has_serial,
		                    .pvpanic = c->pvpanic,
		                    .high = m->pci.high,
		                    .high_end = m->pci.high_end };
	int r = boot_load(&files, &m->memory.mem, entry, err);

	cpu_topology_init(&acpi.topology, &c->cpus);
	if (r == 0)
		r = acpi_build(&acpi, &m->memory.mem, err);
	if (r < 0)
		return r;
	r = vmgenid_renew(&m->memory.mem, NULL);
	return r < 0 ? error_set_errno(err, -r, "no generation id") : 0;
}

int machine_boot(struct machine *m, struct vmd_error *err)
{
	struct boot_entry entry;
	int r = load_guest(m, &entry, err);

	if (r == 0)
		r = vcpus_create(&m->vcpus, err);
	if (r < 0)
		return r;
	r = vcpus_set_entry(&m->vcpus, &entry);
	return r < 0 ? error_set_errno(err, -r, "KVM refuses the kernel's entry") : 0;
}

int machine_cont(struct machine *m, struct vmd_error *err)
{
	switch (m->status) {
	case MACHINE_RUNNING:
		return 0;
	case MACHINE_PRELAUNCH:
	case MACHINE_PAUSED:
	case MACHINE_POSTMIGRATE:
	case MACHINE_PANICKED:
		break;
	case MACHINE_INTERNAL_ERROR:
		return error_set(err, ERROR_WRONG_STATE,
		                 "a processor cannot go on: reset the guest first");
	default:
		return error_set(err, ERROR_WRONG_STATE, "the guest is in state '%s'",
		                 machine_status_name(m->status));
	}
	machine_resume_devices(m);
	m->status = MACHINE_RUNNING;
	if (m->ever_ran)
		control_event(m->control, "RESUME", NULL);
	m->ever_ran = true;
	vcpus_run(&m->vcpus);
	return 0;
}

static void reset_by_guest(struct machine *m)
{
	struct vmd_error err = VMD_ERROR_INIT;

	if (machine_reset(m, true, &err) < 0)
		control_warn(m->control, &err);
}

/* What the guest did before it was stopped comes before what follows: its processor is behind the
 * instruction already, so a reset or a failure would be lost. */
static void finish_what_it_began(struct machine *m)
{
	m->status = MACHINE_PAUSED;
	machine_handle_events(m);
	if (m->reset_due_us)
		reset_by_guest(m);
}

void machine_stop(struct machine *m, enum machine_status reason)
{
	if (m->status == MACHINE_RUNNING) {
		vcpus_park(&m->vcpus);
		machine_pause_devices(m);
		control_event(m->control, "STOP", NULL);
		if (reason == MACHINE_PAUSED || reason == MACHINE_FINISH_MIGRATE)
			finish_what_it_began(m);
		if (m->status == MACHINE_PANICKED && reason == MACHINE_PAUSED)
			return; /* that is why it stands still */
	}
	m->reset_due_us = 0;
	if (m->status == MACHINE_INMIGRATE || m->status == MACHINE_SHUTDOWN)
		return;
	if (m->status != MACHINE_INTERNAL_ERROR || reason == MACHINE_SHUTDOWN)
		m->status = reason;
}

int machine_settle(struct machine *m, struct vmd_error *err)
{
	const char *hangs;

	if (m->status != MACHINE_RUNNING)
		return 0;
	vcpus_park(&m->vcpus);
	hangs = machine_settle_devices(m);
	if (!hangs)
		return 0;
	vcpus_run(&m->vcpus);
	return error_set(err, ERROR_TIMEOUT,
	                 "disk '%s' does not answer, so the guest cannot stand still", hangs);
}

static int begin_anew(struct machine *m, struct vmd_error *err)
{
	struct boot_entry entry;
	int r = irqs_reset(&m->irqs);

	machine_reset_devices(m);
	if (r == 0)
		r = memory_clear(&m->memory);
	if (r < 0)
		return error_set_errno(err, -r, "cannot reset the guest");
	r = load_guest(m, &entry, err);
	if (r < 0)
		return r;
	r = vcpus_reset(&m->vcpus);
	if (r == 0)
		r = vcpus_set_entry(&m->vcpus, &entry);
	return r < 0 ? error_set_errno(err, -r, "cannot reset the guest's processors") : 0;
}

int machine_reset(struct machine *m, bool by_guest, struct vmd_error *err)
{
	bool ran = m->status == MACHINE_RUNNING;
	int r;

	if (m->status == MACHINE_INMIGRATE || m->status == MACHINE_FINISH_MIGRATE ||
	    m->status == MACHINE_SHUTDOWN)
		return error_set(err, ERROR_WRONG_STATE, "the guest is in state '%s'",
		                 machine_status_name(m->status));
	vcpus_park(&m->vcpus);
	machine_pause_devices(m);
	/* What the guest asked for before is void. */
	atomic_store(&m->pending, 0);
	m->reset_due_us = 0;
	r = begin_anew(m, err);
	if (r < 0) {
		m->status = MACHINE_INTERNAL_ERROR;
		if (ran)
			control_event(m->control, "STOP", NULL);
		return r;
	}
	m->resets++;
	control_event(m->control, "RESET",
	              json_pack("{s:b, s:s}", "guest", by_guest, "reason",
	                        by_guest ? "guest-reset" : "host-qmp-system-reset"));
	if (m->status == MACHINE_INTERNAL_ERROR || m->status == MACHINE_PANICKED)
		m->status = MACHINE_PAUSED;
	if (ran) {
		machine_resume_devices(m);
		vcpus_run(&m->vcpus);
	}
	return 0;
}

int machine_nmi(struct machine *m, struct vmd_error *err)
{
	if (m->status != MACHINE_RUNNING)
		return error_set(err, ERROR_WRONG_STATE, "the guest is in state '%s'",
		                 machine_status_name(m->status));
	if (m->reset_due_us)
		return 0; /* lost in the reset */
	vcpus_park(&m->vcpus);
	vcpus_nmi(&m->vcpus);
	vcpus_run(&m->vcpus);
	return 0;
}

void machine_shut_down(struct machine *m, bool by_guest, const char *reason, int exit_status)
{
	machine_stop(m, MACHINE_SHUTDOWN);
	m->status = MACHINE_SHUTDOWN;
	m->exit_status = exit_status;
	control_event(m->control, "SHUTDOWN",
	              json_pack("{s:b, s:s}", "guest", by_guest, "reason", reason));
}

/*
 * How long the guest waits for its reset. The credit is the time at which all resets so far are
 * paid for, one interval each; as many as the burst may be owed, this one included.
 */
static uint64_t reset_wait_us(struct machine *m, uint64_t now)
{
	uint64_t interval = m->config->reset_interval_ms * 1000ull;
	uint64_t owed = MAX_OF(m->reset_credit_us, now) - now + interval;

	m->reset_credit_us = now + owed;
	return owed > MACHINE_RESET_BURST * interval ? owed - MACHINE_RESET_BURST * interval : 0;
}

static void guest_reset(struct machine *m)
{
	uint64_t now = now_monotonic_us(), wait;

	if (m->reset_due_us)
		return;
	control_tell_failure(m->control);
	if (m->config->on_reboot == VMM_REBOOT_SHUTDOWN) {
		machine_shut_down(m, true, "guest-reset", 0);
		return;
	}
	wait = reset_wait_us(m, now);
	if (wait && !m->reset_slowed)
		fprintf(stderr,
		        "vmd-vmm: the guest resets itself again and again: from now on "
		        "once in %u ms\n",
		        m->config->reset_interval_ms);
	m->reset_slowed = wait > 0;
	if (wait)
		m->reset_due_us = now + wait; /* its processors were parked by post() */
	else
		reset_by_guest(m);
}

int machine_reset_wait_ms(const struct machine *m)
{
	uint64_t now = now_monotonic_us();

	if (!m->reset_due_us)
		return -1;
	return m->reset_due_us > now ? (int)((m->reset_due_us - now + 999) / 1000) : 0;
}

void machine_reset_if_due(struct machine *m)
{
	if (machine_reset_wait_ms(m) == 0)
		reset_by_guest(m);
}

static void guest_panicked(struct machine *m)
{
	static const char *const actions[] = { [VMM_PANIC_PAUSE] = "pause",
		                               [VMM_PANIC_SHUTDOWN] = "poweroff",
		                               [VMM_PANIC_NONE] = "run" };

	/* In QEMU's order: why, then that it stands still. */
	control_event(m->control, "GUEST_PANICKED",
	              json_pack("{s:s}", "action", actions[m->config->on_panic]));
	if (m->config->on_panic == VMM_PANIC_PAUSE)
		machine_stop(m, MACHINE_PANICKED);
	if (m->config->on_panic == VMM_PANIC_SHUTDOWN)
		machine_shut_down(m, true, "guest-panic", 0);
}

/* The gravest first; what ends or resets the guest makes the rest void. */
void machine_handle_events(struct machine *m)
{
	uint64_t count;
	unsigned events;

	if (read(m->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	events = atomic_exchange(&m->pending, 0);
	if (!events || m->status == MACHINE_SHUTDOWN)
		return;
	if (events & EVENT_IO_ERROR)
		machine_tell_io_errors(m);
	if (events & EVENT_CRASHLOADED)
		control_event(m->control, "GUEST_CRASHLOADED", json_pack("{s:s}", "action", "run"));
	if (events & EVENT_FAILED) {
		machine_stop(m, MACHINE_INTERNAL_ERROR);
		control_tell_failure(m->control);
	} else if (events & EVENT_TEST_EXIT) {
		machine_shut_down(m, true, "guest-shutdown", atomic_load(&m->test_exit));
	} else if (events & EVENT_POWEROFF) {
		machine_shut_down(m, true, "guest-shutdown", 0);
	} else {
		if (events & EVENT_PANICKED)
			guest_panicked(m);
		/* Standing still after a panic, it is not reset any more. */
		if ((events & EVENT_RESET) && m->status != MACHINE_SHUTDOWN &&
		    m->status != MACHINE_PANICKED)
			guest_reset(m);
	}
}
