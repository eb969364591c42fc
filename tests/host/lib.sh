# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# For the scripts that run in the host: TAP, waiting, guests.
checks=0 failures=0
step_log=$(mktemp)

# One test: NAME COMMAND...
check() {
	local name=$1
	shift
	checks=$((checks + 1))
	if "$@" >"$step_log" 2>&1; then
		echo "ok $checks - $name"
		return 0
	fi
	failures=$((failures + 1))
	echo "not ok $checks - $name"
	echo "#   failed: $*"
	sed 's/^/#   /' "$step_log"
	return 1
}

note() { printf '# %s\n' "$*"; }

# Ends the script. What the journal and the guests' consoles say is left for a look at it.
finish() {
	echo "1..$checks"
	keep_logs
	[ $failures = 0 ]
	exit
}

keep_logs() {
	local log
	journalctl --no-pager -o short-precise >"$HOST_RESULTS/journal" 2>&1
	for log in /var/lib/vmd/guests/*/console.log*; do
		[ ! -f "$log" ] || cp "$log" "$HOST_RESULTS/$(basename "$(dirname "$log")")-${log##*/}"
	done
}

is() { # VALUE EXPECTED
	[ "$1" = "$2" ] || {
		echo "is '$1', not '$2'"
		return 1
	}
}

exits() { # STATUS COMMAND...
	local want=$1 got=0
	shift
	"$@" || got=$?
	is "$got" "$want"
}

# Until COMMAND is true, for at most SECONDS.
within() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || {
			echo "still not so: $*"
			"$@"
			return 1
		}
		sleep 0.2
	done
}

unit() { systemctl show -P "$2" "$1"; }
unit_is() { is "$(unit "$1" "$2")" "$3"; } # UNIT PROPERTY VALUE
vmd_pid() { unit vmd.service MainPID; }
other_vmd_than() { unit_is vmd.service SubState running && [ "$(vmd_pid)" != "$1" ]; }

# A member of what vm.get says: VM JQ-PATH.
of() { vmctl info -o json "$1" | jq -r "$2"; }
of_is() { is "$(of "$1" "$2")" "$3"; }

# A Linux guest that counts seconds on its console: NAME [OPTION...].
make_guest() {
	local name=$1 power=
	shift
	[ "$name" != deaf ] || power=" vmd.power=ignore"
	vmctl create "$name" --kernel "$PWD/vmlinuz" --initrd "$PWD/initrd.gz" --memory 128M \
		--cmdline "console=ttyS0 quiet panic=-1 vmd.do=heartbeat$power" "$@"
}

booted() { vmctl wait --for login --timeout 120s "$@"; }
last_beat() { vmctl logs "$1" | tr -d '\r' | sed -n 's/.*vmd-guest: beat \([0-9]*\)$/\1/p' | tail -n 1; }
beats_past() { [ "$(last_beat "$1" | grep . || echo 0)" -gt "${2:-0}" ]; }

# The same process as before, and its console goes on: NAME PID BEAT.
lives_on() {
	of_is "$1" .state running && of_is "$1" .pid "$2" && [ -d "/proc/$2" ] &&
		within 30 beats_past "$1" "$3"
}
