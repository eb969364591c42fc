/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/guest-pci.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "common/macros.h"

#define DEADLINE_S 30

struct msi_route {
	struct guest_machine *machine;
	uint64_t address;
	uint32_t data;
};

static struct guest_machine *of_irqchip(struct irqchip *c)
{
	return container_of(c, struct guest_machine, irqchip);
}

static void set_line(struct irqchip *c UNUSED, unsigned gsi UNUSED, bool high UNUSED)
{
}

static int msi_new(struct irqchip *c, struct msi_route **ret)
{
	struct guest_machine *m = of_irqchip(c);

	*ret = calloc(1, sizeof(**ret));
	assert(*ret);
	(*ret)->machine = m;
	pthread_mutex_lock(&m->lock);
	m->routes++;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int msi_set(struct msi_route *r, uint64_t address, uint32_t data)
{
	struct guest_machine *m = r->machine;
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	m->route_updates++;
	if (m->refuse_routes)
		ret = -EINVAL;
	else
		*r = (struct msi_route){ .machine = m, .address = address, .data = data };
	pthread_mutex_unlock(&m->lock);
	return ret;
}

static void msi_send(struct msi_route *r)
{
	struct guest_machine *m = r->machine;

	pthread_mutex_lock(&m->lock);
	m->counts[r->data % MACHINE_VECTORS]++;
	pthread_cond_broadcast(&m->sent);
	pthread_mutex_unlock(&m->lock);
}

static void msi_free(struct msi_route *r)
{
	pthread_mutex_lock(&r->machine->lock);
	r->machine->routes--;
	pthread_mutex_unlock(&r->machine->lock);
	free(r);
}

static const struct irqchip_ops irqchip_ops = { set_line, msi_new, msi_set, msi_send, msi_free };

static int bell_bind(struct doorbells *d, uint64_t address, int eventfd)
{
	struct guest_machine *m = container_of(d, struct guest_machine, doorbells);
	int r = -ENOSPC;

	pthread_mutex_lock(&m->lock);
	if (m->n_bells < MACHINE_DOORBELLS) {
		m->bells[m->n_bells].address = address;
		m->bells[m->n_bells++].eventfd = eventfd;
		r = 0;
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static void bell_unbind(struct doorbells *d, uint64_t address, int eventfd)
{
	struct guest_machine *m = container_of(d, struct guest_machine, doorbells);

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->n_bells; i++)
		if (m->bells[i].address == address && m->bells[i].eventfd == eventfd) {
			m->bells[i] = m->bells[--m->n_bells];
			break;
		}
	pthread_mutex_unlock(&m->lock);
}

static const struct doorbell_ops doorbell_ops = { bell_bind, bell_unbind };

void guest_machine_init(struct guest_machine *m, size_t ram_bytes)
{
	pthread_condattr_t monotonic;

	memset(m, 0, sizeof(*m));
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->sent, &monotonic);
	pthread_condattr_destroy(&monotonic);
	guest_ram_init(&m->ram, ram_bytes);
	bus_init(&m->pio);
	bus_init(&m->mmio);
	m->irqchip.ops = &irqchip_ops;
	m->doorbells.ops = &doorbell_ops;
	assert(pci_bus_init(&m->pci, &m->pio, &m->mmio, &m->irqchip, MACHINE_ECAM) == 0);
	m->pci.low = MACHINE_LOW;
	m->pci.low_end = MACHINE_LOW + (64 << 20);
	m->pci.high = MACHINE_HIGH;
	m->pci.high_end = MACHINE_HIGH + (1ull << 32);
}

void guest_machine_deinit(struct guest_machine *m)
{
	pci_bus_deinit(&m->pci);
	assert(m->pio.n == 0 && m->mmio.n == 0);
	bus_deinit(&m->mmio);
	bus_deinit(&m->pio);
	assert(m->routes == 0 && m->n_bells == 0);
	guest_ram_deinit(&m->ram);
	pthread_cond_destroy(&m->sent);
	pthread_mutex_destroy(&m->lock);
}

unsigned machine_sent(struct guest_machine *m, uint8_t data)
{
	unsigned n;

	pthread_mutex_lock(&m->lock);
	n = m->counts[data];
	pthread_mutex_unlock(&m->lock);
	return n;
}

static void deadline_after(struct timespec *ts, unsigned seconds)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_sec += seconds;
}

void machine_wait_sent(struct guest_machine *m, uint8_t data, unsigned n)
{
	struct timespec deadline;
	int r = 0;

	deadline_after(&deadline, DEADLINE_S);
	pthread_mutex_lock(&m->lock);
	while (m->counts[data] < n && r == 0)
		r = pthread_cond_timedwait(&m->sent, &m->lock, &deadline);
	assert(m->counts[data] >= n);
	pthread_mutex_unlock(&m->lock);
}

void machine_write(struct guest_machine *m, uint64_t address, unsigned size, uint64_t value)
{
	int fd = -EBADF;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->n_bells; i++)
		if (m->bells[i].address == address)
			fd = m->bells[i].eventfd;
	if (fd >= 0)
		assert(eventfd_write(fd, 1) == 0);
	pthread_mutex_unlock(&m->lock);
	if (fd < 0)
		bus_write(&m->mmio, address, size, value);
}

static uint64_t ecam(unsigned slot, unsigned offset)
{
	return MACHINE_ECAM + ((uint64_t)slot << 15) + offset;
}

uint32_t machine_config_read(struct guest_machine *m, unsigned slot, unsigned offset, unsigned size)
{
	return (uint32_t)bus_read(&m->mmio, ecam(slot, offset), size);
}

void machine_config_write(struct guest_machine *m, unsigned slot, unsigned offset, unsigned size,
                          uint32_t value)
{
	bus_write(&m->mmio, ecam(slot, offset), size, value);
}

static uint32_t config(struct pci_driver *p, unsigned offset, unsigned size)
{
	return machine_config_read(p->machine, p->slot, offset, size);
}

static uint64_t bar(struct pci_driver *p, unsigned n)
{
	uint32_t low = config(p, PCI_BASE_ADDRESS_0 + 4 * n, 4);
	uint64_t address = low & ~0xfu;

	if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
		address |= (uint64_t)config(p, PCI_BASE_ADDRESS_0 + 4 * n + 4, 4) << 32;
	return address;
}

static void take_vendor_capability(struct pci_driver *p, unsigned at)
{
	uint64_t address = bar(p, config(p, at + offsetof(struct virtio_pci_cap, bar), 1)) +
	                   config(p, at + offsetof(struct virtio_pci_cap, offset), 4);

	switch (config(p, at + offsetof(struct virtio_pci_cap, cfg_type), 1)) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		p->common = address;
		break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		p->notify = address;
		p->notify_multiplier = config(
			p, at + offsetof(struct virtio_pci_notify_cap, notify_off_multiplier), 4);
		break;
	case VIRTIO_PCI_CAP_ISR_CFG:
		p->isr = address;
		break;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		p->device = address;
		break;
	case VIRTIO_PCI_CAP_PCI_CFG:
		p->window = at;
		break;
	default:
		break;
	}
}

static void take_msix(struct pci_driver *p, unsigned at)
{
	uint32_t table = config(p, at + PCI_MSIX_TABLE, 4), pba = config(p, at + PCI_MSIX_PBA, 4);

	p->msix = at;
	p->table = bar(p, table & PCI_MSIX_TABLE_BIR) + (table & PCI_MSIX_TABLE_OFFSET);
	p->pba = bar(p, pba & PCI_MSIX_PBA_BIR) + (pba & PCI_MSIX_PBA_OFFSET);
}

void pci_driver_probe(struct pci_driver *p, struct guest_machine *m, unsigned slot)
{
	unsigned at;

	*p = (struct pci_driver){ .machine = m, .slot = slot };
	assert(config(p, PCI_VENDOR_ID, 2) == 0x1af4 && config(p, PCI_DEVICE_ID, 2) >= 0x1040);
	assert(config(p, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
	at = config(p, PCI_CAPABILITY_LIST, 1);
	for (unsigned n = 0; at && n < 48; n++, at = config(p, at + PCI_CAP_LIST_NEXT, 1)) {
		uint32_t id = config(p, at + PCI_CAP_LIST_ID, 1);

		assert(at >= PCI_STD_HEADER_SIZEOF && at % 4 == 0);
		if (id == PCI_CAP_ID_VNDR)
			take_vendor_capability(p, at);
		else if (id == PCI_CAP_ID_MSIX)
			take_msix(p, at);
	}
	assert(at == 0 && p->common && p->notify && p->isr && p->window && p->msix);
	machine_config_write(m, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

uint32_t pci_driver_read(struct pci_driver *p, unsigned common_offset, unsigned size)
{
	return (uint32_t)bus_read(&p->machine->mmio, p->common + common_offset, size);
}

void pci_driver_write(struct pci_driver *p, unsigned common_offset, unsigned size, uint32_t value)
{
	bus_write(&p->machine->mmio, p->common + common_offset, size, value);
}

void pci_driver_set_status(struct pci_driver *p, uint8_t status)
{
	pci_driver_write(p, VIRTIO_PCI_COMMON_STATUS, 1, status);
}

uint8_t pci_driver_status(struct pci_driver *p)
{
	return (uint8_t)pci_driver_read(p, VIRTIO_PCI_COMMON_STATUS, 1);
}

uint64_t pci_driver_features(struct pci_driver *p)
{
	uint64_t features = 0;

	for (unsigned half = 0; half < 2; half++) {
		pci_driver_write(p, VIRTIO_PCI_COMMON_DFSELECT, 4, half);
		features |= (uint64_t)pci_driver_read(p, VIRTIO_PCI_COMMON_DF, 4) << 32 * half;
	}
	return features;
}

bool pci_driver_negotiate(struct pci_driver *p, uint64_t features)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	pci_driver_set_status(p, 0);
	assert(pci_driver_status(p) == 0);
	pci_driver_set_status(p, status);
	pci_driver_set_status(p, status |= VIRTIO_CONFIG_S_DRIVER);
	for (unsigned half = 0; half < 2; half++) {
		pci_driver_write(p, VIRTIO_PCI_COMMON_GFSELECT, 4, half);
		pci_driver_write(p, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> 32 * half));
	}
	pci_driver_set_status(p, status | VIRTIO_CONFIG_S_FEATURES_OK);
	return pci_driver_status(p) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void pci_driver_set_vector(struct pci_driver *p, unsigned n)
{
	uint64_t at = p->table + n * PCI_MSIX_ENTRY_SIZE;

	bus_write(&p->machine->mmio, at + PCI_MSIX_ENTRY_LOWER_ADDR, 4, 0xfee00000);
	bus_write(&p->machine->mmio, at + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0);
	bus_write(&p->machine->mmio, at + PCI_MSIX_ENTRY_DATA, 4, n + 1);
	bus_write(&p->machine->mmio, at + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
	machine_config_write(p->machine, p->slot, p->msix + PCI_MSIX_FLAGS, 2,
	                     PCI_MSIX_FLAGS_ENABLE);
}

static void write_address(struct pci_driver *p, unsigned offset, gpa_t gpa)
{
	pci_driver_write(p, offset, 4, (uint32_t)gpa.v);
	pci_driver_write(p, offset + 4, 4, (uint32_t)(gpa.v >> 32));
}

void pci_driver_set_queue(struct pci_driver *p, unsigned index, const struct driver_queue *q,
                          uint16_t vector)
{
	pci_driver_write(p, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
	pci_driver_write(p, VIRTIO_PCI_COMMON_Q_SIZE, 2, q->size);
	pci_driver_write(p, VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
	write_address(p, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
	write_address(p, VIRTIO_PCI_COMMON_Q_AVAILLO, q->avail);
	write_address(p, VIRTIO_PCI_COMMON_Q_USEDLO, q->used);
	pci_driver_write(p, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void pci_driver_ok(struct pci_driver *p)
{
	pci_driver_set_status(p, pci_driver_status(p) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void pci_driver_kick(struct pci_driver *p, unsigned index)
{
	uint32_t offset;

	pci_driver_write(p, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
	offset = pci_driver_read(p, VIRTIO_PCI_COMMON_Q_NOFF, 2) * p->notify_multiplier;
	machine_write(p->machine, p->notify + offset, 2, index);
}

uint32_t pci_driver_wait_used(struct pci_driver *p, struct driver_queue *q, uint8_t data,
                              uint32_t *id)
{
	uint32_t ignored, len;

	for (;;) {
		unsigned sent;

		driver_want_interrupts(q, true);
		sent = machine_sent(p->machine, data);
		if (driver_take_used(q, id ? id : &ignored, &len))
			return len;
		machine_wait_sent(p->machine, data, sent + 1);
	}
}
