/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Network cards and what they are connected to. */
#include "config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "tests/integration/qemu-fixture.h"

TestSuite(qemu_net, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
		                     .sin_port = htons((uint16_t)port),
		                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

/* A port of the host that is free now. */
static int free_port(int type)
{
	struct sockaddr_in address = loopback(0);
	socklen_t len = sizeof(address);
	cleanup_close int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	return ntohs(address.sin_port);
}

/* Waits until card n has an address; ret: "192.0.2.2". */
static const char *address_of(int console, unsigned n)
{
	static char text[64];
	char command[160];

	snprintf(command, sizeof(command),
	         "until ip -4 -o addr show dev eth%u | grep -q inet; do :; done; "
	         "ip -4 -o addr show dev eth%u | awk '{sub(\"/.*\", \"\", $4); print $4}'",
	         n, n);
	snprintf(text, sizeof(text), "%s", console_run(console, command));
	return text;
}

/*
 * A server in the guest that speaks first, and one line from it through the host's port. An older
 * passt passes nothing on until the client has spoken, and an engine without a network of its own
 * has only that.
 */
static void expect_tcp(int console, int port)
{
	struct sockaddr_in address = loopback(port);
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char text[64] = "";

	/* It goes when the client has gone: what it says must not be overtaken by its end. */
	console_run(console, "mkfifo -m 600 /tmp/hold 2>/dev/null; "
	                     "((echo by-tcp; cat /tmp/hold) | nc -l -p 80 >/dev/null &); "
	                     "until grep -q ':0050 .* 0A ' /proc/net/tcp*; do :; done");
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%d: %m", port);
	if (!engine_has(&s.client, "own_user_network"))
		cr_assert_eq(write(fd, "\n", 1), 1);
	cr_assert_eq(poll(&p, 1, patient(20000)), 1, "nothing from the guest on port %d", port);
	cr_assert_gt(read(fd, text, sizeof(text) - 1), 0);
	cr_expect_str_eq(text, "by-tcp\n");
}

/* The guest has nothing that takes datagrams, and counts those that nobody took. */
#define UNTAKEN "$(awk '/^Udp: [0-9]/ {print $3}' /proc/net/snmp)"

static void expect_udp(int console, int port)
{
	struct sockaddr_in address = loopback(port);
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	console_run(console, "n=" UNTAKEN);
	cr_assert_eq(sendto(fd, "by-udp\n", 7, 0, (struct sockaddr *)&address, sizeof(address)), 7);
	expect_output(console, "until test " UNTAKEN " -gt $n; do :; done; echo came", "came");
}

static bool listens(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, address, &to.sin_addr);
	return connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
}

/* PATH for a vmd that finds QEMU and no passt. */
static void hide_passt(void)
{
	const char *bin = scene_path(&s, "bin");
	static char path[256];

	snprintf(path, sizeof(path), "%s", bin);
	cr_assert_eq(mkdir(path, 0755), 0);
	cr_assert_eq(
		symlink("/usr/bin/qemu-system-x86_64", scene_path(&s, "bin/qemu-system-x86_64")),
		0);
	s.program_path = path;
}

static char *macs_of(void)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a"), *nic;
	char *text = calloc(1, 256);
	size_t i;

	json_array_foreach(member(info, "definition.nics"), i, nic)
		snprintf(text + strlen(text), 256 - strlen(text), "%s%s", i ? "\n" : "",
		         member_str(nic, "mac"));
	json_decref(info);
	return text;
}

Test(qemu_net, user_networks_work_with_and_without_passt)
{
	int tcp = free_port(SOCK_STREAM), udp = free_port(SOCK_DGRAM);
	int bound = free_port(SOCK_STREAM);
	cleanup_free char *macs = NULL, *again = NULL;
	bool passt = access("/usr/bin/passt", X_OK) == 0;
	int console = boot_kit("x86_64", NULL,
	                       "{'nics': [{'network': 'user', 'forward': ['tcp:%d:80', "
	                       "'tcp:127.0.0.1:%d:81']}, "
	                       "{'network': 'user', 'mac': '52:54:00:AB:cd:01', 'forward': "
	                       "['udp:127.0.0.1:%d:53']}, {'network': 'none'}]}",
	                       tcp, bound, udp);

	macs = macs_of();
	cr_expect_eq(strlen(macs), 3 * 18 - 1, "%s", macs);
	address_of(console, 0);
	address_of(console, 1);
	expect_output(console, "cat /sys/class/net/eth1/address", "52:54:00:ab:cd:01");
	cr_expect_eq(scene_find_process(&s, "passt") > 0, passt, "passt %s",
	             passt ? "does not serve" : "?");
	expect_tcp(console, tcp);
	expect_udp(console, udp);
	cr_expect(listens("127.0.0.1", bound));
	cr_expect_not(listens("127.0.0.2", bound), "an address of the host was left out");
	cr_expect(listens("127.0.0.2", tcp));
	/* Nothing is connected to the last one. */
	expect_output(console, "ip -4 -o addr show dev eth2 | grep -c inet", "0");
	close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	/* Another daemon, without passt: the same cards. */
	scene_stop(&s);
	hide_passt();
	scene_start(&s);
	again = macs_of();
	cr_expect_str_eq(again, macs);
	if (!engine_has(&s.client, "own_user_network")) {
		struct refusal r =
			call_refused(&s.client, "unsupported", "vm.start", "{s:s}", "vm", "a");

		cr_expect_str_eq(r.field, "definition.nics[0].network");
		cr_expect(strstr(r.message, "passt is not installed"), "%s", r.message);
		return;
	}
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	cr_expect_eq(scene_find_process(&s, "passt"), 0);
	cr_expect_str_eq(address_of(console, 0), "10.0.2.15");
	cr_expect_str_eq(address_of(console, 1), "10.0.2.15");
	expect_output(console, "cat /sys/class/net/eth1/address", "52:54:00:ab:cd:01");
	/* Both cards have one address here; only one of them may answer. */
	console_run(console, "ip link set eth1 down");
	expect_tcp(console, tcp);
	cr_expect_not(listens("127.0.0.2", bound));
	console_run(console, "ip link set eth0 down; ip link set eth1 up");
	expect_udp(console, udp);
	close(console);
}

/* Cards with drivers of their own, which the arm64 kernel has. */
Test(qemu_net, models_are_what_the_guest_finds)
{
	int console;

	if (!engine_can("nic_models", "definition.nics",
	                "{'nics': [{'network': 'none'}, {'network': 'none', 'model': 'e1000'}]}"))
		return;
	console = boot_kit("aarch64", NULL,
	                   "{'nics': [{'network': 'user', 'model': 'e1000'}, "
	                   "{'network': 'user', 'model': 'e1000e'}, "
	                   "{'network': 'user', 'model': 'rtl8139'}, "
	                   "{'network': 'user', 'model': 'virtio'}]}");
	expect_output(console,
	              "for n in /sys/class/net/eth*; do basename $(readlink $n/device/driver); "
	              "done | sort",
	              "8139cp\ne1000\ne1000e\nvirtio_net");
	for (unsigned i = 0; i < 4; i++)
		cr_expect(strchr(address_of(console, i), '.'));
	close(console);
}

/* A tap device of the host with this address; its descriptor. */
static int make_tap(const char *name, const char *address)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct sockaddr_in in = { .sin_family = AF_INET };
	cleanup_close int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		cr_skip_test("no /dev/net/tun on this host");
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		cr_skip_test("no tap device can be made: %m");
	inet_pton(AF_INET, address, &in.sin_addr);
	memcpy(&ifr.ifr_addr, &in, sizeof(in));
	cr_assert_eq(ioctl(control, SIOCSIFADDR, &ifr), 0);
	inet_pton(AF_INET, "255.255.255.252", &in.sin_addr);
	memcpy(&ifr.ifr_netmask, &in, sizeof(in));
	cr_assert_eq(ioctl(control, SIOCSIFNETMASK, &ifr), 0);
	ifr.ifr_flags = IFF_UP;
	cr_assert_eq(ioctl(control, SIOCSIFFLAGS, &ifr), 0);
	return fd;
}

static void expect_ping(int console, unsigned n, const char *mine, const char *other)
{
	char command[200];

	snprintf(command, sizeof(command),
	         "ip addr add %s/30 dev eth%u; ping -c 1 -w 10 %s >/dev/null; echo $?", mine, n,
	         other);
	expect_output(console, command, "0");
}

/* A network of its own for vmd and its guests, so that no device stays, however the test ends. */
static void tap_setup(void)
{
	if (unshare(CLONE_NEWNET) < 0)
		cr_skip_test("no network namespace can be made: %m");
	qemu_setup();
}

TestSuite(qemu_tap, .timeout = 400, .init = tap_setup, .fini = qemu_teardown);

Test(qemu_tap, devices_by_name_and_by_descriptor)
{
	char named[16], given[16];
	json_t *definition, *reply;
	int by_name, by_fd, console;

	snprintf(named, sizeof(named), "vmdn%d", getpid() % 1000000);
	snprintf(given, sizeof(given), "vmdf%d", getpid() % 1000000);
	by_name = make_tap(named, "198.51.100.1");
	by_fd = make_tap(given, "198.51.100.5");
	/* Kept without an owner for as long as the test lasts. */
	cr_assert_eq(ioctl(by_name, TUNSETPERSIST, 1), 0);
	close(by_name);
	definition = js("{'name': 'a', 'arch': 'x86_64', 'memory': '256M', 'nics': "
	                "[{'network': 'tap', 'ifname': '%s'}, "
	                "{'network': 'tap', 'ifname': {'fd': 0}}], "
	                "'boot': {'kernel': '%s', 'initrd': '%s', 'cmdline': 'console=ttyS0 %s'}}",
	                named, kit_kernel("x86_64"), kit_initrd("x86_64"), kit_words());
	reply = call_raw(&s.client, "vm.create",
	                 json_pack("{s:o}", "definition", engine_define(definition)), &by_fd, 1);
	cr_assert(json_object_get(reply, "result"), "%s", refusal_of(reply).message);
	json_decref(reply);
	guest_boot(&s, "a");
	console = console_open(&s, "a", true);
	expect_ping(console, 0, "198.51.100.2", "198.51.100.1");
	expect_ping(console, 1, "198.51.100.6", "198.51.100.5");
	expect_refused("busy", "definition.nics[0].ifname", named,
	               "{'nics': [{'network': 'tap', 'ifname': '%s'}]}", named);
	drop_guest(console);
	close(by_fd);
	by_name = make_tap(named, "198.51.100.1");
	cr_assert_eq(ioctl(by_name, TUNSETPERSIST, 0), 0);
	close(by_name);
	cr_expect_eq(if_nametoindex(named), 0);
}

Test(qemu_net, what_cannot_be_connected_is_refused)
{
	int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = loopback(0);
	socklen_t len = sizeof(address);

	cr_assert_eq(bind(taken, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(taken, 1), 0);
	cr_assert_eq(getsockname(taken, (struct sockaddr *)&address, &len), 0);
	expect_refused("busy", "definition.nics[0].forward[0]", "cannot listen",
	               "{'nics': [{'network': 'user', 'forward': "
	               "['tcp:127.0.0.1:%d:80']}]}",
	               ntohs(address.sin_port));
	expect_refused("invalid", "definition.nics[0].forward[1]", "no port forward",
	               "{'nics': [{'network': 'user', 'forward': ['tcp:8080:80', "
	               "'udp:70000:80']}]}");
	expect_refused("invalid", "definition.nics[0].forward[0]", "no address",
	               "{'nics': [{'network': 'user', 'forward': "
	               "['udp:192.0.2.77:5353:53']}]}");
	expect_refused("invalid", "definition.nics[0].mac", "of one station",
	               "{'nics': [{'network': 'none', 'mac': '01:00:5e:00:00:01'}]}");
	expect_refused("invalid", "definition.nics[1].mac", "two nics",
	               "{'nics': [{'network': 'none', 'mac': '52:54:00:00:00:0a'}, "
	               "{'network': 'none', 'mac': '52:54:00:00:00:0A'}]}");
	close(taken);
	if (access("/dev/net/tun", F_OK) < 0) {
		expect_refused("unsupported", "definition.nics[0].network", "/dev/net/tun",
		               "{'nics': [{'network': 'tap', 'ifname': 'tap0'}]}");
		return;
	}
	expect_refused("invalid", "definition.nics[0].ifname", "no network device",
	               "{'nics': [{'network': 'tap', 'ifname': 'vmdnosuch'}]}");
	if (geteuid() == 0)
		expect_refused("invalid", "definition.nics[0].ifname", "no tap device",
		               "{'nics': [{'network': 'tap', 'ifname': 'lo'}]}");
}
