/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/integration/qemu-fixture.h"

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"

struct scene s;

void qemu_setup(void)
{
	scene_setup(&s);
	call_ok(&s.client, "events.subscribe", NULL);
}

void qemu_teardown(void)
{
	scene_teardown(&s);
}

static json_t *js_list(const char *format, va_list args)
{
	char *text = NULL;
	json_error_t error;
	json_t *value;

	cr_assert_geq(vasprintf(&text, format, args), 0);
	for (char *p = text; *p; p++)
		if (*p == '\'')
			*p = '"';
	value = json_loads(text, 0, &error);
	cr_assert(value, "the test's JSON is wrong: %s in %s", error.text, text);
	free(text);
	return value;
}

json_t *js(const char *format, ...)
{
	va_list args;
	json_t *value;

	va_start(args, format);
	value = js_list(format, args);
	va_end(args);
	return value;
}

void create_guest(json_t *definition)
{
	call_ok(&s.client, "vm.create", "{s:o}", "definition", engine_define(definition));
}

/* The definition (stolen) is refused; what is how a message calls it. */
static void refused(const char *kind, const char *field, const char *text, const char *what,
                    json_t *definition)
{
	struct refusal r;
	json_t *reply;

	json_object_set_new(definition, "name", json_string("refused"));
	if (!json_object_get(definition, "boot") && !json_object_get(definition, "arch"))
		json_object_set_new(definition, "boot", engine_bare_boot());
	engine_define(definition);
	reply = call_raw(&s.client, "vm.create", json_pack("{s:o}", "definition", definition), NULL,
	                 0);
	if (json_object_get(reply, "result")) {
		json_decref(reply);
		reply = call_raw(&s.client, "vm.start", json_pack("{s:s}", "vm", "refused"), NULL,
		                 0);
	}
	cr_assert(json_object_get(reply, "error"), "'%s' of %s is accepted", field, what);
	r = refusal_of(reply);
	cr_expect_str_eq(r.kind, kind, "%s: %s", what, r.message);
	cr_expect_str_eq(r.field, field, "%s: %s", what, r.message);
	cr_expect(strstr(r.message, text), "%s: '%s' does not tell '%s'", what, r.message, text);
	json_decref(reply);
	json_decref(call_raw(&s.client, "vm.delete", json_pack("{s:s}", "vm", "refused"), NULL, 0));
}

void expect_refused(const char *kind, const char *field, const char *text, const char *format, ...)
{
	json_t *definition;
	va_list args;

	va_start(args, format);
	definition = js_list(format, args);
	va_end(args);
	refused(kind, field, text, format, definition);
}

bool engine_can(const char *capability, const char *field, const char *format, ...)
{
	json_t *definition;
	va_list args;
	bool can = engine_has(&s.client, capability);

	va_start(args, format);
	definition = js_list(format, args);
	va_end(args);
	if (!can)
		refused("unsupported", field, engine_name(), format, definition);
	else
		json_decref(definition);
	return can;
}

bool engine_is_qemu(void)
{
	struct refusal r;

	if (engine_is("qemu"))
		return true;
	guest_create_bare(&s, "other", NULL);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "other");
	r = call_refused(&s.client, "engine_failed", "vm.qmp", "{s:s, s:s, s:{s:s}}", "vm", "other",
	                 "command", "qom-list", "arguments", "path", "/");
	cr_expect(strstr(r.message, "qom-list"), "%s", r.message);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "other");
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", "other");
	return false;
}

json_t *qmp(const char *command, json_t *arguments)
{
	json_t *reply =
		arguments ? call(&s.client, "vm.qmp", "{s:s, s:s, s:o}", "vm", "a", "command",
	                         command, "arguments", arguments)
			  : call(&s.client, "vm.qmp", "{s:s, s:s}", "vm", "a", "command", command);
	json_t *value = json_incref(member(reply, "return"));

	json_decref(reply);
	return value;
}

const char *qom(const char *path, const char *property)
{
	static char texts[4][512];
	static unsigned next;
	char *text = texts[next++ % 4];
	json_t *value = qmp("qom-get", json_pack("{s:s, s:s}", "path", path, "property", property));
	cleanup_free char *dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	snprintf(text, sizeof(texts[0]), "%s", dumped);
	json_decref(value);
	return text;
}

int boot_kit(const char *arch, const char *cmdline, const char *format, ...)
{
	json_t *more;
	va_list args;

	va_start(args, format);
	more = js_list(format, args);
	va_end(args);
	guest_create(&s, "a", arch, cmdline, more);
	guest_boot(&s, "a");
	return console_open(&s, "a", true);
}

void drop_guest(int console)
{
	if (console >= 0)
		close(console);
	call_ok(&s.client, "vm.kill", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.delete", "{s:s}", "vm", "a");
}
