/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The VM generation id: 16 random bytes in guest memory that change whenever this guest's past is
 * used again (restore, clone), so that it gets new randomness and identities. The DSDT tells where.
 */
#include "devices/acpi-power.h"
#include "devices/guestmem.h"

#define VMGENID_GPA   0xFF000u /* in the reserved range below 1 MiB */
#define VMGENID_BYTES 16

/* A new id at VMGENID_GPA; notify is NULL at power-on, or the device that tells the guest. -EFAULT
 * when there is no memory, or the error of the kernel's random numbers. */
int vmgenid_renew(const struct guestmem *mem, struct acpi_power *notify);
