/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/config-table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/parse.h"

struct path {
	const struct path *up;
	const char *name;
	int index; /* -1: a member */
};

static void path_text(const struct path *p, char *buf, size_t size)
{
	char above[96] = "";

	if (p->up)
		path_text(p->up, above, sizeof(above));
	if (p->index >= 0)
		snprintf(buf, size, "%.60s[%d]", above, p->index);
	else
		snprintf(buf, size, "%.60s%s%.30s", above, above[0] ? "." : "", p->name);
}

static int refuse(const struct path *p, struct vmd_error *err, const char *what)
{
	char text[96];

	path_text(p, text, sizeof(text));
	return error_set_field(err, text, "%s: %s", text, what);
}

static int read_number(const json_t *v, const struct member *m, void *at, const struct path *p,
                       struct vmd_error *err)
{
	json_int_t n = json_integer_value(v);
	char what[96];

	if (!json_is_integer(v))
		return refuse(p, err, "is not an integer");
	if (n < 0 || (uint64_t)n < m->min || (uint64_t)n > m->max) {
		snprintf(what, sizeof(what), "is not between %llu and %llu",
		         (unsigned long long)m->min, (unsigned long long)m->max);
		return refuse(p, err, what);
	}
	if (m->type == UINT)
		*(unsigned *)at = (unsigned)n;
	else
		*(uint64_t *)at = (uint64_t)n;
	return 0;
}

static int read_text(const json_t *v, const struct member *m, char *at, const struct path *p,
                     struct vmd_error *err)
{
	const char *text = json_string_value(v);

	if (!text)
		return refuse(p, err, "is not a string");
	if (strlen(text) != json_string_length(v))
		return refuse(p, err, "has a NUL character");
	if (strlen(text) >= m->max)
		return refuse(p, err, "is too long");
	memcpy(at, text, strlen(text) + 1);
	return 0;
}

static int read_fd(const json_t *v, int *at, const struct path *p, struct vmd_error *err)
{
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 3 || n > 65535)
		return refuse(p, err, "is not a descriptor number");
	if (fcntl((int)n, F_GETFD) < 0)
		return refuse(p, err, "is not open");
	*at = (int)n;
	return 0;
}

static int read_word(const json_t *v, const struct member *m, unsigned *at, const struct path *p,
                     struct vmd_error *err)
{
	const char *text = json_string_value(v);

	for (unsigned i = 0; text && m->words[i]; i++) {
		if (strcmp(text, m->words[i]) == 0) {
			*at = i;
			return 0;
		}
	}
	return refuse(p, err, "is none of the known words");
}

static int read_object(const json_t *v, const struct member *members, void *base,
                       const struct path *p, struct vmd_error *err);

static int read_array(const json_t *v, const struct member *m, uint8_t *base, const struct path *p,
                      struct vmd_error *err)
{
	unsigned *count = (unsigned *)(void *)(base + m->count_offset);
	int r = 0;

	if (!json_is_array(v))
		return refuse(p, err, "is not an array");
	if (json_array_size(v) > m->max)
		return refuse(p, err, "has too many elements");
	for (*count = 0; r == 0 && *count < json_array_size(v); ++*count) {
		struct path element = { p, NULL, (int)*count };
		uint8_t *at = base + m->offset + *count * m->element_bytes;
		const json_t *value = json_array_get(v, *count);

		if (m->defaults)
			m->defaults(at);
		if (m->members)
			r = read_object(value, m->members, at, &element, err);
		else
			r = read_fd(value, (int *)(void *)at, &element, err);
	}
	return r;
}

static int read_member(const json_t *v, const struct member *m, uint8_t *base, const struct path *p,
                       struct vmd_error *err)
{
	void *at = base + m->offset;

	switch (m->type) {
	case UINT:
	case U64:
		return read_number(v, m, at, p, err);
	case FLAG:
		if (!json_is_boolean(v))
			return refuse(p, err, "is not true or false");
		*(bool *)at = json_is_true(v);
		return 0;
	case TEXT:
		return read_text(v, m, at, p, err);
	case FD:
		return read_fd(v, at, p, err);
	case WORD:
		return read_word(v, m, at, p, err);
	case MAC_ADDRESS:
		if (!json_is_string(v) || parse_mac(json_string_value(v), at) < 0)
			return refuse(p, err, "is not a unicast MAC address");
		return 0;
	case OBJECT:
		if (m->count_offset) /* where its presence is noted */
			*(bool *)(base + m->count_offset) = true;
		return read_object(v, m->members, at, p, err);
	case ARRAY:
		return read_array(v, m, base, p, err);
	}
	return -EINVAL;
}

static int read_object(const json_t *v, const struct member *members, void *base,
                       const struct path *p, struct vmd_error *err)
{
	size_t taken = 0;
	const char *key;
	json_t *value;

	if (!json_is_object(v))
		return refuse(p, err, "is not an object");
	for (const struct member *m = members; m->name; m++) {
		struct path member = { p->name || p->up ? p : NULL, m->name, -1 };
		int r;

		value = json_object_get(v, m->name);
		if (!value && m->required)
			return refuse(&member, err, "is missing");
		if (!value)
			continue;
		taken++;
		r = read_member(value, m, base, &member, err);
		if (r < 0)
			return r;
	}
	if (taken == json_object_size(v))
		return 0;
	json_object_foreach((json_t *)v, key, value) {
		const struct member *m = members;
		struct path member = { p->name || p->up ? p : NULL, key, -1 };

		while (m->name && strcmp(m->name, key) != 0)
			m++;
		if (!m->name)
			return refuse(&member, err, "is not a known member");
	}
	return -EINVAL;
}

int config_read(const json_t *v, const struct member *members, void *base, const char *name,
                struct vmd_error *err)
{
	struct path top = { .name = name, .index = -1 };

	return read_object(v, members, base, &top, err);
}
