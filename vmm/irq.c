/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "vmm/memory.h"

enum {
	PIC_PINS = 8,
	STATE_VERSION = 1
};

struct msi_route {
	struct kvm_irqs *owner;
	unsigned gsi;
	int eventfd;
	bool set;
	uint64_t address;
	uint32_t data;
};

static struct kvm_irqs *of_chip(struct irqchip *c)
{
	return container_of(c, struct kvm_irqs, chip);
}

/* seccomp vcpu, io, main: ioctl KVM_IRQ_LINE. */
static void set_line(struct irqchip *c, unsigned gsi, bool high)
{
	struct kvm_irq_level level = { .irq = gsi, .level = high };

	(void)ioctl(of_chip(c)->vm_fd, KVM_IRQ_LINE, &level);
}

static void put_pin(struct kvm_irq_routing_entry *e, unsigned gsi, unsigned chip, unsigned pin)
{
	*e = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP };
	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = pin;
}

static void put_message(struct kvm_irq_routing_entry *e, const struct msi_route *r)
{
	*e = (struct kvm_irq_routing_entry){ .gsi = r->gsi, .type = KVM_IRQ_ROUTING_MSI };
	e->u.msi.address_lo = (uint32_t)r->address;
	e->u.msi.address_hi = (uint32_t)(r->address >> 32);
	e->u.msi.data = r->data;
}

/* KVM takes the whole table at once, the pins of IOAPIC and PIC included. */
static int update_routes_locked(struct kvm_irqs *q)
{
	size_t most = IRQ_FIRST_MSI + 2 * PIC_PINS + q->n_routes;
	cleanup_free struct kvm_irq_routing *table =
		calloc(1, sizeof(*table) + most * sizeof(table->entries[0]));

	if (!table)
		return -ENOMEM;
	for (unsigned i = 0; i < 2 * PIC_PINS; i++)
		put_pin(&table->entries[table->nr++], i,
		        i < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
		        i % PIC_PINS);
	for (unsigned i = 0; i < IRQ_FIRST_MSI; i++)
		put_pin(&table->entries[table->nr++], i, KVM_IRQCHIP_IOAPIC, i);
	for (unsigned i = 0; i < q->n_routes; i++)
		if (q->routes[i] && q->routes[i]->set)
			put_message(&table->entries[table->nr++], q->routes[i]);
	/* seccomp vcpu, main: ioctl KVM_SET_GSI_ROUTING. */
	return ioctl(q->vm_fd, KVM_SET_GSI_ROUTING, table) < 0 ? -errno : 0;
}

static int bind_route(const struct msi_route *r, unsigned flags)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)r->eventfd, .gsi = r->gsi, .flags = flags };

	/* seccomp vcpu, io, main: ioctl KVM_IRQFD. */
	return ioctl(r->owner->vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

static int msi_new(struct irqchip *c, struct msi_route **ret)
{
	struct kvm_irqs *q = of_chip(c);
	struct msi_route *r = calloc(1, sizeof(*r));
	unsigned i = 0;
	int e;

	if (!r)
		return -ENOMEM;
	r->owner = q;
	r->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->eventfd < 0) {
		e = -errno;
		free(r);
		return e;
	}
	pthread_mutex_lock(&q->lock);
	while (i < IRQ_MAX_MSI && q->routes[i])
		i++;
	r->gsi = IRQ_FIRST_MSI + i;
	e = i < IRQ_MAX_MSI ? bind_route(r, 0) : -ENOSPC;
	if (e == 0) {
		q->routes[i] = r;
		q->n_routes = MAX_OF(q->n_routes, i + 1);
	}
	pthread_mutex_unlock(&q->lock);
	if (e < 0) {
		close(r->eventfd);
		free(r);
		return e;
	}
	*ret = r;
	return 0;
}

static int msi_set(struct msi_route *r, uint64_t address, uint32_t data)
{
	struct kvm_irqs *q = r->owner;
	int e = 0;

	pthread_mutex_lock(&q->lock);
	if (!r->set || r->address != address || r->data != data) {
		r->set = true;
		r->address = address;
		r->data = data;
		e = update_routes_locked(q);
	}
	pthread_mutex_unlock(&q->lock);
	return e;
}

static void msi_send(struct msi_route *r)
{
	uint64_t one = 1;

	/* Fails only when the count is at its end: then it is pending already. */
	if (write(r->eventfd, &one, sizeof(one)) < 0)
		return;
}

static void msi_free(struct msi_route *r)
{
	struct kvm_irqs *q;

	if (!r)
		return;
	q = r->owner;
	pthread_mutex_lock(&q->lock);
	(void)bind_route(r, KVM_IRQFD_FLAG_DEASSIGN);
	q->routes[r->gsi - IRQ_FIRST_MSI] = NULL;
	pthread_mutex_unlock(&q->lock);
	close(r->eventfd);
	free(r);
}

static int bind_doorbell(struct doorbells *d, uint64_t address, int eventfd, unsigned flags)
{
	struct kvm_irqs *q = container_of(d, struct kvm_irqs, doorbells);
	/* Length 0: any width and value, and the fastest path there is. */
	struct kvm_ioeventfd e = { .addr = address, .fd = eventfd, .flags = flags };

	/* seccomp vcpu, main: ioctl KVM_IOEVENTFD. */
	return ioctl(q->vm_fd, KVM_IOEVENTFD, &e) < 0 ? -errno : 0;
}

static int doorbell_bind(struct doorbells *d, uint64_t address, int eventfd)
{
	return bind_doorbell(d, address, eventfd, 0);
}

static void doorbell_unbind(struct doorbells *d, uint64_t address, int eventfd)
{
	(void)bind_doorbell(d, address, eventfd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static const struct irqchip_ops chip_ops = { .set_line = set_line,
	                                     .msi_new = msi_new,
	                                     .msi_set = msi_set,
	                                     .msi_send = msi_send,
	                                     .msi_free = msi_free };
static const struct doorbell_ops doorbell_ops = { .bind = doorbell_bind,
	                                          .unbind = doorbell_unbind };

int irqs_init(struct kvm_irqs *q, int vm_fd)
{
	memset(q, 0, sizeof(*q));
	q->chip.ops = &chip_ops;
	q->doorbells.ops = &doorbell_ops;
	q->vm_fd = vm_fd;
	pthread_mutex_init(&q->lock, NULL);
	return ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0) < 0 ? -errno : 0;
}

void irqs_deinit(struct kvm_irqs *q)
{
	pthread_mutex_destroy(&q->lock);
}

static const unsigned chips[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
	                          KVM_IRQCHIP_IOAPIC };

int irqs_save(struct kvm_irqs *q, struct state_out *o)
{
	int r = 0;

	state_begin(o, "irqchip", "", STATE_VERSION);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i] };

		/* seccomp main: ioctl KVM_GET_IRQCHIP. */
		if (ioctl(q->vm_fd, KVM_GET_IRQCHIP, &chip) < 0)
			r = -errno;
		state_put_bytes(o, &chip.chip, sizeof(chip.chip));
	}
	state_end(o);
	return r;
}

static int set_chip(struct kvm_irqs *q, struct kvm_irqchip *chip)
{
	/* seccomp main: ioctl KVM_SET_IRQCHIP. */
	return ioctl(q->vm_fd, KVM_SET_IRQCHIP, chip) < 0 ? -errno : 0;
}

int irqs_load(struct kvm_irqs *q, struct state_in *in, struct vmd_error *err)
{
	struct kvm_irqchip chip[ARRAY_SIZE(chips)] = { 0 };
	struct state_section s;
	int r = state_take(in, "irqchip", "", STATE_VERSION, &s, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		chip[i].chip_id = chips[i];
		state_get_bytes(&s, &chip[i].chip, sizeof(chip[i].chip));
	}
	r = state_section_done(&s, err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(chips); i++) {
		r = set_chip(q, &chip[i]);
		if (r < 0)
			(void)error_set_errno(err, -r, "KVM refuses the interrupt controllers");
	}
	return r;
}

int irqs_reset(struct kvm_irqs *q)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i] };

		if (chips[i] == KVM_IRQCHIP_IOAPIC) {
			chip.chip.ioapic.base_address = LAYOUT_IOAPIC;
			for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
				chip.chip.ioapic.redirtbl[pin].fields.mask = 1;
		}
		r = set_chip(q, &chip);
	}
	return r;
}
