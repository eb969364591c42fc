/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Assertions that the tests of vmctl share; they tell what came when it is not what should come. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#define EXPECT_CODE(o, c) \
	cr_assert_eq((o).code, c, "code %d, stdout: %s, stderr: %s", (o).code, (o).out, (o).err)
#define EXPECT_IN(text, part) cr_assert(strstr(text, part), "no '%s' in: %s", part, text)

/* got (borrowed) is the value that the text tells. */
static inline void expect_json(const json_t *got, const char *want_text)
{
	json_t *want = json_loads(want_text, JSON_DECODE_ANY, NULL);
	char *text = json_dumps(got, JSON_ENCODE_ANY);

	cr_assert_not_null(want, "the test's own JSON is wrong: %s", want_text);
	cr_assert(json_equal(got, want), "%s is not %s", text, want_text);
	json_decref(want);
	free(text);
}

#define ERROR_REPLY(kind) \
	"!{\"code\": -32001, \"message\": \"it is so\", \"data\": {\"kind\": \"" kind "\"}}"
