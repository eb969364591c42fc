/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Machine, processors, memory and disks, as real guests see them. */
#include "config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/contract.h"
#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "tests/integration/qemu-fixture.h"

TestSuite(qemu, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

/*
 * Every field of a definition and the program that proves that it has its effect. A field that is
 * new in the contract fails the test until somebody proves it and says where.
 */
static const char *const proofs[][2] = {
	{ "name", "it-lifecycle" },
	{ "uuid", "it-policy" },
	{ "labels", "it-policy" },
	{ "owner", "it-policy" },
	{ "engine", "it-lifecycle" },
	{ "arch", "it-lifecycle" },
	{ "machine.type", "it-qemu" },
	{ "machine.options", "it-qemu" },
	{ "cpus.count", "it-qemu" },
	{ "cpus.model", "it-qemu" },
	{ "cpus.topology", "it-qemu" },
	{ "cpus.nested", "it-qemu" },
	{ "memory", "it-qemu" },
	{ "memory_backing.hugepages", "it-qemu" },
	{ "memory_backing.prealloc", "it-qemu" },
	{ "boot.kernel", "it-lifecycle" },
	{ "boot.initrd", "it-lifecycle" },
	{ "boot.cmdline", "it-lifecycle" },
	{ "boot.firmware", "it-qemu-boot" },
	{ "boot.order", "it-qemu-boot" },
	{ "boot.iso", "it-qemu-boot" },
	{ "disks.path", "it-qemu" },
	{ "disks.disk", "it-qemu" },
	{ "disks.format", "it-qemu" },
	{ "disks.backing", "it-qemu-devices" },
	{ "disks.size", "it-bad-input" },
	{ "disks.readonly", "it-qemu" },
	{ "disks.cache", "it-qemu" },
	{ "disks.discard", "it-qemu" },
	{ "disks.serial", "it-qemu" },
	{ "disks.bus", "it-qemu" },
	{ "disks.queues", "it-qemu" },
	{ "disks.bandwidth", "it-qemu" },
	{ "disks.iops", "it-qemu" },
	{ "nics.network", "it-qemu-net" },
	{ "nics.model", "it-qemu-net" },
	{ "nics.mac", "it-qemu-net" },
	{ "nics.forward", "it-qemu-net" },
	{ "nics.ifname", "it-qemu-net" },
	{ "nics.queues", "it-qemu" },
	{ "console.device", "it-qemu-devices" },
	{ "display.type", "it-qemu-devices" },
	{ "display.socket", "it-qemu-devices" },
	{ "rng", "it-qemu-devices" },
	{ "balloon.deflate_on_oom", "it-qemu-devices" },
	{ "balloon.free_page_reporting", "it-qemu-devices" },
	{ "vsock.cid", "it-qemu-devices" },
	{ "tpm.model", "it-qemu-devices" },
	{ "shares.path", "it-qemu-devices" },
	{ "shares.tag", "it-qemu-devices" },
	{ "shares.readonly", "it-qemu-devices" },
	{ "watchdog", "it-qemu-devices" },
	{ "test_device", "it-qemu-boot" },
	{ "autostart.enabled", "it-policy" },
	{ "autostart.order", "it-policy" },
	{ "autostart.delay_ms", "it-policy" },
	{ "restart.policy", "it-policy" },
	{ "restart.backoff_ms", "it-policy" },
	{ "restart.max_backoff_ms", "it-policy" },
	{ "restart.max_restarts", "it-policy" },
	{ "stop_timeout_ms", "it-policy" },
	{ "actions.on_reboot", "it-qemu-actions" },
	{ "actions.on_poweroff", "it-qemu-actions" },
	{ "actions.on_panic", "it-qemu-actions" },
	{ "actions.on_watchdog", "it-qemu-actions" },
	{ "on_host_shutdown", "it-policy" },
	{ "protect.delete", "it-api" },
	{ "protect.stop", "it-api" },
};

static const json_t *follow(const json_t *schemas, const json_t *schema)
{
	const char *ref = json_string_value(json_object_get(schema, "$ref"));

	return ref ? json_object_get(schemas, strrchr(ref, '/') + 1) : schema;
}

/* The members of an object, also where it is one of several forms or the item of an array. */
static const json_t *members_of(const json_t *schemas, const json_t *schema)
{
	const json_t *form, *found;
	size_t i;

	schema = follow(schemas, schema);
	if (json_object_get(schema, "items"))
		schema = follow(schemas, json_object_get(schema, "items"));
	found = json_object_get(schema, "properties");
	json_array_foreach(json_object_get(schema, "oneOf"), i, form)
		if (!found)
			found = json_object_get(follow(schemas, form), "properties");
	return found;
}

static bool proven(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(proofs); i++)
		if (strcmp(proofs[i][0], name) == 0)
			return true;
	return false;
}

static bool has_word(const char *file, const char *word)
{
	cleanup_free char *text = NULL;
	char path[512];

	snprintf(path, sizeof(path), TEST_SOURCE_DIR "/tests/%s.c", file);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 1 << 20, &text, NULL), 0, "there is no %s", path);
	return strstr(text, word);
}

/* The programs exist, and use the fields: by themselves, or by the guests of the library. */
Test(definition, every_proof_is_there)
{
	for (size_t i = 0; i < ARRAY_SIZE(proofs); i++) {
		const char *field = strrchr(proofs[i][0], '.'),
			   *word = field ? field + 1 : proofs[i][0];
		char program[64];

		snprintf(program, sizeof(program), "integration/%s", proofs[i][1]);
		cr_expect(has_word(program, word) || has_word("lib/guest", word),
		          "%s does not use '%s'", program, proofs[i][0]);
	}
}

Test(definition, every_field_has_a_proof)
{
	cleanup_json json_t *contract = json_loads(contract_text, 0, NULL);
	const json_t *schemas = member(contract, "components.schemas"), *fields, *field, *sub;
	const char *key, *sub_key;
	size_t n = 0;

	fields = members_of(schemas, json_object_get(schemas, "VmDefinition"));
	json_object_foreach((json_t *)(uintptr_t)fields, key, field) {
		const json_t *members = members_of(schemas, field);

		if (!members || !json_object_size(members)) {
			cr_expect(proven(key), "nothing proves '%s'", key);
			n++;
		}
		json_object_foreach((json_t *)(uintptr_t)members, sub_key, sub) {
			char path[96];

			snprintf(path, sizeof(path), "%s.%s", key, sub_key);
			cr_expect(proven(path), "nothing proves '%s'", path);
			n++;
		}
	}
	cr_expect_eq(n, ARRAY_SIZE(proofs), "%zu fields, %zu proofs", n, ARRAY_SIZE(proofs));
}

Test(qemu, the_guest_sees_its_processors)
{
	int console = boot_kit("x86_64", NULL,
	                       "{'memory': '384M', 'cpus': {'count': 4, 'model': 'x86-64-v2', "
	                       "'topology': {'sockets': 1, 'cores': 2, 'threads': 2}}}");

	expect_output(console, "grep -c ^processor /proc/cpuinfo", "4");
	expect_output(console,
	              "cd /sys/devices/system/cpu/cpu0/topology; "
	              "cat thread_siblings_list core_siblings_list",
	              "0-1\n0-3");
	expect_output(console,
	              "grep -m1 ^flags /proc/cpuinfo | tr ' ' '\\n' | "
	              "grep -xcE 'sse4_2|popcnt|ssse3|cx16|avx|avx2'",
	              "4");
	expect_output(console,
	              "awk '/MemTotal/ {print ($2 > 300000 && $2 < 393216)}' /proc/meminfo", "1");
	expect_output(console, "grep -cw svm /proc/cpuinfo", "0");
	drop_guest(console);
	console = boot_kit("x86_64", NULL,
	                   "{'cpus': {'model': 'x86-64-v3', 'topology': {'sockets': 2}}}");
	/* QEMU's emulated SVM does not tell KVM of XSETBV: on any monitor there, Linux finds leaf
	 * 0xD wrong, says so, and does without what needs AVX. */
	expect_output(console,
	              "n=$(grep -m1 ^flags /proc/cpuinfo | tr ' ' '\\n' | "
	              "grep -xcE 'avx2|bmi1|bmi2|f16c|fma|movbe'); "
	              "dmesg | grep -q 'XSAVE consistency problem' && n=$((n + 2)); echo $n",
	              "6");
	expect_output(console, "cat /sys/devices/system/cpu/cpu1/topology/physical_package_id",
	              "1");
	drop_guest(console);
	console = boot_kit("x86_64", NULL, "{'cpus': {'model': 'x86-64-v1'}}");
	expect_output(console,
	              "grep -m1 ^flags /proc/cpuinfo | tr ' ' '\\n' | "
	              "grep -xcE 'sse4_2|popcnt|ssse3|avx2'",
	              "0");
	close(console);
}

Test(qemu, processors_have_names)
{
	int console;

	if (!engine_can("cpu_names", "definition.cpus.model", "{'cpus': {'model': 'Nehalem'}}"))
		return;
	console = boot_kit("x86_64", NULL, "{'cpus': {'model': 'Nehalem'}}");
	expect_output(console, "grep -c 'Nehalem' /proc/cpuinfo", "1");
	close(console);
}

Test(qemu, memory_has_many_forms)
{
	static const struct {
		const char *text;
		long long bytes;
	} forms[] = {
		{ "'96M'", 96ll << 20 },     { "100663296", 96ll << 20 },
		{ "'0.125G'", 128ll << 20 }, { "'98304KiB'", 96ll << 20 },
		{ "'1g'", 1ll << 30 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		json_t *size;

		guest_create_bare(&s, "a", js("{'memory': %s}", forms[i].text));
		call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
		size = qmp("query-memory-size-summary", NULL);
		cr_expect_eq(member_int(size, "base-memory"), forms[i].bytes, "%s: %lld",
		             forms[i].text, (long long)member_int(size, "base-memory"));
		json_decref(size);
		drop_guest(-1);
	}
}

Test(qemu, nested_guests_are_possible_when_asked_for)
{
	int console = boot_kit("x86_64", NULL, "{'cpus': {'nested': true}}");

	expect_output(console, "grep -cw svm /proc/cpuinfo", "1");
	drop_guest(console);
	console = boot_kit("x86_64", NULL, "{}");
	expect_output(console, "grep -cw svm /proc/cpuinfo", "0");
}

static json_int_t resident_bytes(void)
{
	json_t *stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	json_int_t bytes = member_int(stats, "process.rss_bytes");

	json_decref(stats);
	return bytes;
}

static int read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fd_read_all(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);
	return atoi(text);
}

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

Test(qemu, memory_comes_from_where_it_is_told)
{
	guest_create_bare(&s, "a", js("{'memory': '192M', 'memory_backing': {'prealloc': true}}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	cr_expect_geq(resident_bytes(), 192ll << 20);
	drop_guest(-1);
	guest_create_bare(&s, "a", js("{'memory': '192M'}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	cr_expect_lt(resident_bytes(), 192ll << 20);
	drop_guest(-1);
}

/* The pool is the host's: what the test adds to it, it takes away again. */
Test(qemu, hugepages_are_the_pools)
{
	int before = read_number(POOL "nr_hugepages"), fd;
	char text[32];

	snprintf(text, sizeof(text), "%d", before + 32);
	fd = open(POOL "nr_hugepages", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 ||
	    read_number(POOL "nr_hugepages") < before + 32)
		cr_skip_test("this host's pool of hugepages cannot be made bigger");
	guest_create_bare(&s, "a",
	                  js("{'memory': '64M', 'memory_backing': "
	                     "{'hugepages': '2M', 'prealloc': true}}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	cr_expect_leq(read_number(POOL "free_hugepages"), before);
	drop_guest(-1);
	expect_refused("engine_failed", "", "",
	               "{'memory': '%dM', "
	               "'memory_backing': {'hugepages': '2M', 'prealloc': true}}",
	               2 * before + 512);
	snprintf(text, sizeof(text), "%d", before);
	cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

Test(qemu, disks_and_cards_have_their_queues)
{
	char command[128];
	int console;

	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		cr_skip_test("no /dev/net/tun");
	snprintf(command, sizeof(command), "ip tuntap add vmdq%d mode tap multi_queue",
	         (int)getpid());
	cr_assert_eq(system(command), 0, "%s", command);
	console = boot_kit("x86_64", NULL,
	                   "{'cpus': 4, 'disks': [{'path': '%s', 'format': 'raw', 'queues': 3}], "
	                   "'nics': [{'network': 'tap', 'ifname': 'vmdq%d', 'queues': 2}]}",
	                   scene_disk(&s, "disk.img", 1 << 20), (int)getpid());
	expect_output(console, "ls /sys/block/vda/mq | wc -l", "3");
	expect_output(console, "ls -d /sys/class/net/eth0/queues/rx-* | wc -l", "2");
	drop_guest(console);
	snprintf(command, sizeof(command), "ip link del vmdq%d", (int)getpid());
	cr_expect_eq(system(command), 0);
}

Test(qemu, machines_have_their_type_and_options)
{
	int console;

	if (!engine_can("machine", "definition.machine", "{'machine': 'pc'}"))
		return;
	guest_create_bare(&s, "a", js("{'machine': 'pc'}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	cr_expect(strstr(qom("/machine", "type"), "pc-i440fx"), "%s", qom("/machine", "type"));
	drop_guest(-1);
	console = boot_kit("x86_64", NULL,
	                   "{'machine': {'type': 'pc-q35-7.2', 'options': {'hpet': false, "
	                   "'smm': false, 'vmport': false}}}");
	cr_expect_str_eq(qom("/machine", "type"), "\"pc-q35-7.2-machine\"");
	cr_expect_str_eq(qom("/machine", "smm"), "\"off\"");
	cr_expect_str_eq(qom("/machine", "vmport"), "\"off\"");
	expect_output(console, "ls /sys/firmware/acpi/tables | grep -cE 'HPET|FACP'", "1");
	drop_guest(console);
	console = boot_kit("aarch64", NULL, "{'machine': {'options': {'gic': '2'}}}");
	expect_output(console, "grep -c GICv3 /proc/interrupts", "0");
	drop_guest(console);
	console = boot_kit("aarch64", NULL,
	                   "{'cpus': {'count': 2, 'model': 'cortex-a57'}, "
	                   "'machine': {'type': 'virt', 'options': {'acpi': false}}}");
	cr_expect_str_eq(qom("/machine", "acpi"), "\"off\"");
	expect_output(console, "grep -c GICv3 /proc/interrupts | grep -vc '^0$'", "1");
	expect_output(console, "grep -c 'part.*0xd07' /proc/cpuinfo", "2");
}

/* Of n disks, with the requests of the first sorted by latency. */
static void expect_disk_counters(size_t n_disks)
{
	json_t *stats = call(&s.client, "vm.stats", "{s:s}", "vm", "a");
	const json_t *n;
	json_int_t sum = 0;
	size_t i;

	cr_expect_eq(json_array_size(member(stats, "disks")), n_disks);
	cr_expect_gt(member_int(stats, "disks.0.read_ops"), 0);
	json_array_foreach(member(stats, "disks.0.latency_us.read"), i, n)
		sum += json_integer_value(n);
	cr_expect_gt(sum, 0);
	cr_expect_eq(json_array_size(member(stats, "disks.0.latency_us.write")), 24);
	json_decref(stats);
}

Test(qemu, virtio_disks_are_what_the_definition_says)
{
	const char *first = scene_disk(&s, "with,comma 'and' quote.img", 8 << 20);
	json_t *more = js("{'disks': [{'disk': 'data', 'serial': 'SER-0', 'cache': "
	                  "'writethrough'}, {'path': '', 'format': 'raw', 'serial': 'SER-1', "
	                  "'discard': 'unmap', 'cache': 'none'}, {'path': '%s', 'format': 'raw', "
	                  "'readonly': true, 'cache': 'unsafe'}]}",
	                  scene_disk(&s, "third.img", 8 << 20));
	int console;

	json_object_set_new(member(more, "disks.1"), "path", json_string(first));
	call_ok(&s.client, "disk.create", "{s:s, s:s, s:s}", "name", "data", "size", "64M",
	        "format", "raw");
	guest_create(&s, "a", "x86_64", NULL, more);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	expect_output(console, "cd /sys/block; cat vda/serial; echo; cat vdb/serial; echo",
	              "SER-0\nSER-1");
	expect_output(console, "cat vda/size vdb/size vdc/size", "131072\n16384\n16384");
	expect_output(console, "cat vda/ro vdb/ro vdc/ro", "0\n0\n1");
	expect_output(console, "cat vda/queue/write_cache vdb/queue/write_cache",
	              "write through\nwrite back");
	expect_output(console,
	              "for d in vda vdb; do test $(cat $d/queue/discard_max_bytes) -gt 0; "
	              "echo $?; done",
	              "1\n0");
	expect_output(console, "echo x | dd of=/dev/vdc 2>/dev/null; echo $?", "1");
	expect_output(console, "echo x | dd of=/dev/vda conv=fsync 2>/dev/null; echo $?", "0");
	expect_disk_counters(3);
	drop_guest(console);
	call_ok(&s.client, "disk.delete", "{s:s}", "disk", "data");
}

/* One guest with a disk on every bus that its kernel knows. */
Test(qemu, disks_are_what_the_definition_says)
{
	const char *first = scene_disk(&s, "with,comma 'and' quote.img", 8 << 20);
	const char *second = scene_disk(&s, "second.img", 8 << 20);
	const char *third = scene_disk(&s, "third.img", 8 << 20);
	json_t *more =
		js("{'disks': [{'disk': 'data', 'serial': 'SER-0', 'cache': 'writethrough'}, "
	           "{'path': '', 'format': 'raw', 'serial': 'SER-1', 'discard': 'unmap', "
	           "'cache': 'none'}, "
	           "{'path': '%s', 'format': 'raw', 'bus': 'scsi', 'serial': 'SER-2', "
	           "'readonly': true}, "
	           "{'path': '%s', 'format': 'raw', 'bus': 'nvme', 'serial': 'SER-3', "
	           "'cache': 'unsafe'}]}",
	           second, third);
	int console;

	if (!engine_can("disk_buses", "definition.disks",
	                "{'disks': [{'path': '/x', 'format': 'raw', 'bus': 'nvme'}]}"))
		return;
	json_object_set_new(member(more, "disks.1"), "path", json_string(first));
	call_ok(&s.client, "disk.create", "{s:s, s:s, s:s}", "name", "data", "size", "64M",
	        "format", "qcow2");
	guest_create(&s, "a", "x86_64", NULL, more);
	guest_boot(&s, "a");
	console = console_open(&s, "a", false);
	expect_output(console,
	              "cd /sys/block; cat vda/serial; echo; cat vdb/serial; echo; "
	              "cat nvme0n1/device/serial; "
	              "tail -c 5 sda/device/vpd_pg80; echo",
	              "SER-0\nSER-1\nSER-3               \nSER-2");
	expect_output(console, "cat vda/size vdb/size sda/size nvme0n1/size",
	              "131072\n16384\n16384\n16384");
	expect_output(console, "cat vda/ro vdb/ro sda/ro nvme0n1/ro", "0\n0\n1\n0");
	expect_output(console, "cat vda/queue/write_cache vdb/queue/write_cache",
	              "write through\nwrite back");
	expect_output(console,
	              "for d in vda vdb; do test $(cat $d/queue/discard_max_bytes) -gt 0; "
	              "echo $?; done",
	              "1\n0");
	expect_output(console, "echo x | dd of=/dev/sda 2>/dev/null; echo $?", "1");
	expect_output(console, "echo x | dd of=/dev/vda conv=fsync 2>/dev/null; echo $?", "0");
	expect_disk_counters(4);
	for (int i = 0; i < 2; i++) {
		cleanup_json json_t *nodes = qmp("query-named-block-nodes", js("{'flat': true}"));
		const char *node = i ? "disk3" : "disk1";
		json_t *entry;
		size_t k;

		json_array_foreach(nodes, k, entry) {
			if (strcmp(member_str(entry, "node-name"), node) != 0)
				continue;
			cr_expect_eq(json_is_true(member(entry, "cache.direct")), i == 0);
			cr_expect_eq(json_is_true(member(entry, "cache.no-flush")), i == 1);
		}
	}
	drop_guest(console);
	call_ok(&s.client, "disk.delete", "{s:s}", "disk", "data");
}

static blkcnt_t blocks_of(const char *path)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return st.st_blocks;
}

Test(qemu, discards_give_room_back_when_told)
{
	/* A virtio disk does not offer what it ignores, a SCSI disk does. */
	bool scsi = engine_has(&s.client, "disk_buses");
	const char *bus = scsi ? "scsi" : "virtio", *letters = scsi ? "sd" : "vd";
	char keep[256], unmap[256], command[256];
	int console;

	snprintf(keep, sizeof(keep), "%s", scene_disk(&s, "keep.img", 8 << 20));
	snprintf(unmap, sizeof(unmap), "%s", scene_disk(&s, "unmap.img", 8 << 20));
	console = boot_kit("x86_64", NULL,
	                   "{'disks': [{'path': '%s', 'format': 'raw', 'bus': '%s'}, "
	                   "{'path': '%s', 'format': 'raw', 'bus': '%s', 'discard': 'unmap'}]}",
	                   keep, bus, unmap, bus);
	snprintf(command, sizeof(command),
	         "for d in %sa %sb; do "
	         "dd if=/dev/urandom of=/dev/$d bs=64k count=64 conv=fsync 2>/dev/null; "
	         "busybox blkdiscard /dev/$d 2>/dev/null; sync; done; echo done",
	         letters, letters);
	expect_output(console, command, "done");
	cr_expect_geq(blocks_of(keep), 8192);
	cr_expect_lt(blocks_of(unmap), 1024, "%lld blocks", (long long)blocks_of(unmap));
}

static json_t *limited_disks(void)
{
	return js("{'disks': [{'path': '%s', 'format': 'raw', 'bandwidth': {'read': '1M', 'write': "
	          "2000000}, 'iops': {'total': 500}}, {'path': '%s', 'format': 'raw', 'iops': "
	          "{'read': 20, 'write': 30}, 'bandwidth': {'total': '8M'}}]}",
	          scene_disk(&s, "one.img", 8 << 20), scene_disk(&s, "two.img", 8 << 20));
}

Test(qemu, disk_limits_are_what_qemu_is_told)
{
	cleanup_json json_t *one = NULL, *two = NULL;

	if (!engine_is_qemu())
		return;
	guest_create_bare(&s, "a", limited_disks());
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	one = json_loads(qom("/objects/throttle0", "limits"), 0, NULL);
	two = json_loads(qom("/objects/throttle1", "limits"), 0, NULL);
	cr_expect_eq(member_int(one, "bps-read"), 1 << 20);
	cr_expect_eq(member_int(one, "bps-write"), 2000000);
	cr_expect_eq(member_int(one, "iops-total"), 500);
	cr_expect_eq(member_int(two, "iops-read"), 20);
	cr_expect_eq(member_int(two, "iops-write"), 30);
	cr_expect_eq(member_int(two, "bps-total"), 8 << 20);
}

Test(qemu, disk_limits_hold)
{
	int console;

	guest_create(&s, "a", "x86_64", NULL, limited_disks());
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	/* 3 MiB at 1 MiB/s, 60 requests at 20/s; a tenth of a second's worth is let through. */
	expect_output(console,
	              "now() { cut -d. -f1 /proc/uptime; }; t=$(now); "
	              "dd if=/dev/vda of=/dev/null bs=64k count=48 iflag=direct 2>/dev/null; "
	              "test $(($(now) - t)) -ge 2; echo $?",
	              "0");
	expect_output(console,
	              "t=$(now); dd if=/dev/vdb of=/dev/null bs=4k count=60 iflag=direct "
	              "2>/dev/null; test $(($(now) - t)) -ge 2; echo $?",
	              "0");
}

/* What no machine or no emulation has is refused with its field. */
Test(qemu, what_cannot_be_is_refused_with_field_and_reason)
{
	expect_refused("invalid", "definition.memory", "MiB", "{'memory': 1048577}");
	expect_refused("invalid", "definition.cpus.topology", "sockets x cores x threads",
	               "{'cpus': {'count': 3, 'topology': {'cores': 2}}}");
	expect_refused("unsupported", "definition.cpus.model", "no CPU model",
	               "{'cpus': {'model': 'nosuch'}}");
	expect_refused("unsupported", "definition.cpus.model", "no CPU level",
	               "{'cpus': {'model': 'x86-64-v5'}}");
	expect_refused("unsupported", "definition.cpus.count", "at most",
	               "{'cpus': {'count': 256}}");
	expect_refused("unsupported", "definition.machine", "isapc",
	               "{'engine': 'qemu', 'machine': 'isapc'}");
	expect_refused("unsupported", "definition.machine.type", "no machine type",
	               "{'engine': 'qemu', 'machine': {'type': 'pc-q35-99.1'}}");
	expect_refused("unsupported", "definition.machine", "microvm",
	               "{'engine': 'qemu', 'machine': 'microvm'}");
	expect_refused("unsupported", "definition.machine.options.acpi", "always",
	               "{'engine': 'qemu', 'machine': {'options': {'acpi': false}}}");
	expect_refused("unsupported", "definition.machine.options.gic", "gic",
	               "{'engine': 'qemu', 'machine': {'options': {'gic': '3'}}}");
	expect_refused(
		"unsupported", "definition.disks[0].bus", "read-only",
		"{'engine': 'qemu', 'disks': [{'path': '/x', 'format': 'raw', 'bus': 'sata', "
		"'readonly': true}]}");
	expect_refused("invalid", "definition.disks[0].bandwidth.read", "limit of 0",
	               "{'disks': [{'path': '/x', 'format': 'raw', 'bandwidth': {'read': 0}}]}");
}

Test(qemu, what_cannot_be_is_refused_of_aarch64)
{
	if (engine_is("kvm")) {
		expect_refused("unsupported", "definition.arch", "no aarch64 guests",
		               "{'arch': 'aarch64'}");
		return;
	}
	expect_refused("unsupported", "definition.cpus.model", "x86_64",
	               "{'arch': 'aarch64', 'cpus': {'model': 'x86-64-v2'}}");
	expect_refused("unsupported", "definition.cpus.count", "at most 8",
	               "{'arch': 'aarch64', 'machine': {'options': {'gic': '2'}}, "
	               "'cpus': {'count': 9}}");
	expect_refused("unsupported", "definition.machine.options.hpet", "hpet",
	               "{'arch': 'aarch64', 'machine': {'options': {'hpet': true}}}");
	expect_refused("unsupported", "definition.boot.firmware", "no BIOS",
	               "{'arch': 'aarch64', 'boot': {'firmware': 'bios'}}");
	expect_refused("unsupported", "definition.disks[0].bus", "no SATA",
	               "{'arch': 'aarch64', 'disks': [{'path': '/x', 'format': "
	               "'raw', 'bus': 'sata'}]}");
}
