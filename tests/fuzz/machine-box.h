/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A whole monitor in the test's process, on fake-kvm: machine, devices, processors, control. The
 * test holds the other ends: the QMP client's socket, the console's and the network's. The test's
 * thread is the control thread.
 */
#include "tests/fuzz/fake-kvm.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/control.h"
#include "vmm/machine.h"

/* Of what a box has. The disk has one queue and 1 MiB. */
enum box_part {
	BOX_SERIAL = 1,
	BOX_CONSOLE = 2, /* virtio; wins over serial */
	BOX_DISK = 4,
	BOX_NIC = 8,
	BOX_RNG = 16,
	BOX_BALLOON = 32,
	BOX_TWO_CPUS = 64,
	BOX_TEST_DEVICE = 128,
	BOX_INCOMING = 256,
	BOX_PAUSED = 512
};

#define BOX_MEMORY (16u << 20)

struct machine_box {
	struct vmm_config config;
	struct machine machine;
	struct control control;
	int qmp, console, nic; /* the test's ends, or -EBADF */
	int kvm_fd, kernel_fd; /* as config has them, owned */
	bool ready;            /* control runs */
};

/* As main.c does it, up to control_run(). What KVM refuses is an error, negative. */
int machine_box_init(struct machine_box *b, unsigned parts, struct vmd_error *err);
void machine_box_deinit(struct machine_box *b);
/* One turn of the control thread that does not wait. False: the machine is at its end. */
bool machine_box_turn(struct machine_box *b);
/* Takes what the monitor sent, and checks that it is lines of QMP. */
void machine_box_read(struct machine_box *b);
/* Sends bytes, maybe with a descriptor, -EBADF: none; lets the monitor deal with them. */
void machine_box_send(struct machine_box *b, const void *bytes, size_t len, int fd);
/* An exit of a vCPU as the input says, and the turn that deals with what it asked for. */
void machine_box_exit(struct machine_box *b, struct fuzz_input *in);
