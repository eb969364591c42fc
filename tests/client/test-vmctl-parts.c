/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/args.h"
#include "client/die.h"
#include "client/output.h"
#include "client/patch.h"
#include "client/progress.h"
#include "client/rpcclient.h"
#include "client/spec.h"
#include "client/term.h"
#include "common/jsonx.h"
#include "tests/client/expect.h"

TestSuite(vmctl_parts, .timeout = 10);

static const struct option_def options[] = {
	{ "force", 'f', NULL, "" },   { "label", 'l', "KEY=VALUE", "" },
	{ "tail", 'n', "N", "" },     { "timestamps", 't', NULL, "" },
	{ "timeout", 0, "TIME", "" }, { 0 },
};

/* The words (ended by NULL) as a command line. */
static int parse(struct args *a, bool prefixes, struct vmd_error *err, ...)
{
	const struct option_def *tables[] = { options, NULL };
	struct args_spec spec = { tables, prefixes, false };
	char *argv[16];
	int argc = 0;
	va_list ap;

	va_start(ap, err);
	while (argc < 16 && (argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	return args_parse(a, &spec, argc, argv, err);
}

Test(vmctl_parts, options_anywhere)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct args a = { 0 };
	size_t pos = 0;

	cr_assert_eq(parse(&a, false, &err, "x", "-ft", "--label=a=b", "-lc=d", "y", "-n", "5", "-",
	                   "--", "-f", NULL),
	             10);
	cr_assert(args_has(&a, "force"));
	cr_assert(args_has(&a, "timestamps"));
	cr_assert_str_eq(args_next(&a, "label", &pos), "a=b");
	cr_assert_str_eq(args_next(&a, "label", &pos), "c=d");
	cr_assert_null(args_next(&a, "label", &pos));
	cr_assert_str_eq(args_str(&a, "tail"), "5");
	cr_assert_eq(a.n_names, 4);
	cr_assert_str_eq(a.names[2], "-");
	cr_assert_str_eq(a.names[3], "-f");
	args_deinit(&a);
}

Test(vmctl_parts, options_refused)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct args a = { 0 };

	cr_assert_eq(parse(&a, false, &err, "--froce", NULL), -EINVAL);
	cr_assert_str_eq(err.hint, "did you mean '--force'?");
	err = (struct vmd_error)VMD_ERROR_INIT;
	cr_assert_eq(parse(&a, false, &err, "--for", NULL), -EINVAL);
	cr_assert_eq(parse(&a, true, &err, "--for", NULL), 1);
	cr_assert_eq(parse(&a, true, &err, "--time", NULL), -EINVAL); /* two begin so */
	cr_assert_lt(parse(&a, false, &err, "--force=1", NULL), 0);
	cr_assert_lt(parse(&a, false, &err, "--tail", NULL), 0);
	cr_assert_lt(parse(&a, false, &err, "-x", NULL), 0);
	args_deinit(&a);
}

Test(vmctl_parts, nearest_words)
{
	static const char *const words[] = { "start", "status", "stop", "snapshot" };

	cr_assert_str_eq(nearest_word("strat", words, 4), "start");
	cr_assert_str_eq(nearest_word("snap", words, 4), "snapshot");
	cr_assert_null(nearest_word("banana", words, 4));
}

static void expect_clean(const char *in, size_t len, const char *out)
{
	/* Whole and cut in two at every place: the result is the same. */
	for (size_t cut = 0; cut <= len; cut++) {
		struct strbuf s = STRBUF_INIT;
		struct cleaner c = { 0 };

		clean_text(&c, &s, in, cut);
		clean_text(&c, &s, in + cut, len - cut);
		clean_finish(&c, &s);
		cr_assert_str_eq(s.data ? s.data : "", out, "cut at %zu: %s", cut, s.data);
		strbuf_deinit(&s);
	}
}

#define CLEAN(in, out) expect_clean(in, sizeof(in) - 1, out)

Test(vmctl_parts, guest_text_is_made_harmless)
{
	CLEAN("plain\ttext\r\n", "plain\ttext\n");
	CLEAN("a\x1b[1;31mb\x1b[0mc", "abc");
	CLEAN("a\x1b]0;title\x07"
	      "b\x1b]52;c;eA==\x1b\\c",
	      "abc");
	CLEAN("a\x1bPq#0\x1b\\b\x1b(Bc\x1b"
	      "7d",
	      "abcd");
	CLEAN("a\x1b[31\nb", "a\nb"); /* a line ends an unfinished sequence */
	CLEAN("\x07\x08\x7f"
	      "a\0b",
	      "ab");
	CLEAN("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac "
	                                                          "\xf0\x9f\x98\x80");
	CLEAN("\xff\xc3(\xe2\x82", "\\xff\\xc3(\\xe2\\x82");
	CLEAN("\xc0\xaf\xed\xa0\x80", "\\xc0\\xaf\\xed\\xa0\\x80"); /* overlong, surrogate */
	CLEAN("\xc2\x9b"
	      "31m",
	      "\\xc2\\x9b31m"); /* C1 CSI */
	CLEAN("a\xe2\x80\xae"
	      "b",
	      "a\\xe2\\x80\\xaeb"); /* right-to-left override */
}

static const struct spec spec = {
	(const struct spec_field[]){
		{ "path", NULL, SPEC_TEXT },
		{ "ro", "deep.ro", SPEC_BOOL },
		{ "n", NULL, SPEC_INT },
		{ "wait", "wait_ms", SPEC_TIME },
		{ "f", NULL, SPEC_LIST },
		{ 0 },
	},
	"path",
};

static void expect_spec(const char *text, const char *json)
{
	struct vmd_error err = VMD_ERROR_INIT;
	json_t *got;

	cr_assert_eq(spec_parse(&spec, "--x", text, &got, &err), 0, "%s: %s", text, err.message);
	expect_json(got, json);
	json_decref(got);
}

Test(vmctl_parts, specs)
{
	static const char *const wrong[] = { "",    ",a",   "a,",      "path=a,b=c", "n=x",
		                             "a,n", "ro=2", "wait=5x", "a,b" };

	expect_spec("a", "{\"path\": \"a\"}");
	expect_spec("path=a=b,ro,n=5", "{\"path\": \"a=b\", \"deep\": {\"ro\": true}, \"n\": 5}");
	expect_spec("a,,b,wait=2s", "{\"path\": \"a,b\", \"wait_ms\": 2000}");
	expect_spec("f=1,f=2,ro=off", "{\"f\": [\"1\", \"2\"], \"deep\": {\"ro\": false}}");
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct vmd_error err = VMD_ERROR_INIT;
		json_t *got;

		cr_assert_eq(spec_parse(&spec, "--x", wrong[i], &got, &err), -EINVAL, "%s",
		             wrong[i]);
		cr_assert(strncmp(err.message, "--x", 3) == 0);
	}
}

static void expect_patch(const char *from, const char *to, const char *patch)
{
	json_t *a = json_loads(from, 0, NULL), *b = json_loads(to, 0, NULL);
	json_t *got = patch_diff(a, b);

	expect_json(got, patch);
	json_decref(a);
	json_decref(b);
	json_decref(got);
}

Test(vmctl_parts, merge_patches)
{
	expect_patch("{\"a\": 1}", "{\"a\": 1}", "{}");
	expect_patch("{\"a\": 1, \"b\": {\"c\": 1, \"d\": 2}}", "{\"b\": {\"c\": 3, \"d\": 2}}",
	             "{\"a\": null, \"b\": {\"c\": 3}}");
	expect_patch("{\"l\": [1, 2]}", "{\"l\": [2]}", "{\"l\": [2]}");
	expect_patch("{\"a\": {\"b\": 1}}", "{\"a\": true}", "{\"a\": true}");
}

static void expect_put(const char *path, const char *value, const char *want_text)
{
	json_t *object =
		json_loads("{\"a\": {\"b\": 1}, \"l\": [{\"x\": 1}, {\"x\": 2}]}", 0, NULL);
	struct vmd_error err = VMD_ERROR_INIT;
	int r = patch_put(object, path, json_loads(value, JSON_DECODE_ANY, NULL), &err);

	cr_assert_eq(r, want_text ? 0 : -EINVAL, "%s", path);
	if (want_text)
		expect_json(object, want_text);
	json_decref(object);
}

Test(vmctl_parts, dotted_paths)
{
	expect_put("a.b", "2", "{\"a\": {\"b\": 2}, \"l\": [{\"x\": 1}, {\"x\": 2}]}");
	expect_put("a.c.d", "2",
	           "{\"a\": {\"b\": 1, \"c\": {\"d\": 2}}, \"l\": [{\"x\": 1}, {\"x\": 2}]}");
	expect_put("l.1.x", "5", "{\"a\": {\"b\": 1}, \"l\": [{\"x\": 1}, {\"x\": 5}]}");
	expect_put("l.2.x", "3",
	           "{\"a\": {\"b\": 1}, \"l\": [{\"x\": 1}, {\"x\": 2}, {\"x\": 3}]}");
	expect_put("l.0", "null", "{\"a\": {\"b\": 1}, \"l\": [{\"x\": 2}]}");
	expect_put("a", "null", "{\"l\": [{\"x\": 1}, {\"x\": 2}]}");
	expect_put("m.0.x", "1",
	           "{\"a\": {\"b\": 1}, \"l\": [{\"x\": 1}, {\"x\": 2}], \"m\": [{\"x\": 1}]}");
	expect_put("l.9.x", "1", NULL);
	expect_put("a.b.c", "1", NULL);
	expect_put("l.x", "1", NULL);
}

Test(vmctl_parts, changes_by_leaf)
{
	json_t *a = json_loads("{\"m\": 1, \"d\": [{\"p\": \"x\"}], \"o\": 1}", 0, NULL);
	json_t *b = json_loads("{\"m\": 2, \"d\": [{\"p\": \"y\", \"r\": true}]}", 0, NULL);
	json_t *changes = patch_changes(a, b);

	cr_assert_eq(json_array_size(changes), 4);
	cr_assert_str_eq(jsonx_str(json_array_get(changes, 1), "field", ""), "d.0.p");
	cr_assert_str_eq(jsonx_str(json_array_get(changes, 2), "field", ""), "d.0.r");
	json_decref(a);
	json_decref(b);
	json_decref(changes);
}

Test(vmctl_parts, escape_keys)
{
	int code;

	cr_assert_eq(term_escape_parse("^]", &code), 0);
	cr_assert_eq(code, 0x1d);
	cr_assert_eq(term_escape_parse("^a", &code), 0);
	cr_assert_eq(code, 1);
	cr_assert_str_eq(term_escape_name(1), "^A");
	cr_assert_eq(term_escape_parse("~", &code), 0);
	cr_assert_eq(code, '~');
	cr_assert_eq(term_escape_parse("none", &code), 0);
	cr_assert_eq(code, -1);
	cr_assert_eq(term_escape_parse("^1", &code), -EINVAL);
	cr_assert_eq(term_escape_parse("", &code), -EINVAL);
}

Test(vmctl_parts, progress_lines)
{
	struct progress_state s = {
		.stage = "ram", .percent = 50, .bytes_done = 1 << 20, .bytes_total = 2 << 20
	};
	char buf[256];

	cr_assert_str_eq(progress_line(buf, sizeof(buf), "suspending", "web", 0, 1, &s, 2000000),
	                 "suspending web [##########..........]  50% 1 MiB of 2 MiB ram 2.0s");
	s = (struct progress_state){ 0 };
	cr_assert_str_eq(progress_line(buf, sizeof(buf), "starting", "a", 1, 3, &s, 500000),
	                 "starting a 500ms (1 of 3 done)");
}

Test(vmctl_parts, values_for_people)
{
	static const struct {
		const char *json;
		enum column_kind kind;
		const char *text;
	} rows[] = {
		{ "\"512M\"", COL_SIZE, "512 MiB" },
		{ "1610612736", COL_SIZE, "1.5 GiB" },
		{ "{\"a\": \"1\", \"b\": \"x\\u001b[0m\"}", COL_TEXT, "a=1,b=x" },
		{ "[\"a\", \"b\"]", COL_TEXT, "a,b" },
		{ "null", COL_TEXT, "" },
		{ "true", COL_TEXT, "yes" },
		{ "42", COL_PERCENT, "42%" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		json_t *v = json_loads(rows[i].json, JSON_DECODE_ANY, NULL);
		struct strbuf s = STRBUF_INIT;

		format_value(&s, v, rows[i].kind);
		cr_assert_str_eq(s.data ? s.data : "", rows[i].text);
		strbuf_deinit(&s);
		json_decref(v);
	}
}

/* vmd refuses a caller without reading: the refusal counts, not that the call could not be sent. */
Test(vmctl_parts, a_refusal_is_read_even_when_nothing_can_be_sent)
{
	static const char refusal[] =
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32006,\"message\":"
		"\"you may not\",\"data\":{\"kind\":\"denied\"}}}\n";
	struct vmd_error err = VMD_ERROR_INIT;
	json_t *result = NULL;
	struct rpc *rpc;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(write(pair[1], refusal, strlen(refusal)), (ssize_t)strlen(refusal));
	close(pair[1]);
	rpc = rpc_new(pair[0]);
	cr_assert_lt(rpc_call(rpc, "vm.list", NULL, 1000, &result, &err), 0);
	cr_expect_eq(err.kind, ERROR_DENIED, "%s", err.message);
	rpc_free(rpc);
}
