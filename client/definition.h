/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* A guest's definition from the command line: -f FILE, then options over it. */
#include <jansson.h>

#include "client/args.h"
#include "client/spec.h"

struct ctx;

enum def_kind {
	DEF_VALUE,  /* one value of `type` */
	DEF_LABEL,  /* KEY=VALUE */
	DEF_WORDS,  /* "a,b": array of strings */
	DEF_FLAGS,  /* "a,b": members a and b become true */
	DEF_OBJECT, /* a spec */
	DEF_SWITCH, /* on or off, or a spec */
	DEF_ARRAY,  /* a spec, appended with each mention */
};

struct def_option {
	const char *name; /* of the option */
	const char *path; /* dotted place in the definition */
	enum def_kind kind;
	enum spec_type type; /* DEF_VALUE */
	const struct spec *spec;
	const char *alone; /* DEF_OBJECT with only this key becomes its plain value */
};

/* Ended by a NULL name; a test holds it against the contract. */
extern const struct def_option def_options[];
/* The same options for the parser and help (with -f and the rest of create). */
extern const struct option_def create_options[], run_options[];

/* Reads one JSON file ("-": stdin). *ret_dir (the caller's) is its directory, for relative paths.
 * 0, or negative errno with err. */
int definition_read_file(const char *path, json_t **ret, char **ret_dir, struct vmd_error *err);
/* Makes every path-like member of a definition absolute, from dir on. */
void definition_resolve(json_t *definition, const char *dir);
/* The whole definition of create and run; name from the operand (may be NULL: the file has it). 0,
 * or an exit code after printing why. */
int definition_build(struct ctx *ctx, const char *name, json_t **ret);
