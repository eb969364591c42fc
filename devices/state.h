/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The saved state of a machine: a header (magic, format version, length, checksum over all of it)
 * and sections, each with a name ("virtio-blk"), an instance ("disk0"), a version and a length.
 * Integers are little-endian. The reader takes it for hostile: everything about the frame is
 * checked by state_open() before any section is handed out, and what a section holds goes through
 * the same checks as what the guest writes to registers.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define STATE_MAX_BYTES (1u << 20)

struct state_out {
	uint8_t *data;            /* owned */
	size_t len, cap, section; /* section: where the length of the open one goes */
	int error;                /* sticky: -ENOMEM, -E2BIG */
};

void state_out_init(struct state_out *o);
void state_out_deinit(struct state_out *o);
/* Sections do not nest. name and instance have at most 31 bytes; versions begin at 1. */
void state_begin(struct state_out *o, const char *name, const char *instance, uint32_t version);
void state_put_u8(struct state_out *o, uint8_t v);
void state_put_u16(struct state_out *o, uint16_t v);
void state_put_u32(struct state_out *o, uint32_t v);
void state_put_u64(struct state_out *o, uint64_t v);
void state_put_bytes(struct state_out *o, const void *data, size_t len);
void state_end(struct state_out *o);
/* Completes the header. 0, or the sticky error. The bytes are o->data, o->len. */
int state_finish(struct state_out *o);

struct state_in {
	const uint8_t *data; /* borrowed */
	size_t len;
	uint8_t used[64]; /* bit per section: was it taken */
	unsigned n_sections;
};

struct state_section {
	const char *name, *instance; /* borrowed from the bytes, NUL-ended */
	uint32_t version;
	const uint8_t *at, *end;
	bool failed; /* sticky: read past the end */
};

/* Checks magic, version, lengths, names, checksum. -EINVAL with err, the exact reason. */
int state_open(struct state_in *in, const void *data, size_t len, struct vmd_error *err);
/* The one section of that name and instance, of a version from 1 to max_version. -ENOENT, -EINVAL.
 */
int state_take(struct state_in *in, const char *name, const char *instance, uint32_t max_version,
               struct state_section *ret, struct vmd_error *err);
/* 0 past the end, and failed is set. */
uint8_t state_get_u8(struct state_section *s);
uint16_t state_get_u16(struct state_section *s);
uint32_t state_get_u32(struct state_section *s);
uint64_t state_get_u64(struct state_section *s);
/* Copies exactly len bytes, or zeroes ret and sets failed. */
void state_get_bytes(struct state_section *s, void *ret, size_t len);
/* Nothing failed and nothing is left over; else -EINVAL with err naming the section. */
int state_section_done(const struct state_section *s, struct vmd_error *err);
/* All sections were taken: a device that is saved but not in this machine is an error. */
int state_close(const struct state_in *in, struct vmd_error *err);
