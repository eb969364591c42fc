/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "devices/pci-priv.h"

/*
 * A vector sends when MSI-X is enabled and neither the function nor the vector is masked; else it
 * is kept pending and sent when that changes. With MSI-X disabled it is lost, as there is no INTx.
 *
 * A route in KVM costs a system call and a grace period, so it is set only when a vector that can
 * send has another message than before: a driver fills an entry with the vector masked, in three
 * writes, and unmasks it.
 */

#define FLAGS_WRITABLE (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)

struct vector {
	uint32_t dwords[PCI_MSIX_ENTRY_SIZE / 4]; /* address low, high, data, control */
	bool pending;
	struct msi_route *route;
	bool routed; /* route sends what is below */
	uint64_t routed_address;
	uint32_t routed_data;
};

struct msix {
	pthread_mutex_t lock; /* a leaf: msix_send() comes from any thread */
	struct irqchip *irqchip;
	unsigned n, capability;
	uint32_t table_offset, pba_offset;
	bool enabled, masked;
	struct vector vectors[];
};

int pci_add_msix(struct pci_device *d, unsigned n, unsigned bar, uint32_t table_offset,
                 uint32_t pba_offset)
{
	struct msix *m;
	uint8_t *c;

	assert(!d->msix && n && n <= PCI_MSIX_FLAGS_QSIZE + 1 && bar < PCI_MAX_BARS);
	assert(table_offset % 8 == 0 && pba_offset % 8 == 0);
	m = calloc(1, sizeof(*m) + n * sizeof(struct vector));
	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	m->n = n;
	m->table_offset = table_offset;
	m->pba_offset = pba_offset;
	m->capability = pci_add_capability(d, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	c = d->config + m->capability;
	c[PCI_MSIX_FLAGS] = (uint8_t)(n - 1);
	c[PCI_MSIX_FLAGS + 1] = (uint8_t)((n - 1) >> 8);
	for (unsigned i = 0; i < 4; i++) {
		c[PCI_MSIX_TABLE + i] = (uint8_t)((table_offset | bar) >> 8 * i);
		c[PCI_MSIX_PBA + i] = (uint8_t)((pba_offset | bar) >> 8 * i);
	}
	d->writable[m->capability + PCI_MSIX_FLAGS + 1] = FLAGS_WRITABLE >> 8;
	d->msix = m;
	msix_reset(d);
	return 0;
}

int msix_attach(struct pci_device *d, struct irqchip *irqchip, struct vmd_error *err)
{
	struct msix *m = d->msix;

	if (!m)
		return 0;
	m->irqchip = irqchip;
	for (unsigned i = 0; i < m->n; i++) {
		int r = irqchip->ops->msi_new(irqchip, &m->vectors[i].route);

		if (r < 0)
			return error_set_errno(err, -r, "cannot make an interrupt route");
	}
	return 0;
}

void msix_free(struct pci_device *d)
{
	struct msix *m = d->msix;

	if (!m)
		return;
	for (unsigned i = 0; i < m->n; i++)
		if (m->vectors[i].route)
			m->irqchip->ops->msi_free(m->vectors[i].route);
	pthread_mutex_destroy(&m->lock);
	free(m);
	d->msix = NULL;
}

static bool can_send(const struct msix *m, const struct vector *v)
{
	return m->enabled && !m->masked &&
	       !(v->dwords[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* Brings the route of a vector that can send up to date, and sends what was kept. */
static void update_locked(struct msix *m, struct vector *v)
{
	uint64_t address = v->dwords[PCI_MSIX_ENTRY_LOWER_ADDR / 4] |
	                   (uint64_t)v->dwords[PCI_MSIX_ENTRY_UPPER_ADDR / 4] << 32;
	uint32_t data = v->dwords[PCI_MSIX_ENTRY_DATA / 4];

	if (!can_send(m, v))
		return;
	if (!v->routed || v->routed_address != address || v->routed_data != data) {
		/* A message that KVM refuses goes nowhere, least of all to where the last did. */
		v->routed = m->irqchip->ops->msi_set(v->route, address, data) == 0;
		v->routed_address = address;
		v->routed_data = data;
	}
	if (v->pending && v->routed)
		m->irqchip->ops->msi_send(v->route);
	v->pending = false;
}

static void update_all_locked(struct msix *m)
{
	for (unsigned i = 0; i < m->n; i++)
		update_locked(m, &m->vectors[i]);
}

void msix_send(struct pci_device *d, unsigned n)
{
	struct msix *m = d->msix;
	struct vector *v;

	if (!m || n >= m->n)
		return;
	v = &m->vectors[n];
	pthread_mutex_lock(&m->lock);
	if (!can_send(m, v))
		v->pending = m->enabled;
	else if (v->routed)
		m->irqchip->ops->msi_send(v->route);
	pthread_mutex_unlock(&m->lock);
}

/* One dword of the BAR; all ones where neither table nor PBA is. */
static uint32_t read_locked(const struct msix *m, uint64_t offset)
{
	uint64_t at = offset - m->table_offset;
	uint32_t bits = 0;

	if (at < (uint64_t)m->n * PCI_MSIX_ENTRY_SIZE)
		return m->vectors[at / PCI_MSIX_ENTRY_SIZE].dwords[at % PCI_MSIX_ENTRY_SIZE / 4];
	at = offset - m->pba_offset;
	if (at >= (m->n + 63) / 64 * sizeof(uint64_t))
		return UINT32_MAX;
	for (unsigned i = 0; i < 32 && at * 8 + i < m->n; i++)
		bits |= (uint32_t)m->vectors[at * 8 + i].pending << i;
	return bits;
}

static void write_locked(struct msix *m, uint64_t offset, uint32_t value)
{
	uint64_t at = offset - m->table_offset;
	unsigned field = at % PCI_MSIX_ENTRY_SIZE / 4;

	if (at >= (uint64_t)m->n * PCI_MSIX_ENTRY_SIZE)
		return;
	if (field == PCI_MSIX_ENTRY_VECTOR_CTRL / 4)
		value &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	m->vectors[at / PCI_MSIX_ENTRY_SIZE].dwords[field] = value;
	update_locked(m, &m->vectors[at / PCI_MSIX_ENTRY_SIZE]);
}

/* Aligned dwords and qwords are the only accesses that PCI allows to the table. */
static bool access_is_valid(const struct pci_device *d, uint64_t offset, unsigned size)
{
	return d->msix && (size == 4 || size == 8) && offset % size == 0;
}

uint64_t msix_read(struct pci_device *d, uint64_t bar_offset, unsigned size)
{
	uint64_t value;

	if (!access_is_valid(d, bar_offset, size))
		return UINT64_MAX;
	pthread_mutex_lock(&d->msix->lock);
	value = read_locked(d->msix, bar_offset);
	if (size == 8)
		value |= (uint64_t)read_locked(d->msix, bar_offset + 4) << 32;
	pthread_mutex_unlock(&d->msix->lock);
	return value;
}

void msix_write(struct pci_device *d, uint64_t bar_offset, unsigned size, uint64_t value)
{
	if (!access_is_valid(d, bar_offset, size))
		return;
	pthread_mutex_lock(&d->msix->lock);
	write_locked(d->msix, bar_offset, (uint32_t)value);
	if (size == 8)
		write_locked(d->msix, bar_offset + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&d->msix->lock);
}

static void take_flags_locked(struct msix *m, const uint8_t *config)
{
	uint8_t flags = config[m->capability + PCI_MSIX_FLAGS + 1];

	m->enabled = flags & PCI_MSIX_FLAGS_ENABLE >> 8;
	m->masked = flags & PCI_MSIX_FLAGS_MASKALL >> 8;
}

void msix_config_written(struct pci_device *d, unsigned offset, unsigned len)
{
	struct msix *m = d->msix;
	unsigned at = m ? m->capability + PCI_MSIX_FLAGS + 1 : 0; /* the byte with both bits */

	if (!m || at < offset || at >= offset + len)
		return;
	pthread_mutex_lock(&m->lock);
	take_flags_locked(m, d->config);
	update_all_locked(m);
	pthread_mutex_unlock(&m->lock);
}

void msix_reset(struct pci_device *d)
{
	struct msix *m = d->msix;

	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->enabled = m->masked = false;
	for (unsigned i = 0; i < m->n; i++) {
		memset(m->vectors[i].dwords, 0, sizeof(m->vectors[i].dwords));
		m->vectors[i].dwords[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		m->vectors[i].pending = false;
	}
	pthread_mutex_unlock(&m->lock);
}

void msix_save(struct pci_device *d, struct state_out *o)
{
	struct msix *m = d->msix;

	state_put_u16(o, m ? (uint16_t)m->n : 0);
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->n; i++) {
		for (unsigned k = 0; k < PCI_MSIX_ENTRY_SIZE / 4; k++)
			state_put_u32(o, m->vectors[i].dwords[k]);
		state_put_u8(o, m->vectors[i].pending);
	}
	pthread_mutex_unlock(&m->lock);
}

/* A vector that can send has nothing pending: no guest could bring it to that. */
static int load_vector(struct msix *m, struct vector *v, struct state_section *s)
{
	uint8_t pending;

	for (unsigned k = 0; k < PCI_MSIX_ENTRY_SIZE / 4; k++)
		v->dwords[k] = state_get_u32(s);
	pending = state_get_u8(s);
	v->pending = pending;
	if (s->failed || pending > 1 || (pending && can_send(m, v)) ||
	    v->dwords[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] & ~(uint32_t)PCI_MSIX_ENTRY_CTRL_MASKBIT)
		return -EINVAL;
	return 0;
}

int msix_load(struct pci_device *d, const uint8_t *config, struct state_section *s)
{
	struct msix *m = d->msix;
	int r = 0;

	if (state_get_u16(s) != (m ? m->n : 0))
		return -EINVAL;
	if (!m)
		return 0;
	pthread_mutex_lock(&m->lock);
	take_flags_locked(m, config);
	for (unsigned i = 0; r == 0 && i < m->n; i++)
		r = load_vector(m, &m->vectors[i], s);
	pthread_mutex_unlock(&m->lock);
	return r;
}
