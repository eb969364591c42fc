/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Between qemu-cmdline.c and qemu-devices.c. */
#include "daemon/qemu-cmdline.h"

struct qemu_builder {
	const struct qemu_input *in;
	const json_t *definition;
	const char *arch;
	bool arm, kvm;
	struct plan *plan;
	bool packed;       /* eight functions to a PCI slot, else one device to a slot */
	unsigned n_pci;    /* devices placed so far */
	bool failed, full; /* out of memory; too many descriptors */
};

/* One argument. */
void qemu_arg(struct qemu_builder *b, const char *text);
void qemu_argf(struct qemu_builder *b, const char *format, ...) PRINTF_LIKE(2, 3);
/* An option and its value as JSON text (value stolen; NULL is out of memory). */
void qemu_arg_json(struct qemu_builder *b, const char *option, json_t *value);
/* As qemu_arg_json("-device") with the next free PCI address. */
void qemu_pci_device(struct qemu_builder *b, json_t *device);
/* Plans a descriptor; its number. */
int qemu_plan_fd(struct qemu_builder *b, enum plan_fd_kind kind, size_t index);
/* The same for one of several queues of a device. */
int qemu_plan_queue_fd(struct qemu_builder *b, enum plan_fd_kind kind, size_t index,
                       unsigned queue);
/* Adds "bootindex" when firmware is to try this source ("disk", "iso", "network"). */
void qemu_set_boot_index(struct qemu_builder *b, json_t *device, const char *source, size_t index);
/* Does firmware run and try this source? */
bool qemu_boots_from(const struct qemu_builder *b, const char *source);

/* qemu-devices.c */
void qemu_add_disks(struct qemu_builder *b);
void qemu_add_iso(struct qemu_builder *b);
void qemu_add_nics(struct qemu_builder *b);
void qemu_add_shares(struct qemu_builder *b);
void qemu_add_console(struct qemu_builder *b);
void qemu_add_display(struct qemu_builder *b);
void qemu_add_small_devices(struct qemu_builder *b);
