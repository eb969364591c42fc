/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <dirent.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/fuzz/fuzz.h"

/*
 * Runs a fuzz target without libFuzzer: over its corpus, and over inputs made from a fixed seed. So
 * every ordinary test run, with whatever sanitizer, goes through the targets. Files given as
 * arguments are run alone: that is how a finding is repeated.
 */

#ifndef FUZZ_MADE /* fewer for targets that are slow */
#define FUZZ_MADE 2000
#endif
#define MAX_BYTES (1u << 20)

static uint64_t state = 0x9e3779b97f4a7c15ull;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static bool run_file(const char *path)
{
	cleanup_free uint8_t *data = malloc(MAX_BYTES);
	cleanup_file FILE *f = fopen(path, "rb");
	size_t n;

	if (!f || !data)
		return false;
	n = fread(data, 1, MAX_BYTES, f);
	LLVMFuzzerTestOneInput(data, n);
	return true;
}

static unsigned run_corpus(const char *dir)
{
	cleanup_dir DIR *d = opendir(dir);
	struct dirent *e;
	unsigned n = 0;

	while (d && (e = readdir(d))) {
		char path[4096];

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n += run_file(path);
	}
	return n;
}

/* Small numbers are likelier than large ones: most fields of a device are. */
static void run_made(void)
{
	uint8_t data[512];

	for (unsigned n = 0; n < FUZZ_MADE; n++) {
		size_t len = next_random() % sizeof(data);

		for (size_t i = 0; i < len; i++) {
			uint64_t r = next_random();

			data[i] = (uint8_t)(r & 0x300 ? r & 0x0f : r);
		}
		LLVMFuzzerTestOneInput(data, len);
	}
}

int main(int argc, char **argv)
{
	bool files = false;
	unsigned n;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) == 0)
			continue;
		files = true;
		if (!run_file(argv[i])) {
			fprintf(stderr, "cannot read '%s'\n", argv[i]);
			return 1;
		}
	}
	if (files)
		return 0;
	n = run_corpus(FUZZ_CORPUS_DIR "/" FUZZ_NAME);
	printf("1..2\n%sok 1 - the corpus, %u inputs\n", n ? "" : "not ", n);
	fflush(stdout);
	run_made();
	printf("ok 2 - %u made inputs\n", FUZZ_MADE);
	return n ? 0 : 1;
}
