#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A release archive holds every file of the repository: a header that is missing in _SOURCES, or a
# script in EXTRA_DIST, is found here even if nothing of the build needs it.
#
# usage: check-archive.sh ARCHIVE
set -u
files=$(tar -tf "$1") || exit 1
cd "$(dirname "$0")/../.." || exit 1
if ! git ls-files --error-unmatch configure.ac >/dev/null 2>&1; then
	echo "this is no clone, so there is nothing to compare with"
	exit 0
fi
listed=$(printf '%s\n' "$files" | sed 's|^[^/]*/||')
missing=$(git ls-files | grep -vx '\.gitignore' | while read -r file; do
	printf '%s\n' "$listed" | grep -qxF "$file" || echo "$file"
done)
[ -n "$missing" ] || exit 0
echo "not in the archive (see EXTRA_DIST in Makefile.am and the Makemodule.am files):"
echo "$missing"
exit 1
