#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# All shell scripts pass shellcheck.
set -u
cd "$(dirname "$0")/../.." || exit 1
scripts=$(grep -rlE '^#! ?/bin/(ba)?sh' demo check .ci/run build-aux/need-packages.sh \
	build-aux/run-criterion.sh tests bench)
# shellcheck disable=SC2086 # no file name here has spaces
shellcheck $scripts
