#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# debian/control asks for exactly what packages.list names.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0

listed() { # WHEN...
	for when in "$@"; do
		awk -v when="$when" '!/^#/ && $2 == when { print $1 }' packages.list
	done | sort
}

# The package names of one field; versions, build profiles and substitutions are left out.
asked() { # FIELD
	awk -v field="$1:" '
		/^[A-Za-z-]+:/ { inside = ($1 == field); sub(/^[^:]*:/, "") }
		inside { gsub(/\([^)]*\)|<[^>]*>|\[[^]]*\]|\$\{[^}]*\}/, ""); print }' debian/control |
		tr ',' '\n' | sed 's/[[:space:]]//g' | grep . | sort
}

compare() { # WHAT LISTED ASKED
	[ "$2" = "$3" ] && return
	echo "$1 differs from packages.list:"
	printf '  listed: %s\n  asked:  %s\n' "$(echo "$2" | tr '\n' ' ')" "$(echo "$3" | tr '\n' ' ')"
	bad=1
}

# A Debian build has the compiler, make and debhelper without asking or by its own rules.
implied='^(gcc|libc6-dev|make|debhelper-compat)$'
compare Build-Depends "$( (listed build; echo libcriterion-dev) | grep -vE "$implied" | sort)" \
	"$(asked Build-Depends | grep -vE "$implied")"
compare Depends "$(listed run)" "$(asked Depends)"
compare Recommends+Suggests "$(listed option)" "$( (asked Recommends; asked Suggests) | sort)"
exit $bad
