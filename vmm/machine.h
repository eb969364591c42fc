/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The guest: what it is made of, and in which state it is. All functions are the control thread's,
 * unless they say otherwise.
 */
#include <stdatomic.h>
#include <stdbool.h>

#include "devices/acpi-power.h"
#include "devices/i8042.h"
#include "devices/pci.h"
#include "devices/pvpanic.h"
#include "devices/rtc-cmos.h"
#include "devices/serial-8250.h"
#include "devices/test-device.h"
#include "devices/virtio-pci.h"
#include "vmm/guest-config.h"
#include "vmm/irq.h"
#include "vmm/memory.h"
#include "vmm/vcpu.h"

#define MACHINE_MAX_DEVICES (VMM_MAX_DISKS + VMM_MAX_NICS + 3)

/* QMP's RunState, as far as it goes here. */
enum machine_status {
	MACHINE_INMIGRATE, /* waits for a saved state */
	MACHINE_PRELAUNCH,
	MACHINE_RUNNING,
	MACHINE_PAUSED,
	MACHINE_FINISH_MIGRATE, /* memory is being saved */
	MACHINE_POSTMIGRATE,
	MACHINE_INTERNAL_ERROR, /* a processor cannot go on */
	MACHINE_PANICKED,
	MACHINE_SHUTDOWN,
	_MACHINE_STATUS_MAX
};
const char *machine_status_name(enum machine_status s);

struct machine;

struct machine_device {
	struct machine *machine;
	struct virtio_device *device;
	struct virtio_pci *transport;
	struct ioloop *loop; /* its own, or NULL */
	/* Of a disk: the last error of the host, errno << 1 | write, 0: none since it was told. */
	_Atomic unsigned io_error;
	uint64_t io_error_told_us;
};

struct control;

struct machine {
	const struct vmm_config *config; /* borrowed */
	int vm_fd;
	struct vm_memory memory;
	struct bus pio, mmio;
	struct kvm_irqs irqs;
	struct vcpus vcpus;
	struct pci_bus pci;
	struct ioloop *io; /* the small devices', or NULL when there are none */
	struct platform platform;
	struct acpi_power power;
	struct i8042 i8042;
	struct rtc_cmos rtc;
	struct pvpanic pvpanic;
	struct serial serial;
	struct test_device test;
	bool has_serial, has_test, realized;
	struct machine_device devices[MACHINE_MAX_DEVICES];
	unsigned n_devices;
	struct virtio_device *balloon; /* one of devices, or NULL */

	enum machine_status status;
	bool ever_ran;
	int event_fd;             /* readable: something in pending */
	_Atomic unsigned pending; /* bits of enum machine_event; any thread */
	_Atomic int test_exit;
	unsigned resets;
	uint64_t reset_credit_us; /* see reset_wait_us(); monotonic */
	uint64_t reset_due_us;   /* when the reset that the guest wants is made; 0: it wants none */
	bool reset_slowed;       /* the last one had to wait */
	struct control *control; /* borrowed; told of every change */
	int exit_status;         /* once status is MACHINE_SHUTDOWN */
};

/* Builds all but the processors, in the order in which it is written there. kvm_fd is not needed
 * afterwards. */
int machine_realize(struct machine *m, const struct vmm_config *c, struct vmd_error *err);
void machine_free(struct machine *m);
/* Threads of devices and processors. From here on other threads run. */
int machine_start_threads(struct machine *m, struct vmd_error *err);
/* Loads the kernel and makes the processors. */
int machine_boot(struct machine *m, struct vmd_error *err);

/* Runs on; -EPERM (wrong_state) when the state does not allow it. */
int machine_cont(struct machine *m, struct vmd_error *err);
/* Stands still, for the reason that becomes its status. Nothing when it does already. What the
 * guest did before (a reset, the power off, a failure) is dealt with first, also a reset that
 * waits: the status may be another one afterwards. */
void machine_stop(struct machine *m, enum machine_status reason);
/*
 * Before a stop or reset that somebody waits for: processors are parked, and disks come to rest.
 * When one does not answer for 5 s, the guest runs on, and it is an error (ERROR_TIMEOUT).
 */
int machine_settle(struct machine *m, struct vmd_error *err);
/* Begins anew, as the guest or the user wants it; runs on if it ran. */
int machine_reset(struct machine *m, bool by_guest, struct vmd_error *err);
int machine_nmi(struct machine *m, struct vmd_error *err);
/* Deals with what other threads told (event_fd is readable). */
void machine_handle_events(struct machine *m);
/* A disk failed: see io_error. Any thread. */
void machine_note_io_error(struct machine *m);
/*
 * A guest that resets itself again and again is held back: beyond MACHINE_RESET_BURST resets in a
 * row each one costs config->reset_interval_ms, in which its processors stand still. How long it
 * still takes, in milliseconds; 0: now; -1: no reset waits.
 */
#define MACHINE_RESET_BURST 20
int machine_reset_wait_ms(const struct machine *m);
/* Makes the reset that waits, when its time has come. */
void machine_reset_if_due(struct machine *m);
/* The end: SHUTDOWN is told, status is MACHINE_SHUTDOWN. */
void machine_shut_down(struct machine *m, bool by_guest, const char *reason, int exit_status);
bool machine_is_running(const struct machine *m);

/* Devices only (machine-devices.c). */
int machine_add_devices(struct machine *m, struct vmd_error *err);
void machine_remove_devices(struct machine *m);
int machine_start_loops(struct machine *m);
/* Quiet, and on again; vCPUs are parked. */
void machine_pause_devices(struct machine *m);
void machine_resume_devices(struct machine *m);
void machine_reset_devices(struct machine *m);
int machine_save_devices(struct machine *m, struct state_out *o);
int machine_load_devices(struct machine *m, struct state_in *in, struct vmd_error *err);
/* The id of a device that hangs, or NULL: all have come to rest, or are about to. */
const char *machine_settle_devices(struct machine *m);
/* Tells of disks that failed, each once a second at most. */
void machine_tell_io_errors(struct machine *m);
/* Whether another process has the guest's memory mapped (vhost-user). */
bool machine_shares_memory(const struct machine *m);
