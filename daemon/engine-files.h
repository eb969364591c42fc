/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Files and devices that a guest's QEMU gets as descriptors. All of this blocks: worker threads. */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum engine_file_type {
	ENGINE_FILE_KERNEL_X86, /* bzImage or ELF */
	ENGINE_FILE_KERNEL_ARM, /* Image, or gzip of one */
	ENGINE_FILE_DATA,       /* a regular file that is not empty: initrd, firmware */
	ENGINE_FILE_IMAGE,      /* a disk: regular file or block device; is locked */
	ENGINE_FILE_TAP,        /* path is the name of a tap device */
	ENGINE_FILE_DEVICE,     /* a character device */
	ENGINE_FILE_DIRECTORY,
};

struct engine_file {
	enum engine_file_type type;
	const char *path;
	char field[64]; /* of the definition, for errors; may be "" */
	bool writable;
	bool multi_queue;     /* ENGINE_FILE_TAP: one of several queues */
	const char *format;   /* ENGINE_FILE_IMAGE: as stated */
	uint64_t least_bytes; /* ENGINE_FILE_IMAGE: a shorter disk is refused; 0: any */
	bool direct;          /* ENGINE_FILE_IMAGE: O_DIRECT */
	/*
	 * ENGINE_FILE_IMAGE: whether the image must say that it was made on another one (qcow2;
	 * else it must not), whether it is itself what another was made on, and the field of the
	 * definition for that.
	 */
	bool has_base, is_base;
	char base_field[64];
};

/*
 * Opens one; the descriptor is the caller's, close-on-exec. What is opened is checked after the
 * open, so nobody can change it in between; nothing but regular files and devices of the wanted
 * kind is ever opened for use (a FIFO or directory is refused). Negative errno with err:
 * ERROR_INVALID, ERROR_DENIED, or ERROR_BUSY (-EBUSY) when the image is locked.
 */
int engine_file_open(const struct engine_file *file, struct vmd_error *err) MUST_CHECK;

/* Makes path a copy of template unless it exists. 0 or negative errno with err. */
int engine_file_from_template(const char *path, const char *template,
                              struct vmd_error *err) MUST_CHECK;

/* Can a server listen on this port now? 0, or negative errno with err (field as given). */
int engine_check_port(bool udp, const char *address, unsigned port, const char *field,
                      struct vmd_error *err) MUST_CHECK;
