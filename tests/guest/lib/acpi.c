/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "acpi.h"

#include "guest.h"

#define SPACE_MEMORY 0
#define SPACE_PORT   1
#define MADT_LAPIC   0
#define MADT_IOAPIC  1
#define MADT_X2APIC  9
#define CPU_ENABLED  1
#define AML_NAME     0x08
#define AML_PACKAGE  0x12
#define AML_BYTE     0x0A

struct acpi_root {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

#define ROOT_BYTES_V1 20

static const struct acpi_root *root(void)
{
	return (const void *)memory_rsdp();
}

bool acpi_sum_ok(const void *table, uint32_t bytes)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	for (uint32_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + p[i]);
	return sum == 0;
}

const char *acpi_root_error(void)
{
	const struct acpi_root *r = root();

	if (!r)
		return "there is no root pointer";
	if (memcmp(r->signature, "RSD PTR ", 8) != 0)
		return "the root pointer has a wrong signature";
	if (!acpi_sum_ok(r, ROOT_BYTES_V1))
		return "the root pointer has a wrong checksum";
	if (r->revision >= 2 && (r->length < sizeof(*r) || !acpi_sum_ok(r, r->length)))
		return "the root pointer has a wrong extended checksum";
	return NULL;
}

const struct acpi_header *acpi_table(unsigned n)
{
	const struct acpi_root *r = root();
	const struct acpi_header *list;
	uint64_t entries;
	unsigned width;

	if (!r)
		return NULL;
	width = r->revision >= 2 && r->xsdt ? 8 : 4;
	list = (const void *)(width == 8 ? r->xsdt : r->rsdt);
	if (!list || n >= (list->length - sizeof(*list)) / width)
		return NULL;
	entries = (uint64_t)(list + 1) + (uint64_t)n * width;
	return (const void *)(width == 8 ? mmio_read64(entries) : mmio_read32(entries));
}

const void *acpi_find(const char *signature)
{
	const struct acpi_header *t;

	for (unsigned n = 0; (t = acpi_table(n)); n++)
		if (memcmp(t->signature, signature, 4) == 0)
			return t;
	return NULL;
}

const struct acpi_fadt *acpi_fadt(void)
{
	return acpi_find("FACP");
}

const struct acpi_header *acpi_dsdt(void)
{
	const struct acpi_fadt *fadt = acpi_fadt();

	if (!fadt)
		return NULL;
	if (fadt->header.revision >= 3 && fadt->x_dsdt)
		return (const void *)fadt->x_dsdt;
	return (const void *)(uint64_t)fadt->dsdt;
}

uint32_t acpi_dsdt_name(const char *name)
{
	const struct acpi_header *dsdt = acpi_dsdt();
	const char *p = (const char *)dsdt;

	if (!dsdt)
		return 0;
	for (uint32_t i = sizeof(*dsdt); i + 4 <= dsdt->length; i++)
		if (p[i] == name[0] && memcmp(p + i, name, 4) == 0)
			return i + 4;
	return 0;
}

/* Name (_S5_, Package () { type, ... }): package length byte, count, then a number. */
int acpi_s5_type(void)
{
	uint32_t at = acpi_dsdt_name("_S5_");
	const uint8_t *p = (const uint8_t *)acpi_dsdt() + at;

	if (!at || p[0] != AML_PACKAGE)
		return -1;
	p += 2 + (p[1] >> 6) + 1; /* opcode, package length of 1 to 4 bytes, count */
	if (*p == AML_BYTE)
		return p[1];
	return *p <= 1 ? *p : -1; /* ZeroOp, OneOp */
}

uint64_t acpi_register_read(const struct acpi_address *a)
{
	unsigned bytes = a->bits / 8;

	if (a->space == SPACE_PORT)
		return bytes == 4   ? in32((uint16_t)a->address)
		       : bytes == 2 ? in16((uint16_t)a->address)
		                    : in8((uint16_t)a->address);
	return bytes == 8   ? mmio_read64(a->address)
	       : bytes == 4 ? mmio_read32(a->address)
	       : bytes == 2 ? mmio_read16(a->address)
	                    : mmio_read8(a->address);
}

void acpi_register_write(const struct acpi_address *a, uint64_t value)
{
	unsigned bytes = a->bits / 8;

	if (a->space == SPACE_PORT && bytes == 4)
		out32((uint16_t)a->address, (uint32_t)value);
	else if (a->space == SPACE_PORT && bytes == 2)
		out16((uint16_t)a->address, (uint16_t)value);
	else if (a->space == SPACE_PORT)
		out8((uint16_t)a->address, (uint8_t)value);
	else if (bytes == 4)
		mmio_write32(a->address, (uint32_t)value);
	else if (bytes == 2)
		mmio_write16(a->address, (uint16_t)value);
	else
		mmio_write8(a->address, (uint8_t)value);
}

/* The MADT's next entry after p (NULL: the first), or NULL. */
static const uint8_t *madt_next(const uint8_t *p)
{
	const struct acpi_madt *madt = acpi_find("APIC");
	const uint8_t *end;

	if (!madt)
		return NULL;
	end = (const uint8_t *)madt + madt->header.length;
	p = p ? p + p[1] : madt->entries;
	return p + 2 <= end && p[1] >= 2 && p + p[1] <= end ? p : NULL;
}

unsigned acpi_cpus(uint32_t *ids, unsigned max)
{
	unsigned n = 0;

	for (const uint8_t *p = NULL; (p = madt_next(p));) {
		uint32_t id = 0, flags = 0;

		if (p[0] == MADT_LAPIC) {
			id = p[3];
			memcpy(&flags, p + 4, 4);
		} else if (p[0] == MADT_X2APIC) {
			memcpy(&id, p + 4, 4);
			memcpy(&flags, p + 8, 4);
		}
		if ((flags & CPU_ENABLED) && n < max)
			ids[n++] = id;
	}
	return n;
}

bool acpi_ioapic(uint32_t *ret_address, uint32_t *ret_first_gsi)
{
	for (const uint8_t *p = NULL; (p = madt_next(p));)
		if (p[0] == MADT_IOAPIC) {
			memcpy(ret_address, p + 4, 4);
			memcpy(ret_first_gsi, p + 8, 4);
			return true;
		}
	return false;
}
