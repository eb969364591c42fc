/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/vmgenid.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

int vmgenid_renew(const struct guestmem *mem, struct acpi_power *notify)
{
	uint8_t id[VMGENID_BYTES];
	void *at = guestmem_at(mem, GPA(VMGENID_GPA), sizeof(id));

	if (!at)
		return -EFAULT;
	/* getrandom: at most 256 bytes are never cut short. */
	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return -errno;
	memcpy(at, id, sizeof(id));
	if (notify)
		acpi_power_raise(notify, ACPI_EVENT_GENERATION);
	return 0;
}
