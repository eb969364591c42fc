#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs one Criterion program so that automake's TAP driver sees one line per test. Integration tests
# start guests, so theirs run one after the other.
case $1 in
*/integration/*) exec "$@" --tap=/dev/stdout --jobs=1 ;;
*) exec "$@" --tap=/dev/stdout ;;
esac
