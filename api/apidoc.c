/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Build-time program: apidoc api|vm CONTRACT > PAGE writes a manual page from the contract. */
#include "config.h"

#include "api/apidoc.h"

#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*write)(const json_t *document, FILE *out);
	} pages[] = { { "api", apidoc_page_api }, { "vm", apidoc_page_vm } };
	cleanup_json json_t *document = NULL;
	json_error_t err;

	if (argc != 3) {
		fprintf(stderr, "usage: apidoc api|vm CONTRACT\n");
		return 64;
	}
	document = json_load_file(argv[2], JSON_REJECT_DUPLICATES, &err);
	if (!document) {
		fprintf(stderr, "%s:%d: %s\n", argv[2], err.line, err.text);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (strcmp(pages[i].name, argv[1]) != 0)
			continue;
		pages[i].write(document, stdout);
		return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
	}
	fprintf(stderr, "apidoc: no page '%s'\n", argv[1]);
	return 64;
}
