/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/contractview.h"
#include "client/definition.h"
#include "common/jsonx.h"
#include "common/strbuf.h"

TestSuite(vmctl_tables, .timeout = 10);

/* --- the manual page --- */

static char *page;

static void read_page(void)
{
	FILE *f = fopen(TEST_SOURCE_DIR "/man/vmctl.1", "re");
	struct strbuf s = STRBUF_INIT;
	char line[512];

	cr_assert_not_null(f);
	while (fgets(line, sizeof(line), f))
		strbuf_append_str(&s, line);
	fclose(f);
	page = strbuf_steal(&s);
}

static void free_page(void)
{
	free(page);
}

/* Text of the section ".Ss title"; its length in *ret_len. */
static const char *section(const char *title, size_t *ret_len)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	const char *begin, *end, *next;

	strbuf_printf(&s, "\n.Ss %s\n", title);
	begin = strstr(page, s.data);
	cr_assert_not_null(begin, "vmctl(1) has no section '%s'", title);
	begin += s.len;
	end = strstr(begin, "\n.Ss ");
	next = strstr(begin, "\n.Sh ");
	if (!end || (next && next < end))
		end = next;
	cr_assert_not_null(end);
	*ret_len = (size_t)(end - begin) + 1;
	return begin;
}

/* The .It line of an option in a section, as the table has it. */
static bool has_option(const char *text, size_t len, const struct option_def *o)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	strbuf_append_str(&s, "\n.It ");
	if (o->letter)
		strbuf_printf(&s, "Fl %c , ", o->letter);
	strbuf_printf(&s, "Fl -%s", o->name);
	if (o->arg)
		strbuf_printf(&s, " Ar %s", o->arg);
	strbuf_append_char(&s, '\n');
	return memmem(text, len, s.data, s.len) != NULL;
}

static size_t count_items(const char *text, size_t len)
{
	size_t n = 0;

	for (const char *p = text; (p = memmem(p, (size_t)(text + len - p), "\n.It Fl ", 8)); p++)
		n++;
	return n;
}

static bool is_create_option(const struct option_def *o)
{
	for (const struct option_def *c = create_options; c->name; c++)
		if (strcmp(c->name, o->name) == 0)
			return true;
	return false;
}

static void check_options(const char *title, const struct option_def *options, bool skip_create)
{
	const char *text;
	size_t len, n = 0;

	text = section(title, &len);
	for (const struct option_def *o = options; o && o->name; o++) {
		if (skip_create && is_create_option(o))
			continue;
		cr_assert(has_option(text, len, o), "vmctl(1), %s: no --%s as the table has it",
		          title, o->name);
		n++;
	}
	cr_assert_eq(count_items(text, len), n, "vmctl(1), %s: options that are not there", title);
}

static void check_aliases(const char *title, const char *aliases)
{
	size_t len;
	const char *text = section(title, &len);
	char copy[64];

	if (!aliases)
		return;
	snprintf(copy, sizeof(copy), "%s", aliases);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		cr_assert_not_null(memmem(text, len, word, strlen(word)),
		                   "vmctl(1), %s: no alias %s", title, word);
}

static void check_command(const char *noun, const struct command *c, size_t *sections)
{
	bool inherits = c->options == create_options || c->options == run_options;
	char title[64];

	snprintf(title, sizeof(title), "%s%s%s", noun ? noun : "", noun ? " " : "", c->name);
	(*sections)++;
	check_options(title, c->options, inherits && strcmp(c->name, "create") != 0);
	check_aliases(title, c->aliases);
}

Test(vmctl_tables, manual_page_tells_every_command_and_option, .init = read_page, .fini = free_page)
{
	size_t sections = 0, found = 0;
	const char *from = strstr(page, "\n.Sh COMMANDS"), *to = strstr(page, "\n.Sh OTHER");

	for (const struct command *c = commands; c->name; c++) {
		if (c->flags & CMD_HIDDEN)
			continue;
		if (c->run)
			check_command(NULL, c, &sections);
		for (const struct command *v = c->sub; v && v->name; v++)
			check_command(c->name, v, &sections);
	}
	for (const char *p = from; (p = strstr(p, "\n.Ss ")) && p < to; p++)
		found++;
	cr_assert_eq(found, sections, "vmctl(1) has commands that are not there");
	check_options("Options of every command", global_options, false);
	check_options("Which VMs", many_options, false);
}

Test(vmctl_tables, manual_page_tells_every_exit_code, .init = read_page, .fini = free_page)
{
	static const int codes[] = { EXIT_DONE,  EXIT_FAILED,   EXIT_PARTIAL, EXIT_NO_SUCH,
		                     EXIT_STATE, EXIT_DENIED,   EXIT_TIMEOUT, EXIT_AWAY,
		                     EXIT_USAGE, EXIT_INTERRUPT };
	const char *text = strstr(page, "\n.Sh EXIT STATUS");

	for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
		char item[32];

		snprintf(item, sizeof(item), "\n.It %d\n", codes[i]);
		cr_assert_not_null(strstr(text, item), "exit code %d", codes[i]);
	}
}

/* --- the tables themselves --- */

static void add_letters(const struct option_def *options, char *seen, const char *command)
{
	for (const struct option_def *o = options; o && o->name; o++) {
		cr_assert(o->help && *o->help, "%s: --%s has no help", command, o->name);
		if (!o->letter)
			continue;
		cr_assert_not(seen[(unsigned char)o->letter], "%s: -%c is taken twice", command,
		              o->letter);
		seen[(unsigned char)o->letter] = 1;
	}
}

static void check_table(const struct command *table)
{
	for (const struct command *c = table; c->name; c++) {
		char seen[256] = { 0 };

		if (c->sub)
			check_table(c->sub);
		add_letters(c->options, seen, c->name);
		add_letters(global_options, seen, c->name);
		if (c->flags & CMD_MANY)
			add_letters(many_options, seen, c->name);
		for (const struct command *other = table; other < c; other++)
			cr_assert(strcmp(other->name, c->name) != 0 || !c->run, "%s twice",
			          c->name);
	}
}

Test(vmctl_tables, letters_and_names_are_unique)
{
	check_table(commands);
}

Test(vmctl_tables, aliases_lead_to_their_command)
{
	for (const struct command *c = commands; c->name; c++) {
		char copy[64];

		snprintf(copy, sizeof(copy), "%s", c->aliases ? c->aliases : "");
		for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
			cr_assert_eq(command_find(commands, word, false), c, "%s", word);
	}
}

/* --- the definition against the contract --- */

Test(vmctl_tables, definition_options_are_options_of_create)
{
	size_t n_def = 0, n_create = 0;

	for (const struct def_option *d = def_options; d->name; d++) {
		bool found = false;

		for (const struct option_def *o = create_options; o->name; o++)
			found |= strcmp(o->name, d->name) == 0;
		cr_assert(found, "--%s", d->name);
		n_def++;
	}
	for (const struct option_def *o = create_options; o->name; o++)
		n_create++;
	cr_assert_eq(n_create, n_def + 2); /* --file and --dry-run */
}

/* True if some option fills this dotted place (or all of what is below it). */
static bool is_filled(const char *path)
{
	for (const struct def_option *d = def_options; d->name; d++) {
		size_t len = strlen(d->path);

		if (strcmp(d->path, path) == 0)
			return true;
		if (strncmp(d->path, path, len) != 0 || path[len] != '.')
			continue;
		if (d->kind == DEF_FLAGS || d->kind == DEF_LABEL)
			return true;
		for (const struct spec_field *f = d->spec ? d->spec->fields : NULL; f && f->key;
		     f++)
			if (strcmp(f->path ? f->path : f->key, path + len + 1) == 0)
				return true;
	}
	return false;
}

static void check_schema(const json_t *schema, const char *path);

/* Members of one schema and of its alternatives; a leaf has to be filled by an option. */
static bool check_members(const json_t *schema, const char *path)
{
	static const char *const unions[] = { "oneOf", "anyOf", "allOf" };
	json_t *member;
	bool any = false;
	const char *key;
	size_t i;

	schema = contract_resolve(schema);
	json_object_foreach(json_object_get(schema, "properties"), key, member) {
		char sub[256];

		/* {"fd": n} is for programs; "name" is the operand. */
		if (strcmp(key, "fd") == 0 || (!*path && strcmp(key, "name") == 0))
			continue;
		snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "." : "", key);
		check_schema(member, sub);
		any = true;
	}
	for (size_t u = 0; u < sizeof(unions) / sizeof(*unions); u++)
		json_array_foreach(json_object_get(schema, unions[u]), i, member)
			any |= check_members(member, path);
	if (json_is_object(json_object_get(schema, "items")))
		any |= check_members(json_object_get(schema, "items"), path);
	return any;
}

static void check_schema(const json_t *schema, const char *path)
{
	if (!check_members(schema, path))
		cr_assert(is_filled(path), "no option of create fills '%s'", path);
}

Test(vmctl_tables, every_field_of_the_contract_has_an_option)
{
	const json_t *schemas =
		json_object_get(json_object_get(contract_document(), "components"), "schemas");
	const json_t *definition = json_object_get(schemas, "VmDefinition");

	cr_assert_not_null(definition);
	check_schema(definition, "");
}

Test(vmctl_tables, every_option_fills_a_field_of_the_contract)
{
	cr_assert_null(contract_schema_find("VmDefinition", "boot.kernle"));
	for (const struct def_option *d = def_options; d->name; d++) {
		cr_assert_not_null(contract_schema_find("VmDefinition", d->path), "--%s: no %s",
		                   d->name, d->path);
		for (const struct spec_field *f = d->spec ? d->spec->fields : NULL; f && f->key;
		     f++) {
			char path[128];

			snprintf(path, sizeof(path), "%s.%s%s", d->path,
			         d->kind == DEF_ARRAY ? "0." : "", f->path ? f->path : f->key);
			cr_assert_not_null(contract_schema_find("VmDefinition", path),
			                   "--%s: no %s", d->name, path);
		}
	}
}

Test(vmctl_tables, words_become_the_contracts_types)
{
	static const struct {
		const char *path, *text;
		json_type type;
	} rows[] = {
		{ "memory", "2G", JSON_STRING },
		{ "memory", "1048576", JSON_INTEGER },
		{ "labels.x", "1", JSON_STRING },
		{ "owner", "1000", JSON_STRING },
		{ "cpus", "2", JSON_INTEGER },
		{ "cpus.count", "2", JSON_INTEGER },
		{ "disks.0.readonly", "true", JSON_TRUE },
		{ "disks.0.serial", "123", JSON_STRING },
		{ "memory", "null", JSON_NULL },
		{ "rng", "false", JSON_FALSE },
		{ "boot.order", "[\"disk\"]", JSON_ARRAY },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		json_t *v = contract_schema_value("VmDefinition", rows[i].path, rows[i].text);

		cr_assert_eq(json_typeof(v), rows[i].type, "%s=%s", rows[i].path, rows[i].text);
		json_decref(v);
	}
}
