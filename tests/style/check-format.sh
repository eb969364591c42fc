#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Every C file looks as clang-format 14 would write it, and has only block comments.
set -u
cd "$(dirname "$0")/../.." || exit 1
files=$(find api bench client common daemon devices shim vmm tests -name '*.[ch]' 2>/dev/null | sort)
bad=0
# shellcheck disable=SC2086 # no file name here has spaces
clang-format-14 --dry-run --Werror $files || bad=1
for f in $files; do
	head -n 1 "$f" | grep -q 'SPDX-License-Identifier: GPL-2.0-or-later' || {
		echo "$f: the first line is not the SPDX line"
		bad=1
	}
done
# shellcheck disable=SC2086
grep -nE '^[[:space:]]*//|[;{}][[:space:]]*//' $files && {
	echo "only /* */ comments, please"
	bad=1
}
# shellcheck disable=SC2086
grep -nE '\b(TODO|FIXME|XXX)\b' $files && bad=1
exit $bad
