/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* How an ELF kernel is told about the machine; for boot-elf.c. */
#include "vmm/boot.h"

#define BOOT_MULTIBOOT_MAGIC 0x2BADB002u /* in EAX */

/* Writes the start info to BOOT_START_INFO. initrd_bytes may be 0. */
void boot_pvh_info(const struct guestmem *mem, uint64_t initrd, uint64_t initrd_bytes);

/* Is there a Multiboot header in the first 8 KiB, one whose demands can be met? Else -EINVAL or
 * -EOPNOTSUPP with err. head is the beginning of the file. */
int boot_multiboot_check(const uint8_t *head, size_t head_len, struct vmd_error *err);
/* Writes the Multiboot information to BOOT_START_INFO. initrd_bytes may be 0. */
void boot_multiboot_info(const struct guestmem *mem, uint64_t initrd, uint64_t initrd_bytes);
