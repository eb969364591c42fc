/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guest.h"

#define OPTIONS_MAX 64

static char text[2048];
static struct {
	const char *name, *value;
} options[OPTIONS_MAX];
static size_t n_options;

void options_init(const char *cmdline)
{
	size_t n = 0;
	char *p = text;

	while (n + 1 < sizeof(text) && cmdline[n]) {
		text[n] = cmdline[n];
		n++;
	}
	text[n] = '\0';
	n_options = 0;
	while (n_options < OPTIONS_MAX) {
		while (*p == ' ')
			*p++ = '\0';
		if (!*p)
			return;
		options[n_options].name = p;
		options[n_options].value = "";
		for (; *p && *p != ' '; p++)
			if (*p == '=' && !*options[n_options].value) {
				*p = '\0';
				options[n_options].value = p + 1;
			}
		n_options++;
	}
}

const char *option(const char *name)
{
	for (size_t i = 0; i < n_options; i++)
		if (strcmp(options[i].name, name) == 0)
			return options[i].value;
	return NULL;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
	const char *value = option(name);

	return value && *value ? parse_number(value) : otherwise;
}
