#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# Ten Linux guests at once on our monitor.
. ./lib.sh

names=$(seq -f 'many-%.0f' 10)
each() { # COMMAND...
	local name
	for name in $names; do
		"$@" "$name" || return
	done
}
create_one() { make_guest "$1" >/dev/null; }
pss() { sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$1/smaps_rollup"; } # PID
parent() { sed -n 's/^PPid:[ \t]*//p' "/proc/$1/status"; }                 # PID
total_pss() {
	local pid sum=0
	for pid in $(vmctl list -o json | jq '.vms[].pid'); do
		sum=$((sum + $(pss "$pid") + $(pss "$(parent "$pid")")))
	done
	echo $sum
}
beats() { within 60 beats_past "$1" 0; } # NAME

check "vmd runs, and proves KVM" unpack_vmd || finish
check "ten guests are created" each create_one || finish
began=$SECONDS
check "they start" vmctl start 'many-*' || finish
check "all on our monitor" all_on_kvm 10
check "all boot" vmctl wait --for login --timeout 500s 'many-*'
note "ten guests: booted after $((SECONDS - began)) s"
check "all count seconds" each beats
note "ten guests of 128 MiB: PSS $(total_pss) kB with their shims, $(sed -n 's/MemAvailable: *//p' /proc/meminfo) of the host left"
check "the host ran out of nothing" sh -c '! journalctl -k | grep -iE "out of memory|oom-kill"'
check "all stop by their power buttons" vmctl stop 'many-*' --timeout 120s
check "each by itself" each ended_by_itself
check "no monitor and no shim is left" within 10 sh -c '! pidof vmd-vmm vmd-shim'
finish
