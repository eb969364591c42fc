/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/definition.h"

/* One row per def_options row, for the parser and for help; a test holds both together. */
#define DEFINITION_OPTIONS                                                                               \
	{ "file", 'f', "FILE", "definition as JSON; options stand above it ('-': stdin)" },              \
		{ "memory", 'm', "SIZE", "memory, such as 2G (default 512M)" },                          \
		{ "cpus", 'c', "N",                                                                      \
		  "processors: N[,model=M][,sockets=N][,cores=N][,threads=N][,nested]" },                \
		{ "memory-backing", 0, "SPEC", "hugepages=transparent|2M|1G[,prealloc]" },               \
		{ "kernel", 'k', "FILE", "Linux kernel to boot" },                                       \
		{ "initrd", 'i', "FILE", "initial RAM disk" },                                           \
		{ "cmdline", 0, "TEXT", "kernel command line" },                                         \
		{ "firmware", 0, "KIND", "bios or uefi, to boot a disk or an ISO image" },               \
		{ "boot-order", 0, "LIST", "what firmware tries: iso,disk,network" },                    \
		{ "iso", 0, "FILE", "ISO image in a read-only CD drive" },                               \
		{ "disk", 'd', "SPEC",                                                                   \
		  "path=FILE|disk=NAME,format=F[,backing=FILE,backing.format=F]"                         \
		  "[,readonly][,size=S][,cache=C][,discard=D][,serial=S]"                                \
		  "[,bus=B][,bandwidth=S][,bandwidth.read=S][,bandwidth.write=S][,iops=N][,iops.read=N]" \
		  "[,iops.write=N][,queues=N]" },                                                        \
		{ "nic", 'n', "SPEC",                                                                    \
		  "user|tap|none[,forward=tcp:8080:80]...[,mac=M][,model=M][,ifname=TAP][,queues=N]" },  \
		{ "share", 0, "SPEC", "DIR,tag=T[,readonly]: directory shared by virtiofs" },            \
		{ "label", 'l', "KEY=VALUE", "label (repeat for more)" },                                \
		{ "engine", 0, "NAME", "auto (default), kvm or qemu" },                                  \
		{ "arch", 0, "ARCH", "x86_64 or aarch64 (default: the host's)" },                        \
		{ "machine", 0, "SPEC",                                                                  \
		  "TYPE[,acpi=on|off][,hpet=..][,smm=..][,vmport=..][,gic=2|3|max]" },                   \
		{ "console", 0, "KIND", "serial (default), virtio, on or off" },                         \
		{ "display", 0, "KIND", "none (default) or vnc[,socket=PATH]" },                         \
		{ "rng", 0, "ON|OFF", "entropy device (default on)" },                                   \
		{ "balloon", 0, "SPEC",                                                                  \
		  "on (default), off or deflate_on_oom[,free_page_reporting]" },                         \
		{ "vsock", 0, "CID", "vsock device with this context id" },                              \
		{ "tpm", 0, "KIND", "off (default), on, tis or crb" },                                   \
		{ "watchdog", 0, "ON|OFF", "watchdog device (default off)" },                            \
		{ "test-device", 0, "ON|OFF", "ports for test guests (default off)" },                   \
		{ "autostart", 0, "SPEC",                                                                \
		  "on, off or order=N[,delay=TIME]: start with the daemon" },                            \
		{ "restart", 0, "SPEC",                                                                  \
		  "no, on-failure or always[,backoff=TIME][,max-backoff=TIME][,max=N]" },                \
		{ "stop-timeout", 0, "TIME", "how long a soft stop may take" },                          \
		{ "on-reboot", 0, "ACTION", "restart (default) or stop" },                               \
		{ "on-poweroff", 0, "ACTION", "stop (default) or restart" },                             \
		{ "on-panic", 0, "ACTION", "stop (default), restart or pause" },                         \
		{ "on-watchdog", 0, "ACTION", "restart (default), stop, pause or none" },                \
		{ "on-host-shutdown", 0, "ACTION", "stop (default), suspend, kill or leave" },           \
		{ "protect", 0, "LIST", "refuse delete and/or stop until lifted: delete,stop" },         \
		{ "owner", 0, "USER", "owner (an admin only)" },                                         \
		{ "uuid", 0, "UUID", "identity instead of a new one" },                                  \
	{                                                                                                \
		"dry-run", 0, NULL, "check everything, change nothing"                                   \
	}

const struct option_def create_options[] = { DEFINITION_OPTIONS, { 0 } };

const struct option_def run_options[] = {
	DEFINITION_OPTIONS,
	{ "detach", 0, NULL, "do not attach to the console" },
	{ "rm", 0, NULL, "end and delete the VM when the console is left" },
	{ "escape", 'e', "KEY", "key that leaves the console (default ^])" },
	{ 0 },
};
