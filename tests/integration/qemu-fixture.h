/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * What the tests of the engine under test share (tests/lib/engine.h). The same is expected of both;
 * what host.info says an engine lacks, engine_can() expects to be refused by name.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/scene.h"

extern struct scene s;

void qemu_setup(void);
void qemu_teardown(void);

/* JSON with ' instead of ", formatted; new reference. */
json_t *js(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* vm.create with this definition (stolen). */
void create_guest(json_t *definition);
/* vm.create refuses the definition (js format), or vm.start does: with this field and kind, and a
 * message that holds text. Without "boot" and "arch" it is one of a bare guest. */
void expect_refused(const char *kind, const char *field, const char *text, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/*
 * Whether host.info says that the engine under test has this. If not, the definition (js format),
 * which asks for it, must be refused as unsupported, with this field and the engine's name.
 */
bool engine_can(const char *capability, const char *field, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/*
 * Whether QEMU's object model is there to be looked into, for tests of what QEMU was told. On
 * another engine its commands must be refused by name. Leaves no guest behind.
 */
bool engine_is_qemu(void);
/* The `return` of a QMP command of guest "a" (arguments stolen, may be NULL); new reference. */
json_t *qmp(const char *command, json_t *arguments);
/* A property of a QOM object of guest "a" as compact JSON text (static storage). */
const char *qom(const char *path, const char *property);
/* Boots guest "a" of the kit with these further members (js format); an open console. */
int boot_kit(const char *arch, const char *cmdline, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Kills and deletes guest "a". */
void drop_guest(int console);
/* Fails the test unless the command's output in the guest is this. */
#define expect_output(console, command, wanted)                                             \
	do {                                                                                \
		const char *_seen = console_run(console, command);                          \
		cr_expect_str_eq(_seen, wanted, "%s: '%s' instead of '%s'", command, _seen, \
		                 wanted);                                                   \
	} while (0)
