#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A folder includes only itself and what is below it: the daemon knows no device model, the client no
# daemon, and common/ nobody.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
check() { # FOLDER ALLOWED...
	folder=$1
	shift
	[ -d "$folder" ] || return
	allowed=$(printf '%s|' "$folder" "$@")
	grep -rnE --include='*.[ch]' '^#include "[a-z]+/' "$folder" |
		grep -vE "#include \"(${allowed%|})/" && bad=1
}
check common
check api common
check devices common
check vmm common devices
check shim common
check daemon common api
check client common api
exit $bad
