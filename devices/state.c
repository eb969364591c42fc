/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/state.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/macros.h"

/*
 * The frame, all little-endian and without padding:
 *
 *   header   magic[8] format:u32 sections:u32 length:u64 checksum:u64
 *   section  name[32] instance[32] version:u32 length:u32 bytes[length]
 *
 * length counts every byte, the header's too. The checksum is XXH3-64 of the sections, seeded with
 * that of the header before it. Names are filled up with NULs, so that one state has one encoding.
 */
#define STATE_MAGIC  "vmdstate"
#define STATE_FORMAT 1u

enum {
	AT_FORMAT = 8,
	AT_SECTIONS = 12,
	AT_LENGTH = 16,
	AT_CHECKSUM = 24,
	HEADER_BYTES = 32,
	NAME_BYTES = 32,
	AT_INSTANCE = NAME_BYTES,
	AT_VERSION = 2 * NAME_BYTES,
	AT_SECTION_LENGTH = AT_VERSION + 4,
	SECTION_BYTES = AT_SECTION_LENGTH + 4,
	MAX_SECTIONS = 8 * sizeof(((struct state_in *)NULL)->used)
};

static uint32_t load_le32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return le32toh(v);
}

static uint64_t load_le64(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, sizeof(v));
	return le64toh(v);
}

static void store_le32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, sizeof(v));
}

static void store_le64(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, sizeof(v));
}

static uint64_t checksum(const uint8_t *data, size_t len)
{
	return XXH3_64bits_withSeed(data + HEADER_BYTES, len - HEADER_BYTES,
	                            XXH3_64bits(data, AT_CHECKSUM));
}

/* Room for len more bytes; NULL when an error is or becomes sticky. */
static uint8_t *grow(struct state_out *o, size_t len)
{
	if (!o->error && len > STATE_MAX_BYTES - o->len)
		o->error = -E2BIG;
	if (o->error)
		return NULL;
	if (o->len + len > o->cap) {
		size_t cap = o->cap ? o->cap : 4096;
		uint8_t *data;

		while (cap < o->len + len)
			cap *= 2;
		data = realloc(o->data, cap);
		if (!data) {
			o->error = -ENOMEM;
			return NULL;
		}
		o->data = data;
		o->cap = cap;
	}
	o->len += len;
	return o->data + o->len - len;
}

void state_out_init(struct state_out *o)
{
	uint8_t *header;

	*o = (struct state_out){ 0 };
	header = grow(o, HEADER_BYTES);
	if (!header)
		return;
	memset(header, 0, HEADER_BYTES);
	memcpy(header, STATE_MAGIC, AT_FORMAT);
	store_le32(header + AT_FORMAT, STATE_FORMAT);
}

void state_out_deinit(struct state_out *o)
{
	free(o->data);
	*o = (struct state_out){ 0 };
}

void state_begin(struct state_out *o, const char *name, const char *instance, uint32_t version)
{
	size_t start = o->len;
	uint8_t *section;

	assert(!o->section);
	assert(version);
	assert(*name && strlen(name) < NAME_BYTES && strlen(instance) < NAME_BYTES);
	section = grow(o, SECTION_BYTES);
	if (!section)
		return;
	memset(section, 0, SECTION_BYTES);
	memcpy(section, name, strlen(name));
	memcpy(section + AT_INSTANCE, instance, strlen(instance));
	store_le32(section + AT_VERSION, version);
	o->section = start;
}

void state_put_bytes(struct state_out *o, const void *data, size_t len)
{
	uint8_t *at;

	assert(o->section || o->error);
	at = grow(o, len);
	if (at && len)
		memcpy(at, data, len);
}

void state_put_u8(struct state_out *o, uint8_t v)
{
	state_put_bytes(o, &v, sizeof(v));
}

void state_put_u16(struct state_out *o, uint16_t v)
{
	v = htole16(v);
	state_put_bytes(o, &v, sizeof(v));
}

void state_put_u32(struct state_out *o, uint32_t v)
{
	v = htole32(v);
	state_put_bytes(o, &v, sizeof(v));
}

void state_put_u64(struct state_out *o, uint64_t v)
{
	v = htole64(v);
	state_put_bytes(o, &v, sizeof(v));
}

void state_end(struct state_out *o)
{
	uint8_t *header = o->data;

	assert(o->section || o->error);
	if (o->error)
		return;
	store_le32(o->data + o->section + AT_SECTION_LENGTH,
	           (uint32_t)(o->len - o->section - SECTION_BYTES));
	if (load_le32(header + AT_SECTIONS) == MAX_SECTIONS)
		o->error = -E2BIG;
	else
		store_le32(header + AT_SECTIONS, load_le32(header + AT_SECTIONS) + 1);
	o->section = 0;
}

int state_finish(struct state_out *o)
{
	assert(!o->section || o->error);
	if (o->error)
		return o->error;
	store_le64(o->data + AT_LENGTH, o->len);
	store_le64(o->data + AT_CHECKSUM, checksum(o->data, o->len));
	return 0;
}

/* A name is printable, ends with a NUL and has nothing but NULs after it. */
static bool name_is_clean(const uint8_t *name, bool may_be_empty)
{
	size_t len = strnlen((const char *)name, NAME_BYTES);

	if (len == NAME_BYTES || (!len && !may_be_empty))
		return false;
	for (size_t i = 0; i < NAME_BYTES; i++)
		if (i < len ? name[i] <= ' ' || name[i] > '~' : name[i] != 0)
			return false;
	return true;
}

/* Bytes of the section at `at`, its header included. Sections were checked before. */
static size_t section_span(const uint8_t *at)
{
	return SECTION_BYTES + load_le32(at + AT_SECTION_LENGTH);
}

static int check_header(const uint8_t *data, size_t len, struct vmd_error *err)
{
	if (len < HEADER_BYTES)
		return error_set(err, ERROR_INVALID, "the state is cut short: %zu bytes", len);
	if (len > STATE_MAX_BYTES)
		return error_set(err, ERROR_INVALID, "the state is too long: %zu bytes", len);
	if (memcmp(data, STATE_MAGIC, AT_FORMAT) != 0)
		return error_set(err, ERROR_INVALID, "this is not a saved state");
	if (load_le32(data + AT_FORMAT) != STATE_FORMAT)
		return error_set(err, ERROR_INVALID,
		                 "the state has format %u, this program knows format %u",
		                 load_le32(data + AT_FORMAT), STATE_FORMAT);
	if (load_le64(data + AT_LENGTH) != len)
		return error_set(err, ERROR_INVALID, "the state is %zu bytes long and says %llu",
		                 len, (unsigned long long)load_le64(data + AT_LENGTH));
	if (load_le64(data + AT_CHECKSUM) != checksum(data, len))
		return error_set(err, ERROR_INVALID, "the state's checksum is wrong");
	if (load_le32(data + AT_SECTIONS) > MAX_SECTIONS)
		return error_set(err, ERROR_INVALID, "the state has too many sections");
	return 0;
}

/* Is there a section before `end` with the same name and instance as the one at `end`? */
static bool is_duplicate(const uint8_t *data, const uint8_t *end)
{
	for (const uint8_t *s = data + HEADER_BYTES; s < end; s += section_span(s))
		if (memcmp(s, end, 2 * NAME_BYTES) == 0)
			return true;
	return false;
}

static int check_sections(const uint8_t *data, size_t len, struct vmd_error *err)
{
	const uint8_t *at = data + HEADER_BYTES, *end = data + len;
	uint32_t n = load_le32(data + AT_SECTIONS);

	for (uint32_t i = 0; i < n; i++) {
		if (end - at < SECTION_BYTES)
			return error_set(err, ERROR_INVALID, "section %u is cut short", i);
		if (!name_is_clean(at, false) || !name_is_clean(at + AT_INSTANCE, true))
			return error_set(err, ERROR_INVALID, "section %u has a bad name", i);
		if (load_le32(at + AT_SECTION_LENGTH) > (size_t)(end - at) - SECTION_BYTES)
			return error_set(err, ERROR_INVALID, "section '%s' is cut short",
			                 (const char *)at);
		if (is_duplicate(data, at))
			return error_set(err, ERROR_INVALID, "section '%s' '%s' is there twice",
			                 (const char *)at, (const char *)at + AT_INSTANCE);
		at += section_span(at);
	}
	if (at != end)
		return error_set(err, ERROR_INVALID, "%zu bytes are left after the last section",
		                 (size_t)(end - at));
	return 0;
}

int state_open(struct state_in *in, const void *data, size_t len, struct vmd_error *err)
{
	int r = check_header(data, len, err);

	if (r == 0)
		r = check_sections(data, len, err);
	if (r < 0)
		return -EINVAL;
	*in = (struct state_in){ .data = data,
		                 .len = len,
		                 .n_sections = load_le32((const uint8_t *)data + AT_SECTIONS) };
	return 0;
}

int state_take(struct state_in *in, const char *name, const char *instance, uint32_t max_version,
               struct state_section *ret, struct vmd_error *err)
{
	const uint8_t *at = in->data + HEADER_BYTES;

	for (unsigned i = 0; i < in->n_sections; i++, at += section_span(at)) {
		uint32_t version = load_le32(at + AT_VERSION);

		if (strcmp((const char *)at, name) != 0 ||
		    strcmp((const char *)at + AT_INSTANCE, instance) != 0)
			continue;
		if (version == 0 || version > max_version) {
			error_set(err, ERROR_INVALID,
			          "section '%s' '%s' has version %u, this program knows up to %u",
			          name, instance, version, max_version);
			return -EINVAL;
		}
		in->used[i / 8] |= (uint8_t)(1u << i % 8);
		*ret = (struct state_section){ .name = (const char *)at,
			                       .instance = (const char *)at + AT_INSTANCE,
			                       .version = version,
			                       .at = at + SECTION_BYTES,
			                       .end = at + section_span(at) };
		return 0;
	}
	error_set(err, ERROR_NOT_FOUND, "the state has no section '%s' '%s'", name, instance);
	return -ENOENT;
}

void state_get_bytes(struct state_section *s, void *ret, size_t len)
{
	if (s->failed || len > (size_t)(s->end - s->at)) {
		s->failed = true;
		memset(ret, 0, len);
		return;
	}
	memcpy(ret, s->at, len);
	s->at += len;
}

uint8_t state_get_u8(struct state_section *s)
{
	uint8_t v;

	state_get_bytes(s, &v, sizeof(v));
	return v;
}

uint16_t state_get_u16(struct state_section *s)
{
	uint16_t v;

	state_get_bytes(s, &v, sizeof(v));
	return le16toh(v);
}

uint32_t state_get_u32(struct state_section *s)
{
	uint32_t v;

	state_get_bytes(s, &v, sizeof(v));
	return le32toh(v);
}

uint64_t state_get_u64(struct state_section *s)
{
	uint64_t v;

	state_get_bytes(s, &v, sizeof(v));
	return le64toh(v);
}

int state_section_done(const struct state_section *s, struct vmd_error *err)
{
	if (!s->failed && s->at == s->end)
		return 0;
	error_set(err, ERROR_INVALID, "section '%s' '%s' is too %s", s->name, s->instance,
	          s->failed ? "short" : "long");
	return -EINVAL;
}

int state_close(const struct state_in *in, struct vmd_error *err)
{
	const uint8_t *at = in->data + HEADER_BYTES;

	for (unsigned i = 0; i < in->n_sections; i++, at += section_span(at)) {
		if (in->used[i / 8] >> i % 8 & 1)
			continue;
		error_set(err, ERROR_INVALID, "the state has '%s' '%s', this machine does not",
		          (const char *)at, (const char *)at + AT_INSTANCE);
		return -EINVAL;
	}
	return 0;
}
