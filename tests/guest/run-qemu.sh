#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs tests of a bare guest under QEMU, with one device of each kind:
#   run-qemu.sh GUEST TEST[,TEST...] [NAME=VALUE...]
# NAME=VALUE goes to the guest's command line. Standard input is the guest's serial port. The status
# is 0 when the guest came to its end and no test failed.
#
# Disks: 0 is writable, 1 is read-only. The virtio console's port reads CONSOLE_LINES.
# Environment: MACHINE (q35), ACCEL (tcg), CPU (max), CPUS (2), MEMORY (64M), QEMU_EXTRA (more
# arguments), CONSOLE_LINES ("hello", "end"), TIMEOUT (60 s).
set -u
if [ $# -lt 2 ]; then
	sed -n '3,11s/^# \{0,1\}//p' "$0"
	exit 64
fi
guest=$1 tests=$2
shift 2
machine=${MACHINE:-q35} accel=${ACCEL:-tcg} cpu=${CPU:-max} cpus=${CPUS:-2} memory=${MEMORY:-64M}
lines=${CONSOLE_LINES:-$'hello\nend'}

work=$(mktemp -d "${TMPDIR:-/tmp}/vmd-guest.XXXXXX") || exit 1
helpers=()
cleanup() {
	[ ${#helpers[@]} -eq 0 ] || kill "${helpers[@]}" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT

args=(-M "$machine" -accel "$accel" -cpu "$cpu" -smp "$cpus" -m "$memory" -nodefaults -display none
	-no-user-config -monitor none -serial stdio -kernel "$guest" -append "test=$tests $*")

case ,$tests, in
*,resets,*) ;;
*) args+=(-no-reboot) ;;
esac

# microvm has no PCI bus that a bare guest finds.
# shellcheck disable=SC2054 # commas belong to QEMU's arguments
with_devices() {
	truncate -s 8M "$work/disk0" "$work/disk1"
	mkfifo "$work/port.in" "$work/port.out"
	printf '%s\n' "$lines" >"$work/port.in" &
	helpers+=($!)
	sed 's/^/port: /' <"$work/port.out" &
	helpers+=($!)
	args+=(
		-drive "if=none,id=d0,format=raw,discard=unmap,file=$work/disk0"
		-device virtio-blk-pci,disable-legacy=on,drive=d0,serial=vmd-test-disk,num-queues=2
		-drive "if=none,id=d1,format=raw,readonly=on,file=$work/disk1"
		-device virtio-blk-pci,disable-legacy=on,drive=d1
		-device virtio-rng-pci,disable-legacy=on
		-device virtio-balloon-pci,disable-legacy=on,free-page-reporting=on
		-device virtio-serial-pci,disable-legacy=on
		-chardev "pipe,id=port,path=$work/port"
		-device virtserialport,chardev=port,name=org.vmd.test)
	case ${QEMU_EXTRA:-} in
	*-netdev*) ;;
	*) args+=(-netdev user,id=n0 -device virtio-net-pci,disable-legacy=on,netdev=n0) ;;
	esac
}
case $machine in
microvm*) ;;
*) with_devices ;;
esac
# shellcheck disable=SC2206 # words, on purpose
args+=(${QEMU_EXTRA:-})

# A hostile guest can bring QEMU to where it hears no polite signal.
timeout --foreground -k 5 "${TIMEOUT:-60}" qemu-system-x86_64 "${args[@]}" | tee "$work/serial"
grep -q '^guest: done' "$work/serial" && ! grep -q '^guest: .* FAIL' "$work/serial"
