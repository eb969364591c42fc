#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The manual pages are well formed, and vmd.conf(5) tells exactly the keys that daemon/conf.c knows.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
for page in man/*.[1-8]; do
	mandoc -T lint -W warning "$page" || bad=1
done
in_code=$(sed -nE 's/^\tKEY\("([a-z]+)", "([a-z_]+)".*/\1.\2/p; s/^\tGROUP\(([a-z_]+),.*/daemon.\1/p' \
	daemon/conf.c | sort)
in_page=$(awk '/^\.Ss \[/ { gsub(/[][]/, "", $2); section = $2 }
	/^\.It Cm / && section { print section "." $3 }' man/vmd.conf.5 | sort)
if [ "$in_code" != "$in_page" ]; then
	echo "vmd.conf(5) and daemon/conf.c name different keys:"
	echo "in the code: $in_code"
	echo "in the page: $in_page"
	bad=1
fi
exit $bad
