#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# Debian as it is installed, on our monitor: its kernels with the initrds that their packages made, from an
# ext4 root disk, to a login. What the machine looks like from inside, and the monitor from outside.
. ./lib.sh

# NAME FLAVOUR [OPTION...]
make_debian() {
	local name=$1 kernel=vmlinuz-$2 initrd=initrd-$2
	shift 2
	vmctl create "$name" --kernel "$kernel" --initrd "$initrd" --disk path=/dev/vdd,format=raw \
		--cmdline "console=ttyS0 root=LABEL=guest rw quiet" "$@"
}
log_in() { # NAME
	attach "$1"
	seen_at "$1" "debian login:" 5 || return
	type_at "$1" root
	seen_at "$1" Password: 30 || return
	type_at "$1" guest
	seen_at "$1" "root@debian:~#" 60
}
# What a guest says of itself, all of it asked at once: the console is slow. NAME COMMAND, which prints NAME=VALUE.
ask() { in_guest "$1" "$2" | tee "$1.facts"; }
fact() { sed -n "s/^$2=//p" "$1.facts"; }     # NAME FACT
fact_is() { is "$(fact "$1" "$2")" "$3"; }    # NAME FACT VALUE
fact_like() { fact "$1" "$2" | grep -- "$3"; } # NAME FACT PATTERN
said_when() { note "$1: $(of "$1" '.ready | to_entries | map("\(.key) \(.value / 1000000 * 10 | round / 10) s") | join(", ")')"; }
exits_of() {
	note "$1: exits: $(vmctl stats -o json "$1" | jq -r '[.cpus[].exits | to_entries[]] | group_by(.key) |
		map("\(.[0].key) \(map(.value) | add)") | join(", ")')"
}
within_seconds() { # SECONDS TIME: of now
	local off=$(($2 - EPOCHSECONDS))
	[ ${off#-} -le "$1" ] || {
		echo "off by $off s"
		return 1
	}
}
fio_verifies() { # DISK OPTION...
	patience=120 in_guest cloud "fio --output=/run/fio --name=it --filename=/dev/$1 --direct=1 --ioengine=libaio --rw=randwrite \
--bsrange=4k-64k --iodepth=16 --verify=crc32c --verify_fatal=1 --fsync=64 $2 || { cat /run/fio; false; }"
}

check "vmd runs, and proves KVM" unpack_vmd || finish
check "the guest's kernels are there" fetch_kernels vmlinuz cloud standard || finish
truncate -s 64M data.img base.img
head -c 1M /dev/urandom | dd of=base.img conv=notrunc status=none
base=$(sha256sum base.img)
qemu-img create -q -f qcow2 -b base.img -F raw overlay.qcow2

# The cloud kernel, with more memory than the host has. (kvm-net.sh has the guest of four processors: two are
# all that the host has, and a whole Debian on four takes minutes.)
check "cloud: it is created" make_debian cloud cloud --memory 5G \
	--disk path=data.img,format=raw,serial=DATA-7 \
	--disk path=overlay.qcow2,format=qcow2,backing=base.img,backing.format=raw || finish
check "cloud: it starts" vmctl start cloud || finish
check "cloud: engine auto takes the monitor" on_kvm cloud
check "cloud: boots to a login with its stock initrd" vmctl wait --for login --timeout 300s cloud || finish
said_when cloud
exits_of cloud
check "cloud: root logs in on the console" log_in cloud || finish
# shellcheck disable=SC2016 # the guest's
check "cloud: it tells of itself" ask cloud 'cd /sys; echo "kernel=$(uname -r)
failed=$(systemctl --failed --plain --no-legend)
root=$(findmnt -no SOURCE,FSTYPE /)
memory=$(sed -n "s/MemTotal: *\(.*\) kB/\1/p" /proc/meminfo)
clock=$(cat devices/system/clocksource/clocksource0/current_clocksource)
serial=$(cat block/vdb/serial)
rng=$(echo bus/virtio/drivers/virtio_rng/virtio*)
balloon=$(echo bus/virtio/drivers/virtio_balloon/virtio*)
base=$(head -c 65536 /dev/vdc | sha256sum)
time=$(date +%s)"'
check "cloud: its clock is the host's" within_seconds 2 "$(fact cloud time)"
check "cloud: by kvmclock" fact_is cloud clock kvm-clock
check "cloud: it is Debian's cloud kernel" fact_like cloud kernel 'cloud-amd64$'
check "cloud: systemd has no failed unit" fact_is cloud failed ""
check "cloud: its root is ext4 on virtio-blk" fact_like cloud root '^/dev/vda *ext4$'
check "cloud: all of its 5 GiB" [ "$(fact cloud memory)" -ge $((4800 << 10)) ]
note "cloud: $(fact cloud memory) kB; the host has $(sed -n 's/MemTotal: *//p' /proc/meminfo), the monitor $(sed -n 's/VmRSS:[ \t]*//p' "/proc/$(of cloud .pid)/status")"
check "cloud: virtio-rng has its driver" fact_like cloud rng 'virtio[0-9]'
check "cloud: virtio-balloon has its driver" fact_like cloud balloon 'virtio[0-9]'
check "cloud: the second disk has its serial" fact_is cloud serial DATA-7
check "raw: fio verifies" fio_verifies vdb --size=24M
check "raw: what it wrote is in the file" [ "$(du -k data.img | cut -f1)" -gt 15000 ]
check "qcow2 overlay: its base is seen through it" fact_is cloud base "$(head -c 65536 base.img | sha256sum)"
check "qcow2 overlay: fio verifies" fio_verifies vdc "--offset=8M --size=16M"

# The monitor, from outside.
pid=$(of cloud .pid)
every_thread() { # FIELD VALUE
	local status
	for status in "/proc/$pid/task"/*/status; do
		is "$(sed -n "s/^$1:[ \t]*//p" "$status")" "$2" || return
	done
}
no_capabilities() {
	local set
	for set in CapInh CapPrm CapEff CapBnd CapAmb; do
		every_thread $set 0000000000000000 || return
	done
}
only_its_own() {
	local fd target bad=0
	for fd in "/proc/$pid/fd"/*; do
		target=$(readlink "$fd")
		# Its own root, a tree that is mounted nowhere.
		[ "$target" != / ] || [ -n "$(ls -A "$fd/")" ] || continue
		case $target in
		/dev/vdd | "$PWD/data.img" | "$PWD/vmlinuz-cloud" | "$PWD/initrd-cloud" | /var/lib/vmd/guests/*/lock | \
			/memfd:* | anon_inode:* | socket:* | pipe:* | /dev/null) ;;
		*)
			echo "${fd##*/}: $target"
			bad=1
			;;
		esac
	done
	return $bad
}
check "jail: every thread has a filter of system calls" every_thread Seccomp 2
check "jail: no thread gets new privileges" every_thread NoNewPrivs 1
check "jail: no thread has capabilities" no_capabilities
check "jail: its root is empty" is "$(ls -A "/proc/$pid/root/")" ""
check "jail: no descriptors but its guest's" only_its_own
note "jail: $(find "/proc/$pid/fd" -type l | wc -l) descriptors, $(find "/proc/$pid/task" -maxdepth 1 -mindepth 1 | wc -l) threads"

type_at cloud poweroff
check "cloud: poweroff from inside" vmctl wait --for stopped --timeout 120s cloud
check "cloud: is its own end" ended_by_itself cloud
check "qcow2 overlay: is whole" qemu-img check -q overlay.qcow2
check "qcow2 overlay: what was written is in it" [ "$(du -k overlay.qcow2 | cut -f1)" -gt 10000 ]
check "qcow2 overlay: its base is untouched" is "$(sha256sum base.img)" "$base"
check "qcow2 overlay: its daemon went with it" within 10 sh -c '! pidof qemu-storage-daemon'

# The standard kernel.
check "standard: it is created" make_debian standard standard --memory 1G || finish
check "standard: it starts" vmctl start standard || finish
check "standard: engine auto takes the monitor" on_kvm standard
check "standard: boots to a login with its stock initrd" vmctl wait --for login --timeout 300s standard || finish
said_when standard
exits_of standard
check "standard: is Debian's standard kernel" grep -aoE '[0-9.]+-[0-9]+-amd64 \(debian' vmlinuz-standard
check "standard: the power button" vmctl stop standard --timeout 120s
check "standard: ended it softly" ended_by_itself standard
finish
