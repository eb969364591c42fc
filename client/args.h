/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Command-line options by table: long and short options anywhere between the operands, "--" ends
 * them, "-" is an operand. The tables also feed help, completion and the manual page's test.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct option_def {
	const char *name; /* long name without dashes; NULL ends a table */
	char letter;      /* short name, or 0 */
	const char *arg;  /* what the value is called in help; NULL: takes none */
	const char *help; /* one line, no full stop */
};

struct arg_value {
	const struct option_def *def;
	const char *value; /* borrowed from argv; NULL for options without one */
};

struct args {
	struct arg_value *values;
	size_t n_values;
	const char **names; /* operands, borrowed from argv */
	size_t n_names;
};

struct args_spec {
	const struct option_def *const *tables; /* ended by NULL */
	bool prefixes;                          /* unique prefixes of long options are accepted */
	bool stop_at_operand;                   /* the first operand ends parsing */
};

/*
 * Appends what argv[0..argc) says to a. Returns the number of arguments used, or -EINVAL with err:
 * unknown option (hint: the nearest one), missing or surplus value.
 */
int args_parse(struct args *a, const struct args_spec *spec, int argc, char **argv,
               struct vmd_error *err) MUST_CHECK;
void args_deinit(struct args *a);

bool args_has(const struct args *a, const char *name);
/* The last value given, or NULL. */
const char *args_str(const struct args *a, const char *name);
/* Every value in order: *pos starts at 0; NULL at the end. */
const char *args_next(const struct args *a, const char *name, size_t *pos);

/* A duration option in ms: 1 and *ret when given, 0 when not, -EINVAL with err when malformed. */
int args_duration(const struct args *a, const char *name, uint64_t *ret_ms, struct vmd_error *err);
/* As args_duration for a plain number. */
int args_number(const struct args *a, const char *name, uint64_t *ret, struct vmd_error *err);

/*
 * The nearest of n words to a misspelt one, or NULL when none is near enough to be meant: at most
 * a third of its letters wrong, or the word is a prefix of exactly one.
 */
const char *nearest_word(const char *word, const char *const *words, size_t n);
