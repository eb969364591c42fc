/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Interrupts as devices see them; vmm/irq.c implements them on KVM's in-kernel irqchip. */
#include <stdbool.h>
#include <stdint.h>

struct irqchip;
struct msi_route;

struct irqchip_ops {
	/* Level of an IOAPIC pin (0..23). Any thread. */
	void (*set_line)(struct irqchip *c, unsigned gsi, bool high);
	/* A message-signalled interrupt with an irqfd; no message yet. 0 or negative errno. */
	int (*msi_new)(struct irqchip *c, struct msi_route **ret);
	/* The message it sends from now on; routes are updated in KVM only when it differs. Any
	 * thread. 0 or negative errno. */
	int (*msi_set)(struct msi_route *r, uint64_t address, uint32_t data);
	/* Sends it: one write to an eventfd. Any thread, never waits. */
	void (*msi_send)(struct msi_route *r);
	void (*msi_free)(struct msi_route *r);
};

struct irqchip {
	const struct irqchip_ops *ops;
};
