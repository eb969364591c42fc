/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may name files and devices of the host in a definition. vmd opens them, mostly as root, when
 * the guest starts: whoever may name one may read and write it. So only an admin does. Others leave
 * what an admin has put into a definition as it is, and use managed disks. A descriptor is no way
 * around: it is kept as a path, which may lead elsewhere by the time of the start, and it need not
 * be open for writing.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "common/jsonx.h"
#include "daemon/definition.h"
#include "daemon/rpc.h"

static int refuse(const char *field, struct vmd_error *err)
{
	(void)error_set(err, ERROR_DENIED, "only an admin names files and devices of the host");
	if (err && !err->field[0])
		snprintf(err->field, sizeof(err->field), "%s", field);
	error_hint(err, "use a managed disk (disk.create), or have an admin define the guest");
	return -EACCES;
}

static bool is_in(const json_t *list, const json_t *entry)
{
	const json_t *other;
	size_t i;

	json_array_foreach(list, i, other)
		if (json_equal(other, entry))
			return true;
	return false;
}

/* Entries of a list that name something, and were not there before just as they are. */
static int check_list(const json_t *definition, const json_t *old, const char *list,
                      const char *key, struct vmd_error *err)
{
	const json_t *entry;
	char field[64];
	size_t i;

	json_array_foreach(json_object_get(definition, list), i, entry) {
		const json_t *value = json_object_get(entry, key);

		/* A tap device's own descriptor is what it is. */
		if (!value || (json_is_object(value) && strcmp(list, "nics") == 0) ||
		    is_in(json_object_get(old, list), entry))
			continue;
		snprintf(field, sizeof(field), "definition.%s[%zu].%s", list, i, key);
		return refuse(field, err);
	}
	return 0;
}

static int check_member(const json_t *definition, const json_t *old, const char *object,
                        const char *key, struct vmd_error *err)
{
	const json_t *value = json_object_get(json_object_get(definition, object), key);
	char field[64];

	if (!value || json_equal(value, json_object_get(json_object_get(old, object), key)))
		return 0;
	snprintf(field, sizeof(field), "definition.%s.%s", object, key);
	return refuse(field, err);
}

int definition_check_files(const struct call *call, const json_t *definition, const json_t *old,
                           struct vmd_error *err)
{
	static const char *const lists[][2] = { { "disks", "backing" },
		                                { "disks", "path" },
		                                { "shares", "path" },
		                                { "nics", "ifname" } };
	static const char *const members[][2] = { { "boot", "kernel" },
		                                  { "boot", "initrd" },
		                                  { "boot", "iso" },
		                                  { "display", "socket" } };
	int r = 0;

	if (call->role == ROLE_ADMIN)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(lists) && r == 0; i++)
		r = check_list(definition, old, lists[i][0], lists[i][1], err);
	for (size_t i = 0; i < ARRAY_SIZE(members) && r == 0; i++)
		r = check_member(definition, old, members[i][0], members[i][1], err);
	return r;
}
