/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Interrupts and doorbells on KVM's in-kernel irqchip. */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/bus.h"
#include "devices/irq.h"
#include "devices/state.h"

#define IRQ_FIRST_MSI 24 /* below are the IOAPIC's pins */
#define IRQ_MAX_MSI   1024

struct kvm_irqs {
	struct irqchip chip;
	struct doorbells doorbells;
	int vm_fd; /* borrowed */
	pthread_mutex_t lock;
	struct msi_route *routes[IRQ_MAX_MSI]; /* by GSI - IRQ_FIRST_MSI; owned */
	unsigned n_routes;                     /* highest used + 1 */
};

/* Makes the irqchip in the VM. 0 or negative errno. */
int irqs_init(struct kvm_irqs *q, int vm_fd);
/* Every route was freed by its device before. */
void irqs_deinit(struct kvm_irqs *q);
/* IOAPIC and PIC. vCPUs stopped. */
int irqs_save(struct kvm_irqs *q, struct state_out *o);
int irqs_load(struct kvm_irqs *q, struct state_in *in, struct vmd_error *err);
/* As at power-on. vCPUs stopped. */
int irqs_reset(struct kvm_irqs *q);
