# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# For the scripts that run in the host: TAP, waiting, guests.
checks=0 failures=0
step_log=$(mktemp)

# One test: NAME COMMAND...
check() {
	local name=$1 began=$SECONDS status=0
	shift
	checks=$((checks + 1))
	"$@" >"$step_log" 2>&1 || status=$?
	[ $((SECONDS - began)) -lt 5 ] || note "the next took $((SECONDS - began)) s"
	if [ $status = 0 ]; then
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
	for log in *.screen; do
		[ ! -f "$log" ] || cp "$log" "$HOST_RESULTS/"
	done
	vmctl list -o json >"$HOST_RESULTS/guests.json" 2>&1 || :
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

# A Linux guest: NAME [OPTION...]. It counts seconds on its console, unless $guest_does is something else.
make_guest() {
	local name=$1 power=
	shift
	[ "$name" != deaf ] || power=" vmd.power=ignore"
	vmctl create "$name" --kernel "${guest_kernel:-$PWD/vmlinuz}" --initrd "$PWD/initrd.gz" --memory 128M --cmdline \
		"console=${guest_console:-ttyS0} quiet panic=-1 vmd.do=${guest_does:-heartbeat}$power" "$@"
}

# vmd from its package, with its proof that KVM works here. A prober that had to wait too long for a
# processor gives none, and vmd keeps its answer: then another vmd asks again.
install_vmd() { dpkg -i vmd.deb && within 120 kvm_is_proven; }
# The same without dpkg's scripts, which take half a minute here, for tests that are not about the package.
unpack_vmd() {
	dpkg-deb --fsys-tarfile vmd.deb | tar -C / --keep-directory-symlink -xf - &&
		systemd-sysusers vmd.conf && systemd-tmpfiles --create vmd.conf &&
		systemctl start vmd.socket vmd.service && within 120 kvm_is_proven
}
kvm_is_proven() {
	vmctl host info -o json | jq -e '.kvm.usable' && return
	vmctl host info -o json | jq -r '.kvm.reason'
	systemctl restart vmd
	return 1
}

# Its engine is the monitor: QEMU, which would do most of the same, proves nothing of it.
on_kvm() { is "$(of "$1" '.engine | .name + " " + .accel')" "kvm kvm"; }
all_on_kvm() { is "$(vmctl list -o json | jq '[.vms[] | select(.engine == "kvm")] | length')" "$1"; } # HOW-MANY
state_is() { is "$(of "$1" '.state + " " + .cause')" "$2 $3"; }                                      # NAME STATE CAUSE
ended_by_itself() { is "$(of "$1" '"\(.state) \(.cause) \(.exit.code)"')" "stopped guest-shutdown 0"; } # NAME

# The Debian guest (image/guest.sh) is the host's fourth disk, and every host has its own copy. Kernels in its
# /boot come here, as FILE-FLAVOUR, with their initrds: FILE, such as vmlinuz, FLAVOUR..., of cloud and standard.
fetch_kernels() {
	local file=$1 flavour
	shift
	mount -o ro,noload /dev/vdd /mnt || return
	for flavour in "$@"; do
		# shellcheck disable=SC2144 # there is one of each
		set -- /mnt/boot/"$file"-*[0-9]-amd64
		[ "$flavour" = standard ] || set -- /mnt/boot/"$file"-*-cloud-amd64
		cp "$1" "$file-$flavour" && cp "/mnt/boot/initrd.img-${1#*"$file"-}" "initrd-$flavour" || return
	done
	umount /mnt
}

# Keeps a console open, for `at` and `in_guest`: NAME.
attach() {
	local fd
	rm -f "$1.keys"
	mkfifo "$1.keys"
	vmctl console "$1" <"$1.keys" >"$1.screen" 2>&1 &
	exec {fd}>"$1.keys"
	eval "keys_$1=$fd"
}
type_at() { # NAME TEXT
	local fd=keys_$1
	printf '%s\n' "$2" >&"${!fd}"
}
shows() { tr -d '\r' <"$1.screen" | grep -q -- "$2"; } # NAME PATTERN
seen_at() { within "$3" shows "$1" "$2"; }             # NAME PATTERN SECONDS

# A command in the shell on the console of a guest: NAME COMMAND. Its output and its status are the command's.
# It may take $patience seconds.
in_guest() {
	local name=$1 n=$SRANDOM status
	# In two parts, so that the echo of what was typed is not taken for what was printed.
	type_at "$name" "echo be''gin-$n; $2; echo en''d-$n=\$?"
	within "${patience:-60}" shows "$name" "end-$n=[0-9]" >/dev/null || {
		echo "no end of: $2"
		tail -n 20 "$name.screen"
		return 1
	}
	status=$(tr -d '\r' <"$name.screen" | sed -n "s/.*end-$n=\([0-9]*\).*/\1/p")
	# What /init of a test guest says in between is not the command's.
	tr -d '\r' <"$name.screen" | sed -n "/begin-$n\$/,/end-$n=/p" |
		sed "1d; s/end-$n=.*//; /^vmd-guest: /d" | sed '${/^$/d}'
	return "$status"
}

booted() { vmctl wait --for login --timeout 120s "$@"; }
last_beat() { vmctl logs "$1" | tr -d '\r' | sed -n 's/.*vmd-guest: beat \([0-9]*\)$/\1/p' | tail -n 1; }
beats_past() { [ "$(last_beat "$1" | grep . || echo 0)" -gt "${2:-0}" ]; }

# The same process as before, and its console goes on: NAME PID BEAT.
lives_on() {
	of_is "$1" .state running && of_is "$1" .pid "$2" && [ -d "/proc/$2" ] &&
		within 30 beats_past "$1" "$3"
}
