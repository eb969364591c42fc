/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmd-vm(5): the definition of a guest. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/apidoc.h"
#include "api/mdoc.h"
#include "common/jsonx.h"

static const json_t *schema_of(const json_t *document, const char *name)
{
	return json_object_get(apidoc_follow(document, "#/components/schemas"), name);
}

static void write_example(const json_t *value, FILE *out)
{
	char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);

	if (text)
		mdoc_literal(out, text);
	free(text);
}

static void write_values(const json_t *document, FILE *out)
{
	static const struct {
		const char *schema, *word;
	} values[] = { { "Name", "name" }, { "Uuid", "UUID" }, { "Reference", "name or UUID" },
		       { "Size", "size" }, { "Path", "path" }, { "Fd", "fd" } };

	mdoc_printf(out, ".Sh VALUES\nThese words stand for values of one kind.\n");
	mdoc_printf(out, ".Bl -tag -width Ds\n");
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		mdoc_printf(out, ".It Em");
		mdoc_arg(out, values[i].word);
		mdoc_printf(out, "\n");
		mdoc_text(out,
		          jsonx_str(schema_of(document, values[i].schema), "description", NULL));
	}
	mdoc_printf(out, ".El\n");
}

/* A short example for each field whose schema has some. */
static void write_field_examples(const json_t *document, FILE *out)
{
	const json_t *props = json_object_get(schema_of(document, "VmDefinition"), "properties");
	const char *key;
	json_t *member;

	json_object_foreach((json_t *)(uintptr_t)props, key, member) {
		const json_t *items = json_object_get(member, "items");
		const char *name = apidoc_ref_name(items ? items : member);
		const json_t *examples =
			name ? json_object_get(schema_of(document, name), "examples") : NULL;
		json_t *one;
		size_t i;

		if (!examples || apidoc_is_word(name))
			continue;
		json_array_foreach(examples, i, one) {
			char *text = json_dumps(one, JSON_ENCODE_ANY);

			if (text)
				mdoc_printf(out, "\"%s\": %s%s%s\n", key, items ? "[" : "", text,
				            items ? "]" : "");
			free(text);
		}
	}
}

static void write_examples(const json_t *document, FILE *out)
{
	const json_t *example;
	size_t i;

	mdoc_printf(out, ".Sh EXAMPLES\nWhole definitions:\n");
	json_array_foreach(json_object_get(schema_of(document, "VmDefinition"), "examples"), i,
	                   example)
		write_example(example, out);
	mdoc_printf(out, ".Pp\nFields:\n.Bd -literal -offset indent\n");
	write_field_examples(document, out);
	mdoc_printf(out, ".Ed\n");
}

void apidoc_page_vm(const json_t *document, const char *engines, FILE *out)
{
	const json_t *info = json_object_get(document, "info");
	const json_t *definition = schema_of(document, "VmDefinition");

	mdoc_head(out, jsonx_str(info, "x-date", ""), "vmd-vm", 5, "definition of a guest");
	mdoc_printf(out, ".Sh DESCRIPTION\nA guest of\n.Xr vmd 8\nis defined by a JSON object, "
	                 "given to\n.Cm vm.create\nor in a file to\n.Nm vmctl create Fl f .\n");
	mdoc_text(out, jsonx_str(definition, "description", NULL));
	mdoc_printf(out,
	            ".Cm vm.update\nchanges it; what a running guest cannot take on is in force "
	            "from its next start.\n.Sh FIELDS\n");
	apidoc_members(document, definition, out);
	write_values(document, out);
	mdoc_printf(out, ".Sh ENGINES\n");
	mdoc_text(out, jsonx_str(definition, "x-engines", NULL));
	mdoc_printf(out, ".Pp\n%s", engines);
	write_examples(document, out);
	mdoc_printf(out,
	            ".Sh SEE ALSO\n.Xr vmctl 1 ,\n.Xr vmd.conf 5 ,\n.Xr vmd-api 7 ,\n.Xr vmd 8\n");
}
