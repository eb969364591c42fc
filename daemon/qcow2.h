/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The one thing that vmd itself has to know of a qcow2 image. */
#include "common/macros.h"

/*
 * Whether the image's header names a backing file, that is whether it is an overlay: 1 or 0, or
 * -EINVAL (no qcow2 header) or another negative errno. Reads the first 20 bytes of fd, and not the
 * name. Blocks; any thread. QEMU, docs/interop/qcow2.txt: Header.
 */
int qcow2_has_base(int fd) MUST_CHECK;
