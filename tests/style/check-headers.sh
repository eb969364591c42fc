#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Every header compiles alone, so that the order of includes never matters.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
flags=$(pkg-config --cflags jansson libsystemd smartcols)
for header in api/*.h client/*.h common/*.h daemon/*.h devices/*.h shim/*.h vmm/*.h tests/lib/*.h; do
	[ -f "$header" ] || continue
	# shellcheck disable=SC2086 # compiler flags
	${CC:-cc} -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -I. $flags \
		-include "$header" -x c /dev/null || {
		echo "$header does not compile alone"
		bad=1
	}
	grep -q '^#pragma once' "$header" || {
		echo "$header: no #pragma once"
		bad=1
	}
done
exit $bad
