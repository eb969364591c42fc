#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck source=/dev/null
# The host goes down with guests running, and comes up again.
. ./lib.sh

# One after the other: together they would need four times as long for each step.
run_guest() { make_guest "$@" && vmctl start "$1" && booted "$1"; }

first_boot() {
	dpkg -i vmd.deb || return
	# A deadline of systemd's that is shorter than a guest's: vmd has to ask for more.
	mkdir -p /etc/systemd/system/vmd.service.d
	printf '[Service]\nTimeoutStopSec=5\n' >/etc/systemd/system/vmd.service.d/timeout.conf
	systemctl daemon-reload
	run_guest polite --autostart order=1 &&
		run_guest deaf --stop-timeout 12s &&
		run_guest sleeper --on-host-shutdown suspend &&
		run_guest left --on-host-shutdown leave || return
	within 30 beats_past sleeper 0 && last_beat sleeper >/host/sleeper-beat
}

if [ "$HOST_BOOT" = 1 ]; then
	check "four guests run" first_boot || finish
	host-reboot
fi

check "this is another boot" is "$HOST_BOOT" 2
check "vmd is there" within 60 vmctl daemon ping
check "vmd knew that the host went down" sh -c 'journalctl -b -1 -u vmd | grep -q "The host goes down"'
check "stop: the guest powered off by itself" \
	sh -c "journalctl -b -1 -u vmd -o cat | grep \"Guest 'polite': stopping -> stopped, guest-shutdown\""
check "stop: by its power button" \
	sh -c 'vmctl logs polite | grep -q "vmd-guest: power off"'
check "deadline: a deaf guest was ended at its own" of_is deaf .state stopped
check "deadline: by vmd, hard" of_is deaf .exit.signal 9
check "suspend: it is suspended" of_is sleeper .state suspended
check "leave: it ended with the host" of_is left .pid null
note "leave: $(of left '.state + ", " + .cause')"

check "autostart: it runs" within 60 of_is polite .state running
check "autostart: it boots" booted polite
check "autostart: only what asked for it" is "$(vmctl list -o json | jq -r '[.vms[] | select(.state == "running") | .name] | join(" ")')" polite
check "suspend: it goes on where it was" vmctl start sleeper
check "suspend: with its memory" within 60 beats_past sleeper "$(cat /host/sleeper-beat)"
check "suspend: without another boot" is "$(vmctl logs sleeper | grep -c 'vmd-guest: init')" 1
vmctl stop -q polite
systemctl restart vmd
check "autostart: once per boot" of_is polite .state stopped
starts() { journalctl -b 0 -u vmd -o cat GUEST=polite STATE=starting | wc -l; }
check "autostart: it was started once" is "$(starts)" 1
vmctl stop -q sleeper
finish
