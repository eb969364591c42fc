/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Firmware, what it boots, and what it remembers; or that an engine has none. */
#include "config.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "tests/integration/boot-image.h"
#include "tests/integration/qemu-fixture.h"
#include "tests/lib/engine.h"

TestSuite(qemu_boot, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

#define BOOT_MS 120000

static void make_bios_media(char disk[2][256], char iso[256])
{
	for (int i = 0; i < 2; i++)
		snprintf(disk[i], 256, "%s", scene_path(&s, "disk%d.img", i));
	snprintf(iso, 256, "%s", scene_path(&s, "cd.iso"));
	make_bios_disk(disk[0], "FROM-DISK-0\n");
	make_bios_disk(disk[1], "FROM-DISK-1\n");
	make_bios_iso(iso, "FROM-ISO\n");
}

/* Guest "a" of this definition writes the text when it is started. */
static void expect_boot(json_t *definition, const char *text)
{
	int console;

	json_object_set_new(definition, "name", json_string("a"));
	json_object_set_new(definition, "memory", json_string("64M"));
	if (!json_object_get(definition, "arch"))
		json_object_set_new(definition, "arch", json_string("x86_64"));
	create_guest(definition);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	console = console_open(&s, "a", true);
	console_expect(console, text, BOOT_MS);
	drop_guest(console);
}

Test(qemu_boot, bios_boots_what_the_order_says)
{
	char disk[2][256], iso[256];
	bool bios =
		engine_can("bios", "definition.boot.firmware", "{'boot': {'firmware': 'bios'}}");
	bool has_iso =
		engine_can("iso", "definition.boot.iso", "{'boot': {'kernel': '/x', 'iso': '/x'}}");

	if (!bios || !has_iso)
		return;
	make_bios_media(disk, iso);
#define DISKS "'disks': [{'path': '%s', 'format': 'raw'}, {'path': '%s', 'format': 'raw'}]"
	expect_boot(js("{" DISKS "}", disk[0], disk[1]), "FROM-DISK-0");
	expect_boot(
		js("{" DISKS ", 'boot': {'firmware': 'bios', 'iso': '%s'}}", disk[1], disk[0], iso),
		"FROM-ISO");
	expect_boot(js("{" DISKS ", 'boot': {'iso': '%s', 'order': ['disk', 'iso']}}", disk[1],
	               disk[0], iso),
	            "FROM-DISK-1");
	/* What cannot be booted is passed over. */
	expect_boot(js("{'disks': [{'path': '%s', 'format': 'raw', 'bus': 'sata'}], "
	               "'boot': {'iso': '%s', 'order': ['disk', 'iso']}}",
	               scene_disk(&s, "blank.img", 1 << 20), iso),
	            "FROM-ISO");
}

/* A drive of the guest that is read-only, and a network card that firmware tries first. */
Test(qemu_boot, the_network_is_tried_when_told)
{
	char disk[2][256], iso[256];
	json_t *blocks;

	if (!engine_can("bios", "definition.boot.firmware", "{'boot': {'order': ['network']}}"))
		return;
	make_bios_media(disk, iso);
	guest_create_bare(&s, "a",
	                  js("{'nics': [{'network': 'user'}], 'boot': {'iso': '%s', 'order': "
	                     "['network', 'iso']}}",
	                     iso));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	cr_expect_str_eq(qom("/machine/peripheral/nic0", "bootindex"), "0");
	cr_expect_str_eq(qom("/machine/peripheral/cd0", "bootindex"), "64");
	cr_expect(strstr(qom("/machine/peripheral/nic0", "romfile"), "rom"), "no boot program");
	blocks = qmp("query-named-block-nodes", js("{'flat': true}"));
	for (size_t i = 0; i < json_array_size(blocks); i++)
		if (strcmp(member_str(json_array_get(blocks, i), "node-name"), "iso0") == 0)
			cr_expect(json_is_true(member(json_array_get(blocks, i), "ro")));
	json_decref(blocks);
}

static void start_and_expect(const char *text)
{
	int console;

	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	console = console_open(&s, "a", true);
	console_expect(console, text, BOOT_MS);
	close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
}

Test(qemu_boot, uefi_variables_are_kept_and_part_of_snapshots)
{
	uint8_t program[EFI_COUNTER_BYTES];
	const char *disk = scene_path(&s, "efi.img");

	if (!engine_can("uefi", "definition.boot.firmware", "{'boot': {'firmware': 'uefi'}}"))
		return;
	if (access("/usr/share/OVMF/OVMF_CODE_4M.fd", R_OK) < 0)
		cr_skip_test("no UEFI firmware for x86_64 guests (ovmf)");
	efi_counter(program);
	make_efi_disk(disk, "BOOTX64 EFI", program, sizeof(program));
	create_guest(js("{'name': 'a', 'arch': 'x86_64', 'memory': '128M', 'boot': {'firmware': "
	                "'uefi'}, 'disks': [{'path': '%s', 'format': 'raw'}]}",
	                disk));
	start_and_expect("BOOTS=1");
	/* Another daemon, another process, the same variables. */
	scene_stop(&s);
	scene_start(&s);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	start_and_expect("BOOTS=2");
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "one");
	start_and_expect("BOOTS=2");
}

/* A kernel is an EFI program of its own. */
Test(qemu_boot, aarch64_boots_an_iso_by_uefi)
{
	const char *image = scene_path(&s, "efi.img"), *iso = scene_path(&s, "cd.iso");
	cleanup_free char *kernel = NULL;
	size_t bytes;
	int console;

	if (!engine_can("aarch64", "definition.arch", "{'arch': 'aarch64', 'boot': {'iso': '/x'}}"))
		return;
	if (access("/usr/share/AAVMF/AAVMF_CODE.fd", R_OK) < 0)
		cr_skip_test("no UEFI firmware for aarch64 guests (qemu-efi-aarch64)");
	cr_assert_eq(fs_read_file(AT_FDCWD, kit_kernel("aarch64"), 100u << 20, &kernel, &bytes), 0);
	make_efi_disk(image, "BOOTAA64EFI", kernel, bytes);
	make_efi_iso(iso, image);
	create_guest(js("{'name': 'a', 'arch': 'aarch64', 'memory': '512M', 'boot': {'iso': '%s'}}",
	                iso));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	console = console_open(&s, "a", true);
	console_expect(console, "EFI stub: Booting Linux Kernel", BOOT_MS);
	close(console);
}

Test(qemu_boot, a_test_guest_ends_by_the_test_device)
{
	const char *flat = test_build("tests/guest/multiboot.elf");
	json_t *i;

	if (access(flat, R_OK) < 0)
		cr_skip_test("%s is built on x86_64 only", flat);
	create_guest(js("{'name': 'a', 'arch': 'x86_64', 'engine': 'qemu', 'memory': '64M', "
	                "'test_device': true, 'boot': {'kernel': '%s'}}",
	                flat));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	json_decref(event_wait(&s.client, "vm.state", "a", "state", "failed", BOOT_MS));
	i = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	cr_expect_eq(member_int(i, "exit.code"), 7);
	json_decref(i);
	if (engine_is("kvm"))
		return; /* it has no aarch64 at all */
	expect_refused("unsupported", "definition.test_device", "no test device",
	               "{'name': 'b', 'arch': 'aarch64', 'test_device': true, "
	               "'boot': {'kernel': '%s'}}",
	               flat);
}
