/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Console, display and the small devices, as real guests see them. */
#include "config.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "tests/integration/qemu-fixture.h"

TestSuite(qemu_devices, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

/* "features" of the guest's virtio device of a type ("0x0005"), one character a bit. */
#define FEATURES(device, bits)                                       \
	"for d in /sys/bus/virtio/devices/*; do read t <$d/device; " \
	"test $t = " device " && cut -c" bits " $d/features; done"
#define BALLOON "0x0005"
#define RNG     "0x0004"

static void greet_vnc(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char greeting[13] = "", types[2] = "";

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%s: %m", path);
	for (size_t n = 0; n < 12;) {
		ssize_t more;

		cr_assert_eq(poll(&p, 1, 10000), 1, "no greeting on %s", path);
		more = read(fd, greeting + n, 12 - n);
		cr_assert_gt(more, 0);
		n += (size_t)more;
	}
	cr_assert_str_eq(greeting, "RFB 003.008\n");
	cr_assert_eq(write(fd, greeting, 12), 12);
	/* One security type, and it is "none": the socket's mode is the lock. */
	cr_assert_eq(poll(&p, 1, 10000), 1);
	cr_assert_eq(fd_read_all(fd, types, 2), 2);
	cr_assert_arr_eq(types, "\1\1", 2);
}

/* Each vm.stats asks the guest, and tells what it said until then. */
static void expect_memory_figures(void)
{
	json_t *stats = NULL;

	for (int i = 0; i < 600 && !member(stats, "memory.guest.total_bytes"); i++) {
		json_decref(stats);
		usleep(i ? 50000 : 0);
		stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	}
	cr_assert(member(stats, "memory.guest"), "the guest's driver never told its figures");
	cr_expect_gt(member_int(stats, "memory.guest.total_bytes"), 128ll << 20);
	cr_expect_lt(member_int(stats, "memory.guest.total_bytes"), 256ll << 20);
	cr_expect_gt(member_int(stats, "memory.guest.free_bytes"), 32ll << 20);
	cr_expect_gt(member_int(stats, "memory.guest.minor_faults"), 0);
	json_decref(stats);
}

Test(qemu_devices, a_guest_has_what_it_asked_for)
{
	const char *socket_path = scene_path(&s, "a,b 'vnc'.sock");
	const char *dir = scene_path(&s, "shared");
	json_t *more, *reply;
	char text[32] = "", path[300];
	bool display = engine_can("display", "definition.display", "{'display': 'vnc'}");
	bool shares = engine_can("shares", "definition.shares",
	                         "{'shares': [{'path': '%s', 'tag': 'my.data'}]}", s.root);
	bool watchdog = engine_can("watchdog", "definition.watchdog", "{'watchdog': true}");
	int console, fd;

	if (!display || !shares || !watchdog)
		return;
	cr_assert_eq(mkdir(dir, 0755), 0);
	snprintf(path, sizeof(path), "%s/from-host", dir);
	cr_assert_eq(fs_write_atomic(AT_FDCWD, path, "host\n", 5, 0), 0);
	more = js("{'watchdog': true, 'display': {'type': 'vnc'}, "
	          "'shares': [{'path': '%s', 'tag': 'my.data'}]}",
	          dir);
	json_object_set_new(member(more, "display"), "socket", json_string(socket_path));
	guest_create(&s, "a", "x86_64", NULL, more);
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	greet_vnc(socket_path);
	expect_output(console, "cat /sys/bus/pci/devices/*/device | grep -xE '0x(25ab|1111|105a)'",
	              "0x105a\n0x25ab\n0x1111");
	expect_output(console, "mount -t virtiofs my.data /mnt && cat /mnt/from-host", "host");
	expect_output(console, "echo guest >/mnt/from-guest; sync; echo $?", "0");
	snprintf(path, sizeof(path), "%s/from-guest", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_gt(fd_read_all(fd, text, sizeof(text) - 1), 0, "no %s", path);
	cr_assert_str_eq(text, "guest\n");
	close(fd);
	/* Memory with a part of the state in virtiofsd cannot be saved: refused, harmlessly. */
	reply = call_raw(&s.client, "snapshot.create", js("{'vm': 'a', 'snapshot': 'one'}"), NULL,
	                 0);
	cr_expect_str_eq(refusal_of(reply).kind, "unsupported");
	cr_expect_str_eq(refusal_of(reply).field, "definition.shares");
	json_decref(reply);
	call_refused(&s.client, "unsupported", "vm.suspend", "{s:s}", "vm", "a");
	guest_expect_state(&s, "a", "running");
	expect_output(console, "cat /mnt/from-host", "host");
	close(console);
}

Test(qemu_devices, randomness_comes_and_memory_goes_both_ways)
{
	int console =
		boot_kit("x86_64", NULL,
	                 "{'balloon': {'deflate_on_oom': true, 'free_page_reporting': true}}");

	expect_output(console, "cat /sys/class/misc/hw_random/rng_current", "virtio_rng.0");
	expect_output(console, "head -c 16 /dev/hwrng | wc -c", "16");
	expect_output(console, FEATURES(BALLOON, "3,6"), "11");
	expect_memory_figures();
	/* The balloon is one: the guest has less after it was filled. */
	expect_output(console, "awk '/MemFree/ {print ($2 > 150000)}' /proc/meminfo", "1");
	json_decref(qmp("balloon", js("{'value': 134217728}")));
	expect_output(console,
	              "until awk '/MemFree/ {exit $2 > 100000}' /proc/meminfo; do :; done; "
	              "echo smaller",
	              "smaller");
	close(console);
}

/* What is left out is not there, and a console by virtio is one. */
Test(qemu_devices, a_guest_lacks_what_it_did_not_ask_for)
{
	bool display = engine_has(&s.client, "display");
	int console = boot_kit("x86_64", "console=hvc0",
	                       "{'rng': false, 'balloon': false, 'console': {'device': 'virtio'}, "
	                       "'display': '%s'}",
	                       display ? "vnc" : "none");
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");

	expect_output(console, "awk '/\\(.*C/ {print $1}' /proc/consoles", "hvc0");
	expect_output(console, FEATURES(RNG, "1") "; " FEATURES(BALLOON, "1"), "");
	expect_output(console, "ls /sys/class/tpm; ls /dev | grep -c '^tpm'", "0");
	expect_output(console, "cat /sys/bus/pci/devices/*/device | grep -c 0x25ab", "0");
	if (display)
		greet_vnc(scene_path(&s, "run/guests/%s/vnc.sock", member_str(info, "uuid")));
	json_decref(info);
	close(console);
}

Test(qemu_devices, a_guest_has_the_defaults)
{
	int console = boot_kit("x86_64", NULL, "{'balloon': true, 'display': 'none'}");

	expect_output(console, FEATURES(BALLOON, "3,6"), "00");
	expect_output(console, FEATURES(RNG, "33"), "1");
	expect_output(console, "cat /sys/bus/pci/devices/*/class | grep -c ^0x03", "0");
	drop_guest(console);
	/* No console at all. */
	guest_create_bare(&s, "a", js("{'console': false}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	if (engine_is_qemu()) {
		json_t *info = qmp("query-chardev", NULL);

		cr_expect_eq(json_array_size(info), 1, "more than QMP's own");
		json_decref(info);
	}
	call_refused(&s.client, "unsupported", "console.open", "{s:s}", "vm", "a");
}

/* The bytes of a TPM command, as printf(1) of the guest takes them; they must be written at once.
 */
#define TPM_ASK(command, bytes)                                                      \
	"printf '" command "' >/run/ask; exec 3<>/dev/tpm0; "                        \
	"dd if=/run/ask bs=256 >&3 2>/dev/null; dd bs=64 count=1 <&3 2>/dev/null | " \
	"hexdump -v -e '64/1 \"%02x\"' | cut -c" bytes "; exec 3>&-"
/* TPM2_ReadClock: its count of resets is in permanent memory. */
#define READ_RESETS TPM_ASK("\\200\\1\\0\\0\\0\\12\\0\\0\\1\\201", "53-60")
/* TPM2_PCR_Extend of PCR 16 by 32 bytes of text; the code of the answer. */
#define EXTEND(word)                                                                            \
	TPM_ASK("\\200\\2\\0\\0\\0\\101\\0\\0\\1\\202\\0\\0\\0\\20\\0\\0\\0\\11\\100\\0\\0\\11" \
	        "\\0\\0\\0\\0\\0\\0\\0\\0\\1\\0\\013" word word word word,                      \
	        "13-20")
#define READ_PCR "cat /sys/class/tpm/tpm0/pcr-sha256/16"

static long resets_of(int console)
{
	return strtol(console_run(console, READ_RESETS), NULL, 16);
}

static int restart_guest(int console)
{
	close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	guest_boot(&s, "a");
	return console_open(&s, "a", true);
}

/* The permanent state of guest "a"'s TPM. */
static char *tpm_state(size_t *len)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");
	const char *path =
		scene_path(&s, "state/guests/%s/tpm/tpm2-00.permall", member_str(info, "uuid"));
	char *data = NULL;

	cr_assert_eq(fs_read_file(AT_FDCWD, path, 1 << 20, &data, len), 0, "%s", path);
	json_decref(info);
	return data;
}

Test(qemu_devices, a_tpm_remembers)
{
	char first[80], later[80];
	cleanup_free char *old = NULL, *young = NULL, *back = NULL;
	size_t n_old, n_young, n_back;
	long resets, again;
	int console;

	if (!engine_can("tpm", "definition.tpm", "{'tpm': {'model': 'tis'}}"))
		return;
	if (access("/usr/bin/swtpm", X_OK) < 0)
		cr_skip_test("swtpm is not installed");
	console = boot_kit("x86_64", NULL, "{'tpm': {'model': 'tis'}}");
	expect_output(console, "basename $(readlink /sys/class/tpm/tpm0/device/driver)", "tpm_tis");
	expect_output(console, EXTEND("12345678"), "00000000");
	snprintf(first, sizeof(first), "%s", console_run(console, READ_PCR));
	cr_expect_eq(strlen(first), 64);
	resets = resets_of(console);
	cr_expect_gt(resets, 0);
	/* A snapshot of the running guest holds what is in the TPM's volatile memory. */
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "live");
	expect_output(console, EXTEND("abcdefgh"), "00000000");
	snprintf(later, sizeof(later), "%s", console_run(console, READ_PCR));
	cr_expect_str_neq(later, first);
	close(console);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "live");
	console = console_open(&s, "a", false);
	expect_output(console, READ_PCR, first);
	/* Permanent memory outlasts the process, and the daemon. */
	scene_stop(&s);
	scene_start(&s);
	console = restart_guest(console);
	again = resets_of(console);
	cr_expect_gt(again, resets);
	close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	/* A snapshot of the stopped guest holds the permanent memory. */
	old = tpm_state(&n_old);
	call_ok(&s.client, "snapshot.create", "{s:s, s:s}", "vm", "a", "snapshot", "stopped");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s}}}", "vm", "a", "set", "tpm", "model",
	        "crb");
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	expect_output(console, "basename $(readlink /sys/class/tpm/tpm0/device/driver)", "tpm_crb");
	cr_expect_gt(resets_of(console), again);
	close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	young = tpm_state(&n_young);
	cr_expect(n_old != n_young || memcmp(old, young, n_old) != 0);
	call_ok(&s.client, "snapshot.restore", "{s:s, s:s}", "vm", "a", "snapshot", "stopped");
	back = tpm_state(&n_back);
	cr_expect(n_old == n_back && memcmp(old, back, n_old) == 0);
}

Test(qemu_devices, shares_can_be_readonly_or_are_refused)
{
	const char *dir = scene_path(&s, "shared");
	int console;

	cr_assert_eq(mkdir(dir, 0755), 0);
	if (!engine_can("shares", "definition.shares",
	                "{'shares': [{'path': '%s', 'tag': 'data', 'readonly': true}]}", dir))
		return;
	expect_refused("invalid", "definition.shares[0].path", "nosuch",
	               "{'shares': [{'path': '%s/nosuch', 'tag': 'data'}]}", dir);
	if (access("/usr/libexec/virtiofsd", X_OK) < 0) {
		expect_refused("unsupported", "definition.shares[0].readonly", "no read-only mode",
		               "{'shares': [{'path': '%s', 'tag': 'data', 'readonly': true}]}",
		               dir);
		return;
	}
	console = boot_kit("x86_64", NULL,
	                   "{'shares': [{'path': '%s', 'tag': 'data', 'readonly': true}]}", dir);
	expect_output(console, "mount -t virtiofs data /mnt; echo x >/mnt/x; echo $?", "1");
	cr_expect_lt(access(scene_path(&s, "shared/x"), F_OK), 0);
	close(console);
}

Test(qemu_devices, a_vsock_has_its_context_id_or_is_refused)
{
	int console;

	if (!engine_can("vsock", "definition.vsock", "{'vsock': {'cid': 4242}}"))
		return;
	if (access("/dev/vhost-vsock", F_OK) < 0) {
		expect_refused("unsupported", "definition.vsock", "/dev/vhost-vsock",
		               "{'vsock': {'cid': 4242}}");
		return;
	}
	console = boot_kit("x86_64", NULL, "{'vsock': {'cid': 4242}}");
	expect_output(console, "cat /sys/bus/virtio/devices/*/device | grep -xc 0x0013", "1");
	cr_expect_str_eq(qom("/machine/peripheral-anon/device[0]", "guest-cid"), "4242");
	close(console);
}

/* Programs that a device needs and the host lacks. */
Test(qemu_devices, what_the_host_lacks_is_refused)
{
	const char *bin = scene_path(&s, "bin");

	if (!engine_can("tpm", "definition.tpm", "{'tpm': true}") ||
	    !engine_can("aarch64", "definition.arch", "{'arch': 'aarch64'}"))
		return;
	expect_refused("unsupported", "definition.tpm.model", "crb",
	               "{'boot': {'firmware': 'uefi'}, 'arch': 'aarch64', 'tpm': {'model': "
	               "'crb'}}");
	scene_stop(&s);
	cr_assert_eq(mkdir(bin, 0755), 0);
	cr_assert_eq(
		symlink("/usr/bin/qemu-system-x86_64", scene_path(&s, "bin/qemu-system-x86_64")),
		0);
	s.program_path = bin;
	scene_start(&s);
	expect_refused("unsupported", "definition.tpm", "swtpm is not installed", "{'tpm': true}");
	expect_refused("unsupported", "definition.arch", "qemu-system-aarch64",
	               "{'boot': {'firmware': 'uefi'}, 'arch': 'aarch64'}");
}

static void PRINTF_LIKE(1, 2) shell(const char *format, ...)
{
	char command[900];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	cr_assert_eq(system(command), 0, "%s", command);
}

/* Scene paths of a raw base that holds words, a copy of it, and overlays on it. */
static void make_overlays(char base[256], char top[256])
{
	if (system("command -v qemu-img >/dev/null") != 0)
		cr_skip_test("no qemu-img");
	snprintf(base, 256, "%s", scene_disk(&s, "base.img", 4 << 20));
	snprintf(top, 256, "%s", scene_path(&s, "top.qcow2"));
	shell("printf 'first words' | dd of=%s conv=notrunc 2>/dev/null && "
	      "printf 'other words' | dd of=%s bs=1M seek=1 conv=notrunc 2>/dev/null",
	      base, base);
	shell("cp %s %s.copy", base, base);
	shell("qemu-img create -q -f qcow2 -F raw -b %s %s", base, top);
}

/* The guest reads the base through the overlay; what it writes is in the overlay, and stays. */
Test(qemu_devices, an_overlay_has_its_base)
{
	static const char read_both[] = "for at in 0 1; do dd if=/dev/vda bs=1M skip=$at count=1 "
					"2>/dev/null | head -c 11; echo; done";
	char base[256], top[256];
	int console;

	make_overlays(base, top);
	if (!engine_can("disk_formats", "definition.disks",
	                "{'disks': [{'path': '/x', 'format': 'qcow2'}]}"))
		return;
	console = boot_kit("x86_64", NULL,
	                   "{'disks': [{'path': '%s', 'format': 'qcow2', 'cache': 'none', "
	                   "'backing': {'path': '%s', 'format': 'raw'}}]}",
	                   top, base);
	expect_output(console, "cat /sys/block/vda/size", "8192");
	expect_output(console, read_both, "first words\nother words");
	expect_output(console,
	              "printf 'guest words' | dd of=/dev/vda conv=fsync 2>/dev/null; echo $?", "0");
	console = restart_guest(console);
	expect_output(console, read_both, "guest words\nother words");
	close(console);
	call_ok(&s.client, "vm.suspend", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	console = console_open(&s, "a", false);
	expect_output(console, "echo 3 >/proc/sys/vm/drop_caches; echo $?", "0");
	expect_output(console, read_both, "guest words\nother words");
	drop_guest(console);
	shell("cmp %s %s.copy", base, base);
}

Test(qemu_devices, an_overlay_and_its_base_go_together)
{
	char base[256], top[256], above[256], alone[256];

	make_overlays(base, top);
	snprintf(above, sizeof(above), "%s", scene_path(&s, "above.qcow2"));
	snprintf(alone, sizeof(alone), "%s", scene_path(&s, "alone.qcow2"));
	shell("qemu-img create -q -f qcow2 -F qcow2 -b %s %s", top, above);
	shell("qemu-img create -q -f qcow2 %s 4M", alone);
	expect_refused("invalid", "definition.disks[0].backing", "not followed",
	               "{'disks': [{'path': '%s', 'format': 'qcow2'}]}", top);
	expect_refused("invalid", "definition.disks[1].backing", "not made on another",
	               "{'disks': [{'path': '%s', 'format': 'raw', 'readonly': true}, "
	               "{'path': '%s', 'format': 'qcow2', "
	               "'backing': {'path': '%s', 'format': 'raw'}}]}",
	               base, alone, base);
	expect_refused("invalid", "definition.disks[0].backing", "top.qcow2' was made on another",
	               "{'disks': [{'path': '%s', 'format': 'qcow2', "
	               "'backing': {'path': '%s', 'format': 'qcow2'}}]}",
	               above, top);
	expect_refused("invalid", "definition.disks[0].backing", "has no backing file",
	               "{'disks': [{'path': '%s', 'format': 'raw', "
	               "'backing': {'path': '%s', 'format': 'raw'}}]}",
	               base, base);
	expect_refused("invalid", "definition.disks[0].backing.path", "nosuch",
	               "{'disks': [{'path': '%s', 'format': 'qcow2', "
	               "'backing': {'path': '%s.nosuch', 'format': 'raw'}}]}",
	               top, base);
}
