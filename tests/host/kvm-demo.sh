#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# ./demo with the vmd that is installed: on a host with a real KVM it shows engine kvm.
. ./lib.sh

show_demo() {
	mkdir -p kit/x86_64
	ln vmlinuz initrd.gz kit/x86_64/
	VMD_DEMO_INSTALLED=yes VMD_TEST_KIT=$PWD/kit ./demo
}

check "the package installs" dpkg -i vmd.deb || finish
show_demo >"$HOST_RESULTS/demo.log" 2>&1
check "the demo comes to its end" is $? 0 || sed 's/^/#   /' "$HOST_RESULTS/demo.log"
check "it was on engine kvm" grep -q '^engine: .*"name":"kvm"' "$HOST_RESULTS/demo.log"
note "$(grep '^engine: ' "$HOST_RESULTS/demo.log")"
check "memory and disk went back" grep -q '^RAM: variable first, tmpfs first, disk: first' "$HOST_RESULTS/demo.log"
check "nothing is left" sh -c '! pgrep -x "vmd-vmm|vmd-shim" && ! ls -d /tmp/vmd-demo.* 2>/dev/null'
finish
