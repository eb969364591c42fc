#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck source=/dev/null
# needs: tests
# timeout: 1800
# The integration tests with real Linux guests on engine kvm: the same programs that `make check` runs on
# engine qemu, and the same tests of them have to pass.
. ./lib.sh

# In this order, those that take longest first.
programs=(it-guest it-qemu it-lifecycle it-qemu-actions it-policy it-snapshot it-vmctl it-qemu-devices
	it-qemu-net it-qemu-boot it-faults it-roles)
patience=4 # times slower than any machine the tests' time limits are meant for
consoles=$PWD/consoles
export VMD_TEST_ENGINE=kvm VMD_TEST_BUILD=$PWD/tests VMD_TEST_KIT=$PWD/kit
export VMD_TEST_PATIENCE=$patience VMD_TEST_CONSOLES=$consoles VMD_TEST_CMDLINE=quiet
mkdir -p kit/x86_64 "$consoles"
ln vmlinuz initrd.gz kit/x86_64/

# Each test has a vmd of its own; the host is tried once for all of them.
check "the prober finds KVM usable" sh -c \
	'tests/vmd-kvm-probe >proof.json && jq -e .usable proof.json' || finish
printf '#!/bin/sh\ncat %s/proof.json\n' "$PWD" >probe
chmod 755 probe
export VMD_TEST_PROBE=$PWD/probe

# One result of a test program, as its TAP says it: PROGRAM LINE. What is skipped is not shown to work.
result() {
	local name=${2#*- }
	name="$1: ${name%% *}"
	[[ $2 != *'# SKIP test was skipped'* ]] || return 0 # by the filter
	checks=$((checks + 1))
	case $2 in
	*'# SKIP'*) failures=$((failures + 1)) && echo "not ok $checks - $name (skipped: ${2#*# SKIP})" ;;
	'ok '*) echo "ok $checks - $name" && passed="$passed ${name#*: }" ;;
	*) failures=$((failures + 1)) && echo "not ok $checks - $name" ;;
	esac
}

run_program() { # NAME
	local line planned=0 seen=0 began=$SECONDS
	(cd tests && LD_LIBRARY_PATH=$PWD/lib timeout 900 "tests/integration/$1" --filter '!(definition)/*' --tap=/dev/stdout --jobs=2) \
		>"$1.tap" 2>"$1.err"
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
	cp "$1.tap" "$1.err" "$HOST_RESULTS/"
}

passed=
for program in "${programs[@]}"; do
	run_program "$program"
done
# The consoles of tests that failed are handed back; names are SUITE-TEST-NUMBER-console.log.
for test in $passed; do
	rm -f "$consoles/${test%%::*}-${test##*::}"-[0-9]*
done
cp "$consoles"/* "$HOST_RESULTS/" 2>/dev/null
finish
