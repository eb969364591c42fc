#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# needs: tests
# timeout: 2400
# The integration tests with real Linux guests on engine kvm: the same programs that `make check` runs on
# engine qemu, and the same tests of them have to pass. A file "only" has other rows than these.
. ./lib.sh

# A program and which of its tests; in this order, those that take longest first.
all=('it-guest !(definition)/*' 'it-qemu !(definition)/*' 'it-lifecycle *' 'it-qemu-actions *' 'it-policy *'
	'it-snapshot *' 'it-vmctl *' 'it-qemu-devices *' 'it-qemu-net *' 'it-qemu-boot *' 'it-faults *' 'it-roles *')
logs=$PWD/logs
export VMD_TEST_ENGINE=kvm VMD_TEST_BUILD=$PWD/tests VMD_TEST_KIT=$PWD/kit
export VMD_TEST_PATIENCE=4 # times slower than any machine the tests' time limits are meant for
export VMD_TEST_LOGS=$logs VMD_TEST_CMDLINE=quiet
mkdir -p kit/x86_64 "$logs"
ln vmlinuz initrd.gz kit/x86_64/

# Each test has a vmd of its own; the host is tried once for all of them.
check "the prober finds KVM usable" sh -c \
	'tests/vmd-kvm-probe >proof.json && jq -e .usable proof.json' || finish
printf '#!/bin/sh\ncat %s/proof.json\n' "$PWD" >probe
chmod 755 probe
export VMD_TEST_PROBE=$PWD/probe

run_tests() { # PROGRAM FILTER OUTPUT
	(cd tests && LD_LIBRARY_PATH=$PWD/lib timeout 900 "tests/integration/$1" --filter "$2" --tap=/dev/stdout --jobs=2) \
		>"$3.tap" 2>"$3.err"
	cp "$3.tap" "$3.err" "$HOST_RESULTS/"
}

# One result of a test program, as its TAP says it: PROGRAM LINE. What is skipped is not shown to work.
result() {
	local name=${2#*- } why=
	name=${name%% *}
	case $2 in
	*'# SKIP test was skipped'*) return ;; # by the filter
	*'# SKIP'*) why="(skipped: ${2#*# SKIP})" ;;
	'ok '*)
		checks=$((checks + 1))
		echo "ok $checks - $1: $name"
		rm -f "$logs/${name%%::*}-${name##*::}"-[0-9]*
		return
		;;
	esac
	checks=$((checks + 1)) failures=$((failures + 1))
	echo "not ok $checks - $1: $name $why"
}

run_program() { # NAME FILTER
	local line planned=0 seen=0 began=$SECONDS
	run_tests "$1" "$2" "$1"
	while IFS= read -r line; do
		case $line in
		1..*) planned=${line#1..} ;;
		'ok '* | 'not ok '*)
			seen=$((seen + 1))
			result "$1" "$line"
			;;
		'TAP '* | '# '* | '') ;;
		*) echo "#   $line" ;;
		esac
	done <"$1.tap"
	check "$1 came to its end" [ "$planned" -gt 0 -a "$seen" = "$planned" ] || tail -n 20 "$1.err" | sed 's/^/#   /'
	note "$1: $seen tests, $((SECONDS - began)) s"
}

[ ! -s only ] || mapfile -t all <only
for row in "${all[@]}"; do
	run_program "${row%% *}" "${row#* }"
done
# Of tests that failed, consoles, logs and events are handed back: SUITE-TEST-NUMBER-NAME.
cp "$logs"/* "$HOST_RESULTS/" 2>/dev/null
finish
