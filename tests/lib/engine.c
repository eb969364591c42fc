/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/engine.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/client.h"

const char *engine_name(void)
{
	const char *name = getenv("VMD_TEST_ENGINE");

	if (!name || !*name)
		return "qemu";
	cr_assert(strcmp(name, "qemu") == 0 || strcmp(name, "kvm") == 0,
	          "VMD_TEST_ENGINE is '%s', not qemu or kvm", name);
	return name;
}

bool engine_is(const char *name)
{
	return strcmp(engine_name(), name) == 0;
}

json_t *engine_define(json_t *definition)
{
	if (!json_object_get(definition, "engine"))
		json_object_set_new(definition, "engine", json_string(engine_name()));
	return definition;
}

json_t *engine_bare_boot(void)
{
	const char *guest = test_build("tests/guest/bare.elf");

	if (!engine_is("kvm"))
		return json_pack("{s:s, s:[s]}", "firmware", "bios", "order", "network");
	if (access(guest, R_OK) < 0)
		cr_skip_test("no bare guest for this architecture: %s", guest);
	return json_pack("{s:s, s:s}", "kernel", guest, "cmdline", "test=idle");
}

/* What host.info says of the engine under test; new reference. */
static json_t *describe(struct client *c)
{
	json_t *info = call(c, "host.info", NULL), *engine, *found = NULL;
	size_t i;

	json_array_foreach(member(info, "engines"), i, engine)
		if (engine_is(member_str(engine, "name")))
			found = json_incref(engine);
	cr_assert(found, "host.info does not know engine '%s'", engine_name());
	json_decref(info);
	return found;
}

void engine_expect_available(struct client *c)
{
	json_t *engine = describe(c);

	cr_assert(json_is_true(member(engine, "available")), "engine '%s' cannot run here: %s",
	          engine_name(), member_str(engine, "reason"));
	json_decref(engine);
}

void engine_expect(struct client *c, const char *vm)
{
	json_t *info = call(c, "vm.get", "{s:s}", "vm", vm);

	cr_assert_str_eq(member_str(info, "engine.name"), engine_name());
	json_decref(info);
}

bool engine_has(struct client *c, const char *capability)
{
	json_t *engine = describe(c), *name;
	bool has = false;
	size_t i;

	cr_assert_gt(json_array_size(member(engine, "capabilities")), 0);
	json_array_foreach(member(engine, "capabilities"), i, name)
		has |= strcmp(json_string_value(name), capability) == 0;
	json_decref(engine);
	return has;
}

const char *test_build(const char *name)
{
	static char paths[8][512];
	static unsigned next;
	char *path = paths[next++ % 8];
	const char *dir = getenv("VMD_TEST_BUILD");

	snprintf(path, sizeof(paths[0]), "%s/%s", dir ? dir : TEST_BUILD_DIR, name);
	return path;
}

int patient(int ms)
{
	const char *text = getenv("VMD_TEST_PATIENCE");
	int factor = text ? atoi(text) : 1;

	return ms * (factor > 1 ? factor : 1);
}
