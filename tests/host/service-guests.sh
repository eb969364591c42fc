#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck source=/dev/null
# A running guest outlives every end of vmd.service.
. ./lib.sh

check "the package installs" dpkg -i vmd.deb || finish
check "a guest is created" make_guest web || finish
check "it starts" vmctl start web || finish
check "engine auto takes the monitor" on_kvm web
note "engine: $(of web '.engine.name + ", " + .engine.reason')"
check "it says why" [ -n "$(of web .engine.reason)" ]
check "it boots" booted web || finish
pid=$(of web .pid)
check "its processes have a scope of their own" \
	grep -qE '^0::/vmd\.slice/vmd-guests\.slice/vmd-guest-[0-9a-f-]+\.scope$' "/proc/$pid/cgroup"
check "with nothing of it left in vmd.service" \
	is "$(cat /sys/fs/cgroup/system.slice/vmd.service/cgroup.procs)" "$(vmd_pid)"
cp "/proc/$pid/cgroup" "$HOST_RESULTS/cgroup"
beat=$(last_beat web)

old=$(vmd_pid)
check "systemctl restart vmd" systemctl restart vmd
check "is another vmd" other_vmd_than "$old"
check "restart: the guest lives on" lives_on web "$pid" "$beat"

beat=$(last_beat web)
check "systemctl stop vmd, and its socket" systemctl stop vmd.socket vmd.service
check "stop: vmd is gone" unit_is vmd.service ActiveState inactive
check "stop: the guest is not" [ -d "/proc/$pid" ]
check "systemctl start vmd" systemctl start vmd
check "stop: the guest lives on" lives_on web "$pid" "$beat"

beat=$(last_beat web) old=$(vmd_pid)
kill -KILL "$old"
check "kill -9: systemd starts another vmd" within 30 other_vmd_than "$old"
check "kill -9: the guest lives on" lives_on web "$pid" "$beat"

beat=$(last_beat web) old=$(vmd_pid)
check "upgrade: dpkg -i over it" dpkg -i vmd.deb
check "upgrade: is another vmd" other_vmd_than "$old"
check "upgrade: its socket works" vmctl daemon ping
check "upgrade: the guest lives on" lives_on web "$pid" "$beat"

beat=$(last_beat web)
check "remove: dpkg -r" dpkg -r vmd
check "remove: the guest is not stopped by that" [ -d "/proc/$pid" ]
check "remove: and install again" dpkg -i vmd.deb
check "remove: the guest lives on" lives_on web "$pid" "$beat"

check "vmctl stop" vmctl stop web --timeout 60s
check "stop is soft: the guest did it" sh -c 'vmctl logs web | grep -q "vmd-guest: power off"'
check "stop: it ended with status 0" of_is web .exit.code 0
check "stop: its process is gone" [ ! -d "/proc/$pid" ]
check "stop: its scope is gone" within 10 sh -c \
	'! systemctl list-units --all --plain --no-legend "vmd-guest-*" | grep -q .'
finish
