#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck source=/dev/null
# vmd from its Debian package, as a service: units, groups, roles, journal, reload, watchdog.
. ./lib.sh

check "the package installs" dpkg -i vmd.deb || finish
check "vmd.service is ready" unit_is vmd.service SubState running
check "and says so by itself" unit_is vmd.service Type notify
check "vmd.service comes up at boot" systemctl is-enabled vmd.service
check "vmd.socket comes up at boot" systemctl is-enabled vmd.socket
check "units: systemd-analyze verify" systemd-analyze verify --man=no vmd.service vmd.socket
for group in vmd-viewer vmd-operator vmd-admin; do
	check "sysusers: group $group" getent group $group
done
check "tmpfiles: /run/vmd" is "$(stat -c '%a %U:%G' /run/vmd)" "755 root:root"
check "tmpfiles: /var/lib/vmd" is "$(stat -c '%a %U:%G' /var/lib/vmd)" "700 root:root"
check "tmpfiles: /etc/vmd" is "$(stat -c '%a %U:%G' /etc/vmd)" "755 root:root"
note "$(systemd-analyze security --no-pager vmd.service | tail -n 1 | tr -cd '[:print:]')"

check "disable and enable again" systemctl -q disable --now vmd.service vmd.socket
check "no socket while it is off" [ ! -e /run/vmd/vmd.sock ]
check "enable --now" systemctl -q enable --now vmd.socket vmd.service
check "vmd is there" vmctl daemon ping

systemctl stop vmd.service
check "stopped" unit_is vmd.service ActiveState inactive
check "the first call starts it through vmd.socket" vmctl daemon ping
check "it runs" unit_is vmd.service SubState running
check "and has the read-only socket" vmctl -s /run/vmd/vmd-ro.sock list

# Roles by group.
systemd-sysusers - <<'END'
u oper - - /tmp
u viewer - - /tmp
u nobody2 - - /tmp
m oper vmd-operator
m viewer vmd-viewer
END
as() { # USER ARGUMENT...
	local user=$1
	shift
	runuser -u "$user" -- vmctl -s /run/vmd/vmd.sock "$@"
}
make_guest web >/dev/null
check "an operator lists" as oper list
check "an operator has guests of its own" as oper create mine --memory 64M
check "but no power over others' guests" exits 5 as oper start web
check "a viewer lists" as viewer list
check "a viewer creates nothing" exits 5 as viewer create theirs --memory 64M
check "others do not even list" exits 5 as nobody2 list

# The journal.
entry() { journalctl -u vmd -o json --no-pager "$@" | jq -es 'length > 0'; }
vmctl start -q web
check "journal: a state has fields" within 10 \
	entry GUEST=web GUEST_UUID="$(of web .uuid)" STATE=running PRIORITY=6
check "journal: a change has fields" within 10 entry GUEST=web METHOD=vm.start ACTOR=uid:0
check "journal: a refused change has fields" \
	within 10 entry GUEST=web METHOD=vm.start KIND=denied ACTOR="uid:$(id -u oper)"

# Reload.
batch() { vmctl call daemon.info | jq -r .limits.batch; }
mkdir -p /etc/vmd
printf '[limits]\nmax_batch = 77\n' >/etc/vmd/vmd.conf
check "reload of a good vmd.conf" systemctl reload vmd
check "it counts" is "$(batch)" 77
printf '[limits]\nmax_batch = 78\nbogus = 1\n' >/etc/vmd/vmd.conf
check "reload of a bad vmd.conf fails" exits 1 systemctl reload vmd
check "the old one stays" is "$(batch)" 77
check "vmd stays ready" unit_is vmd.service SubState running
check "the journal says what is wrong with it" sh -c 'journalctl -u vmd | grep "vmd.conf" | grep bogus'
printf '[limits]\nmax_batch = 79\n' >/etc/vmd/vmd.conf
check "and a good one again" systemctl reload vmd
check "it counts, too" is "$(batch)" 79

# Watchdog: the unit's own, then a short one.
check "watchdog: armed" unit_is vmd.service WatchdogUSec 1min
note "engine: $(of web '.engine.accel + ", " + .engine.reason')"
check "guest boots" booted web
pid=$(of web .pid) beat=$(last_beat web)
mkdir -p /run/systemd/system/vmd.service.d
printf '[Service]\nWatchdogSec=10\nTimeoutAbortSec=3\n' >/run/systemd/system/vmd.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart vmd
old=$(vmd_pid)
kill -STOP "$old"
check "watchdog: a vmd that hangs is replaced" within 60 other_vmd_than "$old"
check "watchdog: by its time-out" sh -c 'journalctl -u vmd | grep -q "Watchdog timeout"'
check "watchdog: the guest lives on" lives_on web "$pid" "$beat"
old=$(vmd_pid) ping=$(unit vmd.service WatchdogTimestampMonotonic)
pinged_since() { [ "$(unit vmd.service WatchdogTimestampMonotonic)" -gt "$1" ]; }
check "watchdog: a vmd that works says so" within 10 pinged_since "$ping"
check "watchdog: and stays" is "$(vmd_pid)" "$old"
finish
