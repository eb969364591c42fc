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
	call_ok(&s.client, "vm.create", "{s:o}", "definition", definition);
}

void expect_refused(const char *kind, const char *field, const char *text, const char *format, ...)
{
	struct refusal r;
	json_t *definition, *reply;
	va_list args;

	va_start(args, format);
	definition = js_list(format, args);
	va_end(args);
	json_object_set_new(definition, "name", json_string("refused"));
	reply = call_raw(&s.client, "vm.create", json_pack("{s:o}", "definition", definition), NULL,
	                 0);
	if (json_object_get(reply, "result")) {
		json_decref(reply);
		reply = call_raw(&s.client, "vm.start", json_pack("{s:s}", "vm", "refused"), NULL,
		                 0);
	}
	cr_assert(json_object_get(reply, "error"), "'%s' of %s is accepted", field, format);
	r = refusal_of(reply);
	cr_expect_str_eq(r.kind, kind, "%s: %s", format, r.message);
	cr_expect_str_eq(r.field, field, "%s: %s", format, r.message);
	cr_expect(strstr(r.message, text), "%s: '%s' does not tell '%s'", format, r.message, text);
	json_decref(reply);
	json_decref(call_raw(&s.client, "vm.delete", json_pack("{s:s}", "vm", "refused"), NULL, 0));
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
