#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what is missing of the packages whose "when" in packages.list is one of the arguments. When
# all is there, apt is not called and no network is needed.
set -eu

list=$(dirname "$0")/../packages.list
wanted=$(for when in "$@"; do
	awk -v when="$when" '!/^#/ && $2 == when { print $1 }' "$list"
done)

say() { printf '%s\n' "$*" >&2; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	say "This is not a Debian system, so nothing is installed. Needed are, by their Debian names:"
	# shellcheck disable=SC2086 # one word per package
	say $wanted
	exit 0
fi

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
missing=$(printf '%s\n' "$wanted" | while read -r package; do
	printf '%s\n' "$installed" | grep -qxF "$package" || printf '%s ' "$package"
done)
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		say "Packages are missing and there is no sudo here. Run as root:"
		say "  apt-get install --no-install-recommends $missing"
		exit 1
	fi
	as_root="sudo"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM HUP
say "Installing: $missing"
# A source that does not answer is no reason to stop; a package that cannot be had is.
# shellcheck disable=SC2086 # one word per package
if ! $as_root env DEBIAN_FRONTEND=noninteractive sh -c '
	apt-get -qq update || echo "some package lists could not be read"
	apt-get -qq install -y -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"' \
	sh $missing >"$log" 2>&1; then
	cat "$log" >&2
	say "The packages could not be installed: is there a network?"
	exit 1
fi
