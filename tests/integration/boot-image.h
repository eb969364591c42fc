/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Tiny things that firmware boots, made byte by byte: no tool of the host is needed. Whatever fails
 * fails the test. */
#include <stddef.h>
#include <stdint.h>

/* A boot sector that writes text to the first serial port and halts. */
void boot_sector(uint8_t sector[512], const char *text);
/* An x86_64 EFI program: counts its runs in a non-volatile variable and writes "BOOTS=<n>" (up to
 * 9) to the console. */
#define EFI_COUNTER_BYTES 1024
void efi_counter(uint8_t program[EFI_COUNTER_BYTES]);

/* A new disk of 1 MiB with this boot sector. */
void make_bios_disk(const char *path, const char *text);
/* A new FAT disk with one program as \EFI\BOOT\<name> ("BOOTX64 EFI": 8 and 3 characters). */
void make_efi_disk(const char *path, const char *name, const void *program, size_t bytes);
/* A new bootable ISO: by BIOS with this text, or by UEFI with the FAT disk at image. */
void make_bios_iso(const char *path, const char *text);
void make_efi_iso(const char *path, const char *image);
