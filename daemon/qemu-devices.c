/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The devices of a QEMU command line. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"
#include "daemon/qemu-builder.h"

#define SATA_PORTS   6
#define SCSI_TARGETS 32

static const char *bus_of(const json_t *disk)
{
	return jsonx_str(disk, "bus", "virtio");
}

/* {"bps-read": n, "iops-total": n, ...}, empty when nothing is limited; NULL: out of memory. */
static json_t *limits_of(const json_t *disk)
{
	static const struct {
		const char *object, *prefix;
	} kinds[] = { { "bandwidth", "bps" }, { "iops", "iops" } };
	static const char *const directions[] = { "total", "read", "write" };
	json_t *limits = json_object();

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < ARRAY_SIZE(directions); i++) {
			const json_t *given = json_object_get(disk, kinds[k].object);
			char key[16];

			if (!json_object_get(given, directions[i]))
				continue;
			snprintf(key, sizeof(key), "%s-%s", kinds[k].prefix, directions[i]);
			(void)jsonx_set(
				limits, key,
				json_integer((json_int_t)jsonx_size(given, directions[i], 0)));
		}
	return limits;
}

/* The protocol node and the format node above it, on the node of its base if it has one. */
static void add_nodes(struct qemu_builder *b, const char *node, int number, const json_t *disk,
                      const char *base)
{
	const char *format = jsonx_str(disk, "format", "raw");
	const char *cache = jsonx_str(disk, "cache", "writeback");
	const char *discard = jsonx_str(disk, "discard", "ignore");
	bool readonly = jsonx_bool(disk, "readonly", false);
	char file[32], file_node[48];
	json_t *cache_json, *top;

	snprintf(file, sizeof(file), "/dev/fdset/%d", number);
	snprintf(file_node, sizeof(file_node), "%s-file", node);
	cache_json = json_pack("{s:b, s:b}", "direct", strcmp(cache, "none") == 0, "no-flush",
	                       strcmp(cache, "unsafe") == 0);
	qemu_arg(b, "-add-fd");
	qemu_argf(b, "fd=%d,set=%d", number, number);
	/* Our lock is on the descriptor; QEMU's own would be in its way. */
	qemu_arg_json(b, "-blockdev",
	              json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:O}", "driver", "file",
	                        "node-name", file_node, "filename", file, "locking", "off",
	                        "discard", discard, "read-only", readonly, "cache", cache_json));
	top = json_pack("{s:s, s:s, s:s, s:s, s:b, s:o}", "driver", format, "node-name", node,
	                "file", file_node, "discard", discard, "read-only", readonly, "cache",
	                cache_json);
	/* Names of other files inside an image are never followed. */
	if (base)
		(void)jsonx_set(top, "backing", json_string(base));
	else if (strcmp(format, "qcow2") == 0 || strcmp(format, "vmdk") == 0)
		(void)jsonx_set(top, "backing", json_null());
	qemu_arg_json(b, "-blockdev", top);
}

/* A disk's nodes, and below them those of the base that it is an overlay of: a read-only disk. */
static void add_disk_nodes(struct qemu_builder *b, const char *node, size_t index,
                           const json_t *disk)
{
	const json_t *backing = json_object_get(disk, "backing");
	cleanup_json json_t *as_disk = NULL;
	char base[40];

	snprintf(base, sizeof(base), "%s-base", node);
	if (backing) {
		as_disk =
			json_pack("{s:s, s:s, s:b}", "format", jsonx_str(backing, "format", "raw"),
		                  "cache", jsonx_str(disk, "cache", "writeback"), "readonly", 1);
		b->failed |= !as_disk;
		add_nodes(b, base, qemu_plan_fd(b, PLAN_FD_BACKING, index), as_disk, NULL);
	}
	add_nodes(b, node, qemu_plan_fd(b, PLAN_FD_DISK, index), disk, backing ? base : NULL);
}

/* A throttle filter above the node when the disk is limited. Writes the top node's name. */
static void add_limits(struct qemu_builder *b, const char *node, size_t index, const json_t *disk,
                       char *top, size_t len)
{
	json_t *limits = limits_of(disk);
	char group[32];

	snprintf(top, len, "%s", node);
	if (limits && json_object_size(limits) == 0) {
		json_decref(limits);
		return;
	}
	snprintf(top, len, "%s-limit", node);
	snprintf(group, sizeof(group), "throttle%zu", index);
	qemu_arg_json(b, "-object",
	              json_pack("{s:s, s:s, s:o}", "qom-type", "throttle-group", "id", group,
	                        "limits", limits));
	qemu_arg_json(b, "-blockdev",
	              json_pack("{s:s, s:s, s:s, s:s}", "driver", "throttle", "node-name", top,
	                        "throttle-group", group, "file", node));
}

static size_t count_bus(const struct qemu_builder *b, const char *bus)
{
	const json_t *disk;
	size_t i, n = 0;

	json_array_foreach(json_object_get(b->definition, "disks"), i, disk)
		n += strcmp(bus_of(disk), bus) == 0;
	return n;
}

static void add_controllers(struct qemu_builder *b)
{
	bool scsi_cd = b->arm && json_object_get(json_object_get(b->definition, "boot"), "iso");
	size_t ports = count_bus(b, "sata");

	if (scsi_cd || count_bus(b, "scsi"))
		qemu_pci_device(
			b, json_pack("{s:s, s:s}", "driver", "virtio-scsi-pci", "id", "scsi0"));
	for (size_t i = 0; i * SATA_PORTS < ports; i++) {
		char id[16];

		snprintf(id, sizeof(id), "sata%zu", i);
		qemu_pci_device(b, json_pack("{s:s, s:s}", "driver", "ich9-ahci", "id", id));
	}
}

/* The device of a disk; nth counts the disks of its bus. */
static void add_disk_device(struct qemu_builder *b, const json_t *disk, size_t index, size_t nth,
                            const char *node)
{
	const char *bus = bus_of(disk), *serial = jsonx_str(disk, "serial", NULL);
	bool writethrough = strcmp(jsonx_str(disk, "cache", ""), "writethrough") == 0;
	bool on_pci = true;
	char id[32], where[32];
	json_t *device;

	snprintf(id, sizeof(id), "disk%zu", index);
	device = json_pack("{s:s, s:s, s:s}", "driver", "virtio-blk-pci", "id", id, "drive", node);
	(void)jsonx_set(device, "write-cache", json_string(writethrough ? "off" : "on"));
	if (strcmp(bus, "virtio") == 0) {
		(void)jsonx_set(
			device, "num-queues",
			json_integer((json_int_t)definition_disk_queues(b->definition, disk)));
		if (strcmp(jsonx_str(disk, "discard", "ignore"), "ignore") == 0)
			(void)jsonx_set(device, "discard", json_false());
	} else if (strcmp(bus, "nvme") == 0) {
		(void)jsonx_set(device, "driver", json_string("nvme"));
		serial = serial ? serial : id; /* it must have one */
	} else if (strcmp(bus, "scsi") == 0) {
		on_pci = false;
		(void)jsonx_set(device, "driver", json_string("scsi-hd"));
		(void)jsonx_set(device, "bus", json_string("scsi0.0"));
		(void)jsonx_set(device, "scsi-id", json_integer((json_int_t)nth));
	} else {
		on_pci = false;
		snprintf(where, sizeof(where), "sata%zu.%zu", nth / SATA_PORTS, nth % SATA_PORTS);
		(void)jsonx_set(device, "driver", json_string("ide-hd"));
		(void)jsonx_set(device, "bus", json_string(where));
	}
	if (serial)
		(void)jsonx_set(device, "serial", json_string(serial));
	qemu_set_boot_index(b, device, "disk", index);
	if (on_pci)
		qemu_pci_device(b, device);
	else
		qemu_arg_json(b, "-device", device);
}

void qemu_add_disks(struct qemu_builder *b)
{
	static const char *const buses[] = { "virtio", "scsi", "sata", "nvme" };
	size_t nth[ARRAY_SIZE(buses)] = { 0 };
	const json_t *disk;
	size_t i;

	add_controllers(b);
	json_array_foreach(json_object_get(b->definition, "disks"), i, disk) {
		char node[32], top[40];
		size_t k = 0;

		while (k + 1 < ARRAY_SIZE(buses) && strcmp(bus_of(disk), buses[k]) != 0)
			k++;
		snprintf(node, sizeof(node), "disk%zu", i);
		add_disk_nodes(b, node, i, disk);
		add_limits(b, node, i, disk, top, sizeof(top));
		add_disk_device(b, disk, i, nth[k]++, top);
	}
}

void qemu_add_iso(struct qemu_builder *b)
{
	cleanup_json json_t *as_disk = json_pack("{s:s, s:b}", "format", "raw", "readonly", 1);
	size_t n = count_bus(b, "scsi");
	json_t *device;

	if (!json_object_get(json_object_get(b->definition, "boot"), "iso"))
		return;
	add_nodes(b, "iso0", qemu_plan_fd(b, PLAN_FD_ISO, 0), as_disk, NULL);
	device = json_pack("{s:s, s:s, s:s, s:s}", "driver", b->arm ? "scsi-cd" : "ide-cd", "id",
	                   "cd0", "bus", b->arm ? "scsi0.0" : "ide.1", "drive", "iso0");
	/* Behind the last disk of that bus; UEFI looks at targets 0 to 31 and LUNs 0 to 7 only. */
	if (b->arm) {
		(void)jsonx_set(device, "scsi-id", json_integer((json_int_t)(n % SCSI_TARGETS)));
		(void)jsonx_set(device, "lun", json_integer((json_int_t)(n / SCSI_TARGETS)));
	}
	qemu_set_boot_index(b, device, "iso", 0);
	qemu_arg_json(b, "-device", device);
}

bool qemu_nic_by_passt(const struct qemu_input *in, const json_t *nic)
{
	const json_t *entry;
	size_t i;

	if (!in->passt || host_passt_forwards(in->host))
		return in->passt;
	json_array_foreach(json_object_get(nic, "forward"), i, entry)
		if (strncmp(json_string_value(entry), "tcp:", 4) == 0)
			return false;
	return true;
}

static void add_user_netdev(struct qemu_builder *b, size_t index, const json_t *nic)
{
	char text[4096];
	const json_t *entry;
	size_t i, n;

	n = (size_t)snprintf(text, sizeof(text), "user,id=net%zu", index);
	json_array_foreach(json_object_get(nic, "forward"), i, entry) {
		struct forward f;

		if (n + 64 > sizeof(text) || parse_forward(json_string_value(entry), &f) < 0)
			b->failed = true;
		else
			n += (size_t)snprintf(text + n, sizeof(text) - n, ",hostfwd=%s:%s:%u-:%u",
			                      f.udp ? "udp" : "tcp", f.address, f.host_port,
			                      f.guest_port);
	}
	qemu_arg(b, "-netdev");
	qemu_arg(b, text);
}

/* One descriptor for each queue pair, parted by colons. */
static void plan_queues(struct qemu_builder *b, enum plan_fd_kind kind, size_t index,
                        unsigned queues, char *text, size_t len)
{
	size_t n = 0;

	for (unsigned q = 0; q < queues && n < len; q++)
		n += (size_t)snprintf(text + n, len - n, "%s%d", q ? ":" : "",
		                      qemu_plan_queue_fd(b, kind, index, q));
}

static void add_tap(struct qemu_builder *b, size_t i, unsigned queues)
{
	const char *s = queues > 1 ? "s" : "";
	char fds[128], vhost_fds[128];

	plan_queues(b, PLAN_FD_TAP, i, queues, fds, sizeof(fds));
	if (!b->in->vhost_net) {
		qemu_argf(b, "tap,id=net%zu,fd%s=%s", i, s, fds);
		return;
	}
	plan_queues(b, PLAN_FD_VHOST_NET, i, queues, vhost_fds, sizeof(vhost_fds));
	qemu_argf(b, "tap,id=net%zu,fd%s=%s,vhost=on,vhostfd%s=%s", i, s, fds, s, vhost_fds);
}

static void add_netdev(struct qemu_builder *b, size_t i, const json_t *nic)
{
	const char *network = jsonx_str(nic, "network", "none");

	if (strcmp(network, "none") == 0)
		return;
	if (strcmp(network, "user") == 0 && !qemu_nic_by_passt(b->in, nic)) {
		add_user_netdev(b, i, nic);
		return;
	}
	qemu_arg(b, "-netdev");
	if (strcmp(network, "user") == 0)
		qemu_argf(b, "stream,id=net%zu,server=off,addr.type=fd,addr.str=%d", i,
		          qemu_plan_fd(b, PLAN_FD_PASST, i));
	else
		add_tap(b, i, (unsigned)jsonx_int(nic, "queues", 1));
}

void qemu_add_nics(struct qemu_builder *b)
{
	/* The option ROM is for booting from the network by BIOS only. */
	bool rom = !b->arm && qemu_boots_from(b, "network") &&
	           json_object_get(json_object_get(b->definition, "boot"), "order");
	const json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(b->definition, "nics"), i, nic) {
		const char *model = jsonx_str(nic, "model", "virtio");
		const char *mac = jsonx_str(nic, "mac", NULL);
		json_int_t queues = (json_int_t)jsonx_int(nic, "queues", 1);
		char id[32], netdev[32];
		json_t *device;

		snprintf(id, sizeof(id), "nic%zu", i);
		snprintf(netdev, sizeof(netdev), "net%zu", i);
		add_netdev(b, i, nic);
		device = json_pack("{s:s, s:s}", "driver",
		                   strcmp(model, "virtio") == 0 ? "virtio-net-pci" : model, "id",
		                   id);
		if (strcmp(jsonx_str(nic, "network", "none"), "none") != 0)
			(void)jsonx_set(device, "netdev", json_string(netdev));
		if (mac)
			(void)jsonx_set(device, "mac", json_string(mac));
		/* A vector for each queue, one for the control queue and one for the link. */
		if (queues > 1) {
			(void)jsonx_set(device, "mq", json_true());
			(void)jsonx_set(device, "vectors", json_integer(2 * queues + 2));
		}
		if (!rom)
			(void)jsonx_set(device, "romfile", json_string(""));
		qemu_set_boot_index(b, device, "network", i);
		qemu_pci_device(b, device);
	}
}

void qemu_add_shares(struct qemu_builder *b)
{
	const json_t *share;
	size_t i;

	json_array_foreach(json_object_get(b->definition, "shares"), i, share) {
		char chardev[32];

		snprintf(chardev, sizeof(chardev), "share%zu", i);
		qemu_arg(b, "-chardev");
		qemu_argf(b, "socket,id=%s,fd=%d", chardev, qemu_plan_fd(b, PLAN_FD_SHARE, i));
		qemu_pci_device(b,
		                json_pack("{s:s, s:s, s:s}", "driver", "vhost-user-fs-pci",
		                          "chardev", chardev, "tag", jsonx_str(share, "tag", "")));
	}
}

void qemu_add_console(struct qemu_builder *b)
{
	const json_t *console = json_object_get(b->definition, "console");

	if (json_is_false(console))
		return;
	qemu_arg(b, "-chardev");
	qemu_argf(b, "socket,id=console0,fd=%d", qemu_plan_fd(b, PLAN_FD_CONSOLE, 0));
	if (strcmp(jsonx_str(console, "device", "serial"), "serial") == 0) {
		qemu_arg(b, "-serial");
		qemu_arg(b, "chardev:console0");
		return;
	}
	qemu_pci_device(b,
	                json_pack("{s:s, s:s}", "driver", "virtio-serial-pci", "id", "vserial0"));
	qemu_arg_json(b, "-device",
	              json_pack("{s:s, s:s, s:s}", "driver", "virtconsole", "bus", "vserial0.0",
	                        "chardev", "console0"));
}

const char *qemu_vnc_path(const json_t *definition, const char *runtime_dir, char *buf, size_t len)
{
	const json_t *display = json_object_get(definition, "display");
	const char *type = jsonx_str(display, "type", json_string_value(display));
	const char *socket = jsonx_str(display, "socket", NULL);

	buf[0] = '\0';
	if (type && strcmp(type, "vnc") == 0)
		snprintf(buf, len, "%s%s", socket ? socket : runtime_dir,
		         socket ? "" : "/vnc.sock");
	return buf;
}

void qemu_add_display(struct qemu_builder *b)
{
	char path[256], escaped[512];
	size_t n = 0;

	if (!qemu_vnc_path(b->definition, b->in->runtime_dir, path, sizeof(path))[0])
		return;
	for (const char *p = path; *p; p++) {
		escaped[n++] = *p;
		if (*p == ',')
			escaped[n++] = ',';
	}
	escaped[n] = '\0';
	qemu_arg(b, "-vnc");
	qemu_argf(b, "unix:%s", escaped);
	qemu_pci_device(b, json_pack("{s:s, s:s}", "driver", b->arm ? "virtio-gpu-pci" : "VGA",
	                             "id", "video0"));
	qemu_pci_device(b, json_pack("{s:s, s:s}", "driver", "qemu-xhci", "id", "usb0"));
	qemu_arg_json(b, "-device",
	              json_pack("{s:s, s:s}", "driver", "usb-tablet", "bus", "usb0.0"));
	if (b->arm)
		qemu_arg_json(b, "-device",
		              json_pack("{s:s, s:s}", "driver", "usb-kbd", "bus", "usb0.0"));
}

static void add_balloon(struct qemu_builder *b)
{
	const json_t *balloon = json_object_get(b->definition, "balloon");
	json_t *device;

	if (json_is_false(balloon))
		return;
	device =
		json_pack("{s:s, s:s, s:b, s:b}", "driver", "virtio-balloon-pci", "id", "balloon0",
	                  "deflate-on-oom", jsonx_bool(balloon, "deflate_on_oom", false),
	                  "free-page-reporting", jsonx_bool(balloon, "free_page_reporting", false));
	qemu_pci_device(b, device);
}

static void add_tpm(struct qemu_builder *b)
{
	const json_t *tpm = json_object_get(b->definition, "tpm");
	const char *model = jsonx_str(tpm, "model", b->arm ? "tis" : "crb");

	if (!json_is_true(tpm) && !json_is_object(tpm))
		return;
	qemu_arg(b, "-chardev");
	qemu_argf(b, "socket,id=tpm0,fd=%d", qemu_plan_fd(b, PLAN_FD_TPM, 0));
	qemu_arg(b, "-tpmdev");
	qemu_arg(b, "emulator,id=tpm0,chardev=tpm0");
	qemu_arg(b, "-device");
	qemu_argf(b, "tpm-%s%s,tpmdev=tpm0", model, b->arm ? "-device" : "");
}

void qemu_add_small_devices(struct qemu_builder *b)
{
	const json_t *vsock = json_object_get(b->definition, "vsock");

	if (jsonx_bool(b->definition, "rng", true)) {
		qemu_arg_json(b, "-object",
		              json_pack("{s:s, s:s}", "qom-type", "rng-builtin", "id", "rng0"));
		qemu_pci_device(b,
		                json_pack("{s:s, s:s}", "driver", "virtio-rng-pci", "rng", "rng0"));
	}
	add_balloon(b);
	if (vsock) {
		char number[16];

		snprintf(number, sizeof(number), "%d", qemu_plan_fd(b, PLAN_FD_VSOCK, 0));
		qemu_pci_device(b, json_pack("{s:s, s:I, s:s}", "driver", "vhost-vsock-pci",
		                             "guest-cid", jsonx_int(vsock, "cid", 0), "vhostfd",
		                             number));
	}
	add_tpm(b);
	if (jsonx_bool(b->definition, "watchdog", false))
		qemu_pci_device(b,
		                json_pack("{s:s, s:s}", "driver", "i6300esb", "id", "watchdog0"));
	if (jsonx_bool(b->definition, "test_device", false))
		qemu_arg_json(b, "-device",
		              json_pack("{s:s, s:i, s:i}", "driver", "isa-debug-exit", "iobase",
		                        0xF4, "iosize", 4));
	/* How a panicking kernel tells. */
	if (b->arm)
		qemu_pci_device(b, json_pack("{s:s}", "driver", "pvpanic-pci"));
	else
		qemu_arg_json(b, "-device", json_pack("{s:s}", "driver", "pvpanic"));
}
