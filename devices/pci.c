/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/pci.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "common/macros.h"
#include "devices/pci-priv.h"

#define SECTION         "pci"
#define BUS_SECTION     "pci-bus"
#define SECTION_VERSION 1

#define ADDRESS_PORT   0xcf8u
#define DATA_PORT      0xcfcu
#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_BITS   0x80fffffcu /* what of the address register can be written */

#define BRIDGE_VENDOR 0x1b36 /* Red Hat's, whose ids are given for such devices */
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

static void put16(uint8_t *at, uint16_t v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static void put32(uint8_t *at, uint32_t v)
{
	put16(at, (uint16_t)v);
	put16(at + 2, (uint16_t)(v >> 16));
}

static uint32_t get32(const uint8_t *at)
{
	return get16(at) | (uint32_t)get16(at + 2) << 16;
}

void pci_device_init(struct pci_device *d, const struct pci_device_ops *ops, uint16_t vendor,
                     uint16_t device, uint32_t class_code, uint8_t revision)
{
	*d = (struct pci_device){ .ops = ops, .next_capability = PCI_STD_HEADER_SIZEOF };
	put16(d->config + PCI_VENDOR_ID, vendor);
	put16(d->config + PCI_DEVICE_ID, device);
	put32(d->config + PCI_CLASS_REVISION, class_code << 8 | revision);
	put16(d->writable + PCI_COMMAND,
	      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	d->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	d->writable[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_set_subsystem(struct pci_device *d, uint16_t vendor, uint16_t device)
{
	put16(d->config + PCI_SUBSYSTEM_VENDOR_ID, vendor);
	put16(d->config + PCI_SUBSYSTEM_ID, device);
}

unsigned pci_add_capability(struct pci_device *d, uint8_t id, unsigned len)
{
	unsigned at = d->next_capability;

	assert(at && len >= 2 && at + len <= PCI_CONFIG_BYTES);
	d->config[at + PCI_CAP_LIST_ID] = id;
	d->config[at + PCI_CAP_LIST_NEXT] = d->config[PCI_CAPABILITY_LIST];
	d->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	d->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	/* Dword aligned; 256 becomes 0, which the assertion above finds. */
	d->next_capability = (uint8_t)((at + len + 3) & ~3u);
	return at;
}

static unsigned bar_offset(unsigned bar)
{
	return PCI_BASE_ADDRESS_0 + 4 * bar;
}

static uint64_t bar_address(const struct pci_device *d, unsigned bar)
{
	const uint8_t *at = d->config + bar_offset(bar);
	uint64_t address = get32(at) & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;

	return d->bars[bar].is_64 ? address | (uint64_t)get32(at + 4) << 32 : address;
}

static void set_bar_address(struct pci_device *d, unsigned bar, uint64_t address)
{
	uint8_t *at = d->config + bar_offset(bar);

	put32(at, (uint32_t)address | (get32(at) & ~(uint32_t)PCI_BASE_ADDRESS_MEM_MASK));
	if (d->bars[bar].is_64)
		put32(at + 4, (uint32_t)(address >> 32));
}

void pci_set_bar(struct pci_device *d, unsigned bar, uint64_t bytes, bool is_64,
                 const struct bus_region_ops *ops)
{
	uint64_t mask = ~(bytes - 1);

	assert(bar + is_64 < PCI_MAX_BARS && bytes >= 16 && !(bytes & (bytes - 1)));
	assert(is_64 || bytes <= 1u << 31);
	d->bars[bar] = (struct pci_bar){ .bytes = bytes,
		                         .is_64 = is_64,
		                         .region = { .ops = ops, .bytes = bytes } };
	put32(d->config + bar_offset(bar), is_64 ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0);
	put32(d->writable + bar_offset(bar), (uint32_t)mask);
	if (is_64)
		put32(d->writable + bar_offset(bar + 1), (uint32_t)(mask >> 32));
}

static void tell_mapped(struct pci_device *d, unsigned bar)
{
	if (d->ops->bar_mapped)
		d->ops->bar_mapped(d, bar, d->bars[bar].region.base, d->bars[bar].mapped);
}

static void unmap_bar(struct pci_device *d, unsigned bar)
{
	d->bars[bar].mapped = false;
	tell_mapped(d, bar);
	bus_remove(d->bus->mmio, &d->bars[bar].region);
}

static bool decodes_memory(const struct pci_device *d)
{
	return d->config[PCI_COMMAND] & PCI_COMMAND_MEMORY;
}

/* Takes BARs away from where they should no longer be. */
static void unmap_stale(struct pci_device *d, bool all)
{
	for (unsigned i = 0; i < PCI_MAX_BARS; i++) {
		struct pci_bar *bar = &d->bars[i];

		if (bar->mapped &&
		    (all || !decodes_memory(d) || bar->region.base != bar_address(d, i)))
			unmap_bar(d, i);
	}
}

/* A BAR that would overlap something does not answer, until that has moved away. */
static void map_wanted(struct pci_device *d)
{
	for (unsigned i = 0; decodes_memory(d) && i < PCI_MAX_BARS; i++) {
		struct pci_bar *bar = &d->bars[i];

		if (!bar->bytes || bar->mapped)
			continue;
		bar->region.base = bar_address(d, i);
		if (bus_add(d->bus->mmio, &bar->region) < 0)
			continue;
		bar->mapped = true;
		tell_mapped(d, i);
	}
}

static void update_bars_locked(struct pci_device *d)
{
	unmap_stale(d, false);
	map_wanted(d);
	for (unsigned i = 0; i < PCI_MAX_DEVICES; i++)
		if (d->bus->devices[i])
			map_wanted(d->bus->devices[i]);
}

static bool touches(unsigned offset, unsigned len, unsigned at, unsigned bytes)
{
	return offset < at + bytes && at < offset + len;
}

/* Reads len ≤ 8 bytes at offset of the config space; what lies past its end is 0xff. */
static uint64_t config_read_locked(struct pci_device *d, unsigned offset, unsigned len)
{
	uint64_t value = 0;

	if (d->ops->config_reading)
		d->ops->config_reading(d, offset, len);
	for (unsigned i = 0; i < len; i++) {
		uint8_t byte = offset + i < PCI_CONFIG_BYTES ? d->config[offset + i] : 0xff;

		value |= (uint64_t)byte << 8 * i;
	}
	return value;
}

static void config_write_locked(struct pci_device *d, unsigned offset, unsigned len, uint64_t value)
{
	for (unsigned i = 0; i < len && offset + i < PCI_CONFIG_BYTES; i++) {
		uint8_t w = d->writable[offset + i], byte = (uint8_t)(value >> 8 * i);

		d->config[offset + i] = (uint8_t)((d->config[offset + i] & ~w) | (byte & w));
	}
	if (touches(offset, len, PCI_COMMAND, 2) ||
	    touches(offset, len, PCI_BASE_ADDRESS_0, 4 * PCI_MAX_BARS))
		update_bars_locked(d);
	msix_config_written(d, offset, len);
	if (d->ops->config_written)
		d->ops->config_written(d, offset, len);
}

/* Bus 0, function 0; NULL when nobody is there. */
static struct pci_device *find_locked(struct pci_bus *b, unsigned bus, unsigned devfn)
{
	return bus || PCI_FUNC_OF(devfn) ? NULL : b->devices[PCI_SLOT_OF(devfn) % PCI_MAX_DEVICES];
}

static uint64_t bus_config_read(struct pci_bus *b, unsigned bus, unsigned devfn, unsigned offset,
                                unsigned size)
{
	struct pci_device *d;
	uint64_t value = UINT64_MAX;

	pthread_mutex_lock(&b->lock);
	d = find_locked(b, bus, devfn);
	if (d)
		value = config_read_locked(d, offset, size);
	pthread_mutex_unlock(&b->lock);
	return value;
}

static void bus_config_write(struct pci_bus *b, unsigned bus, unsigned devfn, unsigned offset,
                             unsigned size, uint64_t value)
{
	struct pci_device *d;

	pthread_mutex_lock(&b->lock);
	d = find_locked(b, bus, devfn);
	if (d)
		config_write_locked(d, offset, size, value);
	pthread_mutex_unlock(&b->lock);
}

/* ECAM: 4 KiB for each function. An access that would run into the next one ends at 0xff. */
static uint64_t ecam_read(struct bus_region *r, uint64_t offset, unsigned size)
{
	struct pci_bus *b = container_of(r, struct pci_bus, ecam);

	return bus_config_read(b, 0, (unsigned)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *b = container_of(r, struct pci_bus, ecam);

	bus_config_write(b, 0, (unsigned)(offset >> 12), offset & 0xfff, size, value);
}

static const struct bus_region_ops ecam_ops = { "pci-ecam", ecam_read, ecam_write };

/* The address register is one of 32 bits only; smaller accesses are not its own. */
static uint64_t address_read(struct bus_region *r, uint64_t offset UNUSED, unsigned size)
{
	struct pci_bus *b = container_of(r, struct pci_bus, address_region);
	uint32_t value;

	pthread_mutex_lock(&b->lock);
	value = b->address_port;
	pthread_mutex_unlock(&b->lock);
	return size == 4 ? value : UINT64_MAX;
}

static void address_write(struct bus_region *r, uint64_t offset UNUSED, unsigned size,
                          uint64_t value)
{
	struct pci_bus *b = container_of(r, struct pci_bus, address_region);

	if (size != 4)
		return;
	pthread_mutex_lock(&b->lock);
	b->address_port = (uint32_t)value & ADDRESS_BITS;
	pthread_mutex_unlock(&b->lock);
}

static const struct bus_region_ops address_ops = { "pci-address", address_read, address_write };

static uint32_t current_address(struct pci_bus *b)
{
	uint32_t address;

	pthread_mutex_lock(&b->lock);
	address = b->address_port;
	pthread_mutex_unlock(&b->lock);
	return address;
}

static uint64_t data_read(struct bus_region *r, uint64_t offset, unsigned size)
{
	struct pci_bus *b = container_of(r, struct pci_bus, data_region);
	uint32_t a = current_address(b);

	if (!(a & ADDRESS_ENABLE))
		return UINT64_MAX;
	return bus_config_read(b, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)offset,
	                       size);
}

static void data_write(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *b = container_of(r, struct pci_bus, data_region);
	uint32_t a = current_address(b);

	if (a & ADDRESS_ENABLE)
		bus_config_write(b, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)offset,
		                 size, value);
}

static const struct bus_region_ops data_ops = { "pci-data", data_read, data_write };

static const struct pci_device_ops bridge_ops;

int pci_bus_init(struct pci_bus *b, struct bus *pio, struct bus *mmio, struct irqchip *irqchip,
                 uint64_t ecam_base)
{
	int r;

	*b = (struct pci_bus){ .mmio = mmio, .pio = pio, .irqchip = irqchip };
	pthread_mutex_init(&b->lock, NULL);
	b->ecam = (struct bus_region){ .ops = &ecam_ops,
		                       .base = ecam_base,
		                       .bytes = PCI_ECAM_BUS_BYTES };
	b->address_region =
		(struct bus_region){ .ops = &address_ops, .base = ADDRESS_PORT, .bytes = 4 };
	b->data_region = (struct bus_region){ .ops = &data_ops, .base = DATA_PORT, .bytes = 4 };
	pci_device_init(&b->bridge, &bridge_ops, BRIDGE_VENDOR, BRIDGE_DEVICE, BRIDGE_CLASS, 0);
	r = pci_add(b, &b->bridge, 0, NULL);
	if (r == 0)
		r = bus_add(mmio, &b->ecam);
	if (r == 0)
		r = bus_add(pio, &b->address_region);
	if (r == 0)
		r = bus_add(pio, &b->data_region);
	if (r < 0)
		pci_bus_deinit(b);
	return r;
}

void pci_bus_deinit(struct pci_bus *b)
{
	bus_remove(b->pio, &b->data_region);
	bus_remove(b->pio, &b->address_region);
	bus_remove(b->mmio, &b->ecam);
	pci_remove(&b->bridge);
	for (unsigned i = 0; i < PCI_MAX_DEVICES; i++)
		assert(!b->devices[i]);
	pthread_mutex_destroy(&b->lock);
}

/* The lowest place for bytes in [low, end) that is the home of no other BAR; 0 when there is none.
 */
static uint64_t find_room(const struct pci_bus *b, uint64_t low, uint64_t end, uint64_t bytes)
{
	uint64_t at = (low + bytes - 1) & ~(bytes - 1);

	for (unsigned i = 0; i < PCI_MAX_DEVICES * PCI_MAX_BARS; i++) {
		const struct pci_device *d = b->devices[i / PCI_MAX_BARS];
		const struct pci_bar *bar = d ? &d->bars[i % PCI_MAX_BARS] : NULL;

		if (!bar || !bar->bytes || at >= bar->home + bar->bytes || bar->home >= at + bytes)
			continue;
		/* Behind this one, and look at all of them again. */
		at = (bar->home + bar->bytes + bytes - 1) & ~(bytes - 1);
		i = UINT32_MAX;
	}
	return at >= low && at < end && bytes <= end - at ? at : 0;
}

static int place_bars(struct pci_bus *b, struct pci_device *d, struct vmd_error *err)
{
	for (unsigned i = 0; i < PCI_MAX_BARS; i++) {
		struct pci_bar *bar = &d->bars[i];
		uint64_t home = 0;

		if (!bar->bytes)
			continue;
		if (bar->is_64)
			home = find_room(b, b->high, b->high_end, bar->bytes);
		if (!home)
			home = find_room(b, b->low, b->low_end, bar->bytes);
		if (!home)
			return error_set(err, ERROR_NO_SPACE, "no room for a PCI device's memory");
		bar->home = home;
		set_bar_address(d, i, home);
	}
	return 0;
}

static int add_locked(struct pci_bus *b, struct pci_device *d, int slot, struct vmd_error *err)
{
	unsigned at = slot < 0 ? 0 : (unsigned)slot;
	int r;

	while (slot < 0 && at < PCI_MAX_DEVICES && b->devices[at])
		at++;
	if (at >= PCI_MAX_DEVICES)
		return error_set(err, ERROR_NO_SPACE, "no PCI slot is free");
	if (b->devices[at])
		return error_set(err, ERROR_EXISTS, "PCI slot %u is taken", at);
	for (unsigned i = 0; i < PCI_MAX_BARS; i++)
		d->bars[i].home = 0;
	/* Counted as on the bus from here, so that its BARs do not overlap each other. */
	b->devices[at] = d;
	r = place_bars(b, d, err);
	if (r == 0)
		r = msix_attach(d, b->irqchip, err);
	if (r < 0) {
		b->devices[at] = NULL;
		return r;
	}
	d->slot = at;
	d->bus = b;
	return 0;
}

int pci_add(struct pci_bus *b, struct pci_device *d, int slot, struct vmd_error *err)
{
	int r;

	pthread_mutex_lock(&b->lock);
	r = add_locked(b, d, slot, err);
	pthread_mutex_unlock(&b->lock);
	return r;
}

void pci_detach(struct pci_device *d)
{
	struct pci_bus *b = d->bus;

	if (!b)
		return;
	pthread_mutex_lock(&b->lock);
	unmap_stale(d, true);
	b->devices[d->slot] = NULL;
	d->bus = NULL;
	pthread_mutex_unlock(&b->lock);
}

void pci_remove(struct pci_device *d)
{
	pci_detach(d);
	msix_free(d);
}

void pci_device_reset(struct pci_device *d)
{
	pthread_mutex_lock(&d->bus->lock);
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		d->config[i] &= (uint8_t)~d->writable[i];
	for (unsigned i = 0; i < PCI_MAX_BARS; i++)
		if (d->bars[i].bytes)
			set_bar_address(d, i, d->bars[i].home);
	msix_reset(d);
	update_bars_locked(d);
	pthread_mutex_unlock(&d->bus->lock);
}

void pci_device_save(struct pci_device *d, const char *instance, struct state_out *o)
{
	pthread_mutex_lock(&d->bus->lock);
	state_begin(o, SECTION, instance, SECTION_VERSION);
	state_put_bytes(o, d->config, sizeof(d->config));
	msix_save(d, o);
	state_end(o);
	pthread_mutex_unlock(&d->bus->lock);
}

static int load_locked(struct pci_device *d, struct state_section *s, struct vmd_error *err)
{
	uint8_t config[PCI_CONFIG_BYTES];

	state_get_bytes(s, config, sizeof(config));
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		if (!((config[i] ^ d->config[i]) & ~d->writable[i]))
			continue;
		error_set(err, ERROR_INVALID,
		          "PCI device '%s' is another one than was saved (config byte 0x%02x)",
		          s->instance, i);
		return -EINVAL;
	}
	if (msix_load(d, config, s) < 0 || state_section_done(s, err) < 0) {
		error_set(err, ERROR_INVALID, "PCI device '%s': MSI-X makes no sense", s->instance);
		return -EINVAL;
	}
	memcpy(d->config, config, sizeof(config));
	update_bars_locked(d);
	msix_config_written(d, 0, PCI_CONFIG_BYTES);
	return 0;
}

int pci_device_load(struct pci_device *d, const char *instance, struct state_in *in,
                    struct vmd_error *err)
{
	struct state_section s;
	int r = state_take(in, SECTION, instance, SECTION_VERSION, &s, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&d->bus->lock);
	r = load_locked(d, &s, err);
	pthread_mutex_unlock(&d->bus->lock);
	return r;
}

void pci_bus_reset(struct pci_bus *b)
{
	pci_device_reset(&b->bridge);
	pthread_mutex_lock(&b->lock);
	b->address_port = 0;
	pthread_mutex_unlock(&b->lock);
}

void pci_bus_save(struct pci_bus *b, struct state_out *o)
{
	pci_device_save(&b->bridge, "bridge", o);
	state_begin(o, BUS_SECTION, "", SECTION_VERSION);
	state_put_u32(o, current_address(b));
	state_end(o);
}

int pci_bus_load(struct pci_bus *b, struct state_in *in, struct vmd_error *err)
{
	struct state_section s;
	uint32_t address;
	int r = pci_device_load(&b->bridge, "bridge", in, err);

	if (r == 0)
		r = state_take(in, BUS_SECTION, "", SECTION_VERSION, &s, err);
	if (r < 0)
		return r;
	address = state_get_u32(&s);
	if (address & ~ADDRESS_BITS) {
		error_set(err, ERROR_INVALID, "PCI bus: the address register makes no sense");
		return -EINVAL;
	}
	pthread_mutex_lock(&b->lock);
	b->address_port = address;
	pthread_mutex_unlock(&b->lock);
	return state_section_done(&s, err);
}
