/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Whether an image holds all of a disk, or only what differs from another one. */
#include "common/macros.h"

/*
 * Whether the image says that it was made on another one (an overlay, a differencing disk): 1 or
 * 0, or -EINVAL (no image of that format) or another negative errno. Of formats that qemu refuses
 * by itself when it is so, and of raw, 0. Reads a few bytes of fd and, of vmdk, its descriptor; no
 * name of another file. Blocks; any thread.
 * QEMU, docs/interop/qcow2.txt: Header; VMware Virtual Disks 5.0: Hosted Sparse Extents, The
 * Descriptor File; Virtual Hard Disk Image Format Specification: Hard Disk Footer Format.
 */
int image_has_base(int fd, const char *format) MUST_CHECK;
