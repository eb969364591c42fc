/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/args.h"

#include <stdlib.h>
#include <string.h>

#include "client/die.h"
#include "common/parse.h"

static int add_value(struct args *a, const struct option_def *def, const char *value)
{
	a->values = xrealloc(a->values, (a->n_values + 1) * sizeof(*a->values));
	a->values[a->n_values++] = (struct arg_value){ def, value };
	return 0;
}

static void add_name(struct args *a, const char *name)
{
	a->names = xrealloc(a->names, (a->n_names + 1) * sizeof(*a->names));
	a->names[a->n_names++] = name;
}

const char *nearest_word(const char *word, const char *const *words, size_t n)
{
	unsigned limit = (unsigned)MAX_OF(strlen(word) / 3, (size_t)1), best = limit + 1;
	const char *found = NULL, *prefixed = NULL;
	size_t n_prefixed = 0, len = strlen(word);

	for (size_t i = 0; i < n; i++) {
		unsigned d = word_distance(word, words[i], limit);

		if (d < best) {
			best = d;
			found = words[i];
		}
		if (len > 1 && strncmp(words[i], word, len) == 0) {
			prefixed = words[i];
			n_prefixed++;
		}
	}
	return n_prefixed == 1 ? prefixed : found;
}

static void hint_nearest(const struct args_spec *spec, const char *name, struct vmd_error *err)
{
	const char *words[128];
	const char *near;
	size_t n = 0;

	for (const struct option_def *const *t = spec->tables; *t; t++)
		for (const struct option_def *d = *t; d->name && n < ARRAY_SIZE(words); d++)
			words[n++] = d->name;
	near = nearest_word(name, words, n);
	if (near)
		error_hint(err, "did you mean '--%s'?", near);
}

/* len bytes of name are the option's name. */
static const struct option_def *find_long(const struct args_spec *spec, const char *name,
                                          size_t len, bool *ret_ambiguous)
{
	const struct option_def *found = NULL;
	size_t n = 0;

	*ret_ambiguous = false;
	for (const struct option_def *const *t = spec->tables; *t; t++) {
		for (const struct option_def *d = *t; d->name; d++) {
			if (strncmp(d->name, name, len) != 0)
				continue;
			if (!d->name[len])
				return d;
			found = d;
			n++;
		}
	}
	if (!spec->prefixes)
		return NULL;
	*ret_ambiguous = n > 1;
	return n == 1 ? found : NULL;
}

static const struct option_def *find_letter(const struct args_spec *spec, char letter)
{
	for (const struct option_def *const *t = spec->tables; *t; t++)
		for (const struct option_def *d = *t; d->name; d++)
			if (d->letter == letter)
				return d;
	return NULL;
}

/* argv[0] is "--name", "--name=value" or "--name" "value". Returns the arguments used. */
static int parse_long(struct args *a, const struct args_spec *spec, int argc, char **argv,
                      struct vmd_error *err)
{
	const char *name = argv[0] + 2, *equals = strchr(name, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(name);
	bool ambiguous;
	const struct option_def *d = find_long(spec, name, len, &ambiguous);

	if (!d) {
		char word[64];

		(void)error_set(err, ERROR_INVALID, "%s option '--%.*s'",
		                ambiguous ? "ambiguous" : "unknown", (int)len, name);
		snprintf(word, sizeof(word), "%.*s", (int)len, name);
		hint_nearest(spec, word, err);
		return -EINVAL;
	}
	if (!d->arg) {
		if (equals)
			return error_set(err, ERROR_INVALID, "option '--%s' takes no value",
			                 d->name);
		add_value(a, d, NULL);
		return 1;
	}
	if (equals) {
		add_value(a, d, equals + 1);
		return 1;
	}
	if (argc < 2)
		return error_set(err, ERROR_INVALID, "option '--%s' needs a value (%s)", d->name,
		                 d->arg);
	add_value(a, d, argv[1]);
	return 2;
}

/* argv[0] is "-abc", "-ovalue" or "-o" "value". */
static int parse_short(struct args *a, const struct args_spec *spec, int argc, char **argv,
                       struct vmd_error *err)
{
	for (const char *p = argv[0] + 1; *p; p++) {
		const struct option_def *d = find_letter(spec, *p);

		if (!d)
			return error_set(err, ERROR_INVALID, "unknown option '-%c'", *p);
		if (!d->arg) {
			add_value(a, d, NULL);
			continue;
		}
		if (p[1]) {
			add_value(a, d, p + 1);
			return 1;
		}
		if (argc < 2)
			return error_set(err, ERROR_INVALID, "option '-%c' needs a value (%s)", *p,
			                 d->arg);
		add_value(a, d, argv[1]);
		return 2;
	}
	return 1;
}

int args_parse(struct args *a, const struct args_spec *spec, int argc, char **argv,
               struct vmd_error *err)
{
	int i = 0;

	while (i < argc) {
		const char *arg = argv[i];
		int used;

		if (arg[0] != '-' || !arg[1]) {
			if (spec->stop_at_operand)
				break;
			add_name(a, arg);
			i++;
			continue;
		}
		if (strcmp(arg, "--") == 0) {
			i++;
			while (!spec->stop_at_operand && i < argc)
				add_name(a, argv[i++]);
			break;
		}
		used = arg[1] == '-' ? parse_long(a, spec, argc - i, argv + i, err)
		                     : parse_short(a, spec, argc - i, argv + i, err);
		if (used < 0)
			return used;
		i += used;
	}
	return i;
}

void args_deinit(struct args *a)
{
	free(a->values);
	free(a->names);
	*a = (struct args){ 0 };
}

const char *args_next(const struct args *a, const char *name, size_t *pos)
{
	while (*pos < a->n_values) {
		const struct arg_value *v = &a->values[(*pos)++];

		if (strcmp(v->def->name, name) == 0)
			return v->value ? v->value : "";
	}
	return NULL;
}

const char *args_str(const struct args *a, const char *name)
{
	const char *last = NULL, *v;
	size_t pos = 0;

	while ((v = args_next(a, name, &pos)))
		last = v;
	return last;
}

bool args_has(const struct args *a, const char *name)
{
	return args_str(a, name) != NULL;
}

int args_duration(const struct args *a, const char *name, uint64_t *ret_ms, struct vmd_error *err)
{
	const char *text = args_str(a, name);

	if (!text)
		return 0;
	if (parse_duration_ms(text, ret_ms) == 0)
		return 1;
	(void)error_set(err, ERROR_INVALID, "--%s: '%s' is not a time", name, text);
	error_hint(err, "write it like 90s, 500ms, 2m or 1h");
	return -EINVAL;
}

int args_number(const struct args *a, const char *name, uint64_t *ret, struct vmd_error *err)
{
	const char *text = args_str(a, name);

	if (!text)
		return 0;
	if (parse_u64(text, ret) == 0)
		return 1;
	return error_set(err, ERROR_INVALID, "--%s: '%s' is not a number", name, text);
}
