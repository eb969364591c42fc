/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Build-time program: apidoc api|vm CONTRACT ENGINES > PAGE writes a manual page from the contract.
 * ENGINES is mdoc text on what the engines can do.
 */
#include "config.h"

#include "api/apidoc.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/fsutil.h"
#include "common/jsonx.h"

enum {
	ENGINES_MAX = 64 << 10
};

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*write)(const json_t *document, const char *engines, FILE *out);
	} pages[] = { { "api", apidoc_page_api }, { "vm", apidoc_page_vm } };
	cleanup_json json_t *document = NULL;
	cleanup_free char *engines = NULL;
	json_error_t err;

	if (argc != 4) {
		fprintf(stderr, "usage: apidoc api|vm CONTRACT ENGINES\n");
		return 64;
	}
	if (fs_read_file(AT_FDCWD, argv[3], ENGINES_MAX, &engines, NULL) < 0) {
		fprintf(stderr, "%s: cannot be read\n", argv[3]);
		return 1;
	}
	document = json_load_file(argv[2], JSON_REJECT_DUPLICATES, &err);
	if (!document) {
		fprintf(stderr, "%s:%d: %s\n", argv[2], err.line, err.text);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (strcmp(pages[i].name, argv[1]) != 0)
			continue;
		pages[i].write(document, engines, stdout);
		return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
	}
	fprintf(stderr, "apidoc: no page '%s'\n", argv[1]);
	return 64;
}
