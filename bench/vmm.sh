#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Measures the monitor beside its peers, here with bare guests and in the test host with Linux, and prints
# the tables of docs/performance.md. About ten minutes on a quiet machine.
#
# usage: bench/vmm.sh [--quick] [--native | --host] [BUILD-DIRECTORY]
#
# "make bench-vmm" calls it. What cannot be measured here is a line that says why.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
kit=${VMD_TEST_KIT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmd-test}/x86_64
quick=() parts='native host' build=.
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=(--quick) ;;
	--native | --host) parts=${1#--} ;;
	-*) sed -n '3,9s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
	*) build=$1 ;;
	esac
	shift
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

number() { od -An -tu"$3" -j"$2" -N"$3" "$1" | tr -d ' '; } # FILE OFFSET BYTES

# The ELF file in a bzImage (Documentation/arch/x86/boot.rst: payload_offset, payload_length).
extract_vmlinux() { # BZIMAGE VMLINUX
	local sectors at len tool
	sectors=$(number "$1" 497 1)
	at=$(((sectors + 1) * 512 + $(number "$1" 584 4)))
	len=$(number "$1" 588 4)
	tail -c +$((at + 1)) "$1" | head -c "$len" >"$tmp/payload" || :
	for tool in lz4 zstd xz gzip; do
		if command -v $tool >/dev/null && $tool -dc <"$tmp/payload" >"$2" 2>/dev/null ||
			[ "$(head -c 4 "$2" | tr -d '\177')" = ELF ]; then
			return 0
		fi
	done
	return 1
}

# The initrds: only /init for the start, with the kit's modules for disks and network.
make_initrds() {
	mkdir -p "$tmp/boot/proc" "$tmp/boot/dev" "$tmp/kit"
	cp "$build/bench/vmm-init" "$tmp/boot/init"
	strip "$tmp/boot/init"
	(cd "$tmp/boot" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$tmp/files/boot.cpio"
	(cd "$tmp/kit" && zcat "$kit/initrd.gz" | cpio --quiet -id 'modules*' './modules*')
	cp -r "$tmp/kit/modules" "$tmp/kit/modules.order" "$tmp/boot/"
	(cd "$tmp/boot" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$tmp/files/io.cpio"
}

run_host() {
	local status=0 program
	mkdir -p "$tmp/files/bench"
	for program in vmd vmd-shim vmd-vmm bench/vmm bench/vmm-floor; do
		strip -o "$tmp/files/$program" "$build/$program"
	done
	cp "$kit/vmlinuz" "$tmp/files/"
	extract_vmlinux "$kit/vmlinuz" "$tmp/files/vmlinux" || {
		echo "bench: no vmlinux can be made of the kit's kernel" >&2
		return 77
	}
	make_initrds
	cat >"$tmp/script" <<-END
		#!/bin/bash
		dd if=/dev/zero of=disk bs=1M count=256 status=none
		export VMM_BENCH_ECHO=${VMM_BENCH_ECHO:-}
		[ -n "\$VMM_BENCH_ECHO" ] || unset VMM_BENCH_ECHO
		export VMM_BENCH_ONLY="${VMM_BENCH_ONLY:-}"
		${VMM_BENCH_BEFORE:-}
		TMPDIR=/var/tmp VMM_BENCH_BIN=\$PWD exec bench/vmm ${quick[*]} host "\$PWD" 2>&1
	END
	"$here/tests/host/run" --files "$tmp/files" --timeout "${VMM_BENCH_TIMEOUT:-900}" "$tmp/script" || status=$?
	return $status
}

mkdir -p "$tmp/files"
printf '%s, %s processors, load %s\n' "$(uname -sr)" "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
for part in $parts; do
	case $part in
	native)
		if [ -w /dev/kvm ]; then
			"$build/bench/vmm" "${quick[@]}" native
		else
			printf '\nBare guests: skipped: no /dev/kvm\n'
		fi
		;;
	host)
		if [ -f "$kit/vmlinuz" ]; then
			run_host || printf '\nLinux guests in the test host: not complete (status %d)\n' $?
		else
			printf '\nLinux guests in the test host: skipped: no test kit (tests/kit)\n'
		fi
		;;
	esac
done
