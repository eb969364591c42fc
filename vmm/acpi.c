/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ACPI 6.4. Tables are put together in a buffer that grows from BOOT_ACPI on, in guest memory. */
#include "config.h"

#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "common/macros.h"
#include "devices/acpi-power.h"
#include "devices/vmgenid.h"
#include "vmm/boot.h"
#include "vmm/dsdt.hex"
#include "vmm/memory.h"

enum {
	HEADER_BYTES = 36,
	CHECKSUM_AT = 9,
	LENGTH_AT = 4,
	RSDP_BYTES = 36,
	FADT_BYTES = 276,
	GAS_IO = 1,
	MAX_TABLES = 4,
	/* FADT flags: WBINVD works, the power button is a device, reset works, no fixed hardware */
	FADT_FLAGS = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20,
	FADT_BOOT_ARCH = 1 << 2, /* no VGA; and no keyboard controller to look for */
	PROFILE_SERVER = 4,
	HAVE_SERIAL = 1,
	HAVE_PVPANIC = 2,
	AML_NAME_OP = 0x08,
	AML_QWORD = 0x0E
};

struct writer {
	uint8_t *base;   /* of BOOT_ACPI */
	size_t at, room; /* in bytes from base */
	size_t table;    /* where the open one begins */
	bool full;
	uint64_t tables[MAX_TABLES];
	unsigned n;
};

static void put(struct writer *w, const void *data, size_t len)
{
	if (len > w->room - w->at) {
		w->full = true;
		return;
	}
	memcpy(w->base + w->at, data, len);
	w->at += len;
}

static void put_n(struct writer *w, uint64_t value, size_t len)
{
	put(w, &value, len); /* little-endian, as the processor */
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	for (size_t i = 0; i < len; i++)
		s = (uint8_t)(s + p[i]);
	return s;
}

static void begin(struct writer *w, const char *signature, uint8_t revision)
{
	w->at = (w->at + 15) & ~(size_t)15;
	w->table = w->at;
	put(w, signature, 4);
	put_n(w, 0, 4); /* length */
	put_n(w, revision, 1);
	put_n(w, 0, 1); /* checksum */
	put(w, "VMD   ", 6);
	put(w, "VMDVMM  ", 8);
	put_n(w, 1, 4);
	put(w, "VMD ", 4);
	put_n(w, 1, 4);
}

/* Length and checksum; the guest address of the table. */
static uint64_t end(struct writer *w)
{
	uint32_t len = (uint32_t)(w->at - w->table);
	uint8_t *table = w->base + w->table;

	if (w->full)
		return 0;
	memcpy(table + LENGTH_AT, &len, sizeof(len));
	table[CHECKSUM_AT] = 0;
	table[CHECKSUM_AT] = (uint8_t)-sum(table, len);
	return BOOT_ACPI + w->table;
}

static void listed(struct writer *w, uint64_t table)
{
	w->tables[w->n++] = table;
}

static void put_register(struct writer *w, uint64_t port)
{
	put_n(w, GAS_IO, 1);
	put_n(w, 8, 1); /* bits */
	put_n(w, 0, 1);
	put_n(w, 1, 1); /* byte access */
	put_n(w, port, 8);
}

static void pad_to(struct writer *w, size_t offset)
{
	static const uint8_t zeroes[FADT_BYTES];

	put(w, zeroes, w->table + offset - w->at);
}

static void put_fadt(struct writer *w, uint64_t dsdt)
{
	begin(w, "FACP", 6);
	pad_to(w, 40);
	put_n(w, dsdt, 4);
	put_n(w, 0, 1);
	put_n(w, PROFILE_SERVER, 1);
	put_n(w, ACPI_EVENT_GSI, 2);
	pad_to(w, 109);
	put_n(w, FADT_BOOT_ARCH, 2);
	pad_to(w, 112);
	put_n(w, FADT_FLAGS, 4);
	put_register(w, ACPI_RESET_PORT);
	put_n(w, ACPI_RESET_VALUE, 1);
	put_n(w, 0, 2);
	put_n(w, 4, 1); /* minor version */
	put_n(w, 0, 8);
	put_n(w, dsdt, 8);
	pad_to(w, 244);
	put_register(w, ACPI_SLEEP_CONTROL);
	put_register(w, ACPI_SLEEP_STATUS);
	put(w, "VMDVMM\0\0", 8); /* hypervisor vendor */
	listed(w, end(w));
}

static void put_processor(struct writer *w, unsigned uid, uint32_t apic_id)
{
	if (apic_id < 255) {
		put_n(w, 0, 1); /* local APIC */
		put_n(w, 8, 1);
		put_n(w, uid, 1);
		put_n(w, apic_id, 1);
		put_n(w, 1, 4); /* enabled */
		return;
	}
	put_n(w, 9, 1); /* local x2APIC */
	put_n(w, 16, 1);
	put_n(w, 0, 2);
	put_n(w, apic_id, 4);
	put_n(w, 1, 4);
	put_n(w, uid, 4);
}

static void put_madt(struct writer *w, const struct acpi_config *c)
{
	begin(w, "APIC", 5);
	put_n(w, LAYOUT_LAPIC, 4);
	put_n(w, 0, 4); /* no 8259 that anybody should look for */
	for (unsigned i = 0; i < c->n_cpus; i++)
		put_processor(w, i, cpu_apic_id(&c->topology, i));
	put_n(w, 1, 1); /* IOAPIC */
	put_n(w, 12, 1);
	put_n(w, 0, 2);
	put_n(w, LAYOUT_IOAPIC, 4);
	put_n(w, 0, 4);
	put_n(w, 4, 1); /* NMI at LINT1 of all */
	put_n(w, 6, 1);
	put_n(w, 0xFF, 1);
	put_n(w, 0, 2);
	put_n(w, 1, 1);
	listed(w, end(w));
}

static void put_mcfg(struct writer *w)
{
	begin(w, "MCFG", 1);
	put_n(w, 0, 8);
	put_n(w, LAYOUT_ECAM, 8);
	put_n(w, 0, 8); /* segment 0, buses 0 to 0 */
	listed(w, end(w));
}

static void put_name(struct writer *w, const char *name, uint64_t value)
{
	put_n(w, AML_NAME_OP, 1);
	put(w, name, 4);
	put_n(w, AML_QWORD, 1);
	put_n(w, value, 8);
}

static void put_ssdt(struct writer *w, const struct acpi_config *c)
{
	begin(w, "SSDT", 2);
	put_name(w, "VDEV", (c->serial ? HAVE_SERIAL : 0u) | (c->pvpanic ? HAVE_PVPANIC : 0u));
	put_name(w, "VHIB", c->high);
	put_name(w, "VHIE", c->high_end ? c->high_end - 1 : 0);
	listed(w, end(w));
}

static uint64_t put_xsdt(struct writer *w)
{
	begin(w, "XSDT", 1);
	put(w, w->tables, w->n * sizeof(w->tables[0]));
	return end(w);
}

static void put_rsdp(struct writer *w, uint64_t xsdt)
{
	uint8_t rsdp[RSDP_BYTES] = "RSD PTR ";
	uint32_t len = sizeof(rsdp);

	memcpy(rsdp + 9, "VMD   ", 6);
	rsdp[15] = 2;
	memcpy(rsdp + 20, &len, 4);
	memcpy(rsdp + 24, &xsdt, 8);
	rsdp[8] = (uint8_t)-sum(rsdp, 20);
	rsdp[32] = (uint8_t)-sum(rsdp, sizeof(rsdp));
	memcpy(w->base, rsdp, sizeof(rsdp));
}

int acpi_build(const struct acpi_config *c, const struct guestmem *mem, struct vmd_error *err)
{
	struct writer w = { .room = VMGENID_GPA - BOOT_ACPI, .at = RSDP_BYTES };
	uint64_t dsdt;

	w.base = guestmem_at(mem, GPA(BOOT_ACPI), w.room);
	if (!w.base)
		return error_set(err, ERROR_INVALID, "no guest memory for the ACPI tables");
	w.at = (w.at + 15) & ~(size_t)15;
	w.table = w.at;
	put(&w, dsdt_aml_code, sizeof(dsdt_aml_code));
	dsdt = end(&w);
	put_fadt(&w, dsdt);
	put_madt(&w, c);
	put_mcfg(&w);
	put_ssdt(&w, c);
	put_rsdp(&w, put_xsdt(&w));
	if (w.full)
		return error_set(err, ERROR_NO_SPACE, "the ACPI tables do not fit");
	return 0;
}
