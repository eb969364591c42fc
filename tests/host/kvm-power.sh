#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# How Linux guests on our monitor end and begin again: reboot, reset, power button, power-off, panic with
# each of its actions; snapshots of a running one, and its clock after them. One of them is booted by PVH.
. ./lib.sh

booted_times() { is "$(vmctl logs --raw "$1" | grep -c 'vmd-guest login:')" "$2"; } # NAME TIMES
begun_twice() { [ "$(vmctl logs "$1" | grep -c 'vmd-guest: init')" -ge 2 ]; }
panics() { vmctl events --since 0 --no-follow -o json | jq -s -c '[.[] | select(.type == "vm.panic") | .vm] | unique | length'; }
between() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; } # NUMBER LEAST MOST
# Panic and its action: three guests, which have what it takes and nothing else to do.
create_all() {
	local action
	make_guest web || return
	for action in stop pause restart; do
		guest_does=panic make_guest "panic-$action" --on-panic $action || return
	done
	guest_does=poweroff guest_kernel=$PWD/vmlinux-cloud make_guest brief
}

check "vmd runs, and proves KVM" unpack_vmd || finish
check "an unpacked kernel is there" fetch_kernels vmlinux cloud || finish
check "guests are created" create_all || finish
# Together: each has one processor, the host has two.
check "they start" vmctl start web brief panic-stop panic-pause panic-restart || finish
check "on our monitor" all_on_kvm 5

check "power-off, booted by PVH: ends it" vmctl wait --for stopped --timeout 120s brief
check "power-off: is its own end" ended_by_itself brief
check "panic, stop: is told as one" within 60 of_is panic-stop .cause guest-panic
note "panic, stop: $(of panic-stop '.state + ", " + .cause')"
check "panic, pause: stands still" within 60 state_is panic-pause paused guest-panic
check "panic, pause: is still there to look at" [ -d "/proc/$(of panic-pause .pid)" ]
check "panic, restart: boots again" within 60 begun_twice panic-restart
check "panic: each was an event" is "$(panics)" 3
vmctl kill panic-pause panic-restart

check "it boots" booted web || finish
attach web
check "snapshot: is taken of the running guest" vmctl snapshot create web before
beat=$(last_beat web)
check "snapshot: it runs on" within 30 beats_past web "$beat"
check "snapshot: its memory is marked" in_guest web 'echo later >/run/mark'
sleep 3 # that the clock would be behind by
check "restore: goes" vmctl snapshot restore --yes web before || finish
asked=$EPOCHSECONDS
check "restore: on our monitor" on_kvm web
attach web
clock=$(in_guest web 'date +%s')
answered=$EPOCHSECONDS
check "restore: its clock is right" between "$clock" $((asked - 1)) $((answered + 1))
note "restore: clock $clock, host $asked to $answered"
check "restore: its memory is as it was" in_guest web 'test ! -e /run/mark'
beat=$(last_beat web)
check "restore: it counts on from there" within 30 beats_past web "$beat"
check "restore: not from a new boot" booted_times web 1

pid=$(of web .pid)
type_at web 'reboot -f'
check "reboot from inside: boots again" within 60 booted_times web 2
check "reboot: in the same process" of_is web .pid "$pid"
check "reset: is taken" vmctl reset web
check "reset: boots again" within 60 booted_times web 3
check "reset: in the same process" of_is web .pid "$pid"
check "power button: it stops" vmctl stop web --timeout 60s
check "power button: by itself" sh -c 'vmctl logs web | grep -q "vmd-guest: power off"'
check "power button: is its own end" ended_by_itself web
finish
